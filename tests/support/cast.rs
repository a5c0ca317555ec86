//! Who plays in a test: the node under test, the nodes beside it, its devices and its VMs.

use std::collections::BTreeMap;

use kube::api::DynamicObject;
use testbed::stand_in::Role;
use upgrade_agent::sim::world::{self, PCI_DEVICE, Shutdown, VGPU, VmShape};

use super::{FROM, NODE, UPGRADE};

/// The node under test, and what is there when the upgrade begins.
pub struct Cast {
    /// The node that is a real machine.
    pub node: String,
    /// Server or agent.
    pub role: Role,
    /// The version that its machine runs at first.
    pub from: String,
    /// The simulated nodes beside it.
    pub spares: Vec<String>,
    /// The `Upgrade`.
    pub upgrade: String,
    /// Where its VMs are.
    pub namespace: String,
    /// Labels of all its nodes.
    pub labels: BTreeMap<String, String>,
    /// Devices on the node under test, and how many.
    pub devices: Vec<(String, String)>,
    /// Memory of the node under test.
    pub memory: String,
    /// The VMs.
    pub vms: Vec<DynamicObject>,
    /// Those that run on the first of the other nodes.
    pub elsewhere: Vec<DynamicObject>,
}

impl Cast {
    /// Eight VMs on `node1`: five that can move, two with a PCI device, one with a vGPU.
    pub fn first_light() -> Self {
        Self {
            node: NODE.into(),
            role: Role::Server,
            from: FROM.into(),
            spares: vec!["node2".into(), "node3".into()],
            upgrade: UPGRADE.into(),
            namespace: "default".into(),
            labels: BTreeMap::new(),
            devices: vec![(PCI_DEVICE.into(), "2".into()), (VGPU.into(), "1".into())],
            memory: "64Gi".into(),
            vms: world::demo_vms(NODE),
            elsewhere: Vec::new(),
        }
    }

    /// Nobody yet, on nodes of their own: VMs of this cast run nowhere else, and those of others not here.
    pub fn named(name: &str) -> Self {
        Self {
            node: format!("{name}-1"),
            role: Role::Server,
            from: FROM.into(),
            spares: vec![format!("{name}-2"), format!("{name}-3")],
            upgrade: format!("hvst-upgrade-{name}"),
            namespace: name.into(),
            labels: [("testbed/cast".to_owned(), name.to_owned())].into(),
            devices: vec![(device_of(name), "0".into())],
            memory: "512Gi".into(),
            vms: Vec::new(),
            elsewhere: Vec::new(),
        }
    }

    /// One VM that can move, and one that has to be shut down.
    pub fn app_and_pci(name: &str) -> Self {
        Self::named(name).movable("app", |_| {}).bound("pci", |_| {})
    }

    /// The same two; the guest takes 20 s to shut down, in which something can be done to its node.
    pub fn app_and_slow_pci(name: &str) -> Self {
        Self::named(name).movable("app", |_| {}).bound("pci", |shape| {
            (shape.shutdown, shape.grace_seconds) = (Shutdown::Seconds(400), 1200);
        })
    }

    /// The same two, and a change inside one Kubernetes minor: the way back is open.
    pub fn patch_level(name: &str) -> Self {
        Self { from: "v1.35.2+rke2r1".into(), ..Self::app_and_pci(name) }
    }

    /// With a VM that can move.
    pub fn movable(self, name: &str, change: impl FnOnce(&mut VmShape)) -> Self {
        self.with(name, Vec::new(), change)
    }

    /// With a VM that can move, and runs on another node.
    pub fn movable_elsewhere(self, name: &str) -> Self {
        let other = self.spares.first().cloned();
        let mut cast = self.movable(name, |shape| shape.first_node = other);
        cast.elsewhere.extend(cast.vms.pop());
        cast
    }

    /// With a VM that holds a device of its node.
    pub fn bound(mut self, name: &str, change: impl FnOnce(&mut VmShape)) -> Self {
        let device = device_of(&self.namespace);
        let count = self.vms.iter().filter(|vm| vm.data.to_string().contains(&device)).count() + 1;
        self.devices = vec![(device.clone(), count.to_string())];
        self.with(name, vec![device], change)
    }

    fn with(mut self, name: &str, host_devices: Vec<String>, change: impl FnOnce(&mut VmShape)) -> Self {
        let mut shape = VmShape {
            memory_mib: 1024,
            first_node: Some(self.node.clone()),
            node_selector: self.labels.clone(),
            shutdown: Shutdown::Seconds(5),
            host_devices,
            ..VmShape::default()
        };
        change(&mut shape);
        self.vms.push(world::vm(&self.namespace, name, &shape));
        self
    }
}

fn device_of(name: &str) -> String {
    format!("vendor.example/{}", name.to_uppercase())
}
