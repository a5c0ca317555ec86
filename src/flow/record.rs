//! `Record`: the facts and intents that the journal keeps, one line each.
//!
//! An idempotent piece of work leaves a fact after it. One that must not happen twice (stop, swap, restart, start)
//! leaves an intent before and a fact after; an intent without its fact means *probe, do not repeat*.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::flow::plan::{NodePlan, Role};
use crate::flow::step::Step;
use crate::flow::vms::{AsLeft, VmEntry, VmKey};

/// One line of the journal with its place and time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 1 without a gap.
    pub seq: u64,
    /// The kernel's boot id when the line was written.
    pub boot: String,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub record: Record,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Outcome {
    /// The node runs the new version, nothing is owed.
    Succeeded,
    /// Called off before the swap; everything is as it was.
    Cancelled,
    /// The new version did not serve: the node runs the old one again, nothing is owed.
    RolledBack {
        /// Why the new one was given up.
        why: String,
    },
}

/// A fact or an intent. New variants may be added; the meaning of an old one never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "record")]
pub enum Record {
    /// First line: whose journal this is.
    Opened {
        /// The order sheet, so that a run can go on without the API.
        plan: Box<NodePlan>,
        /// Its digest; another plan is refused.
        plan_digest: String,
        /// Version of the agent that opened it.
        agent: String,
    },
    /// Fact: every check passed, and this is what was found.
    Preflighted {
        /// Role found on the machine.
        role: Role,
        /// systemd unit of `RKE2`.
        unit: String,
        /// Absolute path of the live binary, the machine's own view.
        live: String,
        /// Its sha256.
        live_sha256: String,
    },
    /// Fact: the new binary lies on the same mount as the live one, verified.
    Staged {
        /// Absolute path, the machine's own view.
        binary: String,
        /// sha256 of the binary itself.
        sha256: String,
    },
    /// Intent: fences are about to be raised.
    FenceIntent {
        /// Units fenced.
        units: Vec<String>,
    },
    /// Fact: fences are up and loaded.
    Fenced,
    /// Intent: rancher-system-agent is about to be held back.
    InstallerHoldIntent {
        /// It ran.
        was_active: bool,
    },
    /// Fact: it is as it was again.
    InstallerReleased,
    /// Intent: the node is about to be cordoned and tainted; what was there before.
    CordonIntent {
        /// It was cordoned already, by somebody else.
        was_cordoned: bool,
        /// It had the drain taint already.
        was_tainted: bool,
    },
    /// Fact: cordoned and tainted.
    Cordoned,
    /// Fact: these VMs are on the node. The first one comes before the first change to any VM.
    LedgerWritten {
        /// VMs added to the ledger.
        vms: Vec<VmEntry>,
    },
    /// Fact: this VM was off already, and Harvester's list says that it was shut down for this upgrade: it is owed a start.
    VmAdopted {
        /// What is known of it.
        vm: Box<VmEntry>,
    },
    /// Intent: a migration object of this name is about to be created.
    MigrationIntent {
        /// Who.
        vm: VmKey,
        /// Counts from 1.
        attempt: u32,
        /// The node that the migration is to go to; `KubeVirt`'s choice when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// Fact: no node can take it now, so no migration is asked for.
    TargetAwaited {
        /// Who.
        vm: VmKey,
        /// Every node and what keeps the VM from it, as it was when the wait began.
        why: String,
    },
    /// Intent: a migration of it that does not end is about to be deleted, which aborts it.
    AbortIntent {
        /// Who.
        vm: VmKey,
        /// The migration's name.
        migration: String,
        /// Its uid; none in journals of earlier agents.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
        /// This upgrade asked for it; else somebody else did.
        ours: bool,
        /// Why it is given up.
        why: String,
    },
    /// Fact: it runs elsewhere.
    VmMigrated {
        /// Who.
        vm: VmKey,
        /// Where.
        to: String,
    },
    /// Intent: its guest is about to be told to shut down.
    StopIntent {
        /// Who.
        vm: VmKey,
    },
    /// Intent: its power is about to be cut, because the guest did not shut down and the plan says so.
    ForceOffIntent {
        /// Who.
        vm: VmKey,
    },
    /// Fact: off.
    VmStopped {
        /// Who.
        vm: VmKey,
        /// `true` after a guest shutdown, `false` after a power cut, none when nobody saw the end.
        graceful: Option<bool>,
    },
    /// Fact: it is off, or about to be recorded as that, and this is how its VM was left.
    VmAsLeft {
        /// Who.
        vm: VmKey,
        /// How it was left.
        as_left: AsLeft,
    },
    /// Fact: left the node by somebody else's doing.
    VmLeft {
        /// Who.
        vm: VmKey,
        /// What happened.
        reason: String,
    },
    /// Fact: no VM is left on the node. The receipt is minted from this line.
    PreDrained,
    /// Fact: no other pod is left that has to go.
    Drained {
        /// How many were evicted.
        evicted: u32,
    },
    /// Fact: `RKE2` has saved a snapshot of etcd, and it is whole.
    SnapshotTaken {
        /// Absolute path, the machine's own view.
        file: String,
        /// Its length.
        bytes: u64,
    },
    /// Fact: this node has no etcd to take a snapshot of.
    NoSnapshot {
        /// Why.
        why: String,
    },
    /// Fact: the gate said no. Voids `PreDrained`: the VMs must be looked at again.
    GateRefused {
        /// Why.
        refusal: String,
    },
    /// Intent: the gate said yes, the new binary is about to be renamed into place.
    SwapIntent {
        /// sha256 of the binary that is live now.
        from_sha256: String,
        /// sha256 of the one to be live.
        to_sha256: String,
        /// Where the old one is kept, the machine's own view.
        previous: String,
        /// The cluster has no other server: an API server that is away is this one's.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_only_server: bool,
    },
    /// Fact: the probe after a crash found the old binary still live, nothing happened.
    SwapAbsent,
    /// Fact: the new binary is live.
    Swapped,
    /// Intent: `RKE2` is about to be restarted.
    RestartIntent {
        /// systemd's invocation id of the process running now.
        invocation: String,
    },
    /// Fact: another process runs.
    Restarted {
        /// Its invocation id.
        invocation: String,
        /// Its pid on the machine.
        pid: u32,
    },
    /// Fact: somebody else's binary lay at the live path, or runs.
    AlienFound {
        /// sha256 of what lay there; empty when nothing did.
        sha256: String,
        /// The approved one is there again.
        put_back: bool,
    },
    /// Intent: the new `RKE2` is given up, the old binary is about to be put back.
    RollbackIntent {
        /// Why.
        why: String,
    },
    /// Fact: the old binary is live again; it still has to be started and verified.
    RolledBack,
    /// Fact: the version that is in place serves and the Node reports it.
    Verified {
        /// What the kubelet reports.
        kubelet_version: String,
    },
    /// Fact: fence, taint and cordon are away again.
    PostDrained,
    /// Intent: a VM is about to be started.
    RestoreIntent {
        /// Who.
        vm: VmKey,
    },
    /// Fact: it runs again.
    VmRestored {
        /// Who.
        vm: VmKey,
        /// Where.
        node: String,
    },
    /// Fact: nothing is owed any more, because its user did something meanwhile.
    VmStruck {
        /// Who.
        vm: VmKey,
        /// What its user did.
        reason: String,
    },
    /// Fact: the run waits for an operator.
    Held {
        /// In which step.
        step: Step,
        /// Why, and what to do.
        reason: String,
    },
    /// Fact: an operator, or a restart of the agent, made it go on.
    Resumed,
    /// Fact: the operator called it off.
    CancelRequested,
    /// Last line.
    Finished {
        /// How it ended.
        outcome: Outcome,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_from_before_targets_could_be_named_is_still_read() {
        let old = r#"{"record":"migrationIntent","vm":"default/db","attempt":2}"#;
        let read: Record = serde_json::from_str(old).unwrap();
        assert_eq!(read, Record::MigrationIntent { vm: VmKey::new("default", "db"), attempt: 2, to: None });
        assert_eq!(serde_json::to_string(&read).unwrap(), old, "and what says no more is written no longer");
    }
}
