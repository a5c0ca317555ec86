//! The placement proof: whether the VMs that are to leave a node fit on the others, all of them together, before anything is
//! changed. Pure; knows what the scheduler knows, and says for what does not fit which node lacks what and what would help
//! most cheaply. A proof is a possible assignment, not an order: the scheduler chooses for itself.

mod certain;
mod open;
mod rules;
mod search;
mod words;

use std::collections::BTreeMap;

use crate::flow::classify::Elsewhere;
use crate::flow::vms::VmKey;

pub use certain::is_certain;
pub use open::{Closed, NodeState, closed, other_taints};
pub use rules::{Expression, Operator, PodTerm, Selector, Taint, Term, Toleration};

/// Resources by name (`cpu`, `memory`, `devices.kubevirt.io/kvm`, …), each in thousandths of its unit.
pub type Resources = BTreeMap<String, u128>;

/// A node, as somewhere to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Why it takes nobody now, whoever it is. None when it is open.
    pub closed: Option<Closed>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints of effects `NoSchedule` and `NoExecute`.
    pub taints: Vec<Taint>,
    /// What its kubelet offers to pods.
    pub allocatable: Resources,
    /// Pods bound to it that have not finished.
    pub pods: Vec<Resident>,
}

/// A pod that is on a node already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resident {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it asks for; one of `pods` as well.
    pub asks: Resources,
    /// Pods that it wants none of in the same topology.
    pub apart: Vec<PodTerm>,
}

/// What the copy of a VM's launcher pod will ask of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mover {
    /// Whose.
    pub vm: VmKey,
    /// The pod as it is now, its requests and what it wants to be apart from included.
    pub pod: Resident,
    /// Labels that the node has to have.
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity: one of these; any node when empty.
    pub node_terms: Vec<Term>,
    /// Taints that it does not mind.
    pub tolerations: Vec<Toleration>,
    /// Pods of which it wants one in the same topology, for each term.
    pub together: Vec<PodTerm>,
    /// Its priority lets the scheduler make room for it by evicting others.
    pub preempts: bool,
}

/// Why a VM cannot be on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The node takes nobody now.
    Closed(Closed),
    /// A taint that the VM does not tolerate.
    Tainted(String),
    /// A label, an affinity or a selector that an open node does not meet. Waiting changes nothing about it.
    Unlike(String),
    /// A pod there that it must be apart from, or none there that it must be with.
    Company(String),
    /// Not enough of these resources: how much is missing.
    Lacks(Resources),
}

/// A VM that has no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// Who.
    pub vm: VmKey,
    /// Every node that is not the one it leaves, and why it is none for it. What is lacking is what would be lacking once
    /// those that fit have moved.
    pub why: BTreeMap<String, Misfit>,
}

/// What came of the proof.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    /// One way in which these fit together.
    pub placed: BTreeMap<VmKey, String>,
    /// Those for which no place is left in any way that was tried.
    pub unplaced: Vec<Unplaced>,
}

/// Why one place is none for one VM, were it the only one to come: labels, taints, state, and what its pods leave over.
#[must_use]
pub fn misfit(mover: &Mover, place: &Place) -> Option<Misfit> {
    rules::misfit(mover, place).or_else(|| search::too_full(mover, place))
}

/// The other nodes as places for one VM, whatever room they have: `KubeVirt` calls a VM migratable also when its labels and
/// affinity fit nowhere else.
pub fn elsewhere<'a>(mover: &Mover, places: impl Iterator<Item = &'a Place>) -> Elsewhere {
    let mut why = BTreeMap::new();
    for place in places.filter(|place| place.closed != Some(Closed::Leaving)) {
        match rules::misfit(mover, place) {
            None => return Elsewhere::Open,
            Some(misfit) => drop(why.insert(place.name.clone(), misfit)),
        }
    }
    let never = why.values().all(|misfit| match misfit {
        Misfit::Unlike(_) => true,
        Misfit::Closed(_) | Misfit::Tainted(_) | Misfit::Company(_) | Misfit::Lacks(_) => false,
    });
    let is_alone = why.is_empty();
    let why = Unplaced { vm: mover.vm.clone(), why }.reasons();
    match (is_alone, never) {
        (true, _) => Elsewhere::Alone,
        (false, true) => Elsewhere::Never { why },
        (false, false) => Elsewhere::Closed { why },
    }
}

/// Finds places for all movers, together. `places` are all nodes; the one that they leave is closed.
#[must_use]
pub fn prove(movers: &[Mover], places: &[Place]) -> Proof {
    search::search(movers, places)
}

#[cfg(test)]
mod tests;
