//! The evacuation's choice: ledger and world in, actions and blockers out. Pure; called at every change of the world.

mod give_up;
mod looks;
mod migrate;
mod of_vm;
mod order;
mod seen;
mod shutdown;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::flow::plan::Evacuation;
use crate::flow::report::{Blocker, NOBODY};
use crate::flow::vms::{Fate, Verdict, VmKey, VmLedger};
use of_vm::{Beside, OfVm};

pub use seen::{MigrationState, Seen, SeenMigration, SeenVmi, Target};

/// Attempts to live-migrate one VM before `onMigrationFailure` decides.
const MIGRATION_ATTEMPTS: u32 = 3;
/// Migrations asked for at the same time: `KubeVirt` runs two out of a node and queues the rest, and a VM's clock should
/// not run while it queues (reference `kubevirt.md` §4.1).
const IN_FLIGHT: usize = 4;
/// A request that nobody has heard is made again after this.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmAction {
    /// Create the migration of this attempt.
    Migrate {
        /// Who.
        vm: VmKey,
        /// Counts from 1.
        attempt: u32,
        /// Only to this node; `KubeVirt`'s choice when absent.
        to: Option<String>,
    },
    /// Write down that no node can take it now.
    AwaitTarget {
        /// Who.
        vm: VmKey,
        /// Every node and what keeps the VM from it.
        why: String,
    },
    /// Delete a migration that does not end, which aborts it.
    Abort {
        /// Who.
        vm: VmKey,
        /// The migration's name.
        migration: String,
        /// Its uid.
        uid: String,
        /// This upgrade asked for it.
        ours: bool,
        /// Why it is given up.
        why: String,
    },
    /// Tell the guest to shut down.
    Stop {
        /// Who.
        vm: VmKey,
    },
    /// Nothing shows that the stop was heard: look, and ask again if it was not.
    AskAgain {
        /// Who.
        vm: VmKey,
    },
    /// Cut the power.
    ForceOff {
        /// Who.
        vm: VmKey,
    },
    /// It is no longer on the node: find out where it went and record that.
    RecordGone {
        /// Who.
        vm: VmKey,
    },
}

impl VmAction {
    /// Whom it is about.
    #[must_use]
    pub fn vm(&self) -> &VmKey {
        match self {
            Self::Migrate { vm, .. }
            | Self::AwaitTarget { vm, .. }
            | Self::Abort { vm, .. }
            | Self::Stop { vm }
            | Self::AskAgain { vm }
            | Self::ForceOff { vm }
            | Self::RecordGone { vm } => vm,
        }
    }
}

/// The answer of [`decide`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// To do now.
    pub actions: Vec<VmAction>,
    /// What is waited for.
    pub blockers: Vec<Blocker>,
    /// Needs an operator.
    pub holds: Vec<Blocker>,
    /// Look again at the latest then.
    pub look_again: Option<Timestamp>,
    /// Find out first where these can go, and decide again: all that is to move, and the nodes where each has failed.
    pub look_for: BTreeMap<VmKey, BTreeSet<String>>,
    movers: BTreeMap<VmKey, BTreeSet<String>>,
    look: bool,
    given_up: Vec<VmKey>,
    turns: Vec<Blocker>,
}

impl Decision {
    fn by(&mut self, at: Timestamp) {
        self.look_again = Some(self.look_again.map_or(at, |known| known.min(at)));
    }

    fn wait(&mut self, what: String, since: Timestamp, deadline: Timestamp, then: &str) {
        self.by(deadline);
        let owner = NOBODY.to_owned();
        self.blockers.push(Blocker { what, since, owner, deadline: Some(deadline), then: then.to_owned() });
    }
}

/// What does not change while one decision is made.
struct Look<'a> {
    ledger: &'a VmLedger,
    seen: &'a Seen,
    policy: &'a Evacuation,
    begun: Timestamp,
    now: Timestamp,
}

/// What to do about every VM of the ledger. `begun` is when this step began.
#[must_use]
pub fn decide(
    ledger: &VmLedger,
    seen: &Seen,
    policy: &Evacuation,
    begun: Timestamp,
    now: Timestamp,
) -> Decision {
    let mut decision = Decision::default();
    let look = Look { ledger, seen, policy, begun, now };
    let (mut vmis, mut migrations) = (Beside::of(&seen.vmis), Beside::of(&seen.migrations));
    let all: Vec<OfVm<'_>> = ledger
        .on_node()
        .map(|line| OfVm {
            vm: &line.entry.vm,
            line,
            trail: ledger.trail(&line.entry.vm),
            vmi: vmis.at(&line.entry.vm),
            migrations: migrations.at(&line.entry.vm).map(Vec::as_slice).unwrap_or_default(),
        })
        .collect();
    let mut in_flight = all.iter().filter(|of_vm| is_in_flight(**of_vm)).count();
    for of_vm in all {
        look.one(&mut decision, of_vm, &mut in_flight);
    }
    look.shut_down_given_up(&mut decision);
    if decision.look {
        decision.look_for = std::mem::take(&mut decision.movers);
    }
    // Where nothing moves but by an operator, nobody waits for a turn that does not come.
    let turns = std::mem::take(&mut decision.turns);
    if !decision.actions.is_empty() || !decision.blockers.is_empty() || decision.look_again.is_some() {
        decision.blockers.extend(turns);
        decision.blockers.extend(order::waiting(ledger, begun));
    }
    decision
}

/// An attempt of ours that may still come to something, seen or not yet.
fn is_in_flight(of_vm: OfVm<'_>) -> bool {
    match &of_vm.line.fate {
        Fate::Migrating { id, .. } => match of_vm.ours(*id).map(|ours| &ours.state) {
            Some(MigrationState::Unfinished | MigrationState::Succeeded) | None => true,
            Some(MigrationState::Failed { .. }) => false,
        },
        Fate::Here
        | Fate::Migrated { .. }
        | Fate::Stopping { .. }
        | Fate::ShutDown { .. }
        | Fate::Left { .. }
        | Fate::Restoring { .. }
        | Fate::Restored { .. }
        | Fate::Struck { .. } => false,
    }
}

impl Look<'_> {
    fn one(&self, decision: &mut Decision, of_vm: OfVm<'_>, in_flight: &mut usize) {
        let OfVm { vm, line, .. } = of_vm;
        let Some(vmi) = of_vm.vmi else {
            decision.actions.push(VmAction::RecordGone { vm: vm.clone() });
            return;
        };
        let shutdown = self.time_to_go(line);
        match (&line.fate, &line.entry.verdict) {
            (Fate::Stopping { since, asks, .. }, _) if vmi.deleting.is_none() && vmi.ended.is_none() => {
                self.unheard(decision, vm, *since, *asks);
            }
            (Fate::Stopping { since, forced, .. }, _) => {
                // The guest hears of it when its instance is deleted, which virt-controller may do much later.
                let since = vmi.deleting.map_or(*since, |deleting| deleting.max(*since));
                if vmi.ended.is_some() {
                    self.clearing_up(decision, line, since, vmi.deleting.is_some());
                } else {
                    self.stopping(decision, line, since, *forced);
                }
            }
            // Its guest has ended, whoever ended it; the object goes when its pod does.
            (Fate::Here | Fate::Migrating { .. }, _) if vmi.ended.is_some() => {
                let deadline = self.begun + shutdown;
                // KubeVirt keeps what ended of a VM that it does not start again by itself: nothing runs there any more.
                if self.now >= deadline && vmi.deleting.is_none() {
                    decision.actions.push(VmAction::RecordGone { vm: vm.clone() });
                } else {
                    self.leaving(decision, vm, deadline);
                }
            }
            // Its user has told it to stop, or Harvester has: that is not for us to repeat, nor to undo afterwards.
            (Fate::Here | Fate::Migrating { .. }, _) if vmi.deleting.is_some() => {
                let since = vmi.deleting.unwrap_or(self.begun).max(self.begun);
                self.leaving(decision, vm, since + shutdown);
            }
            (Fate::Here, Verdict::Leaving) => self.leaving(decision, vm, self.begun + shutdown),
            (Fate::Here, Verdict::Hold { why }) => decision.holds.push(Blocker {
                what: format!("VM {vm} holds the node: {why}"),
                since: self.tried_since(of_vm),
                owner: "operator: see to it, then resume".to_owned(),
                deadline: None,
                then: "hold".to_owned(),
            }),
            // Until the migrations were listed, nobody knows of one that is under way.
            (Fate::Here | Fate::Migrating { .. }, _) if !self.seen.listed => self.unlisted(decision, vm),
            (Fate::Here, Verdict::ShutDown { .. }) => {
                // One that has no target yet may never get one; what is copied already is let through.
                if let Some(other) = of_vm.unfinished(None).filter(|other| other.running) {
                    self.follow(decision, of_vm, other, None);
                } else if order::first(self.ledger, line, &[]).is_none() {
                    decision.actions.push(VmAction::Stop { vm: vm.clone() });
                }
            }
            (Fate::Here, Verdict::Migrate) => {
                let awaited = of_vm.awaited().map(|awaited| awaited.since + self.policy.migration());
                // Evacuations by others may follow one another without an end.
                let others = of_vm.trail.and_then(|trail| trail.since).unwrap_or(self.begun);
                let whole = awaited.or(Some(others + self.policy.migration() * 2));
                match of_vm.unfinished(None) {
                    Some(other) => self.follow(decision, of_vm, other, whole),
                    None => self.start(decision, of_vm, (1, None), awaited, in_flight),
                }
            }
            (Fate::Migrating { attempt, id, since, asked, to }, _) => {
                self.migrating(decision, of_vm, (*attempt, *id, to.as_ref()), *since, *asked);
            }
            // Off the node: `on_node` does not give these.
            (
                Fate::Migrated { .. }
                | Fate::ShutDown { .. }
                | Fate::Left { .. }
                | Fate::Restoring { .. }
                | Fate::Restored { .. }
                | Fate::Struck { .. },
                _,
            ) => {}
        }
    }

    /// Since when this VM keeps somebody waiting.
    fn tried_since(&self, of_vm: OfVm<'_>) -> Timestamp {
        let own = match &of_vm.line.fate {
            Fate::Migrating { since, .. } => Some(*since),
            Fate::Here
            | Fate::Migrated { .. }
            | Fate::Stopping { .. }
            | Fate::ShutDown { .. }
            | Fate::Left { .. }
            | Fate::Restoring { .. }
            | Fate::Restored { .. }
            | Fate::Struck { .. } => of_vm.awaited().map(|awaited| awaited.since),
        };
        own.or(of_vm.trail.and_then(|trail| trail.since)).unwrap_or(self.begun)
    }
}

#[cfg(test)]
mod end_tests;
#[cfg(test)]
mod ladder_tests;
#[cfg(test)]
mod tests;
