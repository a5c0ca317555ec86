//! The law of the records: which line may come next. Looks only; what a line changes is `fold`'s.

use jiff::Timestamp;

use crate::flow::progress::{Progress, Work};
use crate::flow::record::{Entry, Outcome, Record};
use crate::flow::vms::{Fate, LedgerLine, VmKey};

impl Progress {
    /// The rule that `entry` breaks as the next line; else the fate that it gives to its VM, when it is about one.
    pub(super) fn lawful(&self, entry: &Entry) -> Result<Option<Fate>, &'static str> {
        rule(entry.seq == self.seq + 1, "line numbers must count up by one")?;
        rule(self.outcome.is_none(), "the run has ended already")?;
        let opens = matches!(entry.record, Record::Opened { .. });
        rule(opens == self.plan.is_none(), "the first line, and only that, opens the journal")?;
        match &entry.record {
            Record::Opened { .. } | Record::Held { .. } | Record::Resumed => {}
            Record::Preflighted { .. } => {
                rule(!self.touched_node(), "preflight comes before the first change")?;
            }
            Record::Staged { .. } => {
                rule(self.preflighted.is_some(), "staging comes after preflight")?;
                rule(!self.touched_node(), "staging comes before the first change")?;
            }
            Record::FenceIntent { .. } => {
                rule(self.staged.is_some(), "fencing comes after staging")?;
                rule(!self.swap_begun() && !self.cancelled, "fencing comes before the swap")?;
            }
            Record::Fenced => rule(!matches!(self.fence, Work::Not), "a fence needs its intent first")?,
            Record::InstallerHoldIntent { .. } => self.may_hold_installer()?,
            Record::InstallerReleased => {
                let may = self.installer.is_some() && self.post_drained;
                rule(may, "the installer is let go when it is held, and the fence is down")?;
            }
            Record::CordonIntent { .. } => {
                rule(self.fenced(), "cordoning comes after fencing")?;
                rule(!self.swap_begun() && !self.cancelled, "cordoning comes before the swap")?;
            }
            Record::Cordoned => rule(self.cordon.is_some(), "cordoning needs its intent first")?,
            Record::LedgerWritten { .. } => {
                rule(self.cordon.is_some(), "the ledger is written after the intent to cordon")?;
                rule(!self.swap_begun(), "no VM is entered after the swap began")?;
            }
            Record::VmAdopted { vm } => self.may_adopt(&vm.vm)?,
            Record::VmAsLeft { vm, .. } => {
                let line = self.ledger.line(vm).ok_or("the VM is not in the ledger")?;
                let ends = matches!(line.fate, Fate::Stopping { .. } | Fate::ShutDown { .. });
                rule(ends, "the VM is not where this line says it was")?;
            }
            record @ (Record::MigrationIntent { vm, .. }
            | Record::TargetAwaited { vm, .. }
            | Record::AbortIntent { vm, .. }
            | Record::VmMigrated { vm, .. }
            | Record::StopIntent { vm }
            | Record::ForceOffIntent { vm }
            | Record::VmStopped { vm, .. }
            | Record::VmLeft { vm, .. }
            | Record::RestoreIntent { vm }
            | Record::VmRestored { vm, .. }
            | Record::VmStruck { vm, .. }) => return self.fate_after(vm, record, entry).map(Some),
            Record::PreDrained => {
                rule(self.cordoned, "pre-drain comes after cordoning")?;
                rule(self.ledger.on_node().next().is_none(), "a VM of the ledger is still on the node")?;
            }
            Record::Drained { .. } => rule(self.pre_drained(), "drain comes after pre-drain")?,
            Record::SnapshotTaken { .. } | Record::NoSnapshot { .. } => {
                rule(self.drained && !self.swap_begun(), "the snapshot comes between drain and swap")?;
            }
            Record::GateRefused { .. } => rule(!self.swap_begun(), "the gate is asked before the swap")?,
            Record::SwapIntent { .. } => self.may_swap()?,
            Record::SwapAbsent => {
                rule(matches!(self.swap, Work::Intended(_)), "only an intended swap can be found absent")?;
            }
            Record::Swapped => {
                rule(matches!(self.swap, Work::Intended(_)), "a swap happens once, after its intent")?;
            }
            Record::RestartIntent { .. } => {
                rule(matches!(self.swap, Work::Done(_)), "the restart comes after the swap")?;
                rule(!matches!(self.restart, Work::Done(_)), "a restart happens once")?;
                rule(!matches!(self.rollback, Work::Intended(_)), "the old binary is to be put back first")?;
            }
            Record::Restarted { .. } => {
                rule(matches!(self.restart, Work::Intended(_)), "a restart needs its intent first")?;
            }
            Record::AlienFound { .. } => {
                rule(!self.fenced_units().is_empty(), "without a fence nobody watches the binary")?;
            }
            Record::RollbackIntent { .. } => {
                rule(matches!(self.swap, Work::Done(_)), "only a swap can be taken back")?;
                rule(!self.post_drained, "the new version has been handed over already")?;
                rule(matches!(self.rollback, Work::Not), "a run goes back once")?;
            }
            Record::RolledBack => {
                rule(matches!(self.rollback, Work::Intended(_)), "going back needs its intent first")?;
            }
            Record::Verified { .. } => {
                rule(!matches!(self.rollback, Work::Intended(_)), "the old binary is to be put back first")?;
                rule(matches!(self.restart, Work::Done(_)), "verification comes after the restart")?;
            }
            Record::PostDrained => rule(
                self.verified() || self.cancelled,
                "marks are taken away after verification or cancellation",
            )?,
            Record::CancelRequested => {
                rule(!self.swap_begun(), "after the swap began a run only goes forward")?;
            }
            Record::Finished { outcome } => self.may_finish(outcome)?,
        }
        Ok(None)
    }

    fn may_adopt(&self, vm: &VmKey) -> Result<(), &'static str> {
        rule(self.cordon.is_some(), "the ledger is written after the intent to cordon")?;
        rule(!self.swap_begun(), "no VM is entered after the swap began")?;
        let left = |line: &LedgerLine| matches!(line.fate, Fate::Left { .. });
        rule(self.ledger.line(vm).is_none_or(left), "the ledger knows this VM already")
    }

    fn may_hold_installer(&self) -> Result<(), &'static str> {
        rule(!matches!(self.fence, Work::Not), "the installer is held after the fence")?;
        rule(!self.swap_begun() && !self.cancelled, "the installer is held before the swap")
    }

    fn may_swap(&self) -> Result<(), &'static str> {
        rule(self.pre_drained() && self.drained, "no swap without pre-drain and drain")?;
        rule(self.fenced(), "no swap without a fence")?;
        rule(!self.cancelled, "the run was called off")?;
        rule(matches!(self.swap, Work::Not), "a swap is intended once")?;
        Ok(())
    }

    fn may_finish(&self, outcome: &Outcome) -> Result<(), &'static str> {
        rule(self.ledger.owed().next().is_none(), "a VM is still owed")?;
        rule(self.installer.is_none(), "rancher-system-agent is still held")?;
        match outcome {
            Outcome::Succeeded => {
                rule(self.verified() && self.post_drained, "success needs verification")?;
                rule(!self.goes_back(), "a run that went back is no success")?;
            }
            Outcome::RolledBack { .. } => {
                rule(matches!(self.rollback, Work::Done(_)), "nobody went back")?;
                rule(self.verified() && self.post_drained, "the old version needs verification, too")?;
            }
            Outcome::Cancelled => rule(self.cancelled, "nobody called the run off")?,
        }
        Ok(())
    }

    fn fate_after(&self, vm: &VmKey, record: &Record, entry: &Entry) -> Result<Fate, &'static str> {
        let line = self.ledger.line(vm).ok_or("the VM is not in the ledger")?;
        let awaited = self.ledger.trail(vm).and_then(|trail| trail.awaited.as_ref());
        moved(line, awaited.map(|awaited| awaited.since), record, (entry.seq, entry.at))
    }
}

fn moved(
    line: &LedgerLine,
    awaited: Option<Timestamp>,
    record: &Record,
    (id, at): (u64, Timestamp),
) -> Result<Fate, &'static str> {
    let fate = match (record, &line.fate) {
        // The time spent waiting for a target counts.
        (Record::MigrationIntent { attempt, to, .. }, Fate::Here) => {
            Fate::Migrating { attempt: *attempt, id, since: awaited.unwrap_or(at), asked: at, to: to.clone() }
        }
        (Record::MigrationIntent { attempt, to, .. }, Fate::Migrating { since, .. }) => {
            Fate::Migrating { attempt: *attempt, id, since: *since, asked: at, to: to.clone() }
        }
        (Record::TargetAwaited { .. } | Record::AbortIntent { .. }, Fate::Here | Fate::Migrating { .. }) => {
            line.fate.clone()
        }
        // A stop that nobody heard does not keep a VM from moving.
        (
            Record::VmMigrated { to, .. },
            Fate::Here | Fate::Migrating { .. } | Fate::Stopping { forced: false, .. },
        ) => Fate::Migrated { to: to.clone() },
        (Record::StopIntent { .. }, Fate::Here | Fate::Migrating { .. }) => {
            Fate::Stopping { since: at, asks: 1, forced: false }
        }
        // Nobody had heard the one before: the guest's time begins anew.
        (Record::StopIntent { .. }, Fate::Stopping { asks, forced: false, .. }) => {
            Fate::Stopping { since: at, asks: *asks + 1, forced: false }
        }

        (Record::ForceOffIntent { .. }, Fate::Stopping { since, asks, .. }) => {
            Fate::Stopping { since: *since, asks: *asks, forced: true }
        }

        (Record::VmStopped { .. }, Fate::Stopping { .. }) if line.entry.left_off => {
            Fate::Left { reason: "it serves the upgrade and is its owner's to start or remove".to_owned() }
        }
        (Record::VmStopped { graceful, .. }, Fate::Stopping { .. }) => {
            Fate::ShutDown { graceful: *graceful, at }
        }
        (Record::VmLeft { reason, .. }, Fate::Here | Fate::Migrating { .. }) => {
            Fate::Left { reason: reason.clone() }
        }
        (Record::RestoreIntent { .. }, Fate::ShutDown { graceful, at: off }) => {
            Fate::Restoring { graceful: *graceful, off: *off }
        }
        (Record::RestoreIntent { .. }, Fate::Restoring { .. }) => line.fate.clone(),
        (
            Record::VmRestored { node, .. },
            Fate::ShutDown { graceful, at: off } | Fate::Restoring { graceful, off },
        ) => {
            let away_seconds = at.duration_since(*off).as_secs();
            Fate::Restored { node: node.clone(), graceful: *graceful, away_seconds }
        }
        (Record::VmStruck { reason, .. }, fate) if fate.is_owed() => Fate::Struck { reason: reason.clone() },
        _ => return Err("the VM is not where this line says it was"),
    };
    Ok(fate)
}

fn rule(holds: bool, why: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(why) }
}
