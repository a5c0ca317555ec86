//! Whether an owed VM can be started on its node now. A launcher that is bound too early dies at admission, or waits where
//! nobody looks: what is missing is named first, with its cure (reference `kubevirt.md` §6.3). Reads nothing.

pub mod adopt;
pub mod claim;
pub mod storage;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::flow::placement::{Closed, Place};
use crate::flow::vms::{LedgerLine, VmEntry, VmKey};

/// What every guest needs; gone while the kubelet registers its device plugins again.
const KVM: &str = "devices.kubevirt.io/kvm";
/// Labels of a node whose kubelet gives CPUs away for good: `KubeVirt`'s present one and its old one.
const CPU_MANAGER: [&str; 2] = ["kubevirt.io/cpumanager", "cpumanager"];

/// One thing that has to be there before a VM is started.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Premise {
    /// Its node is in the cluster, and open.
    Node,
    /// The node offers KVM.
    Kvm,
    /// The node offers so many of this device that nobody else holds.
    Device(String, u32),
    /// The node has free huge pages of this size.
    HugePages(String),
    /// The node gives CPUs away for good.
    OwnCpus,
    /// `KubeVirt` permits this device.
    Permitted(String),
    /// Its volumes can be attached there; asked of the VM's own claims, of which plain VMs may have none.
    Volumes,
}

impl fmt::Display for Premise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Kvm => f.write_str("kvm"),
            Self::Device(device, count) => write!(f, "{count} {device}"),
            Self::HugePages(size) => write!(f, "hugepages-{size}"),
            Self::OwnCpus => f.write_str("cpumanager"),
            Self::Permitted(device) => write!(f, "{device} permitted"),
            Self::Volumes => f.write_str("volumes"),
        }
    }
}

/// What is missing, and what would help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Object and cause.
    pub what: String,
    /// The cure.
    pub cure: String,
    /// The device that is not there: others may know why.
    pub device: Option<String>,
}

impl Missing {
    fn new(what: String, cure: impl Into<String>) -> Self {
        Self { what, cure: cure.into(), device: None }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.cure)
    }
}

/// What `KubeVirt` lets guests have (`spec.configuration.permittedHostDevices` of its own object).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permitted {
    /// It lists none, and then it does not look.
    Unlisted,
    /// These.
    Listed(BTreeSet<String>),
    /// Nobody could tell.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// All that has to be there for this VM, in the order in which it is asked for.
#[must_use]
pub fn premises(entry: &VmEntry) -> Vec<Premise> {
    let devices = devices(entry);
    let offered = devices.iter().map(|(device, count)| Premise::Device((*device).to_owned(), *count));
    let permitted = devices.keys().map(|device| Premise::Permitted((*device).to_owned()));
    let pages = entry.hugepages.clone().map(Premise::HugePages);
    [Premise::Node, Premise::Kvm]
        .into_iter()
        .chain(offered)
        .chain(pages)
        .chain(entry.dedicated_cpus.then_some(Premise::OwnCpus))
        .chain(permitted)
        .chain([Premise::Volumes])
        .collect()
}

/// Whether what other pods of the node hold matters for this VM.
#[must_use]
pub fn shares(entry: &VmEntry) -> bool {
    !entry.devices.is_empty() || entry.hugepages.is_some()
}

/// The first thing that the node lacks for a start of this VM; none when all is there.
#[must_use]
pub fn missing(entry: &VmEntry, node: &str, place: Option<&Place>) -> Option<Missing> {
    let Some(place) = place else {
        let what = format!("node {node} is not in the cluster");
        return Some(Missing::new(what, "bring it back, or start the VM elsewhere by hand"));
    };
    premises(entry).iter().find_map(|premise| lacks(premise, place))
}

fn lacks(premise: &Premise, place: &Place) -> Option<Missing> {
    let node = &place.name;
    let offered = |resource: &str| place.allocatable.get(resource).copied().unwrap_or(0);
    let free = |resource: &str| {
        let taken = place.pods.iter().filter_map(|pod| pod.asks.get(resource));
        offered(resource).saturating_sub(taken.fold(0, |sum: u128, more| sum.saturating_add(*more)))
    };
    match premise {
        Premise::Node => {
            place.closed.map(|closed| Missing::new(format!("node {node} {closed}"), cure(closed)))
        }
        Premise::Kvm => (offered(KVM) == 0).then(|| {
            let what = format!("node {node} does not offer {KVM} (yet)");
            Missing::new(what, "look at its virt-handler pod when it stays like that")
        }),
        Premise::Device(device, count) => {
            let wanted = u128::from(*count) * 1000;
            if offered(device) < wanted {
                let what = format!("node {node} does not offer {device} (yet)");
                let cure = "look at its device plugin when it stays like that";
                return Some(Missing { device: Some(device.clone()), ..Missing::new(what, cure) });
            }
            let what = || format!("every {device} of node {node} is held by another pod");
            (free(device) < wanted).then(|| Missing::new(what(), "stop the VM that has taken it"))
        }
        Premise::HugePages(size) => (free(&format!("hugepages-{size}")) == 0).then(|| {
            let what = format!("node {node} has no free hugepages-{size}");
            Missing::new(what, "set its huge pages up again, or stop a VM that holds them")
        }),
        Premise::OwnCpus => {
            let set = |label: &str| place.labels.get(label).is_some_and(|value| value == "true");
            let what = || format!("node {node} has no label {} of true", CPU_MANAGER[0]);
            let cure = "let its kubelet run with cpuManagerPolicy static; virt-handler then sets it";
            (!CPU_MANAGER.iter().any(|label| set(label))).then(|| Missing::new(what(), cure))
        }
        // Not the node's.
        Premise::Permitted(_) | Premise::Volumes => None,
    }
}

fn cure(closed: Closed) -> &'static str {
    match closed {
        Closed::Leaving | Closed::Draining => "wait until the work on it has ended, then take the taint off",
        Closed::Cordoned => "uncordon it",
        Closed::NoVirtHandler => {
            "look at its virt-handler pod: its label kubevirt.io/schedulable is not true"
        }
        Closed::NotReady => "look at its RKE2",
        Closed::OutOfService => "take that taint off once it is back",
    }
}

/// The first device that `KubeVirt` does not let guests have. What nobody could tell is no refusal: `KubeVirt` looks for
/// itself, an instance that it refuses waits without harm and runs as soon as the list is mended, whereas a VM that nobody
/// starts for want of a read stays off. The caller says that nobody could tell.
#[must_use]
pub fn refused(entry: &VmEntry, permitted: &Permitted) -> Option<Missing> {
    let Permitted::Listed(listed) = permitted else { return None };
    let devices = devices(entry);
    let device = devices.keys().find(|device| !listed.contains(**device))?;
    let what = format!("KubeVirt does not permit {device} any more");
    let cure = "add it to spec.configuration.permittedHostDevices of the KubeVirt object, or enable its passthrough anew";
    Some(Missing::new(what, cure))
}

fn devices(entry: &VmEntry) -> BTreeMap<&str, u32> {
    let mut wanted = BTreeMap::new();
    for device in &entry.devices {
        *wanted.entry(device.as_str()).or_insert(0) += 1;
    }
    wanted
}

/// The owed ones in the order in which they are started: those that others depend on, which were shut down last, first.
#[must_use]
pub fn start_order<'a>(owed: impl Iterator<Item = &'a LedgerLine>) -> Vec<LedgerLine> {
    let mut lines: Vec<LedgerLine> = owed.cloned().collect();
    lines.sort_by_key(|line| Reverse(line.entry.shutdown_order));
    lines
}

/// One sentence for each reason why VMs are not up again: a node that offers no devices has the same one for all of them.
#[must_use]
pub fn not_up(all: &[(VmKey, String)]) -> Vec<String> {
    let mut by_reason: Vec<(&str, Vec<String>)> = Vec::new();
    for (vm, why) in all {
        match by_reason.iter_mut().find(|(known, _)| known == why) {
            Some((_, vms)) => vms.push(vm.to_string()),
            None => by_reason.push((why, vec![vm.to_string()])),
        }
    }
    let sentence = |(why, vms): (&str, Vec<String>)| match vms.as_slice() {
        [vm] => format!("VM {vm} is owed a start: {why}"),
        vms => format!("VMs {} are owed a start: {why}", vms.join(", ")),
    };
    by_reason.into_iter().map(sentence).collect()
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
