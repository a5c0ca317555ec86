//! The evacuation's choice: ledger and world in, actions and blockers out. Pure; called at every change of the world.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::flow::plan::{Evacuation, MigrationFailure, ShutdownTimeout};
use crate::flow::report::Blocker;
use crate::flow::vms::{Fate, LedgerLine, Verdict, VmKey, VmLedger};

/// Attempts to live-migrate one VM before `onMigrationFailure` decides.
pub const MIGRATION_ATTEMPTS: u32 = 3;
/// `KubeVirt` gives its own evacuations a back-off and the ones of others none, so ours is here.
const FIRST_BACKOFF: Duration = Duration::from_secs(20);
/// What a launcher needs beyond the guest's own time: the pod's grace is the guest's plus 30 s (reference `kubevirt.md` §3).
const LAUNCHER_SLACK: Duration = Duration::from_secs(45);

/// An instance on the node, as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenVmi {
    /// Its uid.
    pub uid: String,
    /// None while it lives, else how it ended: `true` for Succeeded.
    pub ended: Option<bool>,
}

/// A migration object of a VM, as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenMigration {
    /// Its name.
    pub name: String,
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

/// Name of the migration object of one attempt. Fixed, so that asking twice after a crash meets the first one.
#[must_use]
pub fn migration_name(upgrade_uid: &str, vm: &str, attempt: u32) -> String {
    let uid: String = upgrade_uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let vm: String = vm.chars().take(40).collect();
    format!("upgrade-{}-{}-{attempt}", uid.to_ascii_lowercase(), vm.trim_end_matches(['-', '.']))
}

/// What to do about every VM of the ledger. `begun` is when this step began.
#[must_use]
pub fn decide(
    ledger: &VmLedger,
    seen: &Seen,
    policy: &Evacuation,
    upgrade_uid: &str,
    begun: Timestamp,
    now: Timestamp,
) -> Decision {
    let mut decision = Decision::default();
    for line in ledger.on_node() {
        decide_one(&mut decision, line, seen, policy, upgrade_uid, begun, now);
    }
    decision
}

fn decide_one(
    decision: &mut Decision,
    line: &LedgerLine,
    seen: &Seen,
    policy: &Evacuation,
    upgrade_uid: &str,
    begun: Timestamp,
    now: Timestamp,
) {
    let vm = line.entry.vm.clone();
    let Some(vmi) = seen.vmis.get(&vm) else {
        decision.actions.push(VmAction::RecordGone { vm });
        return;
    };
    let shutdown = policy.guest_shutdown(line.entry.grace_seconds) + LAUNCHER_SLACK;
    match (&line.fate, &line.entry.verdict) {
        (Fate::Stopping { since, forced }, _) => {
            stopping(decision, line, *since, *forced, *since + shutdown, policy.on_shutdown_timeout, now);
        }
        // Its guest has ended, whoever ended it; the object goes when its pod does.
        (Fate::Here | Fate::Migrating { .. }, _) if vmi.ended.is_some() => {
            leaving(decision, &vm, begun, begun + shutdown, now);
        }
        (Fate::Here, Verdict::Leaving) => leaving(decision, &vm, begun, begun + shutdown, now),
        (Fate::Here, Verdict::Hold { why }) => decision.holds.push(format!("VM {vm} holds the node: {why}")),
        (Fate::Here, Verdict::ShutDown { .. }) => decision.actions.push(VmAction::Stop { vm }),
        (Fate::Here, Verdict::Migrate) => decision.actions.push(VmAction::Migrate { vm, attempt: 1 }),
        (Fate::Migrating { attempt, since, asked }, _) => {
            let named = migration_name(upgrade_uid, &vm.name, *attempt);
            let (attempt, since, asked) = (*attempt, *since, *asked);
            let ours = seen.migrations.get(&vm).and_then(|all| all.iter().find(|one| one.name == named));
            migrating(decision, &vm, ours, (attempt, since, asked), policy, now);
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

fn leaving(decision: &mut Decision, vm: &VmKey, since: Timestamp, deadline: Timestamp, now: Timestamp) {
    if now < deadline {
        decision.wait(format!("VM {vm} is being stopped by somebody else"), since, deadline, "hold");
    } else {
        decision.holds.push(format!(
            "VM {vm} is being stopped by somebody else and does not go; look at its launcher pod, then resume"
        ));
    }
}

fn stopping(
    decision: &mut Decision,
    line: &LedgerLine,
    since: Timestamp,
    forced: bool,
    deadline: Timestamp,
    policy: ShutdownTimeout,
    now: Timestamp,
) {
    let vm = &line.entry.vm;
    // After a power cut only the launcher has to go.
    let deadline = if forced { deadline + LAUNCHER_SLACK * 2 } else { deadline };
    let then = match policy {
        ShutdownTimeout::ForceOff if !forced => "power off",
        ShutdownTimeout::ForceOff | ShutdownTimeout::Hold => "hold",
    };
    if now < deadline {
        decision.wait(format!("VM {vm} is shutting down"), since, deadline, then);
        return;
    }
    match policy {
        ShutdownTimeout::ForceOff if !forced => decision.actions.push(VmAction::ForceOff { vm: vm.clone() }),
        ShutdownTimeout::ForceOff | ShutdownTimeout::Hold => decision.holds.push(format!(
            "VM {vm} did not shut down in time; shut its guest down by hand, or set evacuation.onShutdownTimeout: ForceOff"
        )),
    }
}

fn migrating(
    decision: &mut Decision,
    vm: &VmKey,
    ours: Option<&SeenMigration>,
    (attempt, since, asked): (u32, Timestamp, Timestamp),
    policy: &Evacuation,
    now: Timestamp,
) {
    let deadline = since + policy.migration();
    let give_up = |decision: &mut Decision, why: &str| {
        match policy.on_migration_failure {
        MigrationFailure::ShutdownAndRestore => decision.actions.push(VmAction::Stop { vm: vm.clone() }),
        MigrationFailure::Hold => decision.holds.push(format!(
            "VM {vm} could not be live-migrated: {why}; make room for it or move it by hand, then resume, or set \
             evacuation.onMigrationFailure: ShutdownAndRestore"
        )),
    }
    };
    match ours.map(|one| &one.state) {
        // The request was lost before it reached the API: ask again under the same name.
        None if now < asked + SignedDuration::from_secs(5) => {
            decision.by(asked + SignedDuration::from_secs(5));
        }
        None => decision.actions.push(VmAction::Migrate { vm: vm.clone(), attempt }),
        // The instance's node is about to change: the next look will see it gone.
        Some(MigrationState::Succeeded) => decision.by(now + SignedDuration::from_secs(2)),
        Some(MigrationState::Unfinished) if now < deadline => {
            decision.wait(
                format!("VM {vm} is being live-migrated (attempt {attempt})"),
                since,
                deadline,
                "hold",
            );
        }
        Some(MigrationState::Unfinished) => {
            give_up(decision, "it takes longer than evacuation.migrationSeconds");
        }
        Some(MigrationState::Failed { reason }) if attempt >= MIGRATION_ATTEMPTS || now >= deadline => {
            give_up(decision, &format!("attempt {attempt} failed, {reason}"));
        }
        Some(MigrationState::Failed { reason }) => {
            let again = asked + FIRST_BACKOFF * 2u32.pow(attempt.saturating_sub(1));
            if now >= again {
                decision.actions.push(VmAction::Migrate { vm: vm.clone(), attempt: attempt + 1 });
            } else {
                let what = format!("VM {vm} waits to be migrated again; attempt {attempt} failed, {reason}");
                decision.wait(what, asked, again, "try again");
            }
        }
    }
}

#[cfg(test)]
#[path = "evacuate_tests.rs"]
mod tests;
