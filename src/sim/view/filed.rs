//! The few facts of an object that the view files it under: who it belongs to, where it is, what it takes, how it is. Read
//! once for each version.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::facts::{Facts, Phase};
use super::parts::Parts;
use super::ties::Ties;
use super::{Key, Kind};
use crate::cluster::volumes::claim_of;
use crate::sim::fields::{self, At as _, label, list, namespace, quantity, text};

/// What an object is filed under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::sim) struct Filed {
    /// The VMI that a pod or a migration belongs to.
    pub(in crate::sim) vmi: Option<Key>,
    /// Where a pod or a VMI is bound, or a part of the storage lives; empty when nowhere.
    pub(in crate::sim) node: String,
    /// The node that a VMI is evacuated from.
    pub(in crate::sim) evacuated: String,
    /// A migration that holds a slot.
    pub(super) slot: bool,
    /// What an unfinished bound pod takes from its node.
    pub(super) takes: Option<Arc<BTreeMap<String, u128>>>,
    /// How a pod is tied to where others are.
    pub(super) ties: Ties,
    /// The uid of a pod's controller.
    pub(in crate::sim) owner: String,
    /// A pod or a migration that has ended, a VMI whose guest no longer uses its disks.
    pub(in crate::sim) ended: bool,
    /// How a part of the storage is.
    pub(in crate::sim) state: State,
    pub(in crate::sim) health: Health,
    /// The volume of an engine or a replica, the owner of a plain pod, the claims of a VMI or of a volume.
    pub(in crate::sim) also: Vec<Key>,
    /// The claims of a pod that is no VM's; hardly any has one, and there are hundreds of thousands of objects.
    claims: Option<Arc<[Key]>>,
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
    pub(super) fn of(
        kind: Kind,
        object: &Value,
        parts: Parts<'_>,
        facts: &Facts,
        before: Option<&Self>,
    ) -> Self {
        let Parts { metadata, spec, status } = parts;
        let namespace = || metadata.text("namespace");
        let mut filed =
            Self { ended: matches!(facts.phase, Phase::Succeeded | Phase::Failed), ..Self::default() };
        match kind {
            Kind::Node | Kind::Vm => {}
            // Budgets find their sets by any one of the labels that they ask for, or look at all of their namespace.
            Kind::ReplicaSet => {
                let labels = labelled(object, "/spec/template/metadata/labels");
                filed.also = labels.chain([whatever_label(object)]).collect();
            }
            Kind::Budget => {
                // Longhorn keeps its budgets itself, and by name.
                let own = label(object, "longhorn.io/managed-by").is_some();
                let by = labelled(object, "/spec/selector/matchLabels").next();
                let by = by.unwrap_or_else(|| whatever_label(object));
                filed.also = (!own).then_some(by).into_iter().collect();
            }
            Kind::Vmi => {
                status.text("nodeName").clone_into(&mut filed.node);
                status.text("evacuationNodeName").clone_into(&mut filed.evacuated);
                if facts.phase == Phase::Running {
                    filed.state = State::Running;
                } else if facts.phase == Phase::Scheduled {
                    filed.state = State::Starting;
                }
                filed.also = before.map_or_else(|| claims(object), |before| before.also.clone());
            }
            Kind::Vmim => {
                filed.vmi = Some(Key::new(namespace(), spec.text("vmiName")));
                filed.slot = !filed.ended && !matches!(facts.phase, Phase::Unset | Phase::Pending);
            }
            Kind::Pod => {
                spec.text("nodeName").clone_into(&mut filed.node);
                if facts.phase == Phase::Running {
                    filed.state = State::Running;
                }
                if !filed.node.is_empty() && !filed.ended {
                    // What a pod asks for never changes.
                    let known = before.and_then(|before| before.takes.clone());
                    filed.takes = Some(known.unwrap_or_else(|| Arc::new(requests(object))));
                }
                if !filed.ended {
                    filed.ties = Ties::of(object, !filed.node.is_empty());
                }
                let owner = fields::controller(object);
                if let Some(owner) = owner {
                    text(owner, "/uid").clone_into(&mut filed.owner);
                }
                // Whose a pod is does not change while its controller is the same.
                if let Some(before) = before.filter(|before| before.owner == filed.owner) {
                    filed.vmi.clone_from(&before.vmi);
                    filed.also.clone_from(&before.also);
                    filed.claims.clone_from(&before.claims);
                } else if let Some(owner) = owner {
                    filed.vmi = vmi_of_pod(object);
                    if filed.vmi.is_none() {
                        filed.also = vec![Key::new(namespace(), text(owner, "/name"))];
                        filed.claims = some(claims(object));
                    }
                } else {
                    filed.claims = some(claims(object));
                }
            }
            Kind::Volume => {
                let claim = status.within("kubernetesStatus");
                filed.also = vec![Key::new(claim.text("namespace"), claim.text("pvcName"))];
            }
            Kind::Engine | Kind::Replica | Kind::InstanceManager => {
                filed.state = match status.text("currentState") {
                    "running" => State::Running,
                    "stopped" if spec.text("desireState") == "stopped" => State::Stopped,
                    "unknown" => State::Unknown,
                    _ => State::Other,
                };
                if !spec.text("failedAt").is_empty() {
                    filed.health = Health::Failed;
                } else if !spec.text("healthyAt").is_empty() {
                    filed.health = Health::Whole;
                }
                spec.text("nodeID").clone_into(&mut filed.node);
                let volume = spec.text("volumeName");
                filed.also =
                    (!volume.is_empty()).then(|| Key::new(namespace(), volume)).into_iter().collect();
            }
        }
        filed
    }
}

impl Filed {
    /// The claims of a pod that is no VM's.
    pub(super) fn claims(&self) -> impl Iterator<Item = &Key> {
        self.claims.iter().flat_map(|claims| claims.iter())
    }
}

fn some(claims: Vec<Key>) -> Option<Arc<[Key]>> {
    (!claims.is_empty()).then(|| claims.into())
}

/// The namespace with each of these labels.
fn labelled(object: &Value, labels: &str) -> impl Iterator<Item = Key> {
    let labels = object.at(labels).and_then(Value::as_object).into_iter().flatten();
    let one = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    labels.map(move |label| Key::new(namespace(object), &one(label)))
}

/// The namespace without any label.
fn whatever_label(object: &Value) -> Key {
    Key::new(namespace(object), "")
}

/// The disks of a VMI, or the volumes of a pod, that are claims.
fn claims(of: &Value) -> Vec<Key> {
    let volumes = list(of, "/spec/volumes").iter();
    volumes.filter_map(claim_of).map(|claim| Key::new(namespace(of), claim)).collect()
}

/// The VMI that a launcher pod belongs to.
pub(in crate::sim) fn vmi_of_pod(pod: &Value) -> Option<Key> {
    (label(pod, "kubevirt.io") == Some("virt-launcher"))
        .then(|| fields::controller(pod).map(|owner| Key::new(namespace(pod), text(owner, "/name"))))
        .flatten()
}

/// What a pod's containers ask for in all, in thousandths.
pub(in crate::sim) fn requests(pod: &Value) -> BTreeMap<String, u128> {
    let mut sum = BTreeMap::new();
    for container in list(pod, "/spec/containers") {
        let of = |field: &str| container.at("/resources").and_then(|all| all.get(field)?.as_object());
        let (limits, requests) = (of("limits"), of("requests"));
        let asked = |resource: &String| requests.is_some_and(|requests| requests.contains_key(resource));
        let limits = limits.into_iter().flatten().filter(|(resource, _)| !asked(resource));
        for (resource, amount) in limits.chain(requests.into_iter().flatten()) {
            let amount = amount.as_str().and_then(quantity).unwrap_or(0);
            *sum.entry(resource.clone()).or_insert(0) += amount;
        }
    }
    sum
}
