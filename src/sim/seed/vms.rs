//! Running VMs: VM, VMI and launcher pod, as the simulators themselves would have left them.

use serde_json::{Value, json};

use super::Seeding;
use super::presets::{Device, Storage};
use crate::sim::fields::{self, NODE_LABEL, VM_FINALIZER, hash, name, transitions_with, uid};
use crate::sim::kubelet::{guest_running, pod_running};
use crate::sim::longhorn::Disk;
use crate::sim::object::Object;
use crate::sim::virt_controller::{launcher_pod, new_vmi, status_patch};
use crate::sim::world::{self, PCI_DEVICE, Shutdown, VGPU, VmShape};

const NAMES: [&str; 12] =
    ["web", "db", "mail", "build", "git", "wiki", "shop", "erp", "desk", "cache", "queue", "proxy"];
const MEMORY_GIB: [u64; 8] = [1, 1, 2, 2, 4, 4, 8, 16];
const STRATEGIES: [&str; 10] = [
    "RerunOnFailure",
    "RerunOnFailure",
    "RerunOnFailure",
    "RerunOnFailure",
    "RerunOnFailure",
    "RerunOnFailure",
    "Always",
    "Always",
    "Manual",
    "Once",
];

/// A VM with everything that is its own.
pub(super) struct Seeded {
    pub(super) vm: Value,
    pub(super) vmi: Value,
    pub(super) pod: Value,
    pub(super) disk: Option<Disk>,
}

pub(super) fn vm(seeding: &Seeding<'_>, index: usize, nodes: &[Object]) -> Seeded {
    let preset = seeding.preset;
    let chance = |what: &str| hash(&format!("{} {what} {index}", preset.seed));
    let pick = |what: &str, of: usize| usize::try_from(chance(what) % of.max(1) as u64).unwrap_or(0);
    let called = format!("{}-{}", NAMES.get(pick("name", NAMES.len())).unwrap_or(&"vm"), index + 1);
    let namespace = if pick("namespace", 3) == 0 { "team-a" } else { "default" };
    let device = preset.device_of(index);
    // A VM with a device has to be startable again: nobody can start one that runs once.
    let strategies = if device.is_some() { STRATEGIES.len() - 2 } else { STRATEGIES.len() };
    let claim = format!("{called}-disk-0");
    let shape = VmShape {
        memory_mib: 1024 * MEMORY_GIB.get(pick("memory", MEMORY_GIB.len())).copied().unwrap_or(2),
        run_strategy: STRATEGIES.get(pick("strategy", strategies)).copied().unwrap_or("Always").to_owned(),
        host_devices: device
            .filter(|d| *d == Device::Pci)
            .map(|_| PCI_DEVICE.to_owned())
            .into_iter()
            .collect(),
        gpus: device.filter(|d| *d == Device::Vgpu).map(|_| VGPU.to_owned()).into_iter().collect(),
        shutdown: Shutdown::Seconds(u32::try_from(3 + pick("shutdown", 18)).unwrap_or(7)),
        dirty_mib_per_second: Some(u32::try_from(pick("dirty", 8) * 25).unwrap_or(0)),
        claims: if preset.storage == Storage::None { Vec::new() } else { vec![claim.clone()] },
        ..VmShape::default()
    };
    let home = nodes.get(preset.node_of(index));
    let node = home.map(|node| name(node)).unwrap_or_default();
    let vm = serde_json::to_value(world::vm(namespace, &called, &shape)).unwrap_or_default();
    let (vm, vmi, pod) = running(seeding, vm, home.map(|home| &**home), node);
    let disk = (preset.storage != Storage::None).then(|| Disk {
        claim: (namespace.to_owned(), claim),
        gib: 10 + 10 * (chance("disk") % 10),
        node: node.to_owned(),
        pod: name(&pod).to_owned(),
        vmi: called,
        replicas: if preset.storage == Storage::Whole { replicas(index, nodes) } else { Vec::new() },
    });
    Seeded { vm, vmi, pod, disk }
}

/// Three nodes, or as many as there are.
fn replicas(index: usize, nodes: &[Object]) -> Vec<String> {
    let cycle = nodes.iter().cycle().skip(index % nodes.len().max(1));
    cycle.take(nodes.len().min(3)).map(|node| name(node).to_owned()).collect()
}

/// A VM and what it becomes once its guest runs on a node.
fn running(seeding: &Seeding<'_>, mut vm: Value, home: Option<&Value>, node: &str) -> (Value, Value, Value) {
    seeding.identify(&mut vm);
    fields::merge(&mut vm, &json!({"metadata": {"generation": 1, "finalizers": [VM_FINALIZER]}}));
    let mut vmi = new_vmi(&vm, &seeding.now());
    seeding.identify(&mut vmi);
    let pod = running_pod(seeding, &vmi, home, node);
    settle(seeding, &mut vmi, &pod, node);
    let status = status_patch(&vm, Some(&vmi), &[], &seeding.now());
    fields::merge(&mut vm, &json!({"status": status}));
    (vm, vmi, pod)
}

/// The launcher pod of a VMI, running on a node.
pub(super) fn running_pod(seeding: &Seeding<'_>, vmi: &Value, home: Option<&Value>, node: &str) -> Value {
    let mut pod = launcher_pod(vmi, None);
    seeding.identify(&mut pod);
    fields::merge(&mut pod, &json!({"spec": {"nodeName": node}}));
    let status = pod_running(home, &pod, &seeding.now());
    fields::merge(&mut pod, &json!({"status": status}));
    pod
}

/// What a VMI says once its guest runs.
fn settle(seeding: &Seeding<'_>, vmi: &mut Value, pod: &Value, node: &str) {
    for phase in ["Scheduling", "Scheduled"] {
        let times = transitions_with(vmi, phase, &seeding.stamp());
        fields::merge(vmi, &json!({"status": {"phase": phase, "phaseTransitionTimestamps": times}}));
    }
    let placed = json!({"metadata": {"labels": {NODE_LABEL: node}},
        "status": {"nodeName": node, "activePods": {uid(pod): node}}});
    fields::merge(vmi, &placed);
    let status = guest_running(vmi, &seeding.now());
    fields::merge(vmi, &json!({"status": status}));
}
