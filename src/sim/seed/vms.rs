//! Running VMs: VM, VMI and launcher pod, as the simulators themselves would have left them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Seeding;
use super::mold::Mold;
use super::presets::{Device, Storage};
use crate::sim::fields::{self, NODE_LABEL, VM_FINALIZER, hash, name, suffix, text, transitions_with, uid};
use crate::sim::kubelet::{container_id, guest_running, pod_ip, pod_running};
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

/// What VMs of one world look like: VMs with the same device differ in a few words only.
#[derive(Debug, Default)]
pub(super) struct Molds(BTreeMap<Option<Device>, [Mold; 3]>);

impl Molds {
    pub(super) fn vm(&mut self, seeding: &Seeding<'_>, index: usize, nodes: &[Object]) -> Seeded {
        let one = Choice::of(seeding, index, nodes);
        let cast = self.0.entry(one.device).or_insert_with(|| cast(seeding, one.device));
        let words = one.words(seeding);
        let words = words.each_ref().map(String::as_str);
        let [vm, vmi, pod] = cast.each_ref().map(|mold| mold.fill(&words));
        let preset = seeding.preset;
        let disk = (preset.storage != Storage::None).then(|| Disk {
            claim: (one.namespace.to_owned(), claim_of(&one.called)),
            gib: one.gib,
            node: one.node().to_owned(),
            pod: name(&pod).to_owned(),
            vmi: one.called.clone(),
            replicas: if preset.storage == Storage::Whole { replicas(index, nodes) } else { Vec::new() },
        });
        Seeded { vm, vmi, pod, disk }
    }
}

/// What chance gave to one VM.
struct Choice<'a> {
    called: String,
    namespace: &'static str,
    device: Option<Device>,
    memory_mib: u64,
    strategy: &'static str,
    shutdown: u32,
    dirty: u32,
    gib: u64,
    home: Option<&'a Value>,
}

impl<'a> Choice<'a> {
    fn of(seeding: &Seeding<'_>, index: usize, nodes: &'a [Object]) -> Self {
        let preset = seeding.preset;
        let chance = |what: &str| hash(&format!("{} {what} {index}", preset.seed));
        let pick = |what: &str, of: usize| usize::try_from(chance(what) % of.max(1) as u64).unwrap_or(0);
        let device = preset.device_of(index);
        // A VM with a device has to be startable again: nobody can start one that runs once.
        let strategies = if device.is_some() { STRATEGIES.len() - 2 } else { STRATEGIES.len() };
        Self {
            called: format!("{}-{}", NAMES.get(pick("name", NAMES.len())).unwrap_or(&"vm"), index + 1),
            namespace: if pick("namespace", 3) == 0 { "team-a" } else { "default" },
            device,
            memory_mib: 1024 * MEMORY_GIB.get(pick("memory", MEMORY_GIB.len())).copied().unwrap_or(2),
            strategy: STRATEGIES.get(pick("strategy", strategies)).copied().unwrap_or("Always"),
            shutdown: u32::try_from(3 + pick("shutdown", 18)).unwrap_or(7),
            dirty: u32::try_from(pick("dirty", 8) * 25).unwrap_or(0),
            gib: 10 + 10 * (chance("disk") % 10),
            home: nodes.get(preset.node_of(index)).map(|home| &**home),
        }
    }

    fn node(&self) -> &'a str {
        self.home.map(name).unwrap_or_default()
    }

    /// All that tells this VM's objects from those of others, in a fixed order.
    fn words(&self, seeding: &Seeding<'_>) -> [String; WORDS] {
        let field = |pointer: &str| self.home.map_or("", |home| text(home, pointer));
        let vmi = seeding.uid_of("VirtualMachineInstance", self.namespace, &self.called);
        let pod = format!("virt-launcher-{}-{}", self.called, suffix(&vmi));
        let pod_uid = seeding.uid_of("Pod", self.namespace, &pod);
        [
            self.called.clone(),
            self.namespace.to_owned(),
            format!("{}Mi", self.memory_mib),
            self.strategy.to_owned(),
            self.shutdown.to_string(),
            self.dirty.to_string(),
            self.node().to_owned(),
            field("/status/addresses/0/address").to_owned(),
            seeding.uid_of("VirtualMachine", self.namespace, &self.called),
            vmi,
            pod_ip(&pod_uid),
            container_id(&pod_uid, field("/status/nodeInfo/bootID")),
            pod,
            pod_uid,
        ]
    }

    /// VM, VMI and pod, made as the simulators make them.
    fn objects(&self, seeding: &Seeding<'_>) -> [Value; 3] {
        let of = |device: Device, resource: &str| {
            self.device.filter(|had| *had == device).map(|_| resource.to_owned()).into_iter().collect()
        };
        let shape = VmShape {
            memory_mib: self.memory_mib,
            run_strategy: self.strategy.to_owned(),
            host_devices: of(Device::Pci, PCI_DEVICE),
            gpus: of(Device::Vgpu, VGPU),
            shutdown: Shutdown::Seconds(self.shutdown),
            dirty_mib_per_second: Some(self.dirty),
            claims: if seeding.preset.storage == Storage::None {
                Vec::new()
            } else {
                vec![claim_of(&self.called)]
            },
            ..VmShape::default()
        };
        let vm = world::vm(self.namespace, &self.called, &shape);
        running(seeding, serde_json::to_value(vm).unwrap_or_default(), self.home, self.node())
    }
}

/// How many words tell one VM from another.
const WORDS: usize = 14;

/// The mold of VMs with this device: from a sample whose words are found nowhere else.
fn cast(seeding: &Seeding<'_>, device: Option<Device>) -> [Mold; 3] {
    let home = json!({"metadata": {"name": "zqx-node"},
        "status": {"addresses": [{"address": "203.0.113.77"}], "nodeInfo": {"bootID": "zqx-boot"}}});
    let sample = Choice {
        called: "zqx-vm".to_owned(),
        namespace: "zqx-namespace",
        device,
        memory_mib: 1_000_000_007,
        strategy: "zqx-strategy",
        shutdown: 4_000_000_007,
        dirty: 4_000_000_009,
        gib: 0,
        home: Some(&home),
    };
    let words = sample.words(seeding);
    let words = words.each_ref().map(String::as_str);
    sample.objects(seeding).map(|object| Mold::of(object, &words))
}

fn claim_of(vm: &str) -> String {
    format!("{vm}-disk-0")
}

/// Three nodes, or as many as there are.
fn replicas(index: usize, nodes: &[Object]) -> Vec<String> {
    let cycle = nodes.iter().cycle().skip(index % nodes.len().max(1));
    cycle.take(nodes.len().min(3)).map(|node| name(node).to_owned()).collect()
}

/// A VM and what it becomes once its guest runs on a node.
fn running(seeding: &Seeding<'_>, mut vm: Value, home: Option<&Value>, node: &str) -> [Value; 3] {
    seeding.identify(&mut vm);
    fields::merge(&mut vm, &json!({"metadata": {"generation": 1, "finalizers": [VM_FINALIZER]}}));
    let mut vmi = new_vmi(&vm, &seeding.now());
    seeding.identify(&mut vmi);
    let pod = running_pod(seeding, &vmi, home, node);
    settle(seeding, &mut vmi, &pod, node);
    let status = status_patch(&vm, Some(&vmi), &[], &seeding.now());
    fields::merge(&mut vm, &json!({"status": status}));
    [vm, vmi, pod]
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
        let times = transitions_with(vmi, phase, &seeding.stamp);
        fields::merge(vmi, &json!({"status": {"phase": phase, "phaseTransitionTimestamps": times}}));
    }
    let placed = json!({"metadata": {"labels": {NODE_LABEL: node}},
        "status": {"nodeName": node, "activePods": {uid(pod): node}}});
    fields::merge(vmi, &placed);
    let status = guest_running(vmi, &seeding.now());
    fields::merge(vmi, &json!({"status": status}));
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::Preset;
    use super::*;
    use crate::host::clock::Clock;
    use crate::sim::api::ApiServer;

    #[tokio::test(start_paused = true)]
    async fn a_vm_from_a_mold_is_what_the_simulators_would_have_made() {
        let now = Timestamp::UNIX_EPOCH;
        for preset in [Preset::default(), Preset::pair(), Preset { seed: 9, ..Preset::sized(70, 200, 40) }] {
            let server = ApiServer::new(Clock::from(now, tokio::time::Instant::now()), 1);
            let seeding = Seeding::new(&server, &preset, now);
            let nodes: Vec<Object> = (0..preset.nodes)
                .map(|index| seeding.load(super::super::nodes::node(&seeding, index)).unwrap())
                .collect();
            let mut molds = Molds::default();
            for index in 0..preset.vms {
                let plain = Choice::of(&seeding, index, &nodes).objects(&seeding);
                let Seeded { vm, vmi, pod, .. } = molds.vm(&seeding, index, &nodes);
                assert_eq!(plain, [vm, vmi, pod]);
            }
        }
    }
}
