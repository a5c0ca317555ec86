//! Builds the objects a rehearsal starts from: nodes, VMs of every shape, the Harvester `Upgrade`. Only
//! [`create_and_wait_running`] and [`register_demo_nodes`] talk to the API; they are done before the upgrade begins.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::SimError;
use super::fields::{DIRTY, FIRST_NODE, LOCAL_DISK, SHUTDOWN, text};
use super::kubelet::register_node;
pub use super::kubelet::{kubelet_reports, kubelet_started, kubelet_stopped, power_off};
pub use super::seed::{Preset, Seeded, Storage, adopt, seed};

/// Annotation of a VMI: seconds the guest takes to power off, or `ignore`.
pub const SHUTDOWN_ANNOTATION: &str = super::fields::SHUTDOWN;
/// Annotation of a VMI: MiB that the guest writes to its memory in a second.
pub const DIRTY_ANNOTATION: &str = super::fields::DIRTY;
/// Annotation of a VM or a VMI: how many of its next migrations fail, or `always`.
pub const MIGRATION_FAILURES_ANNOTATION: &str = super::script::MIGRATION_FAILURES;
/// Annotation of a VM or a VMI: seconds for which it stays Terminating after its guest has ended, or `forever`.
pub const TERMINATING_ANNOTATION: &str = super::script::TERMINATING;
/// Annotation of a VM: how often a new VMI of it is refused by a webhook, or `always`.
pub const START_REFUSALS_ANNOTATION: &str = super::script::START_REFUSALS;
/// Annotation of a VM or a VMI: how often a new guest of it dies before it has booted, or `always`.
pub const BOOT_FAILURES_ANNOTATION: &str = super::script::BOOT_FAILURES;
/// Annotation of a VM or a VMI: how many of its next migrations find no node for their target, or `always`.
pub const NO_TARGET_ANNOTATION: &str = super::script::NO_TARGET;
/// Annotation of a node that has booted: the devices that its plugins will offer again.
pub const DEVICES_ANNOTATION: &str = super::fields::DEVICES;

/// A PCI device that the demo VMs pass through.
pub const PCI_DEVICE: &str = "nvidia.com/GA102GL_A10";
/// A virtual GPU of the demo VMs.
pub const VGPU: &str = "nvidia.com/NVIDIA_A16-2Q";

/// A quantity of memory in MiB; none when it is no quantity.
#[must_use]
pub fn mebibytes(quantity: &str) -> Option<u64> {
    let bytes = super::fields::quantity(quantity)? / 1000;
    u64::try_from(bytes >> 20).ok()
}

/// A number that follows from a name alone, the same in every build.
#[must_use]
pub fn number_of(name: &str) -> u64 {
    super::fields::hash(name)
}

/// How long a guest takes to power off when it is asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// So many seconds of the simulated world.
    Seconds(u32),
    /// It never reacts: the grace period runs out.
    Ignore,
}

/// What a VM looks like. Start from [`VmShape::default`] and change what matters.
#[derive(Debug, Clone)]
pub struct VmShape {
    /// Guest memory.
    pub memory_mib: u64,
    /// `spec.runStrategy`.
    pub run_strategy: String,
    /// Resource names of devices in `hostDevices`.
    pub host_devices: Vec<String>,
    /// Resource names of devices in `gpus`.
    pub gpus: Vec<String>,
    /// The guest's reaction to a shutdown.
    pub shutdown: Shutdown,
    /// `spec.template.spec.evictionStrategy`; left out when `None`.
    pub eviction_strategy: Option<String>,
    /// `terminationGracePeriodSeconds`.
    pub grace_seconds: u64,
    /// A disk that no other node can reach.
    pub local_disk: bool,
    /// `spec.template.spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// Node of the very first launcher pod.
    pub first_node: Option<String>,
    /// Claims of its disks, in its own namespace.
    pub claims: Vec<String>,
    /// What the guest writes to its memory in a second, against which a migration copies.
    pub dirty_mib_per_second: Option<u32>,
}

impl Default for VmShape {
    fn default() -> Self {
        Self {
            memory_mib: 2048,
            run_strategy: "RerunOnFailure".to_owned(),
            host_devices: Vec::new(),
            gpus: Vec::new(),
            shutdown: Shutdown::Seconds(7),
            eviction_strategy: Some("LiveMigrateIfPossible".to_owned()),
            grace_seconds: 120,
            local_disk: false,
            node_selector: BTreeMap::new(),
            first_node: None,
            claims: Vec::new(),
            dirty_mib_per_second: None,
        }
    }
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = (group.to_owned(), version.to_owned());
    let api_version = format!("{group}/{version}");
    ApiResource { group, version, api_version, kind: kind.to_owned(), plural: plural.to_owned() }
}

/// `virtualmachines.kubevirt.io/v1`.
#[must_use]
pub fn vm_resource() -> ApiResource {
    resource("kubevirt.io", "v1", "VirtualMachine", "virtualmachines")
}

/// `virtualmachineinstances.kubevirt.io/v1`.
#[must_use]
pub fn vmi_resource() -> ApiResource {
    resource("kubevirt.io", "v1", "VirtualMachineInstance", "virtualmachineinstances")
}

/// `virtualmachineinstancemigrations.kubevirt.io/v1`.
#[must_use]
pub fn vmim_resource() -> ApiResource {
    resource("kubevirt.io", "v1", "VirtualMachineInstanceMigration", "virtualmachineinstancemigrations")
}

/// `upgrades.harvesterhci.io/v1beta1`.
#[must_use]
pub fn upgrade_resource() -> ApiResource {
    resource("harvesterhci.io", "v1beta1", "Upgrade", "upgrades")
}

/// A VM of this shape, as Harvester would create it.
#[must_use]
pub fn vm(namespace: &str, name: &str, shape: &VmShape) -> DynamicObject {
    let devices = |names: &[String], what: &str| -> Vec<Value> {
        let numbered = names.iter().enumerate();
        numbered
            .map(|(i, device)| json!({"name": format!("{name}-{what}{i}"), "deviceName": device}))
            .collect()
    };
    let mut annotations = Map::new();
    let shutdown = match shape.shutdown {
        Shutdown::Seconds(seconds) => seconds.to_string(),
        Shutdown::Ignore => "ignore".to_owned(),
    };
    annotations.insert(SHUTDOWN.to_owned(), json!(shutdown));
    if shape.local_disk {
        annotations.insert(LOCAL_DISK.to_owned(), json!("true"));
    }
    if let Some(dirty) = shape.dirty_mib_per_second {
        annotations.insert(DIRTY.to_owned(), json!(dirty.to_string()));
    }
    let memory = format!("{}Mi", shape.memory_mib);
    let mut devices_of = Map::new();
    for (field, list) in
        [("hostDevices", devices(&shape.host_devices, "pci")), ("gpus", devices(&shape.gpus, "gpu"))]
    {
        if !list.is_empty() {
            devices_of.insert(field.to_owned(), Value::Array(list));
        }
    }
    let mut spec = json!({
        "terminationGracePeriodSeconds": shape.grace_seconds,
        "domain": {"devices": devices_of, "memory": {"guest": memory}, "cpu": {"cores": 1},
                   "resources": {"requests": {"memory": memory}}},
    });
    if let Some(fields) = spec.as_object_mut() {
        if let Some(strategy) = &shape.eviction_strategy {
            fields.insert("evictionStrategy".to_owned(), json!(strategy));
        }
        if !shape.claims.is_empty() {
            let disks = shape.claims.iter().enumerate();
            let disk = |(i, claim)| json!({"name": format!("disk-{i}"), "persistentVolumeClaim": {"claimName": claim}});
            fields.insert("volumes".to_owned(), disks.map(disk).collect());
        }
        if !shape.node_selector.is_empty() {
            fields.insert("nodeSelector".to_owned(), json!(shape.node_selector));
        }
    }
    let template = json!({
        "metadata": {"labels": {"harvesterhci.io/vmName": name}, "annotations": annotations}, "spec": spec});
    let mut object = DynamicObject::new(name, &vm_resource()).within(namespace);
    object.metadata.labels = Some([("harvesterhci.io/creator".to_owned(), "harvester".to_owned())].into());
    object.metadata.annotations =
        shape.first_node.as_ref().map(|node| [(FIRST_NODE.to_owned(), node.clone())].into());
    object.data = json!({"spec": {"runStrategy": shape.run_strategy, "template": template}});
    object
}

/// The names of the demo nodes.
pub const DEMO_NODES: [&str; 3] = ["node1", "node2", "node3"];

/// Eight VMs that start on `node`: five that can migrate, two with a PCI device, one with a virtual GPU.
#[must_use]
pub fn demo_vms(node: &str) -> Vec<DynamicObject> {
    let plain = VmShape { first_node: Some(node.to_owned()), ..VmShape::default() };
    let mut vms = Vec::new();
    for (index, strategy) in
        ["RerunOnFailure", "RerunOnFailure", "Always", "Once", "RerunOnFailure"].iter().enumerate()
    {
        let memory_mib = 1024 * (1 + index as u64);
        let shape = VmShape { run_strategy: (*strategy).to_owned(), memory_mib, ..plain.clone() };
        vms.push(vm("default", &format!("app-{}", index + 1), &shape));
    }
    for (index, seconds) in [7, 12].into_iter().enumerate() {
        let shape = VmShape {
            host_devices: vec![PCI_DEVICE.to_owned()],
            shutdown: Shutdown::Seconds(seconds),
            ..plain.clone()
        };
        vms.push(vm("default", &format!("pci-{}", index + 1), &shape));
    }
    let shape = VmShape {
        gpus: vec![VGPU.to_owned()],
        shutdown: Shutdown::Seconds(9),
        run_strategy: "Always".to_owned(),
        ..plain
    };
    vms.push(vm("default", "vgpu-1", &shape));
    vms
}

/// Registers these of the demo nodes; only the first of all has devices. A node that somebody else plays is not among them.
///
/// # Errors
/// [`SimError::Refused`] when the API does not take one of them.
pub async fn register_demo_nodes(
    client: &Client,
    nodes: &[&str],
    version: &str,
    now: Timestamp,
) -> Result<(), SimError> {
    for node in nodes.iter().copied() {
        let devices =
            if node == "node1" { [(PCI_DEVICE, "2"), (VGPU, "1")] } else { [(PCI_DEVICE, "0"), (VGPU, "0")] };
        let devices = devices.map(|(name, count)| (name.to_owned(), count.to_owned())).into();
        register_node(&client.clone().into(), node, version, &BTreeMap::new(), &devices, now).await?;
    }
    Ok(())
}

/// Creates the VMs and returns once each has a guest running on `node`; existing VMs are left as they are.
///
/// # Errors
/// [`SimError::Refused`] for a VM the API does not take, [`SimError::NotRunning`] for the first VM late at `deadline`.
pub async fn create_and_wait_running(
    client: &Client,
    vms: &[DynamicObject],
    node: &str,
    deadline: Instant,
) -> Result<(), SimError> {
    let mut missing = BTreeSet::new();
    for vm in vms {
        let namespace = vm.metadata.namespace.clone().unwrap_or_default();
        let name = vm.metadata.name.clone().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &vm_resource());
        match api.create(&PostParams::default(), vm).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(source) => {
                return Err(SimError::Refused { what: format!("VM {name}"), source: Box::new(source) });
            }
            Ok(_) => {}
        }
        missing.insert((namespace, name));
    }
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &vmi_resource());
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while let Some((_, name)) = missing.first() {
        let late = SimError::NotRunning { vm: name.clone(), node: node.to_owned() };
        let Ok(next) = timeout_at(deadline, events.try_next()).await else {
            return Err(late);
        };
        match next {
            Ok(Some(watcher::Event::Apply(vmi) | watcher::Event::InitApply(vmi))) => {
                let there = text(&vmi.data, "/status/nodeName") == node;
                if there && text(&vmi.data, "/status/phase") == "Running" {
                    let (namespace, name) = (vmi.metadata.namespace, vmi.metadata.name);
                    missing.remove(&(namespace.unwrap_or_default(), name.unwrap_or_default()));
                }
            }
            Ok(Some(watcher::Event::Delete(_) | watcher::Event::Init | watcher::Event::InitDone)) => {}
            Ok(None) => return Err(late),
            // The next poll of a failed watch starts it again at once; the deadline bounds how often.
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "watch failed, going on"),
        }
    }
    Ok(())
}

/// Harvester's `Upgrade` in its node phase, with the labels that webhooks and the UI look for.
#[must_use]
pub fn upgrade(name: &str, version: &str, previous: &str, nodes: &[&str]) -> DynamicObject {
    let mut object = DynamicObject::new(name, &upgrade_resource()).within("harvester-system");
    let labels =
        [("harvesterhci.io/latestUpgrade", "true"), ("harvesterhci.io/upgradeState", "UpgradingNodes")];
    object.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    let statuses: Map<String, Value> =
        nodes.iter().map(|node| ((*node).to_owned(), json!({"state": "Images preloaded"}))).collect();
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let single = if let [only] = nodes { *only } else { "" };
    object.data = json!({
        "spec": {"version": version, "logEnabled": false},
        "status": {
            "previousVersion": previous, "singleNode": single, "nodeStatuses": statuses,
            "conditions": [condition("Completed", "Unknown"), condition("LogReady", "False"), condition("ImageReady", "True"),
                condition("RepoReady", "True"), condition("NodesPrepared", "True"),
                condition("SystemServicesUpgraded", "True"), condition("NodesUpgraded", "Unknown")],
        },
    });
    object
}
