//! The fold of the records. An illegal next record is an error value, never a panic.

use jiff::Timestamp;
use thiserror::Error;

use crate::flow::progress::{CordonBefore, Hold, Preflighted, Progress, StagedFact, SwapFact, Work};
use crate::flow::record::{Entry, Outcome, Record};
use crate::flow::vms::{Fate, LedgerLine, VmKey};

/// A record that cannot follow the ones before it.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "journal line {seq} ({record}) cannot follow the lines before it: {why}; keep the file and ask for help"
)]
pub struct IllegalRecord {
    /// Line number.
    pub seq: u64,
    /// What the line says.
    pub record: String,
    /// Which rule it breaks.
    pub why: &'static str,
}

/// The fold.
impl Progress {
    /// Takes one more line.
    ///
    /// # Errors
    /// [`IllegalRecord`] when the line cannot follow the ones before it; `self` is unchanged then.
    pub fn accept(&mut self, entry: &Entry) -> Result<(), IllegalRecord> {
        let mut after = self.clone();
        after.apply(entry).map_err(|why| IllegalRecord {
            seq: entry.seq,
            record: format!("{:?}", entry.record).chars().take(60).collect(),
            why,
        })?;
        *self = after;
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one total match, an arm a record")]
    fn apply(&mut self, entry: &Entry) -> Result<(), &'static str> {
        rule(entry.seq == self.seq + 1, "line numbers must count up by one")?;
        rule(self.outcome.is_none(), "the run has ended already")?;
        let opens = matches!(entry.record, Record::Opened { .. });
        rule(opens == self.plan.is_none(), "the first line, and only that, opens the journal")?;
        self.seq = entry.seq;
        match &entry.record {
            Record::Opened { plan, plan_digest, .. } => {
                self.plan = Some((plan.as_ref().clone(), plan_digest.clone()));
                self.started = Some(entry.at);
                return Ok(());
            }
            Record::Preflighted { role, unit, live, live_sha256 } => {
                rule(!self.touched_node(), "preflight comes before the first change")?;
                let (role, unit) = (*role, unit.clone());
                let (live, live_sha256) = (live.clone(), live_sha256.clone());
                self.preflighted = Some(Preflighted { role, unit, live, live_sha256 });
            }
            Record::Staged { binary, sha256 } => {
                rule(self.preflighted.is_some(), "staging comes after preflight")?;
                rule(!self.touched_node(), "staging comes before the first change")?;
                self.staged = Some(StagedFact { binary: binary.clone(), sha256: sha256.clone() });
            }
            Record::FenceIntent { units } => {
                rule(self.staged.is_some(), "fencing comes after staging")?;
                rule(!self.swap_begun() && !self.cancelled, "fencing comes before the swap")?;
                self.fence = Work::Intended(units.clone());
            }
            Record::Fenced => match std::mem::take(&mut self.fence) {
                Work::Intended(units) | Work::Done(units) => self.fence = Work::Done(units),
                Work::Not => return Err("a fence needs its intent first"),
            },
            Record::CordonIntent { was_cordoned, was_tainted } => {
                rule(self.fenced(), "cordoning comes after fencing")?;
                rule(!self.swap_begun() && !self.cancelled, "cordoning comes before the swap")?;
                // A second intent after a crash would see our own marks: the first one holds the truth.
                let before = CordonBefore { was_cordoned: *was_cordoned, was_tainted: *was_tainted };
                self.cordon.get_or_insert(before);
            }
            Record::Cordoned => {
                rule(self.cordon.is_some(), "cordoning needs its intent first")?;
                self.cordoned = true;
            }
            Record::LedgerWritten { vms } => {
                rule(self.cordon.is_some(), "the ledger is written after the intent to cordon")?;
                rule(!self.swap_begun(), "no VM is entered after the swap began")?;
                self.pre_drained = None;
                self.drained = false;
                for entry in vms {
                    self.ledger.enter(entry.clone());
                }
            }
            record @ (Record::MigrationIntent { vm, .. }
            | Record::VmMigrated { vm, .. }
            | Record::StopIntent { vm }
            | Record::ForceOffIntent { vm }
            | Record::VmStopped { vm, .. }
            | Record::VmLeft { vm, .. }
            | Record::RestoreIntent { vm }
            | Record::VmRestored { vm, .. }
            | Record::VmStruck { vm, .. }) => self.move_vm(vm, record, entry)?,
            Record::PreDrained => {
                rule(self.cordoned, "pre-drain comes after cordoning")?;
                rule(self.ledger.on_node().next().is_none(), "a VM of the ledger is still on the node")?;
                self.pre_drained = Some(entry.seq);
            }
            Record::Drained { .. } => {
                rule(self.pre_drained(), "drain comes after pre-drain")?;
                self.drained = true;
            }
            Record::GateRefused { .. } => {
                rule(!self.swap_begun(), "the gate is asked before the swap")?;
                self.pre_drained = None;
                self.drained = false;
                // Whatever was refused, fence and cordon may be gone: they are raised again, which is harmless.
                self.cordoned = false;
                self.fence = match std::mem::take(&mut self.fence) {
                    Work::Done(units) | Work::Intended(units) => Work::Intended(units),
                    Work::Not => Work::Not,
                };
            }
            Record::SwapIntent { from_sha256, to_sha256, previous } => {
                rule(self.pre_drained() && self.drained, "no swap without pre-drain and drain")?;
                rule(self.fenced(), "no swap without a fence")?;
                rule(!self.cancelled, "the run was called off")?;
                rule(matches!(self.swap, Work::Not), "a swap is intended once")?;
                let (from_sha256, to_sha256) = (from_sha256.clone(), to_sha256.clone());
                self.swap = Work::Intended(SwapFact { from_sha256, to_sha256, previous: previous.clone() });
            }
            Record::SwapAbsent => match std::mem::take(&mut self.swap) {
                Work::Intended(_) => {}
                Work::Not | Work::Done(_) => return Err("only an intended swap can be found absent"),
            },
            Record::Swapped => match std::mem::take(&mut self.swap) {
                Work::Intended(fact) => self.swap = Work::Done(fact),
                Work::Not | Work::Done(_) => return Err("a swap happens once, after its intent"),
            },
            Record::RestartIntent { invocation } => {
                rule(matches!(self.swap, Work::Done(_)), "the restart comes after the swap")?;
                rule(!matches!(self.restart, Work::Done(_)), "a restart happens once")?;
                self.restart = Work::Intended(invocation.clone());
            }
            Record::Restarted { invocation, .. } => {
                rule(matches!(self.restart, Work::Intended(_)), "a restart needs its intent first")?;
                self.restart = Work::Done(invocation.clone());
            }
            Record::Verified { kubelet_version } => {
                rule(matches!(self.restart, Work::Done(_)), "verification comes after the restart")?;
                self.verified = Some(kubelet_version.clone());
            }
            Record::PostDrained => {
                rule(
                    self.verified() || self.cancelled,
                    "marks are taken away after verification or cancellation",
                )?;
                self.post_drained = true;
                self.fence = Work::Not;
                self.cordoned = false;
            }
            Record::Held { step, reason } => {
                self.held = Some(Hold { step: *step, reason: reason.clone(), since: entry.at });
                return Ok(());
            }
            Record::Resumed => {}
            Record::CancelRequested => {
                rule(!self.swap_begun(), "after the swap began a run only goes forward")?;
                self.cancelled = true;
            }
            Record::Finished { outcome } => {
                rule(self.ledger.owed().next().is_none(), "a VM is still owed")?;
                match outcome {
                    Outcome::Succeeded => {
                        rule(self.verified() && self.post_drained, "success needs verification")?;
                    }
                    Outcome::Cancelled => rule(self.cancelled, "nobody called the run off")?,
                }
                self.outcome = Some(outcome.clone());
            }
        }
        self.held = None;
        Ok(())
    }

    fn move_vm(&mut self, vm: &VmKey, record: &Record, entry: &Entry) -> Result<(), &'static str> {
        let line = self.ledger.line_mut(vm).ok_or("the VM is not in the ledger")?;
        line.fate = moved(line, record, entry.seq, entry.at)?;
        Ok(())
    }
}

fn moved(line: &LedgerLine, record: &Record, id: u64, at: Timestamp) -> Result<Fate, &'static str> {
    let fate = match (record, &line.fate) {
        (Record::MigrationIntent { attempt, .. }, Fate::Here) => {
            Fate::Migrating { attempt: *attempt, id, since: at, asked: at }
        }
        (Record::MigrationIntent { attempt, .. }, Fate::Migrating { since, .. }) => {
            Fate::Migrating { attempt: *attempt, id, since: *since, asked: at }
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
