//! Plays the machines: scheduler, kubelet and `virt-handler` of all nodes. Simulated nodes ([`register_node`]) also get
//! their heartbeat from here; nodes that somebody else plays only get their pods and guests run. It never creates a pod.

mod company;
mod guest;
mod node;
mod pods;
mod power;
mod schedule;
mod spread;

pub(super) use guest::running_status as guest_running;
pub use node::register_node;
pub(super) use node::{node_object, node_status};
pub(super) use pods::{container_id, pod_ip, running_status as pod_running};
pub use power::{kubelet_reports, kubelet_started, kubelet_stopped, power_off};
pub(super) use schedule::is_selected;

use super::turns::{Decision, Now};
use super::view::{Kind, Task, View};

/// What scheduler, kubelet or `virt-handler` would write about this object now.
pub(super) fn decide(view: &View, (kind, key): &Task, now: &Now<'_>) -> Decision {
    match kind {
        Kind::Vm
        | Kind::Vmim
        | Kind::ReplicaSet
        | Kind::Budget
        | Kind::Volume
        | Kind::Engine
        | Kind::Replica
        | Kind::InstanceManager => Decision::nothing(),
        Kind::Vmi => guest::decide(view, key, now),
        Kind::Node => node::decide(view, key, now),
        Kind::Pod => match view.entry(*kind, key) {
            Some(pod) if pod.filed.node.is_empty() => schedule::decide(view, pod, now),
            Some(pod) => pods::decide(view, pod, now),
            None => Decision::nothing(),
        },
    }
}
