//! `Phase`: what operators see, and the one table to Harvester's status strings.

use std::fmt;

use crate::flow::progress::Progress;
use crate::flow::record::Outcome;
use crate::flow::step::Step;

/// Harvester's `nodeStatuses.<node>.state`, spelled exactly (reference `harvester-upgrade.md` §1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Checks and staging are under way.
    ImagesPreloading,
    /// Everything that the node will need is on its disk.
    ImagesPreloaded,
    /// Paused by the operator before the first VM was touched.
    NodeUpgradePaused,
    /// VMs and pods are leaving.
    PreDraining,
    /// No VM is left, the gate has said yes.
    PreDrained,
    /// The new version is being put in place.
    PostDraining,
    /// The node reboots.
    WaitingReboot,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
}

impl Phase {
    /// All phases: for tables and tests.
    pub const ALL: [Self; 9] = [
        Self::ImagesPreloading,
        Self::ImagesPreloaded,
        Self::NodeUpgradePaused,
        Self::PreDraining,
        Self::PreDrained,
        Self::PostDraining,
        Self::WaitingReboot,
        Self::Succeeded,
        Self::Failed,
    ];

    /// The string on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ImagesPreloading => "Images preloading",
            Self::ImagesPreloaded => "Images preloaded",
            Self::NodeUpgradePaused => "Node-upgrade paused",
            Self::PreDraining => "Pre-draining",
            Self::PreDrained => "Pre-drained",
            Self::PostDraining => "Post-draining",
            Self::WaitingReboot => "Waiting Reboot",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// The phase of a run that is about to perform, or performs, `step` (design §3).
    #[must_use]
    pub fn of(progress: &Progress, step: Option<Step>) -> Self {
        match progress.outcome() {
            Some(Outcome::Succeeded) => return Self::Succeeded,
            Some(Outcome::Cancelled | Outcome::RolledBack { .. }) => return Self::Failed,
            None => {}
        }
        match step {
            None | Some(Step::Preflight | Step::Stage) => {
                if progress.staged().is_some() {
                    Self::ImagesPreloaded
                } else {
                    Self::ImagesPreloading
                }
            }
            Some(Step::Fence | Step::Cordon | Step::PreDrain | Step::Drain) => Self::PreDraining,
            // Before the swap is journalled the gate has not spoken yet.
            Some(Step::Snapshot | Step::Swap | Step::ProbeSwap) => {
                if progress.swap_begun() {
                    Self::PreDrained
                } else {
                    Self::PreDraining
                }
            }
            Some(
                Step::Restart
                | Step::ProbeRestart
                | Step::Verify
                | Step::Rollback
                | Step::PostDrain
                | Step::Restore
                | Step::Release
                | Step::Finish,
            ) => Self::PostDraining,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strings_are_harvesters() {
        let words: Vec<&str> = Phase::ALL.iter().map(|phase| phase.as_str()).collect();
        assert_eq!(
            words,
            [
                "Images preloading",
                "Images preloaded",
                "Node-upgrade paused",
                "Pre-draining",
                "Pre-drained",
                "Post-draining",
                "Waiting Reboot",
                "Succeeded",
                "Failed"
            ]
        );
    }
}
