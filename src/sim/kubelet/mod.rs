//! Plays the machines: scheduler, kubelet and `virt-handler` of all nodes. Simulated nodes ([`register_node`]) also get
//! their heartbeat from here; nodes that somebody else plays only get their pods and guests run. It never creates a pod.

mod guest;
mod node;
mod pods;
mod schedule;

pub use node::register_node;

use super::fields;
use super::turns::{Decision, Now};
use super::view::{Kind, Task, View};

/// What scheduler, kubelet or `virt-handler` would write about this object now.
pub(super) fn decide(view: &View, (kind, key): &Task, now: &Now<'_>) -> Decision {
    match kind {
        Kind::Vm | Kind::Vmim => Decision::nothing(),
        Kind::Vmi => guest::decide(view, key, now),
        Kind::Node => node::decide(view, key, now),
        Kind::Pod => match view.entry(*kind, key) {
            Some(pod) if fields::text(&pod.object, "/spec/nodeName").is_empty() => {
                schedule::decide(view, pod, now)
            }
            Some(pod) => pods::decide(view, pod, now),
            None => Decision::nothing(),
        },
    }
}
