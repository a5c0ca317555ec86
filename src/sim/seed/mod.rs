//! Converged worlds: objects as a cluster at rest has them, loaded into an API server in memory without any boot. The
//! simulators find nothing to do in them. Everything follows from the preset and its seed.

mod adopt;
mod claims;
mod mold;
mod nodes;
mod owners;
mod presets;
mod underway;
mod vms;

use std::cell::RefCell;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::api::ApiServer;
use super::fields::{self, name, namespace, text, uid_from};
use super::kind::Kind;
use super::known::Known;
use super::kubelet::pod_running;
use super::longhorn::{self, NAMESPACE as LONGHORN};
use super::object::Object;
use super::turns::Now;
use super::{SimError, Timing, workloads};
pub use adopt::adopt;
pub use presets::{Preset, Storage};

/// What was seeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seeded {
    /// The nodes, in order.
    pub nodes: Vec<String>,
    /// Namespace and name of each VM, in order.
    pub vms: Vec<(String, String)>,
}

/// Loads a converged world; tells what simulators that begin in it know then.
///
/// # Errors
/// [`SimError::Refused`] when the server does not take an object.
pub fn seed(server: &ApiServer, preset: &Preset, now: Timestamp) -> Result<(Seeded, Known), SimError> {
    let known = RefCell::default();
    let seeding = Seeding { known: Some(&known), ..Seeding::new(server, preset, now) };
    let mut molds = vms::Molds::default();
    let mut seeded = Seeded::default();
    for namespace in ["default", "team-a", "kube-system", "harvester-system", LONGHORN] {
        let metadata = json!({"name": namespace, "labels": {"kubernetes.io/metadata.name": namespace}});
        seeding.load(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata,
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}))?;
    }
    let mut nodes = Vec::new();
    for index in 0..preset.nodes {
        let node = nodes::node(&seeding, index);
        seeded.nodes.push(name(&node).to_owned());
        nodes.push(seeding.load(node)?);
    }
    let mut instances = Instances::new();
    for index in 0..preset.vms {
        let one = molds.vm(&seeding, index, &nodes);
        seeded.vms.push((namespace(&one.vm).to_owned(), name(&one.vm).to_owned()));
        for object in [one.vm, one.vmi, one.pod] {
            seeding.load(object)?;
        }
        for object in one.disk.iter().flat_map(|disk| longhorn::disk(disk, preset.seed, &seeding.stamp)) {
            if preset.storage == Storage::Whole {
                place(&mut instances, &object);
            }
            seeding.load(object)?;
        }
    }
    if preset.storage == Storage::Whole {
        instance_managers(&seeding, &nodes, instances)?;
    }
    if preset.workloads {
        pods_of_others(&seeding, &nodes)?;
    }
    Ok((seeded, known.into_inner()))
}

/// Builds objects of one world.
struct Seeding<'a> {
    server: &'a ApiServer,
    preset: &'a Preset,
    timing: Timing,
    /// The beginning, as objects carry it.
    stamp: String,
    /// What the simulators are to know; none where they read it themselves.
    known: Option<&'a RefCell<Known>>,
}

impl<'a> Seeding<'a> {
    fn new(server: &'a ApiServer, preset: &'a Preset, now: Timestamp) -> Self {
        let timing = Timing::virtual_time(now);
        let stamp = Now { timing: &timing, instant: timing.origin }.stamp();
        Self { server, preset, timing, stamp, known: None }
    }

    fn now(&self) -> Now<'_> {
        Now { timing: &self.timing, instant: self.timing.origin }
    }

    /// The uid that follows from who an object is.
    fn uid_of(&self, kind: &str, namespace: &str, name: &str) -> String {
        uid_from(&format!("{} {kind} {namespace}/{name}", self.preset.seed))
    }

    /// Gives an object the uid that follows from who it is, and a birthday.
    fn identify(&self, object: &mut Value) {
        if text(object, "/metadata/uid").is_empty() {
            let uid = self.uid_of(text(object, "/kind"), namespace(object), name(object));
            set(object, "metadata", "uid", uid.into());
        }
        if text(object, "/metadata/creationTimestamp").is_empty() {
            set(object, "metadata", "creationTimestamp", self.stamp.as_str().into());
        }
    }

    fn load(&self, mut object: Value) -> Result<Object, SimError> {
        self.identify(&mut object);
        let (kind, name) = (text(&object, "/kind").to_owned(), name(&object).to_owned());
        let watched = Kind::of(&object);
        let loaded = self.server.load(object).map_err(|source| SimError::Refused {
            what: format!("{kind} {name}"),
            source: Box::new(source.into()),
        })?;
        if let (Some(known), Some(watched)) = (self.known, watched) {
            known.borrow_mut().note(watched, &loaded);
        }
        Ok(loaded)
    }

    /// A pod that runs on a node.
    fn load_pod(&self, mut pod: Value, home: &Object) -> Result<Object, SimError> {
        self.identify(&mut pod);
        set(&mut pod, "spec", "nodeName", name(home).into());
        let status = pod_running(Some(home), &pod, &self.now());
        fields::merge(&mut pod, &json!({"status": status}));
        self.load(pod)
    }
}

/// Sets a field of a section of an object.
fn set(object: &mut Value, section: &str, field: &str, value: Value) {
    if let Some(fields) = object.get_mut(section).and_then(Value::as_object_mut) {
        fields.insert(field.to_owned(), value);
    }
}

/// What runs in the instance managers, by node and kind.
type Instances = BTreeMap<(String, String), Map<String, Value>>;

/// Puts an engine or a replica where it runs.
fn place(instances: &mut Instances, disk: &Value) {
    let on = (text(disk, "/spec/nodeID").to_owned(), text(disk, "/kind").to_owned());
    instances.entry(on).or_default().extend([longhorn::instance(disk)]);
}

fn instance_managers(
    seeding: &Seeding<'_>,
    nodes: &[Object],
    mut instances: Instances,
) -> Result<(), SimError> {
    for node in nodes {
        let mut manager = longhorn::instance_manager(name(node));
        for (field, kind) in [("instanceEngines", "Engine"), ("instanceReplicas", "Replica")] {
            let here = instances.remove(&(name(node).to_owned(), kind.to_owned())).unwrap_or_default();
            set(&mut manager, "status", field, here.into());
        }
        let manager = seeding.load(manager)?;
        seeding.load_pod(longhorn::manager_pod(&manager, name(node)), node)?;
        let mut budget = longhorn::budget(name(node));
        let status = longhorn::budget_status(&budget);
        fields::merge(&mut budget, &json!({"metadata": {"generation": 1}, "status": status}));
        seeding.load(budget)?;
    }
    Ok(())
}

/// How many nodes share an application, so that its budget stays small.
const NODES_PER_APPLICATION: usize = 3;

fn pods_of_others(seeding: &Seeding<'_>, nodes: &[Object]) -> Result<(), SimError> {
    let canal = seeding.load(workloads::daemon_set("kube-system", "rke2-canal"))?;
    for (index, nodes) in nodes.chunks(NODES_PER_APPLICATION).enumerate() {
        let [mut set, mut budget] =
            workloads::application("harvester-system", &format!("store-{}", index + 1), nodes.len());
        workloads::settled(&mut set, nodes.len());
        workloads::settled(&mut budget, nodes.len());
        let set = seeding.load(set)?;
        seeding.load(budget)?;
        for node in nodes {
            seeding.load_pod(workloads::daemon_pod(&canal, name(node)), node)?;
            seeding.load_pod(workloads::pod(&set, &fields::suffix(name(node))), node)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
