//! The fold of the records: what each line changes. An illegal next record is an error value, never a panic.

use thiserror::Error;

use crate::flow::progress::trail;
use crate::flow::progress::{CordonBefore, Hold, Preflighted, Progress, StagedFact, SwapFact, Work};
use crate::flow::record::{Entry, Record};
use crate::flow::vms::{Fate, LedgerLine};

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
        let fate = self.lawful(entry).map_err(|why| illegal(entry, why))?;
        self.apply(entry, fate);
        Ok(())
    }

    /// May this line follow the ones before it?
    ///
    /// # Errors
    /// [`IllegalRecord`] when it may not: [`Progress::accept`] would refuse it.
    pub fn check(&self, entry: &Entry) -> Result<(), IllegalRecord> {
        self.lawful(entry).map(|_| ()).map_err(|why| illegal(entry, why))
    }

    /// Only what [`Progress::lawful`] has let pass comes here; `fate` is what it gave.
    fn apply(&mut self, entry: &Entry, fate: Option<Fate>) {
        (self.seq, self.last) = (entry.seq, Some(entry.at));
        match &entry.record {
            Record::Opened { plan, plan_digest, .. } => {
                self.plan = Some((plan.as_ref().clone(), plan_digest.clone()));
                self.started = Some(entry.at);
                return;
            }
            Record::Preflighted { role, unit, live, live_sha256 } => {
                let (role, unit) = (*role, unit.clone());
                let (live, live_sha256) = (live.clone(), live_sha256.clone());
                self.preflighted = Some(Preflighted { role, unit, live, live_sha256 });
            }
            Record::Staged { binary, sha256 } => {
                self.staged = Some(StagedFact { binary: binary.clone(), sha256: sha256.clone() });
            }
            Record::FenceIntent { units } => self.fence = Work::Intended(units.clone()),
            Record::Fenced => self.fence_stands(),
            // A second intent after a crash would see what the first one has stopped.
            Record::InstallerHoldIntent { was_active } => drop(self.installer.get_or_insert(*was_active)),
            Record::InstallerReleased => self.installer = None,
            Record::CordonIntent { was_cordoned, was_tainted } => {
                // A second intent after a crash would see our own marks: the first one holds the truth.
                let before = CordonBefore { was_cordoned: *was_cordoned, was_tainted: *was_tainted };
                self.cordon.get_or_insert(before);
            }
            Record::Cordoned => self.cordoned = true,
            Record::LedgerWritten { vms } => {
                self.pre_drained = None;
                self.drained = false;
                self.snapshot = false;
                for line in vms {
                    self.ledger.enter(line.clone());
                    self.ledger.trail_mut(&line.vm).since = Some(entry.at);
                }
            }
            Record::VmAdopted { vm } => {
                let off = Fate::ShutDown { graceful: None, at: entry.at };
                self.ledger.put(LedgerLine::new(vm.as_ref().clone(), off));
            }
            Record::VmAsLeft { vm, as_left } => {
                if let Some(line) = self.ledger.line_mut(vm) {
                    line.as_left = Some(as_left.clone());
                }
            }
            Record::MigrationIntent { vm, .. }
            | Record::TargetAwaited { vm, .. }
            | Record::AbortIntent { vm, .. }
            | Record::VmMigrated { vm, .. }
            | Record::StopIntent { vm }
            | Record::ForceOffIntent { vm }
            | Record::VmStopped { vm, .. }
            | Record::VmLeft { vm, .. }
            | Record::RestoreIntent { vm }
            | Record::VmRestored { vm, .. }
            | Record::VmStruck { vm, .. } => {
                trail::follow(&mut self.ledger, vm, entry);
                if let (Some(line), Some(fate)) = (self.ledger.line_mut(vm), fate) {
                    line.fate = fate;
                }
            }
            Record::PreDrained => self.pre_drained = Some(entry.seq),
            Record::Drained { .. } => self.drained = true,
            Record::SnapshotTaken { .. } | Record::NoSnapshot { .. } => self.snapshot = true,
            Record::GateRefused { .. } => self.void_pre_drain(),
            Record::SwapIntent { from_sha256, to_sha256, previous, is_only_server } => {
                let (from_sha256, to_sha256) = (from_sha256.clone(), to_sha256.clone());
                let (previous, is_only_server) = (previous.clone(), *is_only_server);
                self.swap = Work::Intended(SwapFact { from_sha256, to_sha256, previous, is_only_server });
            }
            Record::SwapAbsent => self.swap = Work::Not,
            Record::Swapped => {
                self.swap = match std::mem::take(&mut self.swap) {
                    Work::Intended(fact) | Work::Done(fact) => Work::Done(fact),
                    Work::Not => Work::Not,
                };
            }
            Record::RestartIntent { invocation } => self.restart = Work::Intended(invocation.clone()),
            Record::Restarted { invocation, .. } => self.restart = Work::Done(invocation.clone()),
            Record::RollbackIntent { why } => {
                self.rollback = Work::Intended(why.clone());
                self.verified = None;
            }
            Record::RolledBack => self.went_back(),
            Record::Verified { kubelet_version } => self.verified = Some(kubelet_version.clone()),
            Record::PostDrained => {
                self.post_drained = true;
                self.fence = Work::Not;
                self.cordoned = false;
            }
            Record::Held { step, reason } => {
                self.held = Some(Hold { step: *step, reason: reason.clone(), since: entry.at });
                return;
            }
            Record::Resumed => self.go_on(entry),
            Record::CancelRequested => self.cancelled = true,
            // What follows from it is said by the hold after it.
            Record::AlienFound { .. } => {}
            Record::Finished { outcome } => self.outcome = Some(outcome.clone()),
        }
        self.held = None;
    }

    fn fence_stands(&mut self) {
        self.fence = match std::mem::take(&mut self.fence) {
            Work::Intended(units) | Work::Done(units) => Work::Done(units),
            Work::Not => Work::Not,
        };
    }

    /// Nobody knows for how long the run stood still: everybody gets all of its time again, and the snapshot is to be from right
    /// before the swap.
    fn go_on(&mut self, entry: &Entry) {
        self.snapshot &= self.swap_begun();
        trail::begin_anew(&mut self.ledger, entry.at);
    }

    /// The gate said no: everything before it is looked at again.
    fn void_pre_drain(&mut self) {
        self.pre_drained = None;
        self.drained = false;
        self.snapshot = false;
        // Whatever was refused, fence and cordon may be gone: they are raised again, which is harmless.
        self.cordoned = false;
        self.fence = match std::mem::take(&mut self.fence) {
            Work::Done(units) | Work::Intended(units) => Work::Intended(units),
            Work::Not => Work::Not,
        };
    }

    /// The old binary is in place.
    fn went_back(&mut self) {
        self.rollback = match std::mem::take(&mut self.rollback) {
            Work::Intended(why) | Work::Done(why) => Work::Done(why),
            Work::Not => Work::Not,
        };
        // The old one has to be started, and to prove itself.
        self.restart = Work::Not;
    }
}

fn illegal(entry: &Entry, why: &'static str) -> IllegalRecord {
    let record = format!("{:?}", entry.record).chars().take(60).collect();
    IllegalRecord { seq: entry.seq, record, why }
}
