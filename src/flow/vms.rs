//! One line of the ledger: who was on the node, how it left, and what it is owed back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::flow::trail::{Abort, Awaited, Cut, Trail};
pub use crate::flow::vm_key::{NotAVm, VmKey};
pub use crate::flow::vm_ledger::{VmCounts, VmLedger};

/// What is to happen to one VM, decided before the first change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub enum Verdict {
    /// Live-migrate it.
    Migrate,
    /// Shut its guest down and start it again afterwards.
    ShutDown {
        /// Why it cannot move.
        why: String,
    },
    /// It is going away already, by somebody else's order: wait, owe nothing.
    Leaving,
    /// Do not touch it: an operator has to decide.
    Hold {
        /// What the operator has to decide.
        why: String,
    },
}

/// What was true of a VM before the first change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmEntry {
    /// Who.
    pub vm: VmKey,
    /// uid of the `VirtualMachine`; none for an instance that has no such owner.
    pub vm_uid: Option<String>,
    /// uid of the running instance.
    pub vmi_uid: String,
    /// The run strategy found, in `KubeVirt`'s words (`Always`, `RerunOnFailure`, …).
    pub run_strategy: Option<String>,
    /// Resource names of the host devices it holds.
    pub devices: Vec<String>,
    /// Page size of the huge pages that its memory is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<String>,
    /// It has CPUs of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dedicated_cpus: bool,
    /// The guest's own termination grace period.
    pub grace_seconds: Option<u32>,
    /// Higher ones are shut down later: others depend on them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shutdown_order: i32,
    /// Nothing is owed once it is off: its owner starts or removes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_off: bool,
    /// What is to happen to it.
    pub verdict: Verdict,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(order: &i32) -> bool {
    *order == 0
}

/// A VM as it was left once it was off: what is different later is somebody else's doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AsLeft {
    /// It carried our mark.
    pub marked: bool,
    /// `metadata.generation`.
    pub generation: i64,
    /// The effective run strategy.
    pub run_strategy: Option<String>,
    /// Digest of what only people change in its spec.
    pub spec: String,
}

/// Where a VM stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Still on the node, untouched.
    Here,
    /// A migration was asked for.
    Migrating {
        /// Counts from 1.
        attempt: u32,
        /// The journal line that asked for it; the migration object carries it.
        id: u64,
        /// When the first attempt was asked for.
        since: Timestamp,
        /// When this attempt was asked for.
        asked: Timestamp,
        /// The node that was asked for; `KubeVirt`'s choice when absent.
        to: Option<String>,
    },
    /// It runs elsewhere, never stopped.
    Migrated {
        /// The node it runs on.
        to: String,
    },
    /// A guest shutdown was asked for: from here on it is owed.
    Stopping {
        /// When it was last asked for.
        since: Timestamp,
        /// How often.
        asks: u32,
        /// A power cut was asked for as well.
        forced: bool,
    },
    /// Off, by us.
    ShutDown {
        /// `true` after a guest shutdown, `false` after a power cut, none when nobody saw the end.
        graceful: Option<bool>,
        /// Since when.
        at: Timestamp,
    },
    /// Left the node by somebody else's doing.
    Left {
        /// What happened.
        reason: String,
    },
    /// Start was asked for.
    Restoring {
        /// As in [`Fate::ShutDown`].
        graceful: Option<bool>,
        /// Off since.
        off: Timestamp,
    },
    /// Runs again.
    Restored {
        /// The node it runs on.
        node: String,
        /// As in [`Fate::ShutDown`].
        graceful: Option<bool>,
        /// Seconds between power-off and running.
        away_seconds: i64,
    },
    /// Was owed, and is not any more.
    Struck {
        /// Why nothing is owed.
        reason: String,
    },
}

impl Fate {
    /// Does the agent still have to bring this VM back?
    #[must_use]
    pub fn is_owed(&self) -> bool {
        match self {
            Self::Stopping { .. } | Self::ShutDown { .. } | Self::Restoring { .. } => true,
            Self::Here
            | Self::Migrating { .. }
            | Self::Migrated { .. }
            | Self::Left { .. }
            | Self::Restored { .. }
            | Self::Struck { .. } => false,
        }
    }

    /// Is it still on the node?
    #[must_use]
    pub fn is_on_node(&self) -> bool {
        match self {
            Self::Here | Self::Migrating { .. } | Self::Stopping { .. } => true,
            Self::Migrated { .. }
            | Self::ShutDown { .. }
            | Self::Left { .. }
            | Self::Restoring { .. }
            | Self::Restored { .. }
            | Self::Struck { .. } => false,
        }
    }
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerLine {
    /// What was true before.
    pub entry: VmEntry,
    /// Where it stands.
    pub fate: Fate,
    /// What it was like once it was off; none while it is not, and when nobody could look.
    pub as_left: Option<AsLeft>,
}

impl LedgerLine {
    /// A line for somebody who was just found.
    #[must_use]
    pub fn new(entry: VmEntry, fate: Fate) -> Self {
        Self { entry, fate, as_left: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_earlier_agents_are_read() {
        let line = r#"{"vm":"default/db","vmUid":"u","vmiUid":"i","runStrategy":"Always","devices":["a/b"],
            "graceSeconds":null,"verdict":{"do":"shutDown","why":"it holds a/b"}}"#;
        let entry: VmEntry = serde_json::from_str(line).unwrap();
        assert!(!entry.dedicated_cpus && entry.hugepages.is_none() && entry.shutdown_order == 0);
        assert_eq!(serde_json::to_string(&entry).unwrap(), line.replace("\n            ", ""));
    }

    #[test]
    fn a_vm_is_owed_from_the_moment_its_stop_is_asked_for() {
        let at = Timestamp::UNIX_EPOCH;
        let owed = [
            Fate::Stopping { since: at, asks: 1, forced: false },
            Fate::ShutDown { graceful: None, at },
            Fate::Restoring { graceful: None, off: at },
        ];
        let not_owed = [
            Fate::Here,
            Fate::Migrated { to: "node2".into() },
            Fate::Left { reason: "stopped by its user".into() },
            Fate::Restored { node: "node1".into(), graceful: Some(true), away_seconds: 4 },
            Fate::Struck { reason: "deleted".into() },
        ];
        assert!(owed.iter().all(Fate::is_owed));
        assert!(!not_owed.iter().any(Fate::is_owed));
    }
}
