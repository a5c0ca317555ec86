//! Plays `virt-controller`: VMs to VMIs, VMIs to launcher pods, migrations through their phases, evacuation of tainted
//! nodes. Everything here is pure: it reads the view and answers with writes. It never plays a guest or a kubelet.

mod asks;
mod cpu;
mod evacuation;
mod migration;
mod printable;
mod vm;
mod vmi;

use super::turns::{Decision, Now};
use super::view::{Kind, Task, View};

pub(super) use asks::named_cpu;
pub(super) use cpu::{first_host, of_launcher, with_host_cpu};
pub(super) use migration::refusal;
pub(super) use vm::status_patch;
pub(super) use vmi::{launcher_pod, new_vmi};

/// What `virt-controller` would write about this object now.
pub(super) fn decide(view: &View, (kind, key): &Task, now: &Now<'_>) -> Decision {
    match kind {
        Kind::Vm => vm::decide(view, key, now),
        Kind::Vmi => vmi::decide(view, key, now),
        Kind::Vmim => migration::decide(view, key, now),
        Kind::Node => evacuation::decide(view, key, now),
        Kind::Pod
        | Kind::ReplicaSet
        | Kind::Budget
        | Kind::Volume
        | Kind::Engine
        | Kind::Replica
        | Kind::InstanceManager => Decision::nothing(),
    }
}
