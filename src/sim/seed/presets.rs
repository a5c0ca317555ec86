//! The worlds that can be asked for by name.

/// How much of Longhorn there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Nothing.
    None,
    /// One volume for each VM, without engine and replicas: they are told of, and nothing happens to them.
    Volumes,
    /// Volumes with engines and replicas, an instance manager with pod and budget on each node.
    Whole,
}

/// What a world looks like.
#[derive(Debug, Clone)]
pub struct Preset {
    /// How many nodes.
    pub nodes: usize,
    /// How many VMs, all of them running.
    pub vms: usize,
    /// How many of the VMs pass a device through.
    pub passthrough: usize,
    /// All VMs on the first node, instead of spread over all.
    pub crowded: bool,
    /// Storage under the VMs.
    pub storage: Storage,
    /// Whether each node has a `DaemonSet`'s pod and a `Deployment`'s.
    pub workloads: bool,
    /// The kubelets' version.
    pub version: String,
    /// What everything that varies follows from.
    pub seed: u64,
}

impl Default for Preset {
    /// What one user has: 3 nodes with 60 VMs, two of them on each node with a device.
    fn default() -> Self {
        Self::sized(3, 60, 6)
    }
}

impl Preset {
    /// One node with 8 VMs, two of them with a PCI device; nothing can migrate anywhere. No storage: the many rehearsals
    /// of crashes run here and on [`Self::pair`].
    #[must_use]
    pub fn small() -> Self {
        Self { storage: Storage::None, ..Self::sized(1, 8, 2) }
    }

    /// Two nodes; on the first 5 VMs that can migrate, two with a PCI device and one with a virtual GPU. No storage.
    #[must_use]
    pub fn pair() -> Self {
        Self { crowded: true, storage: Storage::None, ..Self::sized(2, 8, 3) }
    }

    /// So many nodes and VMs, spread. Worlds of more than 50 nodes have volumes only.
    #[must_use]
    pub fn sized(nodes: usize, vms: usize, passthrough: usize) -> Self {
        Self {
            nodes: nodes.max(1),
            vms,
            passthrough: passthrough.min(vms),
            crowded: false,
            storage: if nodes > 50 { Storage::Volumes } else { Storage::Whole },
            workloads: true,
            version: "v1.34.2+rke2r1".to_owned(),
            seed: 1,
        }
    }

    /// The node of a VM, by its number.
    pub(super) fn node_of(&self, vm: usize) -> usize {
        if self.crowded { 0 } else { vm % self.nodes.max(1) }
    }

    /// The device of a VM, by its number: the last ones have one, every third of them a virtual GPU.
    pub(super) fn device_of(&self, vm: usize) -> Option<Device> {
        let nth = vm.checked_sub(self.vms.saturating_sub(self.passthrough))?;
        Some(if nth * 3 < self.passthrough * 2 { Device::Pci } else { Device::Vgpu })
    }
}

/// What a VM passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Device {
    Pci,
    Vgpu,
}
