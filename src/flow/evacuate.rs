//! The evacuation's choice: ledger and world in, actions and blockers out. Pure; called at every change of the world.

mod of_vm;
mod order;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::flow::plan::{Evacuation, MigrationFailure, ShutdownTimeout};
use crate::flow::report::Blocker;
use crate::flow::vms::{Fate, LedgerLine, Verdict, VmKey, VmLedger};
use of_vm::{Beside, OfVm};

/// Attempts to live-migrate one VM before `onMigrationFailure` decides.
pub const MIGRATION_ATTEMPTS: u32 = 3;
/// `KubeVirt` gives its own evacuations a back-off and the ones of others none, so ours is here.
const FIRST_BACKOFF: Duration = Duration::from_secs(20);
/// Migrations asked for at the same time: `KubeVirt` runs two out of a node and queues the rest, and a VM's clock should
/// not run while it queues (reference `kubevirt.md` §4.1).
const IN_FLIGHT: usize = 4;
/// A request that nobody has heard is made again after this.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(10);
/// Requests to stop one VM that nobody hears before an operator is asked.
const STOP_ASKS: u32 = 30;
/// What a launcher needs beyond the guest's own time: the pod's grace is the guest's plus 30 s (reference `kubevirt.md` §3).
const LAUNCHER_SLACK: Duration = Duration::from_secs(45);

/// An instance on the node, as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenVmi {
    /// Its uid.
    pub uid: String,
    /// It is being deleted: somebody has heard a stop.
    pub deleting: bool,
    /// None while it lives, else how it ended: `true` for Succeeded.
    pub ended: Option<bool>,
}

/// A migration object of a VM, as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenMigration {
    /// Its name.
    pub name: String,
    /// Which of our attempts it is; none when somebody else created it.
    pub id: Option<u64>,
    /// How far it is.
    pub state: MigrationState,
}

/// How far a migration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationState {
    /// Not final.
    Unfinished,
    /// The guest runs on the target.
    Succeeded,
    /// It did not work.
    Failed {
        /// Why, as far as `KubeVirt` says.
        reason: String,
    },
}

/// The world as far as evacuation looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Instances on the node.
    pub vmis: BTreeMap<VmKey, SeenVmi>,
    /// Migration objects of any VM.
    pub migrations: BTreeMap<VmKey, Vec<SeenMigration>>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmAction {
    /// Create the migration of this attempt.
    Migrate {
        /// Who.
        vm: VmKey,
        /// Counts from 1.
        attempt: u32,
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

/// The answer of [`decide`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// To do now.
    pub actions: Vec<VmAction>,
    /// What is waited for.
    pub blockers: Vec<Blocker>,
    /// Needs an operator: one sentence for each VM.
    pub holds: Vec<String>,
    /// Look again at the latest then.
    pub look_again: Option<Timestamp>,
}

impl Decision {
    fn by(&mut self, at: Timestamp) {
        self.look_again = Some(self.look_again.map_or(at, |known| known.min(at)));
    }

    fn wait(&mut self, what: String, since: Timestamp, deadline: Timestamp, then: &str) {
        self.by(deadline);
        let owner = "nobody has to act yet".to_owned();
        self.blockers.push(Blocker { what, since, owner, deadline: Some(deadline), then: then.to_owned() });
    }
}

/// What does not change while one decision is made.
struct Look<'a> {
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
    let look = Look { policy, begun, now };
    let mut in_flight = ledger.on_node().filter(|line| matches!(line.fate, Fate::Migrating { .. })).count();
    let (mut vmis, mut migrations) = (Beside::of(&seen.vmis), Beside::of(&seen.migrations));
    for line in ledger.on_node() {
        let of_vm = OfVm {
            vm: &line.entry.vm,
            vmi: vmis.at(&line.entry.vm),
            migrations: migrations.at(&line.entry.vm).map(Vec::as_slice).unwrap_or_default(),
        };
        look.one(&mut decision, ledger, line, of_vm, &mut in_flight);
    }
    // Where nothing moves but by an operator, nobody waits for a turn that does not come.
    if !decision.actions.is_empty() || !decision.blockers.is_empty() || decision.look_again.is_some() {
        decision.blockers.extend(order::waiting(ledger, begun));
    }
    decision
}

impl Look<'_> {
    fn one(
        &self,
        decision: &mut Decision,
        ledger: &VmLedger,
        line: &LedgerLine,
        of_vm: OfVm<'_>,
        in_flight: &mut usize,
    ) {
        let vm = of_vm.vm;
        let Some(vmi) = of_vm.vmi else {
            decision.actions.push(VmAction::RecordGone { vm: vm.clone() });
            return;
        };
        let shutdown = self.policy.guest_shutdown(line.entry.grace_seconds) + LAUNCHER_SLACK;
        match (&line.fate, &line.entry.verdict) {
            (Fate::Stopping { since, asks, .. }, _) if !vmi.deleting && vmi.ended.is_none() => {
                self.unheard(decision, vm, *since, *asks);
            }
            (Fate::Stopping { since, forced, .. }, _) => {
                self.stopping(decision, vm, *since, *forced, *since + shutdown);
            }
            // Its guest has ended, whoever ended it; the object goes when its pod does.
            (Fate::Here | Fate::Migrating { .. }, _) if vmi.ended.is_some() => {
                let deadline = self.begun + shutdown;
                // KubeVirt keeps what ended of a VM that it does not start again by itself: nothing runs there any more.
                if self.now >= deadline && !vmi.deleting {
                    decision.actions.push(VmAction::RecordGone { vm: vm.clone() });
                } else {
                    self.leaving(decision, vm, deadline);
                }
            }
            (Fate::Here, Verdict::Leaving) => self.leaving(decision, vm, self.begun + shutdown),
            (Fate::Here, Verdict::Hold { why }) => {
                decision.holds.push(format!("VM {vm} holds the node: {why}"));
            }
            (Fate::Here, Verdict::ShutDown { .. }) => match order::first(ledger, line) {
                Some(_) => {}
                None => decision.actions.push(VmAction::Stop { vm: vm.clone() }),
            },
            (Fate::Here, Verdict::Migrate) => {
                if let Some(other) = of_vm.unfinished(None) {
                    self.follow(decision, vm, other, self.begun + self.policy.migration());
                } else if *in_flight < IN_FLIGHT {
                    *in_flight += 1;
                    decision.actions.push(VmAction::Migrate { vm: vm.clone(), attempt: 1 });
                }
            }
            (Fate::Migrating { attempt, id, since, asked }, _) => {
                self.migrating(decision, of_vm, (*attempt, *id), *since, *asked);
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

    /// `KubeVirt` takes one migration of a VM at a time: somebody else's is as good as ours.
    fn follow(&self, decision: &mut Decision, vm: &VmKey, other: &SeenMigration, deadline: Timestamp) {
        if self.now < deadline {
            let what = format!("VM {vm} is being live-migrated by {}", other.name);
            decision.wait(what, self.begun, deadline, "hold");
        } else {
            self.give_up(decision, vm, &format!("{} does not end", other.name));
        }
    }

    fn leaving(&self, decision: &mut Decision, vm: &VmKey, deadline: Timestamp) {
        if self.now < deadline {
            let what = format!("VM {vm} is being stopped by somebody else");
            decision.wait(what, self.begun, deadline, "hold");
        } else {
            decision.holds.push(format!(
                "VM {vm} is being stopped by somebody else and does not go; look at its launcher pod, then resume"
            ));
        }
    }

    /// The stop was asked for, and the instance shows no sign of it: the request was lost, refused, or waits in a queue.
    fn unheard(&self, decision: &mut Decision, vm: &VmKey, since: Timestamp, asks: u32) {
        let again = since + ASK_AGAIN;
        if self.now < again {
            decision.by(again);
        } else if asks < STOP_ASKS {
            decision.by(self.now + ASK_AGAIN);
            decision.actions.push(VmAction::AskAgain { vm: vm.clone() });
        } else {
            decision.holds.push(format!(
                "VM {vm} was told to shut down {asks} times and KubeVirt does not begin; look at virt-api, \
                 virt-controller and the VM's events, then resume"
            ));
        }
    }

    fn stopping(
        &self,
        decision: &mut Decision,
        vm: &VmKey,
        since: Timestamp,
        forced: bool,
        deadline: Timestamp,
    ) {
        // After a power cut only the launcher has to go.
        let deadline = if forced { deadline + LAUNCHER_SLACK * 2 } else { deadline };
        let may_force = self.policy.on_shutdown_timeout == ShutdownTimeout::ForceOff && !forced;
        if self.now < deadline {
            let then = if may_force { "power off" } else { "hold" };
            decision.wait(format!("VM {vm} is shutting down"), since, deadline, then);
        } else if may_force {
            decision.actions.push(VmAction::ForceOff { vm: vm.clone() });
        } else {
            let what = "did not shut down in time; shut its guest down by hand, then resume";
            decision.holds.push(format!("VM {vm} {what}"));
        }
    }

    fn migrating(
        &self,
        decision: &mut Decision,
        of_vm: OfVm<'_>,
        (attempt, id): (u32, u64),
        since: Timestamp,
        asked: Timestamp,
    ) {
        let deadline = since + self.policy.migration();
        let vm = of_vm.vm;
        let ours = of_vm.migrations.iter().find(|one| one.id == Some(id));
        let other = of_vm.unfinished(Some(id));
        match (ours.map(|one| &one.state), other) {
            // The instance's node is about to change: the next look will see it gone.
            (Some(MigrationState::Succeeded), _) => decision.by(self.now + SignedDuration::from_secs(2)),
            (Some(MigrationState::Unfinished), _) if self.now < deadline => {
                let what = format!("VM {vm} is being live-migrated (attempt {attempt})");
                decision.wait(what, since, deadline, "hold");
            }
            (Some(MigrationState::Unfinished), _) => {
                self.give_up(decision, vm, "it takes longer than evacuation.migrationSeconds");
            }
            (Some(MigrationState::Failed { .. }) | None, Some(other)) => {
                self.follow(decision, vm, other, deadline);
            }
            (None, None) if self.now >= deadline => {
                self.give_up(decision, vm, "KubeVirt accepts no migration of it; its events say why");
            }
            // The request was lost, or refused: ask again.
            (None, None) if self.now < asked + ASK_AGAIN => decision.by(asked + ASK_AGAIN),
            (None, None) => decision.actions.push(VmAction::Migrate { vm: vm.clone(), attempt }),
            (Some(MigrationState::Failed { reason }), None) => {
                let again = asked + FIRST_BACKOFF * 2u32.pow(attempt.saturating_sub(1));
                if attempt >= MIGRATION_ATTEMPTS || self.now >= deadline {
                    self.give_up(decision, vm, &format!("attempt {attempt} failed, {reason}"));
                } else if self.now >= again {
                    decision.actions.push(VmAction::Migrate { vm: vm.clone(), attempt: attempt + 1 });
                } else {
                    let what =
                        format!("VM {vm} waits to be migrated again; attempt {attempt} failed, {reason}");
                    decision.wait(what, asked, again, "try again");
                }
            }
        }
    }

    fn give_up(&self, decision: &mut Decision, vm: &VmKey, why: &str) {
        match self.policy.on_migration_failure {
            MigrationFailure::ShutdownAndRestore => decision.actions.push(VmAction::Stop { vm: vm.clone() }),
            MigrationFailure::Hold => decision.holds.push(format!(
                "VM {vm} could not be live-migrated: {why}; make room for it, or move or stop it by hand, then resume"
            )),
        }
    }
}

#[cfg(test)]
#[path = "evacuate_tests.rs"]
mod tests;
