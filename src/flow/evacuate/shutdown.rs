//! One VM whose guest is to shut down, or ends by somebody else's doing: what is waited for, how long, and what then.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{ASK_AGAIN, Decision, Look, VmAction};
use crate::flow::plan::ShutdownTimeout;
use crate::flow::report::Blocker;
use crate::flow::trail::DEFAULT_GRACE_SECONDS;
use crate::flow::vms::{LedgerLine, VmKey};

/// Requests to stop one VM that nobody hears before an operator is asked.
const STOP_ASKS: u32 = 30;
/// A request that was heard is acted upon by virt-controller, which may be away for a while: so long.
const BEGIN: SignedDuration = SignedDuration::from_mins(10);
/// What a launcher needs beyond the guest's own time: the pod's grace is the guest's plus 30 s (reference `kubevirt.md` §3).
const LAUNCHER_SLACK: Duration = Duration::from_secs(45);

impl Look<'_> {
    /// How long a VM may take from the request until it is gone.
    pub(super) fn time_to_go(&self, line: &LedgerLine) -> Duration {
        self.policy.guest_shutdown(line.entry.grace_seconds) + LAUNCHER_SLACK
    }

    pub(super) fn leaving(&self, decision: &mut Decision, vm: &VmKey, deadline: Timestamp) {
        if self.now < deadline {
            let what = format!("VM {vm} is being stopped by somebody else");
            decision.wait(what, self.begun, deadline, "hold");
        } else {
            decision.holds.push(stuck(
                format!("VM {vm} is being stopped by somebody else and does not go"),
                self.begun,
                "look at its launcher pod",
            ));
        }
    }

    /// The stop was asked for, and the instance shows no sign of it: the request was lost, refused, or waits in a queue.
    pub(super) fn unheard(&self, decision: &mut Decision, vm: &VmKey, since: Timestamp, asks: u32) {
        let (again, end) = (since + ASK_AGAIN, since + BEGIN);
        if self.now >= end || (asks >= STOP_ASKS && self.now >= again) {
            let times = if asks == 1 { "once".to_owned() } else { format!("{asks} times") };
            decision.holds.push(stuck(
                match self.seen.refused.get(vm) {
                    Some(why) => format!("VM {vm} cannot be told to shut down, the API server says: {why}"),
                    None => format!("VM {vm} was told to shut down {times} and KubeVirt does not begin"),
                },
                since,
                match self.seen.refused.get(vm) {
                    Some(_) => "mend what it names, in the VM's spec if a webhook refuses that",
                    None => "look at virt-api, virt-controller and the VM's events",
                },
            ));
            return;
        }
        if self.now < again {
            decision.by(again);
        } else {
            decision.by(self.now + ASK_AGAIN);
            decision.actions.push(VmAction::AskAgain { vm: vm.clone() });
        }
        let what = match self.seen.refused.get(vm) {
            Some(why) => format!("VM {vm} is to be shut down, and the API server says: {why}"),
            None => format!("VM {vm} was told to shut down, and KubeVirt does not begin"),
        };
        decision.wait(what, since, end, "hold");
    }

    /// Its guest is off, and something of it is still there.
    pub(super) fn clearing_up(
        &self,
        decision: &mut Decision,
        line: &LedgerLine,
        since: Timestamp,
        deleting: bool,
    ) {
        let vm = &line.entry.vm;
        // It may have gone off at the very end of its time, by a power cut for example: only then its launcher begins to go.
        let going = self.time_to_go(line) + LAUNCHER_SLACK * 2;
        let end = since + if deleting { going } else { Duration::from_secs(30) };
        if self.now < end {
            let then = if deleting { "hold" } else { "go on" };
            decision.wait(format!("VM {vm} is off; KubeVirt is clearing up after it"), since, end, then);
        } else if deleting {
            let what = format!("VM {vm} is off, and its instance stays in deletion");
            let cure =
                "look at the finalizers of its VirtualMachineInstance, its launcher pod and virt-handler";
            decision.holds.push(stuck(what, since, cure));
        } else {
            // KubeVirt keeps what ended of a VM that it does not start again by itself, and takes no stop of it.
            decision.actions.push(VmAction::RecordGone { vm: vm.clone() });
        }
    }

    /// `KubeVirt` itself destroys a guest that is not off when its own grace period is over, and no plan can keep it from that
    /// (reference `kubevirt.md` §2.1, §3): `onShutdownTimeout` is about what is still there after that.
    pub(super) fn stopping(
        &self,
        decision: &mut Decision,
        line: &LedgerLine,
        since: Timestamp,
        forced: bool,
    ) {
        let vm = &line.entry.vm;
        // After a power cut only the launcher has to go.
        let slack = if forced { LAUNCHER_SLACK * 2 } else { Duration::ZERO };
        let deadline = since + self.time_to_go(line) + slack;
        let grace = line.entry.grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
        let cut = since + SignedDuration::from_secs(i64::from(grace));
        let may_force = self.policy.on_shutdown_timeout == ShutdownTimeout::ForceOff && !forced;
        if self.now < cut && !forced {
            decision.wait(format!("VM {vm} is shutting down"), since, cut, "KubeVirt cuts its power");
        } else if self.now < deadline {
            let what = if forced {
                format!("VM {vm} is being powered off, as onShutdownTimeout says")
            } else {
                format!("VM {vm} is shutting down; KubeVirt cuts its power now, after its {grace} s")
            };
            decision.wait(what, since, deadline, if may_force { "power off" } else { "hold" });
        } else if may_force {
            decision.actions.push(VmAction::ForceOff { vm: vm.clone() });
        } else {
            decision.holds.push(stuck(
                format!(
                    "VM {vm} did not shut down in time, and KubeVirt did not cut its power after {grace} s"
                ),
                since,
                "shut its guest down by hand, and look at virt-handler of this node",
            ));
        }
    }
}

/// Only an operator can make it go on.
fn stuck(what: String, since: Timestamp, cure: &str) -> Blocker {
    let owner = format!("operator: {cure}, then resume");
    Blocker { what, since, owner, deadline: None, then: "hold".to_owned() }
}
