//! The kinds of objects that the simulators watch, and where the API keeps them.

/// The kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    Vm,
    Vmi,
    Vmim,
    Pod,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Node, Self::Vm, Self::Vmi, Self::Vmim, Self::Pod];
}

impl Kind {
    pub(super) fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Node => ("", "Node", "nodes"),
            Self::Pod => ("", "Pod", "pods"),
            Self::Vm => ("kubevirt.io", "VirtualMachine", "virtualmachines"),
            Self::Vmi => ("kubevirt.io", "VirtualMachineInstance", "virtualmachineinstances"),
            Self::Vmim => {
                ("kubevirt.io", "VirtualMachineInstanceMigration", "virtualmachineinstancemigrations")
            }
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        if self.names().0.is_empty() { "v1" } else { "kubevirt.io/v1" }
    }

    pub(super) fn path(self, namespace: &str, name: &str) -> String {
        let base = if self.names().0.is_empty() { "/api/v1" } else { "/apis/kubevirt.io/v1" };
        let within = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
        let of = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("{base}{within}/{}{of}", self.names().2)
    }
}
