//! The kinds of objects that the simulators watch, and where the API keeps them.

use serde_json::Value;

use super::fields::text;

/// The kinds that are watched, in the order in which they are looked at when several wait: what only sums up others (a
/// VM, a node) comes after them, and is looked at once instead of after each of their changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Vmi,
    Vmim,
    Pod,
    Vm,
    ReplicaSet,
    Budget,
    Volume,
    Engine,
    Replica,
    InstanceManager,
    Node,
}

impl Kind {
    /// What `KubeVirt`, scheduler and kubelet are about.
    pub(super) const CORE: [Self; 5] = [Self::Node, Self::Vm, Self::Vmi, Self::Vmim, Self::Pod];
    /// With the workloads and the storage, which only an API server in memory is sure to know.
    pub(super) const ALL: [Self; 11] = [
        Self::Node,
        Self::Vm,
        Self::Vmi,
        Self::Vmim,
        Self::Pod,
        Self::ReplicaSet,
        Self::Budget,
        Self::Volume,
        Self::Engine,
        Self::Replica,
        Self::InstanceManager,
    ];

    /// Group, kind and plural.
    pub(super) fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Node => ("", "Node", "nodes"),
            Self::Pod => ("", "Pod", "pods"),
            Self::Vm => ("kubevirt.io", "VirtualMachine", "virtualmachines"),
            Self::Vmi => ("kubevirt.io", "VirtualMachineInstance", "virtualmachineinstances"),
            Self::Vmim => {
                ("kubevirt.io", "VirtualMachineInstanceMigration", "virtualmachineinstancemigrations")
            }
            Self::ReplicaSet => ("apps", "ReplicaSet", "replicasets"),
            Self::Budget => ("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::Volume => ("longhorn.io", "Volume", "volumes"),
            Self::Engine => ("longhorn.io", "Engine", "engines"),
            Self::Replica => ("longhorn.io", "Replica", "replicas"),
            Self::InstanceManager => ("longhorn.io", "InstanceManager", "instancemanagers"),
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::Node | Self::Pod => "v1",
            Self::Vm | Self::Vmi | Self::Vmim => "kubevirt.io/v1",
            Self::ReplicaSet => "apps/v1",
            Self::Budget => "policy/v1",
            Self::Volume | Self::Engine | Self::Replica | Self::InstanceManager => "longhorn.io/v1beta2",
        }
    }

    /// The kind of an object that says what it is; `None` for kinds that no simulator looks at.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let group = text(object, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
        let kind = text(object, "/kind");
        Self::ALL.into_iter().find(|one| one.names().0 == group && one.names().1 == kind)
    }

    pub(super) fn path(self, namespace: &str, name: &str) -> String {
        let api = if self.names().0.is_empty() { "/api/" } else { "/apis/" };
        let mut path = String::with_capacity(96);
        path.push_str(api);
        path.push_str(self.api_version());
        if !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(self.names().2);
        if !name.is_empty() {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}
