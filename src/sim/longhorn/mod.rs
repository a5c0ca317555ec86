//! Plays Longhorn as far as an upgrade can notice it: volumes follow their VMs, replicas fail with their node or its
//! instance manager and are built again, and a node's budget goes only when nothing on the node is the last of its kind.
//! It moves no data, has one engine per volume even while a guest migrates, and knows one drain policy: Harvester's.

mod build;
mod instances;
mod volume;

use super::turns::{Decision, Now};
use super::view::{Entry, Kind, State, Task, View};
pub(super) use build::{
    Disk, budget, disk, instance, instance_manager, instance_manager_name, manager_pod, runs_on, told_of,
};
pub(super) use instances::status as budget_status;

/// Where all of Longhorn lives.
pub(super) const NAMESPACE: &str = "longhorn-system";

/// What Longhorn would write about this object now.
pub(super) fn decide(view: &View, (kind, key): &Task, now: &Now<'_>) -> Decision {
    match kind {
        Kind::Volume => volume::decide(view, key, now),
        Kind::InstanceManager => instances::decide(view, key, now),
        Kind::Node
        | Kind::Vm
        | Kind::Vmi
        | Kind::Vmim
        | Kind::Pod
        | Kind::ReplicaSet
        | Kind::Budget
        | Kind::Engine
        | Kind::Replica => Decision::nothing(),
    }
}

/// The instance manager of a node.
fn manager_of<'a>(view: &'a View, node: &str) -> Option<&'a Entry> {
    view.on(Kind::InstanceManager, node).next()
}

/// Whether the processes on a node live: they outlive a kubelet that is away, and nothing outlives the machine.
fn is_alive(view: &View, node: &str) -> bool {
    manager_of(view, node)
        .is_some_and(|manager| matches!(manager.filed.state, State::Running | State::Unknown))
        && view.node(node).is_some_and(|node| !node.facts.host.is_off)
}

fn is_schedulable(node: Option<&Entry>) -> bool {
    node.is_some_and(|node| !node.facts.host.is_cordoned)
}
