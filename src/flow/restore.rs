//! Whether an owed VM can be started on its node now. A launcher that is bound too early dies at admission, or waits where
//! nobody looks: what is missing is named first (reference `kubevirt.md` §6.3). Reads nothing, decides nothing else.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::flow::placement::Resources;
use crate::flow::vms::{LedgerLine, VmEntry};

/// What every guest needs; gone while the kubelet registers its device plugins again.
const KVM: &str = "devices.kubevirt.io/kvm";
/// Taints that keep launchers away until somebody takes them off.
const CLOSING: [&str; 5] = [
    "kubevirt.io/drain",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/out-of-service",
    "node.kubernetes.io/unschedulable",
];

/// A node, as somewhere to start VMs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ground {
    /// Condition Ready is True.
    pub ready: bool,
    /// `spec.unschedulable`.
    pub cordoned: bool,
    /// Keys of its taints.
    pub taints: Vec<String>,
    /// Label `kubevirt.io/schedulable` is true: virt-handler runs there and has its device plugins.
    pub virt_handler: bool,
    /// What it offers to pods.
    pub allocatable: Resources,
    /// What its unfinished pods hold of that; needed for VMs with devices only.
    pub taken: Resources,
}

/// The first thing that is missing for a start on `node`; none when all is there.
#[must_use]
pub fn missing(entry: &VmEntry, node: &str, ground: Option<&Ground>) -> Option<String> {
    let Some(ground) = ground else { return Some(format!("node {node} is not in the cluster")) };
    if !ground.ready {
        return Some(format!("node {node} is not Ready"));
    }
    if let Some(taint) = ground.taints.iter().find(|taint| CLOSING.contains(&taint.as_str())) {
        return Some(format!("node {node} has the taint {taint}"));
    }
    if ground.cordoned {
        return Some(format!("node {node} is cordoned"));
    }
    if !ground.virt_handler {
        return Some(format!(
            "virt-handler is not ready on node {node}: its label kubevirt.io/schedulable is not true"
        ));
    }
    let offered = |resource: &str| ground.allocatable.get(resource).copied().unwrap_or(0);
    if offered(KVM) == 0 {
        return Some(format!("node {node} does not offer {KVM} (yet)"));
    }
    let mut wanted: BTreeMap<&str, u128> = BTreeMap::new();
    for device in &entry.devices {
        *wanted.entry(device).or_insert(0) += 1000;
    }
    wanted.into_iter().find_map(|(device, wanted)| {
        let (offered, taken) = (offered(device), ground.taken.get(device).copied().unwrap_or(0));
        if offered < wanted {
            return Some(format!("node {node} does not offer {device} (yet)"));
        }
        let why = || format!("every {device} of node {node} is held by another pod");
        (offered.saturating_sub(taken) < wanted).then(why)
    })
}

/// The owed ones in the order in which they are started: those that others depend on, which were shut down last, first.
#[must_use]
pub fn start_order<'a>(owed: impl Iterator<Item = &'a LedgerLine>) -> Vec<LedgerLine> {
    let mut lines: Vec<LedgerLine> = owed.cloned().collect();
    lines.sort_by_key(|line| Reverse(line.entry.shutdown_order));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::vm_entry;
    use crate::flow::vms::Fate;
    use crate::flow::vms::Verdict;

    const GPU: &str = "nvidia.com/A16";

    fn ground() -> Ground {
        Ground {
            ready: true,
            cordoned: false,
            taints: vec!["dedicated".to_owned()],
            virt_handler: true,
            allocatable: [(KVM.to_owned(), 110_000), (GPU.to_owned(), 2000)].into(),
            taken: Resources::new(),
        }
    }

    #[test]
    fn each_precondition_is_named_when_it_is_missing() {
        type Change = fn(&mut Ground);
        let table: [(&str, &[&str], Change, &str); 14] = [
            ("all there", &[], |_| {}, ""),
            ("device there", &[GPU], |_| {}, ""),
            ("two of two", &[GPU, GPU], |_| {}, ""),
            ("not ready", &[], |on| on.ready = false, "is not Ready"),
            ("cordoned", &[], |on| on.cordoned = true, "is cordoned"),
            (
                "drain taint",
                &[],
                |on| on.taints.push("kubevirt.io/drain".into()),
                "has the taint kubevirt.io/drain",
            ),
            (
                "out of service",
                &[],
                |on| on.taints.push("node.kubernetes.io/out-of-service".into()),
                "out-of-service",
            ),
            ("virt-handler away", &[], |on| on.virt_handler = false, "virt-handler is not ready"),
            (
                "no kvm",
                &[],
                |on| {
                    on.allocatable.remove(KVM);
                },
                "does not offer devices.kubevirt.io/kvm",
            ),
            (
                "kvm of 0",
                &[GPU],
                |on| {
                    on.allocatable.insert(KVM.into(), 0);
                },
                "does not offer devices.kubevirt.io/kvm",
            ),
            (
                "device away",
                &[GPU],
                |on| {
                    on.allocatable.remove(GPU);
                },
                "does not offer nvidia.com/A16 (yet)",
            ),
            (
                "one of two devices away",
                &[GPU, GPU],
                |on| {
                    on.allocatable.insert(GPU.into(), 1000);
                },
                "does not offer",
            ),
            (
                "held by another",
                &[GPU],
                |on| {
                    on.taken.insert(GPU.into(), 2000);
                },
                "is held by another pod",
            ),
            (
                "one of two held",
                &[GPU, GPU],
                |on| {
                    on.taken.insert(GPU.into(), 1000);
                },
                "is held by another pod",
            ),
        ];
        for (what, devices, change, expected) in table {
            let mut entry = vm_entry("db", Verdict::ShutDown { why: "it holds a device".into() });
            entry.devices = devices.iter().map(|&device| device.to_owned()).collect();
            let mut ground = ground();
            change(&mut ground);
            let said = missing(&entry, "node1", Some(&ground));
            match said {
                None => assert_eq!(expected, "", "{what}"),
                Some(said) => assert!(!expected.is_empty() && said.contains(expected), "{what}: {said}"),
            }
            assert!(missing(&entry, "node1", None).is_some_and(|said| said.contains("not in the cluster")));
        }
    }

    #[test]
    fn what_others_depend_on_is_started_first() {
        let line = |name: &str, shutdown_order: i32| {
            let entry = VmEntry { shutdown_order, ..vm_entry(name, Verdict::Leaving) };
            LedgerLine { entry, fate: Fate::Here }
        };
        let lines = [line("app", -1), line("web", 0), line("db", 10), line("mail", 0)];
        let names: Vec<String> =
            start_order(lines.iter()).into_iter().map(|line| line.entry.vm.name).collect();
        assert_eq!(names, ["db", "web", "mail", "app"]);
    }
}
