//! The kinds that a rehearsal uses, and in which versions their fields are known. All others are counted and dropped.

use super::document::Body;
use super::error::excerpt;

/// A kind that the simulators use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    Pod,
    Claim,
    Budget,
    Vm,
    Vmi,
    Vmim,
    KubeVirt,
    Volume,
    Engine,
    Replica,
    InstanceManager,
    StorageNode,
    StorageSetting,
    Upgrade,
    NodeUpgrade,
}

/// Kind, group, its name, and the versions that are read.
type Row = (Kind, &'static str, &'static str, &'static [&'static str]);

/// `kubevirt.io/v1alpha3` is `v1` under its old name.
const KUBEVIRT: &[&str] = &["v1", "v1alpha3"];
const TABLE: [Row; 16] = [
    (Kind::Node, "", "Node", &["v1"]),
    (Kind::Pod, "", "Pod", &["v1"]),
    (Kind::Claim, "", "PersistentVolumeClaim", &["v1"]),
    (Kind::Budget, "policy", "PodDisruptionBudget", &["v1"]),
    (Kind::Vm, "kubevirt.io", "VirtualMachine", KUBEVIRT),
    (Kind::Vmi, "kubevirt.io", "VirtualMachineInstance", KUBEVIRT),
    (Kind::Vmim, "kubevirt.io", "VirtualMachineInstanceMigration", KUBEVIRT),
    (Kind::KubeVirt, "kubevirt.io", "KubeVirt", KUBEVIRT),
    (Kind::Volume, "longhorn.io", "Volume", &["v1beta2"]),
    (Kind::Engine, "longhorn.io", "Engine", &["v1beta2"]),
    (Kind::Replica, "longhorn.io", "Replica", &["v1beta2"]),
    (Kind::InstanceManager, "longhorn.io", "InstanceManager", &["v1beta2"]),
    (Kind::StorageNode, "longhorn.io", "Node", &["v1beta2"]),
    (Kind::StorageSetting, "longhorn.io", "Setting", &["v1beta2"]),
    (Kind::Upgrade, "harvesterhci.io", "Upgrade", &["v1beta1"]),
    (Kind::NodeUpgrade, "agent.harvesterhci.io", "NodeUpgrade", &["v1alpha1"]),
];

impl Kind {
    /// Its name in the API.
    pub(super) fn name(self) -> &'static str {
        TABLE.iter().find(|row| row.0 == self).map_or("object", |row| row.2)
    }

    /// Does it live in a namespace?
    pub(super) fn is_namespaced(self) -> bool {
        self != Self::Node
    }
}

/// What `apiVersion` and `kind` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One of ours.
    Used(Kind),
    /// Of no interest.
    Unused,
    /// One of ours in a version whose fields are not known: the versions that are.
    OtherVersion(&'static [&'static str]),
}

/// Looks a kind up.
pub(super) fn find(api_version: &str, kind: &str) -> Verdict {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    match TABLE.iter().find(|row| row.1 == group && row.2 == kind) {
        Some((kind, _, _, versions)) if versions.contains(&version) => Verdict::Used(*kind),
        Some((_, _, _, versions)) => Verdict::OtherVersion(versions),
        None => Verdict::Unused,
    }
}

/// The kind of an object that is certainly not used. Without kind or version that depends on the list around it.
pub(super) fn unused(body: &Body) -> Option<String> {
    let (api_version, kind) = (body.text("apiVersion")?, body.text("kind")?);
    let is_list = kind.ends_with("List");
    // These are told apart from objects by name: the answer to "what is this file?" hangs on them.
    let is_telling = matches!((api_version, kind), ("v1", "Config" | "Status") | (_, "Table"));
    (!is_list && !is_telling && find(api_version, kind) == Verdict::Unused).then(|| label(api_version, kind))
}

/// How a kind that is not used is told.
pub(super) fn label(api_version: &str, kind: &str) -> String {
    match api_version.split_once('/') {
        Some((group, _)) => format!("{} ({})", excerpt(kind), excerpt(group)),
        None => excerpt(kind),
    }
}
