//! `Step`: one unit of work between two durable records, and how long each may take.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flow::plan::NodePlan;

/// One unit of work. Data, not closures: printable by `plan --explain`, countable in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Step {
    /// All checks; reads only.
    Preflight,
    /// Puts the new binary on the node's own disk, verified.
    Stage,
    /// Keeps everybody else from restarting `RKE2`.
    Fence,
    /// Cordons the node and sets the drain taint.
    Cordon,
    /// Gets every VM off the node.
    PreDrain,
    /// Gets the rest of the pods off the node.
    Drain,
    /// Has `RKE2` save a snapshot of etcd, on a server that keeps one.
    Snapshot,
    /// Gate, then rename the new binary into place.
    Swap,
    /// After a crash inside [`Step::Swap`]: look which binary is live.
    ProbeSwap,
    /// Restarts `RKE2`.
    Restart,
    /// After a crash inside [`Step::Restart`]: look which process runs.
    ProbeRestart,
    /// Looks whether the new version really serves.
    Verify,
    /// Puts the old binary back, where the new one does not serve and the way back is open.
    Rollback,
    /// Takes fence, taint and cordon away again.
    PostDrain,
    /// Starts the VMs that are owed.
    Restore,
    /// Lets rancher-system-agent go again.
    Release,
    /// Writes the outcome.
    Finish,
}

impl Step {
    /// All steps in the order of a run, probes left out: what `plan` prints.
    pub const WALK: [Self; 14] = [
        Self::Preflight,
        Self::Stage,
        Self::Fence,
        Self::Cordon,
        Self::PreDrain,
        Self::Drain,
        Self::Snapshot,
        Self::Swap,
        Self::Restart,
        Self::Verify,
        Self::PostDrain,
        Self::Restore,
        Self::Release,
        Self::Finish,
    ];

    /// How long the step may take, retries included, before it holds for an operator.
    #[must_use]
    pub fn deadline(self, plan: &NodePlan) -> Duration {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        match self {
            Self::Preflight => minutes(2),
            Self::Stage => plan.artifacts.time_to_stage(),
            // The snapshot: etcd's 8 GiB at the most, over a busy disk.
            Self::Drain | Self::Snapshot => minutes(15),
            // A quarter of an hour to serve, half an hour while the API server is away, and ten minutes at most in which it has
            // to go on serving.
            Self::Verify | Self::Restore => minutes(60),
            Self::Fence | Self::Cordon | Self::ProbeSwap | Self::Finish => minutes(5),
            // Half an hour until etcd can spare the member, and five minutes for the swap, or to stop RKE2.
            Self::Swap | Self::Rollback => minutes(35),
            // Each VM has deadlines of its own inside; this bound is only reached when all of them fail to fire.
            Self::PreDrain => {
                plan.evacuation.migration() + plan.evacuation.guest_shutdown(Some(24 * 3600)) + minutes(10)
            }
            // Half an hour until etcd can spare the member, ten minutes for an agent and twenty for a server, and half an hour
            // while the API server is away.
            Self::Restart | Self::ProbeRestart => minutes(85),
            // All that they wait for is an API server that is away.
            Self::PostDrain | Self::Release => minutes(45),
        }
    }

    /// What the step does, for people, before it is done.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::Preflight => "check node, API, disk, unit and versions; change nothing",
            Self::Stage => "verify the release's sha256 and unpack it beside the live binary",
            Self::Fence => "refuse restarts of RKE2 by anybody else (systemd drop-in)",
            Self::Cordon => {
                "cordon the node (by a taint where no other is open), taint it kubevirt.io/drain=draining:NoSchedule"
            }
            Self::PreDrain => {
                "live-migrate what can move, shut the other guests down, wait until all are gone"
            }
            Self::Drain => {
                "evict the other pods, disruption budgets respected; they stay where no other node is open"
            }
            Self::Snapshot => "on a server: have RKE2 save a snapshot of etcd, and look whether it is whole",
            Self::Swap => "look again that no VM is left, then rename the new binary into place",
            Self::ProbeSwap => "find out which binary is live after the interruption",
            Self::Restart => "restart RKE2 on the new binary",
            Self::ProbeRestart => "find out which RKE2 runs after the interruption",
            Self::Verify => "wait until the new version serves and the Node reports it",
            Self::Rollback => "stop RKE2 and rename the old binary back into place",
            Self::PostDrain => "take fence, taints and cordon away again, as they were found",
            Self::Restore => "start exactly the VMs that were shut down",
            Self::Release => "let rancher-system-agent run again, if its plan orders what is in place",
            Self::Finish => "remove what was staged, write down the outcome",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::plan::tests::plan;

    #[test]
    fn every_step_has_an_end() {
        for step in Step::WALK.into_iter().chain([Step::ProbeSwap, Step::ProbeRestart, Step::Rollback]) {
            let deadline = step.deadline(&plan());
            assert!(
                deadline >= Duration::from_mins(1) && deadline <= Duration::from_hours(48),
                "{step}: {deadline:?}"
            );
            assert!(!step.explain().is_empty());
        }
    }
}
