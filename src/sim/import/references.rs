//! Whether the objects of all files fit together. A guest on an unknown node is an error, since where it runs is what a
//! rehearsal is about; everything else is a warning that names a few of those concerned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use super::Key;
use super::error::{ImportError, Place, excerpt};
use super::kinds::Kind;
use crate::cluster::volumes::claim_of;
use crate::sim::fields::{NODE_LABEL, controller, is_final, label, list, text, uid};

const NODES_TOO: &str = "export nodes too, as docs/rehearse.md shows";
/// So many names in one warning.
const NAMED: usize = 3;

/// Checks across objects.
pub(super) fn check(
    files: &[PathBuf],
    objects: &[(Key, Value)],
    places: &BTreeMap<Key, Place>,
    ignored: &[String],
    warnings: &mut Vec<String>,
) -> Result<(), ImportError> {
    let if_any = |count: usize, what: &str| if count > 0 { format!("; {what}") } else { String::new() };
    let whole = Whole { objects };
    let nodes = whole.names(Kind::Node);
    let files = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    if nodes.is_empty() {
        let found = if_any(ignored.len(), &format!("not used: {}", ignored.join(", ")));
        return Err(ImportError::NoNodes { files, found });
    }
    for (key, vmi) in whole.of(Kind::Vmi) {
        let node = text(vmi, "/status/nodeName");
        if !node.is_empty() && !is_final(vmi) && !nodes.contains(node) {
            let Some(at) = places.get(key).cloned() else { continue };
            let cause = format!("there is no Node {node} in the files");
            return Err(ImportError::Field {
                at,
                field: "status.nodeName".to_owned(),
                cause,
                cure: NODES_TOO,
            });
        }
    }
    for (key, vmi) in whole.of(Kind::Vmi).filter(|(_, vmi)| !is_final(vmi)) {
        let (node, named) = (text(vmi, "/status/nodeName"), label(vmi, NODE_LABEL).unwrap_or_default());
        if let Some(at) = places.get(key).filter(|_| node != named) {
            return Err(ImportError::Field {
                at: at.clone(),
                field: format!("metadata.labels[{NODE_LABEL}]"),
                cause: format!(
                    "\"{named}\" is not \"{node}\", its status.nodeName; KubeVirt writes both together"
                ),
                cure: "export the file again with kubectl, labels and all",
            });
        }
    }
    let mut warn = |concerned: Vec<String>, what: &str| {
        if !concerned.is_empty() {
            warnings.push(format!("{files}: {} {what}", some(&concerned)));
        }
    };
    warn(whole.vms_without_guest(), "should run but has no VirtualMachineInstance; it will be started first");
    let (of_others, alone): (Vec<_>, Vec<_>) = whole
        .guests_without_vm()
        .into_iter()
        .partition(|(_, owner)| owner.is_some_and(|owner| !is_vm(owner)));
    warn(
        alone.into_iter().map(|(key, _)| told(key)).collect(),
        "belongs to no VirtualMachine in the files, so nothing starts it again",
    );
    warn(
        of_others.into_iter().map(|(key, owner)| told_with_owner(key, owner)).collect(),
        "is no VM's: what makes guests anew there is not rehearsed, so nothing starts it again",
    );
    warn(
        whole.disks_without_claim(),
        "is a disk of a VM but not in the files; it is taken to be there and shared",
    );
    warn(whole.parts_without_volume(), "belongs to a Longhorn volume that is not in the files");
    warn(whole.on_unknown_nodes(&nodes), "is on a node that is not in the files");
    for (kind, what) in [
        (Kind::Vm, "no VirtualMachine, so there is nothing to evacuate"),
        (Kind::Volume, "no Longhorn volume, so all storage is taken for healthy"),
        (Kind::KubeVirt, "no KubeVirt, so the limits of migrations are taken to be its defaults"),
    ] {
        if whole.of(kind).next().is_none() {
            warnings.push(format!("{files}: there is {what}"));
        }
    }
    Ok(())
}

struct Whole<'a> {
    objects: &'a [(Key, Value)],
}

impl<'a> Whole<'a> {
    fn of(&self, kind: Kind) -> impl Iterator<Item = (&'a Key, &'a Value)> + use<'a> {
        self.objects.iter().filter(move |(key, _)| key.0 == kind).map(|(key, object)| (key, object))
    }

    fn names(&self, kind: Kind) -> BTreeSet<&'a str> {
        self.of(kind).map(|(key, _)| key.2.as_str()).collect()
    }

    fn full_names(&self, kind: Kind) -> BTreeSet<(&'a str, &'a str)> {
        self.of(kind).map(|(key, _)| (key.1.as_str(), key.2.as_str())).collect()
    }

    fn vms_without_guest(&self) -> Vec<String> {
        let guests = self.full_names(Kind::Vmi);
        let stopped = |vm: &Value| {
            let strategy = text(vm, "/spec/runStrategy");
            let is_running = vm.pointer("/spec/running") == Some(&Value::Bool(true));
            !(is_running || strategy == "Always")
        };
        let vms = self
            .of(Kind::Vm)
            .filter(|(key, vm)| !stopped(vm) && !guests.contains(&(key.1.as_str(), key.2.as_str())));
        vms.map(|(key, _)| told(key)).collect()
    }

    /// `KubeVirt` goes by the uid: a guest of another VM of that name, or of none, is nobody's.
    fn guests_without_vm(&self) -> Vec<(&'a Key, Option<&'a Value>)> {
        let vms: BTreeMap<(&str, &str), &str> =
            self.of(Kind::Vm).map(|(key, vm)| ((key.1.as_str(), key.2.as_str()), uid(vm))).collect();
        let alone = self.of(Kind::Vmi).filter(move |(key, vmi)| {
            let vm = vms.get(&(key.1.as_str(), key.2.as_str()));
            let owner = controller(vmi).map_or("", |owner| text(owner, "/uid"));
            !is_final(vmi) && (owner.is_empty() || vm.is_none_or(|uid| *uid != owner))
        });
        alone.map(|(key, vmi)| (key, controller(vmi))).collect()
    }

    /// Only when claims were exported at all: else all of them are missing, as the shorter export has it.
    fn disks_without_claim(&self) -> Vec<String> {
        let claims = self.full_names(Kind::Claim);
        let mut missing = BTreeSet::new();
        for (key, vm) in self.of(Kind::Vm).filter(|_| !claims.is_empty()) {
            for claim in list(vm, "/spec/template/spec/volumes").iter().filter_map(claim_of) {
                if !claims.contains(&(key.1.as_str(), claim)) {
                    missing.insert(format!("PersistentVolumeClaim {}/{claim}", key.1));
                }
            }
        }
        missing.into_iter().collect()
    }

    fn parts_without_volume(&self) -> Vec<String> {
        let volumes = self.names(Kind::Volume);
        let parts = self.of(Kind::Engine).chain(self.of(Kind::Replica));
        let lost = parts.filter(|(_, part)| !volumes.contains(text(part, "/spec/volumeName")));
        lost.map(|(key, _)| told(key)).collect()
    }

    fn on_unknown_nodes(&self, nodes: &BTreeSet<&str>) -> Vec<String> {
        let places = [
            (Kind::Pod, "/spec/nodeName"),
            (Kind::Engine, "/spec/nodeID"),
            (Kind::Replica, "/spec/nodeID"),
            (Kind::InstanceManager, "/spec/nodeID"),
            (Kind::StorageNode, "/metadata/name"),
        ];
        let mut lost = Vec::new();
        for (kind, pointer) in places {
            for (key, object) in self.of(kind) {
                let node = text(object, pointer);
                if !node.is_empty() && !nodes.contains(node) {
                    lost.push(told(key));
                }
            }
        }
        lost
    }
}

fn told(key: &Key) -> String {
    let (kind, namespace, name) = key;
    format!("{} {namespace}/{name}", kind.name())
}

fn is_vm(owner: &Value) -> bool {
    text(owner, "/kind") == Kind::Vm.name()
}

/// `VirtualMachineInstance default/a of VirtualMachineInstanceReplicaSet b`.
fn told_with_owner(key: &Key, owner: Option<&Value>) -> String {
    let of =
        owner.map(|owner| format!(" of {} {}", excerpt(text(owner, "/kind")), excerpt(text(owner, "/name"))));
    format!("{}{}", told(key), of.unwrap_or_default())
}

fn some(all: &[String]) -> String {
    let mut text = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > NAMED {
        text = format!("{text} and {} more: each", all.len() - NAMED);
    } else if all.len() > 1 {
        text.push_str(": each");
    }
    text
}
