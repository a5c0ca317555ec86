//! What a rehearsal came to, as values and as JSON: when each node was in which step, how long each VM was off, what
//! blocked. Made of the nodes' journals, which are dated in virtual time. Draws nothing; that is [`super::chart`]'s part.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::flow::record::{Entry, Record};
use crate::flow::vms::VmKey;

/// A whole rehearsal. Times are seconds since its beginning, with milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// What made it what it is, together with the world and the faults.
    pub seed: u64,
    /// The faults that it was given, as `--faults` reads them.
    pub faults: Vec<String>,
    /// Nodes in the order of the roll.
    pub nodes: Vec<NodeLine>,
    /// VMs that moved or were off, by name.
    pub vms: Vec<VmLine>,
    /// VMs that ran at any time of the rehearsal.
    pub vm_count: usize,
    /// What an operator would have to do, empty when nothing blocks.
    pub blocked: Vec<Blocked>,
    /// From the first step to the last.
    pub seconds: f64,
    /// API requests of the agents.
    pub requests: u64,
    /// Did every node end with `Succeeded` and every VM run?
    pub succeeded: bool,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeLine {
    /// Its name.
    pub node: String,
    /// How its run ended, in one word.
    pub ended: String,
    /// When the agent began.
    pub begun: f64,
    /// When its last line was written.
    pub finished: f64,
    /// How often the agent was started.
    pub starts: u32,
    /// VMs that left by live migration.
    pub migrated: u32,
    /// VMs that were shut down.
    pub shut_down: u32,
    /// Its steps in order.
    pub steps: Vec<Span>,
}

/// One step's time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// What was done.
    pub step: Stage,
    /// From.
    pub from: f64,
    /// To.
    pub to: f64,
}

/// The parts of a node's way that people tell apart on a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Stage {
    /// Checks, and the release on the node's disk.
    Prepare,
    /// Fence, cordon, ledger.
    Close,
    /// VMs leave.
    Evacuate,
    /// Other pods leave.
    Drain,
    /// The new binary becomes live.
    Swap,
    /// RKE2 restarts.
    Restart,
    /// The new version shows that it serves.
    Verify,
    /// Fence, taint and cordon go.
    Open,
    /// VMs are started again.
    Restore,
    /// An operator is waited for.
    Hold,
}

impl Stage {
    /// In the order of a run.
    pub const ALL: [Self; 10] = [
        Self::Prepare,
        Self::Close,
        Self::Evacuate,
        Self::Drain,
        Self::Swap,
        Self::Restart,
        Self::Verify,
        Self::Open,
        Self::Restore,
        Self::Hold,
    ];

    /// The stage that ends with this line; none for a line in the middle of one.
    fn ended_by(record: &Record) -> Option<Self> {
        Some(match record {
            Record::Preflighted { .. } | Record::Staged { .. } => Self::Prepare,
            Record::InstallerHoldIntent { .. }
            | Record::Fenced
            | Record::CordonIntent { .. }
            | Record::Cordoned => Self::Close,
            Record::MigrationIntent { .. }
            | Record::TargetAwaited { .. }
            | Record::AbortIntent { .. }
            | Record::VmMigrated { .. }
            | Record::StopIntent { .. }
            | Record::ForceOffIntent { .. }
            | Record::VmStopped { .. }
            | Record::VmAsLeft { .. }
            | Record::VmLeft { .. }
            | Record::PreDrained => Self::Evacuate,
            Record::Drained { .. } | Record::GateRefused { .. } => Self::Drain,
            Record::SnapshotTaken { .. }
            | Record::NoSnapshot { .. }
            | Record::SwapIntent { .. }
            | Record::SwapAbsent
            | Record::Swapped => Self::Swap,
            Record::RestartIntent { .. }
            | Record::Restarted { .. }
            | Record::RollbackIntent { .. }
            | Record::RolledBack => Self::Restart,
            Record::Verified { .. } => Self::Verify,
            Record::PostDrained => Self::Open,
            Record::RestoreIntent { .. } | Record::VmRestored { .. } | Record::VmStruck { .. } => {
                Self::Restore
            }
            Record::Resumed => Self::Hold,
            Record::Opened { .. }
            | Record::FenceIntent { .. }
            | Record::LedgerWritten { .. }
            | Record::VmAdopted { .. }
            | Record::AlienFound { .. }
            | Record::InstallerReleased
            | Record::Held { .. }
            | Record::CancelRequested
            | Record::Finished { .. } => return None,
        })
    }
}

/// One VM that noticed the upgrade.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmLine {
    /// Who.
    pub vm: VmKey,
    /// Nodes that it moved to, in order.
    pub moved_to: Vec<String>,
    /// Seconds that its guest was off; none when it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off: Option<f64>,
    /// Its power was cut, by the agent or by `KubeVirt` at the end of its grace.
    pub forced: bool,
    /// It is off at the end.
    pub still_off: bool,
    /// Who is the reason for that, when it is not the upgrade.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_by: Option<OffBy>,
}

/// Why a VM is off that the upgrade owes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum OffBy {
    /// Its machine lost its power, and `KubeVirt` has not brought it back.
    Power,
    /// Its user has taken it over.
    User,
}

/// What an operator would have to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// Where.
    pub node: String,
    /// Why, in the agent's own words.
    pub why: String,
    /// The smallest change that was found to make it go on; none when none was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// Seconds with milliseconds: enough for people, and the same on every machine.
#[must_use]
pub fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    let millis = to.duration_since(from).as_millis();
    // Exact: a rehearsal of 2^52 milliseconds would be a hundred thousand years.
    f64::from(u32::try_from(millis.max(0) / 1000).unwrap_or(u32::MAX))
        + f64::from(u16::try_from(millis.max(0) % 1000).unwrap_or(0)) / 1000.0
}

/// A node's line from its journal.
#[must_use]
pub fn node_line(node: &str, entries: &[Entry], start: Timestamp, ended: String, starts: u32) -> NodeLine {
    let mut line = NodeLine {
        node: node.to_owned(),
        ended,
        begun: 0.0,
        finished: 0.0,
        starts,
        migrated: 0,
        shut_down: 0,
        steps: Vec::new(),
    };
    let at = |entry: &Entry| seconds_between(start, entry.at);
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return line };
    (line.begun, line.finished) = (at(first), at(last));
    let mut from = line.begun;
    for entry in entries {
        line.migrated += u32::from(matches!(entry.record, Record::VmMigrated { .. }));
        line.shut_down += u32::from(matches!(entry.record, Record::VmStopped { .. }));
        let Some(step) = Stage::ended_by(&entry.record) else { continue };
        let to = at(entry);
        match line.steps.last_mut() {
            Some(span) if span.step == step => span.to = to,
            Some(_) | None => line.steps.push(Span { step, from, to }),
        }
        from = to;
    }
    line
}

/// What the journals say of single VMs. A thousand of them are long: each is read once, and let go.
#[derive(Debug, Default)]
pub struct Told {
    /// Where every VM moved to, in the order of the roll.
    pub moved: BTreeMap<VmKey, Vec<String>>,
    /// Whose guests did not end by themselves.
    pub forced: BTreeSet<VmKey>,
}

impl Told {
    /// By the next node's journal.
    pub fn read(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let Record::VmMigrated { vm, to } = &entry.record {
                self.moved.entry(vm.clone()).or_default().push(to.clone());
            }
            if let Record::VmStopped { vm, graceful: Some(false) } = &entry.record {
                self.forced.insert(vm.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::whole_run;

    #[test]
    fn a_whole_run_shows_its_stages_in_order_and_without_gaps() {
        let run = whole_run();
        let line = node_line("node1", &run, run[0].at, "Succeeded".to_owned(), 1);
        let stages: Vec<Stage> = line.steps.iter().map(|span| span.step).collect();
        let mut sorted = stages.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(stages, sorted, "each once, in the order of a run");
        for pair in line.steps.windows(2) {
            assert!((pair[0].to - pair[1].from).abs() < 0.0005, "{pair:?}");
        }
        assert!(line.shut_down > 0 && line.migrated > 0, "{line:?}");
    }

    #[test]
    fn seconds_keep_their_milliseconds() {
        let start = Timestamp::UNIX_EPOCH;
        let later = Timestamp::from_millisecond(90_250).unwrap();
        assert!((seconds_between(start, later) - 90.25).abs() < f64::EPSILON);
        assert!(seconds_between(later, start).abs() < f64::EPSILON);
    }
}
