//! Whether a node is open for VMs, whoever they are: the one rule for the proof before an evacuation, and for the start of
//! VMs after it (reference `kubevirt.md` §6.3, items 1 and 2).

use super::Taint;

/// Taint of a node that somebody is at work on.
const DRAIN: &str = "kubevirt.io/drain";
/// Taint of ours on a node that an upgrade has closed and could not cordon.
const CLOSED: &str = "agent.harvesterhci.io/closed";
/// Taints of a node whose kubelet does not answer.
const AWAY: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// Taint of a node that an operator has given up on.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The shadow of a cordon.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Why a node takes nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// It is the one that is to be emptied.
    Leaving,
    /// It carries the drain taint, or ours: somebody is at work on it.
    Draining,
    /// It is cordoned.
    Cordoned,
    /// Its label `kubevirt.io/schedulable` is not true: virt-handler is away, or only just starting.
    NoVirtHandler,
    /// Its condition Ready is not True, or Kubernetes has tainted it because its kubelet does not answer.
    NotReady,
    /// An operator has declared it out of service.
    OutOfService,
}

/// What was read of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeState {
    /// Condition Ready is True.
    pub ready: bool,
    /// `spec.unschedulable`.
    pub cordoned: bool,
    /// Label `kubevirt.io/schedulable` is true: virt-handler runs there and has its device plugins.
    pub virt_handler: bool,
    /// Its taints that keep pods away.
    pub taints: Vec<Taint>,
}

/// Why nobody can be there now; none when it is open. Taints that some VMs tolerate are not looked at.
#[must_use]
pub fn closed(node: &NodeState) -> Option<Closed> {
    let has = |key: &str| node.taints.iter().any(|taint| taint.key == key);
    if has(DRAIN) || has(CLOSED) {
        Some(Closed::Draining)
    } else if has(OUT_OF_SERVICE) {
        Some(Closed::OutOfService)
    } else if !node.ready || AWAY.iter().any(|key| has(key)) {
        Some(Closed::NotReady)
    } else if node.cordoned || has(UNSCHEDULABLE) {
        Some(Closed::Cordoned)
    } else {
        (!node.virt_handler).then_some(Closed::NoVirtHandler)
    }
}

/// Taints that [`closed`] has not told of already by a word of its own.
#[must_use]
pub fn other_taints(node: NodeState) -> Vec<Taint> {
    let told =
        |key: &str| [DRAIN, CLOSED, OUT_OF_SERVICE, UNSCHEDULABLE].contains(&key) || AWAY.contains(&key);
    node.taints.into_iter().filter(|taint| !told(&taint.key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_open_only_when_nothing_closes_it() {
        let open = || NodeState { ready: true, virt_handler: true, ..NodeState::default() };
        let tainted = |key: &str, effect: &str| {
            let taint = Taint { key: key.into(), value: String::new(), effect: effect.into() };
            NodeState { taints: vec![taint], ..open() }
        };
        let table = [
            ("open", open(), None),
            ("a taint that some tolerate", tainted("dedicated", "NoSchedule"), None),
            ("drain taint", tainted("kubevirt.io/drain", "NoSchedule"), Some(Closed::Draining)),
            ("our taint", tainted("agent.harvesterhci.io/closed", "NoSchedule"), Some(Closed::Draining)),
            (
                "drained and cordoned",
                NodeState { cordoned: true, ..tainted("kubevirt.io/drain", "NoSchedule") },
                Some(Closed::Draining),
            ),
            ("not ready", NodeState { ready: false, ..open() }, Some(Closed::NotReady)),
            ("not-ready taint", tainted("node.kubernetes.io/not-ready", "NoExecute"), Some(Closed::NotReady)),
            ("unreachable", tainted("node.kubernetes.io/unreachable", "NoExecute"), Some(Closed::NotReady)),
            (
                "out of service",
                tainted("node.kubernetes.io/out-of-service", "NoExecute"),
                Some(Closed::OutOfService),
            ),
            ("cordoned", NodeState { cordoned: true, ..open() }, Some(Closed::Cordoned)),
            (
                "the shadow of a cordon that was just taken off",
                tainted("node.kubernetes.io/unschedulable", "NoSchedule"),
                Some(Closed::Cordoned),
            ),
            ("virt-handler away", NodeState { virt_handler: false, ..open() }, Some(Closed::NoVirtHandler)),
        ];
        for (what, node, expected) in table {
            assert_eq!(closed(&node), expected, "{what}");
            let minded = other_taints(node).into_iter().map(|taint| taint.key).collect::<Vec<_>>();
            assert!(minded.is_empty() || minded == ["dedicated"], "{what}: {minded:?} would be told twice");
        }
    }
}
