//! What the view can be asked without looking at every object: who belongs to whom, who is where, which node has how much
//! room left, which migrations are under way. Each object is filed under the few facts of it that matter here.

use crate::sim::fields::At as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Key, Kind};
use crate::sim::fields::{self, annotation, label, list, map, namespace, phase, quantity, text};

/// What an object is filed under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::sim) struct Filed {
    /// The VMI that a pod or a migration belongs to.
    pub(in crate::sim) vmi: Option<Key>,
    /// Where a pod or a VMI is bound, or a part of the storage lives; empty when nowhere.
    pub(in crate::sim) node: String,
    /// The node that a VMI is evacuated from.
    evacuated: String,
    /// A migration that holds a slot.
    slot: bool,
    /// What an unfinished bound pod takes from its node.
    takes: Option<Arc<BTreeMap<String, u128>>>,
    /// The uid of a pod's controller.
    pub(in crate::sim) owner: String,
    /// A pod or a migration that has ended, a VMI whose guest no longer uses its disks.
    pub(in crate::sim) ended: bool,
    /// How a part of the storage is.
    pub(in crate::sim) state: State,
    pub(in crate::sim) health: Health,
    /// The volume of an engine or a replica, the owner of a plain pod, the claims of a VMI or of a volume.
    pub(in crate::sim) also: Vec<Key>,
}

/// Whether a guest, a pod, an engine, a replica or an instance manager runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::sim) enum State {
    /// On its way somewhere, or in error.
    #[default]
    Other,
    Running,
    /// A VMI that has a place, and a guest soon.
    Starting,
    /// It is stopped, and is to be.
    Stopped,
    /// Nobody can say: the node is away.
    Unknown,
}

/// What a replica holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::sim) enum Health {
    /// Nothing yet.
    #[default]
    New,
    /// All of the volume.
    Whole,
    Failed,
}

impl Filed {
    /// What to file an object under, given what it was filed under before.
    pub(super) fn of(kind: Kind, object: &Value, before: Option<&Self>) -> Self {
        let mut filed = Self::default();
        match kind {
            Kind::Node | Kind::Vm => {}
            // Budgets find their sets by any one of the labels that they ask for.
            Kind::ReplicaSet => {
                filed.also = labelled(object, "/spec/template/metadata/labels").collect();
            }
            Kind::Budget => {
                // Longhorn keeps its budgets itself, and by name.
                let own = label(object, "longhorn.io/managed-by").is_some();
                let by = labelled(object, "/spec/selector/matchLabels").next();
                filed.also = by.filter(|_| !own).into_iter().collect();
            }
            Kind::Vmi => {
                text(object, "/status/nodeName").clone_into(&mut filed.node);
                text(object, "/status/evacuationNodeName").clone_into(&mut filed.evacuated);
                filed.ended = fields::is_final(object);
                filed.state = match phase(object) {
                    "Running" => State::Running,
                    "Scheduled" => State::Starting,
                    _ => State::Other,
                };
                filed.also = before.map_or_else(|| claims(object), |before| before.also.clone());
            }
            Kind::Vmim => {
                filed.vmi = Some(vmi_of_vmim(object));
                filed.ended = fields::is_final(object);
                filed.slot = !filed.ended && !matches!(phase(object), "" | "Pending");
            }
            Kind::Pod => {
                filed.vmi = vmi_of_pod(object);
                text(object, "/spec/nodeName").clone_into(&mut filed.node);
                filed.ended = fields::is_final(object);
                if phase(object) == "Running" {
                    filed.state = State::Running;
                }
                if !filed.node.is_empty() && !filed.ended {
                    // What a pod asks for never changes.
                    let known = before.and_then(|before| before.takes.clone());
                    filed.takes = Some(known.unwrap_or_else(|| Arc::new(requests(object))));
                }
                if let Some(owner) = fields::controller(object) {
                    text(owner, "/uid").clone_into(&mut filed.owner);
                    if filed.vmi.is_none() {
                        filed.also = vec![Key::new(namespace(object), text(owner, "/name"))];
                    }
                }
            }
            Kind::Volume => {
                let claim = object.at("/status/kubernetesStatus").unwrap_or(&Value::Null);
                filed.also = vec![Key::new(text(claim, "/namespace"), text(claim, "/pvcName"))];
            }
            Kind::Engine | Kind::Replica | Kind::InstanceManager => {
                filed.state = match text(object, "/status/currentState") {
                    "running" => State::Running,
                    "stopped" if text(object, "/spec/desireState") == "stopped" => State::Stopped,
                    "unknown" => State::Unknown,
                    _ => State::Other,
                };
                if !text(object, "/spec/failedAt").is_empty() {
                    filed.health = Health::Failed;
                } else if !text(object, "/spec/healthyAt").is_empty() {
                    filed.health = Health::Whole;
                }
                text(object, "/spec/nodeID").clone_into(&mut filed.node);
                let volume = text(object, "/spec/volumeName");
                filed.also =
                    (!volume.is_empty()).then(|| Key::new(namespace(object), volume)).into_iter().collect();
            }
        }
        filed
    }
}

/// The namespace with each of these labels.
fn labelled(object: &Value, labels: &str) -> impl Iterator<Item = Key> {
    let labels = object.at(labels).and_then(Value::as_object).into_iter().flatten();
    let one = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    labels.map(move |label| Key::new(namespace(object), &one(label)))
}

/// The disks of a VMI that are claims.
fn claims(vmi: &Value) -> Vec<Key> {
    let volumes = list(vmi, "/spec/volumes").iter();
    let claim = |volume: &Value| {
        let (claim, made) =
            (text(volume, "/persistentVolumeClaim/claimName"), text(volume, "/dataVolume/name"));
        let named = if claim.is_empty() { made } else { claim };
        (!named.is_empty()).then(|| Key::new(namespace(vmi), named))
    };
    volumes.filter_map(claim).collect()
}

/// The VMI that a launcher pod belongs to.
pub(in crate::sim) fn vmi_of_pod(pod: &Value) -> Option<Key> {
    (label(pod, "kubevirt.io") == Some("virt-launcher"))
        .then(|| fields::controller(pod).map(|owner| Key::new(namespace(pod), text(owner, "/name"))))
        .flatten()
}

/// The VMI that a migration is about.
pub(in crate::sim) fn vmi_of_vmim(vmim: &Value) -> Key {
    Key::new(namespace(vmim), text(vmim, "/spec/vmiName"))
}

/// What a pod's containers ask for in all, in thousandths.
pub(in crate::sim) fn requests(pod: &Value) -> BTreeMap<String, u128> {
    let mut sum = BTreeMap::new();
    for container in list(pod, "/spec/containers") {
        let mut asked = map(container, "/resources/limits");
        asked.extend(map(container, "/resources/requests"));
        for (resource, amount) in asked {
            let amount = amount.as_str().and_then(quantity).unwrap_or(0);
            *sum.entry(resource).or_insert(0) += amount;
        }
    }
    sum
}

/// What the pods of one node take.
#[derive(Debug, Default)]
pub(in crate::sim) struct Room {
    pub(in crate::sim) launchers: usize,
    pub(in crate::sim) used: BTreeMap<String, u128>,
}

/// All indices.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Pods and migrations by VMI; engines and replicas by volume; pods by owner; VMIs and volumes by claim.
    by_owner: BTreeMap<Kind, BTreeMap<Key, BTreeSet<Key>>>,
    by_node: BTreeMap<Kind, BTreeMap<String, BTreeSet<Key>>>,
    evacuated: BTreeMap<String, BTreeSet<Key>>,
    slots: BTreeSet<Key>,
    rooms: BTreeMap<String, Room>,
    by_load: BTreeSet<(usize, String)>,
}

impl Index {
    pub(super) fn add_node(&mut self, node: &str) {
        let launchers = self.rooms.entry(node.to_owned()).or_default().launchers;
        self.by_load.insert((launchers, node.to_owned()));
    }

    pub(super) fn set(&mut self, kind: Kind, key: &Key, filed: &Filed, present: bool) {
        for owner in filed.vmi.iter().chain(&filed.also) {
            file(self.by_owner.entry(kind).or_default(), owner.clone(), key, present);
        }
        if kind == Kind::Pod || !filed.node.is_empty() {
            file(self.by_node.entry(kind).or_default(), filed.node.clone(), key, present);
        }
        if !filed.evacuated.is_empty() {
            file(&mut self.evacuated, filed.evacuated.clone(), key, present);
        }
        if filed.slot && present {
            self.slots.insert(key.clone());
        } else if filed.slot {
            self.slots.remove(key);
        }
        if let Some(takes) = &filed.takes {
            self.take(&filed.node, takes, filed.vmi.is_some(), present);
        }
    }

    fn take(&mut self, node: &str, takes: &BTreeMap<String, u128>, launcher: bool, present: bool) {
        let room = self.rooms.entry(node.to_owned()).or_default();
        for (resource, amount) in takes {
            let used = room.used.entry(resource.clone()).or_insert(0);
            *used = if present { *used + amount } else { used.saturating_sub(*amount) };
        }
        if launcher {
            let known = self.by_load.remove(&(room.launchers, node.to_owned()));
            room.launchers = if present { room.launchers + 1 } else { room.launchers.saturating_sub(1) };
            if known {
                self.by_load.insert((room.launchers, node.to_owned()));
            }
        }
    }

    pub(super) fn owned<'a>(&'a self, kind: Kind, owner: &Key) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.by_owner.get(&kind).and_then(|all| all.get(owner)).into_iter().flatten()
    }

    pub(super) fn on<'a>(&'a self, kind: Kind, node: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.by_node.get(&kind).and_then(|all| all.get(node)).into_iter().flatten()
    }

    pub(super) fn evacuated(&self, node: &str) -> impl Iterator<Item = &Key> {
        self.evacuated.get(node).into_iter().flatten()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Key> {
        self.slots.iter()
    }

    pub(super) fn room(&self, node: &str) -> Option<&Room> {
        self.rooms.get(node)
    }

    /// Nodes, those with the fewest launchers first, then by name.
    pub(super) fn by_load(&self) -> impl Iterator<Item = &str> {
        self.by_load.iter().map(|(_, node)| node.as_str())
    }

    pub(super) fn drop_node(&mut self, node: &str) {
        let launchers = self.rooms.get(node).map_or(0, |room| room.launchers);
        self.by_load.remove(&(launchers, node.to_owned()));
    }
}

fn file<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Key>>, of: K, key: &Key, present: bool) {
    if present {
        index.entry(of).or_default().insert(key.clone());
    } else if let Some(keys) = index.get_mut(&of) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(&of);
        }
    }
}

/// Whether a node takes pods again, or no longer.
pub(super) fn cordons_differ(old: &Value, new: &Value) -> bool {
    old.at("/spec/unschedulable") != new.at("/spec/unschedulable")
}

/// Whether scheduling on a node may go otherwise than before.
pub(super) fn places_differ(old: &Value, new: &Value) -> bool {
    ["/spec", "/metadata/labels", "/status/allocatable"].iter().any(|p| old.at(p) != new.at(p))
        || runs_differ(old, new)
}

/// Whether pods and guests of a node may go on otherwise than before.
pub(super) fn runs_differ(old: &Value, new: &Value) -> bool {
    fields::condition_is(old, "Ready", "True") != fields::condition_is(new, "Ready", "True")
        || [fields::OFF, fields::AWAY].iter().any(|key| annotation(old, key) != annotation(new, key))
        || text(old, "/status/nodeInfo/bootID") != text(new, "/status/nodeInfo/bootID")
}
