//! `Progress`: the fold of the records. An illegal next record is an error value, never a panic.

use jiff::Timestamp;
use thiserror::Error;

use crate::flow::plan::{NodePlan, Role};
use crate::flow::record::{Entry, Outcome, Record};
use crate::flow::step::Step;
use crate::flow::vms::{Fate, LedgerLine, VmKey, VmLedger};

/// A piece of work that must not happen twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Work<T> {
    /// Not begun.
    #[default]
    Not,
    /// Begun; whether it happened has to be probed.
    Intended(T),
    /// Happened.
    Done(T),
}

/// What preflight found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflighted {
    /// Role found on the machine.
    pub role: Role,
    /// systemd unit of `RKE2`.
    pub unit: String,
    /// Absolute path of the live binary, the machine's own view.
    pub live: String,
    /// Its sha256.
    pub live_sha256: String,
}

/// What staging left on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFact {
    /// Absolute path, the machine's own view.
    pub binary: String,
    /// sha256 of the binary.
    pub sha256: String,
}

/// The swap that was intended or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapFact {
    /// sha256 before.
    pub from_sha256: String,
    /// sha256 after.
    pub to_sha256: String,
    /// Where the old binary is kept.
    pub previous: String,
}

/// What the node looked like before it was cordoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CordonBefore {
    /// Cordoned already, by somebody else.
    pub was_cordoned: bool,
    /// Tainted already.
    pub was_tainted: bool,
}

/// Why the run stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// In which step.
    pub step: Step,
    /// Why, and what to do.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

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

/// Everything that the records so far say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    seq: u64,
    started: Option<Timestamp>,
    plan: Option<(NodePlan, String)>,
    preflighted: Option<Preflighted>,
    staged: Option<StagedFact>,
    fence: Work<Vec<String>>,
    cordon: Option<CordonBefore>,
    cordoned: bool,
    ledger: VmLedger,
    pre_drained: Option<u64>,
    drained: bool,
    swap: Work<SwapFact>,
    restart: Work<String>,
    verified: Option<String>,
    post_drained: bool,
    held: Option<Hold>,
    cancelled: bool,
    outcome: Option<Outcome>,
}

/// Reads of the fold.
impl Progress {
    /// Newest line number; 0 before the first.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When the run began.
    #[must_use]
    pub fn started(&self) -> Option<Timestamp> {
        self.started
    }

    /// The plan that opened the journal.
    #[must_use]
    pub fn plan(&self) -> Option<&NodePlan> {
        self.plan.as_ref().map(|(plan, _)| plan)
    }

    /// Its digest.
    #[must_use]
    pub fn plan_digest(&self) -> Option<&str> {
        self.plan.as_ref().map(|(_, digest)| digest.as_str())
    }

    /// What preflight found.
    #[must_use]
    pub fn preflighted(&self) -> Option<&Preflighted> {
        self.preflighted.as_ref()
    }

    /// What lies staged.
    #[must_use]
    pub fn staged(&self) -> Option<&StagedFact> {
        self.staged.as_ref()
    }

    /// Fences are up.
    #[must_use]
    pub fn fenced(&self) -> bool {
        matches!(self.fence, Work::Done(_))
    }

    /// Units that are, or may be, fenced.
    #[must_use]
    pub fn fenced_units(&self) -> &[String] {
        match &self.fence {
            Work::Not => &[],
            Work::Intended(units) | Work::Done(units) => units,
        }
    }

    /// Cordoned and tainted.
    #[must_use]
    pub fn cordoned(&self) -> bool {
        self.cordoned
    }

    /// What the node looked like before; none when it was never touched.
    #[must_use]
    pub fn cordon_before(&self) -> Option<CordonBefore> {
        self.cordon
    }

    /// Has anything on the node or the machine been changed that must be put back?
    #[must_use]
    pub fn touched_node(&self) -> bool {
        self.cordon.is_some() || !self.fenced_units().is_empty()
    }

    /// Nothing was ever changed: the run was refused, or killed, before its first fence.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        !self.touched_node() && self.ledger.lines().next().is_none() && self.outcome.is_none()
    }

    /// Who was here.
    #[must_use]
    pub fn ledger(&self) -> &VmLedger {
        &self.ledger
    }

    /// Pre-drain is recorded, and no refusal has voided it.
    #[must_use]
    pub fn pre_drained(&self) -> bool {
        self.pre_drained.is_some()
    }

    /// The line that recorded it.
    #[must_use]
    pub fn pre_drained_seq(&self) -> Option<u64> {
        self.pre_drained
    }

    /// The other pods are gone.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// How far the swap is.
    #[must_use]
    pub fn swap(&self) -> &Work<SwapFact> {
        &self.swap
    }

    /// The swap was intended or is done.
    #[must_use]
    pub fn swap_begun(&self) -> bool {
        match self.swap {
            Work::Not => false,
            Work::Intended(_) | Work::Done(_) => true,
        }
    }

    /// How far the restart is; the invocation id before, then after.
    #[must_use]
    pub fn restart(&self) -> &Work<String> {
        &self.restart
    }

    /// The new version serves.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.verified.is_some()
    }

    /// What the kubelet reported then.
    #[must_use]
    pub fn kubelet_version(&self) -> Option<&str> {
        self.verified.as_deref()
    }

    /// Fence, taint and cordon are away again.
    #[must_use]
    pub fn post_drained(&self) -> bool {
        self.post_drained
    }

    /// Why the run stands still.
    #[must_use]
    pub fn held(&self) -> Option<&Hold> {
        self.held.as_ref()
    }

    /// Called off.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }
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

    fn apply(&mut self, entry: &Entry) -> Result<(), &'static str> {
        rule(entry.seq == self.seq + 1, "line numbers must count up by one")?;
        rule(self.outcome.is_none(), "the run has ended already")?;
        let opens = matches!(entry.record, Record::Opened { .. });
        rule(
            opens == self.plan.is_none(),
            "the first line, and only that, opens the journal",
        )?;
        self.seq = entry.seq;
        match &entry.record {
            Record::Opened {
                plan, plan_digest, ..
            } => {
                self.plan = Some((plan.clone(), plan_digest.clone()));
                self.started = Some(entry.at);
                return Ok(());
            }
            Record::Preflighted {
                role,
                unit,
                live,
                live_sha256,
            } => {
                let (role, unit) = (*role, unit.clone());
                let (live, live_sha256) = (live.clone(), live_sha256.clone());
                self.preflighted = Some(Preflighted {
                    role,
                    unit,
                    live,
                    live_sha256,
                });
            }
            Record::Staged { binary, sha256 } => {
                rule(self.preflighted.is_some(), "staging comes after preflight")?;
                self.staged = Some(StagedFact {
                    binary: binary.clone(),
                    sha256: sha256.clone(),
                });
            }
            Record::FenceIntent { units } => {
                rule(self.staged.is_some(), "fencing comes after staging")?;
                self.fence = Work::Intended(units.clone());
            }
            Record::Fenced => match std::mem::take(&mut self.fence) {
                Work::Intended(units) | Work::Done(units) => self.fence = Work::Done(units),
                Work::Not => return Err("a fence needs its intent first"),
            },
            Record::CordonIntent {
                was_cordoned,
                was_tainted,
            } => {
                rule(self.fenced(), "cordoning comes after fencing")?;
                // A second intent after a crash would see our own marks: the first one holds the truth.
                let before = CordonBefore {
                    was_cordoned: *was_cordoned,
                    was_tainted: *was_tainted,
                };
                self.cordon.get_or_insert(before);
            }
            Record::Cordoned => {
                rule(self.cordon.is_some(), "cordoning needs its intent first")?;
                self.cordoned = true;
            }
            Record::LedgerWritten { vms } => {
                rule(self.cordoned, "the ledger is written after cordoning")?;
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
            | Record::VmStruck { vm, .. }) => self.move_vm(vm, record, entry.at)?,
            Record::PreDrained => {
                rule(self.cordoned, "pre-drain comes after cordoning")?;
                rule(
                    self.ledger.on_node().next().is_none(),
                    "a VM of the ledger is still on the node",
                )?;
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
            }
            Record::SwapIntent {
                from_sha256,
                to_sha256,
                previous,
            } => {
                rule(
                    self.pre_drained() && self.drained,
                    "no swap without pre-drain and drain",
                )?;
                rule(self.fenced(), "no swap without a fence")?;
                rule(!self.cancelled, "the run was called off")?;
                let (from_sha256, to_sha256) = (from_sha256.clone(), to_sha256.clone());
                self.swap = Work::Intended(SwapFact {
                    from_sha256,
                    to_sha256,
                    previous: previous.clone(),
                });
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
                rule(
                    matches!(self.swap, Work::Done(_)),
                    "the restart comes after the swap",
                )?;
                self.restart = Work::Intended(invocation.clone());
            }
            Record::Restarted { invocation, .. } => {
                rule(
                    matches!(self.restart, Work::Intended(_)),
                    "a restart needs its intent first",
                )?;
                self.restart = Work::Done(invocation.clone());
            }
            Record::Verified { kubelet_version } => {
                rule(
                    matches!(self.restart, Work::Done(_)),
                    "verification comes after the restart",
                )?;
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
                self.held = Some(Hold {
                    step: *step,
                    reason: reason.clone(),
                    since: entry.at,
                });
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
                        rule(self.verified() && self.post_drained, "success needs verification")?
                    }
                    Outcome::Cancelled => rule(self.cancelled, "nobody called the run off")?,
                }
                self.outcome = Some(outcome.clone());
            }
        }
        self.held = None;
        Ok(())
    }

    fn move_vm(&mut self, vm: &VmKey, record: &Record, at: Timestamp) -> Result<(), &'static str> {
        let line = self.ledger.line_mut(vm).ok_or("the VM is not in the ledger")?;
        line.fate = moved(line, record, at)?;
        Ok(())
    }
}

fn moved(line: &LedgerLine, record: &Record, at: Timestamp) -> Result<Fate, &'static str> {
    let fate = match (record, &line.fate) {
        (Record::MigrationIntent { attempt, .. }, Fate::Here) => Fate::Migrating {
            attempt: *attempt,
            since: at,
            asked: at,
        },
        (Record::MigrationIntent { attempt, .. }, Fate::Migrating { since, .. }) => Fate::Migrating {
            attempt: *attempt,
            since: *since,
            asked: at,
        },
        (Record::VmMigrated { to, .. }, Fate::Here | Fate::Migrating { .. }) => {
            Fate::Migrated { to: to.clone() }
        }
        (Record::StopIntent { .. }, Fate::Here | Fate::Migrating { .. }) => Fate::Stopping {
            since: at,
            forced: false,
        },
        (Record::ForceOffIntent { .. }, Fate::Stopping { since, .. }) => Fate::Stopping {
            since: *since,
            forced: true,
        },
        (Record::VmStopped { graceful, .. }, Fate::Stopping { .. }) => Fate::ShutDown {
            graceful: *graceful,
            at,
        },
        (Record::VmLeft { reason, .. }, Fate::Here | Fate::Migrating { .. }) => Fate::Left {
            reason: reason.clone(),
        },
        (Record::RestoreIntent { .. }, Fate::ShutDown { graceful, at: off }) => Fate::Restoring {
            graceful: *graceful,
            off: *off,
        },
        (Record::RestoreIntent { .. }, Fate::Restoring { .. }) => line.fate.clone(),
        (
            Record::VmRestored { node, .. },
            Fate::ShutDown { graceful, at: off } | Fate::Restoring { graceful, off },
        ) => {
            let away_seconds = at.duration_since(*off).as_secs();
            Fate::Restored {
                node: node.clone(),
                graceful: *graceful,
                away_seconds,
            }
        }
        (Record::VmStruck { reason, .. }, fate) if fate.is_owed() => Fate::Struck {
            reason: reason.clone(),
        },
        _ => return Err("the VM is not where this line says it was"),
    };
    Ok(fate)
}

fn rule(holds: bool, why: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(why) }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
pub(crate) mod tests;
