//! The ladder of one VM that can live-migrate: wait for a target, migrate, try elsewhere, abort what does not end, and at
//! last what `onMigrationFailure` says.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::VmAction;
use super::looks::Known;
use super::of_vm::OfVm;
use super::{
    ASK_AGAIN, Decision, IN_FLIGHT, Look, MIGRATION_ATTEMPTS, MigrationState, SeenMigration, Target,
};
use crate::flow::plan::MigrationFailure;
use crate::flow::report::{Blocker, spoken};
use crate::flow::vms::VmKey;

/// `KubeVirt` gives its own evacuations a back-off and the ones of others none, so ours is here.
const FIRST_BACKOFF: Duration = Duration::from_secs(20);
/// An attempt that was begun gets this at least, whatever is left of the VM's whole time.
const LEAST_ATTEMPT: Duration = Duration::from_mins(10);
/// `KubeVirt` gives a target pod up after 15 minutes (reference `kubevirt.md` §4.4), and what comes after it never.
const PREPARING: Duration = Duration::from_mins(16);
/// A list that the API server owes us comes by then, or needs somebody.
const UNLISTED: SignedDuration = SignedDuration::from_mins(10);
/// The longest pause between two requests for a migration that `KubeVirt` does not let in.
const LONGEST_REFUSAL: SignedDuration = SignedDuration::from_mins(2);
/// A scheduler that finds no node needs this until `KubeVirt` says so (reference `kubevirt.md` §4.4).
const LAST_TRY: Duration = Duration::from_mins(5);

impl Look<'_> {
    /// Nobody knows yet whether a migration of it is under way.
    pub(super) fn unlisted(&self, decision: &mut Decision, vm: &VmKey) {
        let since = self.seen.unlisted_since.unwrap_or(self.now);
        let deadline = since + UNLISTED;
        let what = format!("the API server does not list the migrations of VM {vm}");
        if self.now < deadline {
            decision.by(self.now + ASK_AGAIN);
            decision.wait(what, since, deadline, "hold");
        } else {
            decision.holds.push(Blocker {
                what,
                since,
                owner:
                    "operator: see whether the agent may list virtualmachineinstancemigrations, then resume"
                        .to_owned(),
                deadline: None,
                then: "hold".to_owned(),
            });
        }
    }

    /// Somebody else's migration is as good as ours: `KubeVirt` takes one of a VM at a time. It is aborted when it does not
    /// end; `whole` is the end of the time that the VM itself has, where that has begun.
    pub(super) fn follow(
        &self,
        decision: &mut Decision,
        of_vm: OfVm<'_>,
        other: &SeenMigration,
        whole: Option<Timestamp>,
    ) {
        let own = other.since + self.policy.migration();
        let deadline = whole.map_or(own, |whole| own.min(whole));
        if self.now >= deadline {
            let is_over = whole.is_some_and(|whole| self.now >= whole);
            let is_new = of_vm.abort().is_none_or(|abort| !abort.is_of(&other.name, &other.uid));
            // As long as the drain taint is there KubeVirt begins the next one: one that was aborted has shown enough.
            if is_over && is_new && !other.running && of_vm.trail.is_some_and(|trail| trail.foreign_abort) {
                let why = format!("KubeVirt's own evacuations of it do not end{}", self.no_target(of_vm.vm));
                self.give_up(decision, of_vm, &why, "see why its target does not start");
            } else {
                self.abort(decision, of_vm, other, "it does not end within evacuation.migrationSeconds");
            }
            return;
        }
        let OfVm { vm, .. } = of_vm;
        let what = match self.seen.targets.get(vm) {
            Some(Target::None { why, .. }) => {
                format!("VM {vm} is being live-migrated by {}, without a target: {why}", other.name)
            }
            Some(Target::Open { .. } | Target::Unknown) | None => {
                format!("VM {vm} is being live-migrated by {}", other.name)
            }
        };
        decision.wait(what, other.since, deadline, "abort it");
    }

    /// One that was asked for by us.
    pub(super) fn migrating(
        &self,
        decision: &mut Decision,
        of_vm: OfVm<'_>,
        (attempt, id, to): (u32, u64, Option<&String>),
        since: Timestamp,
        asked: Timestamp,
    ) {
        let whole = since + self.policy.migration();
        let end = whole.max(asked + self.policy.migration().min(LEAST_ATTEMPT));
        let ours = of_vm.ours(id);
        let other = of_vm.unfinished(Some(id));
        match (ours.map(|one| (one, &one.state)), other) {
            // The instance's node is about to change: the next look will see it gone.
            (Some((_, MigrationState::Succeeded)), _) if self.now < end => {
                decision.by(self.now + SignedDuration::from_secs(2));
                let what = format!("VM {} has been live-migrated, and is still shown here", of_vm.vm);
                decision.wait(what, asked, end, "try again");
            }
            (Some((_, MigrationState::Succeeded)), _) => {
                let why = "KubeVirt says that it succeeded, and the VM is still here";
                self.failed(decision, of_vm, (attempt, why), whole, asked);
            }
            (Some((ours, MigrationState::Unfinished)), _) => {
                self.under_way(decision, of_vm, ours, (attempt, asked), end);
            }
            (Some((_, MigrationState::Failed { .. })) | None, Some(other)) => {
                self.follow(decision, of_vm, other, Some(whole));
            }
            (Some((ours, MigrationState::Failed { reason })), None) => {
                let aborted = of_vm.abort().filter(|abort| abort.is_of(&ours.name, &ours.uid));
                let why = aborted.map_or(reason, |abort| &abort.why);
                self.failed(decision, of_vm, (attempt, why), whole, asked);
            }
            (None, None) => match of_vm.abort() {
                // Aborted before a restart, and gone by now.
                Some(abort) => self.failed(decision, of_vm, (attempt, &abort.why), whole, asked),
                None if self.now >= whole && self.now >= asked + ASK_AGAIN => {
                    let why = format!("KubeVirt accepts no migration of it{}", self.refusal(of_vm.vm));
                    self.give_up(decision, of_vm, &why, "look at its events and at virt-api");
                }
                // The request was lost, or refused: ask again, the more rarely the longer it lasts.
                None => {
                    let pause = (asked.duration_since(since) / 2).clamp(ASK_AGAIN, LONGEST_REFUSAL);
                    if self.now < asked + pause {
                        decision.by(asked + pause);
                    } else {
                        let to = to.cloned();
                        decision.actions.push(VmAction::Migrate { vm: of_vm.vm.clone(), attempt, to });
                    }
                    let what = format!("VM {} is to be live-migrated{}", of_vm.vm, self.refusal(of_vm.vm));
                    decision.wait(what, since, whole.max(asked + ASK_AGAIN), "give it up");
                }
            },
        }
    }

    fn no_target(&self, vm: &VmKey) -> String {
        match self.seen.targets.get(vm) {
            Some(Target::None { why, .. }) => format!("; {why}"),
            Some(Target::Open { .. } | Target::Unknown) | None => String::new(),
        }
    }

    /// `KubeVirt`'s last word on a VM, where that was a no.
    pub(super) fn refusal(&self, vm: &VmKey) -> String {
        self.seen.refused.get(vm).map(|why| format!(", and KubeVirt says: {why}")).unwrap_or_default()
    }

    fn under_way(
        &self,
        decision: &mut Decision,
        of_vm: OfVm<'_>,
        ours: &SeenMigration,
        (attempt, asked): (u32, Timestamp),
        end: Timestamp,
    ) {
        let limit = PREPARING.min(self.policy.migration() / 2);
        let ready_by = ours.preparing.map(|since| since + limit);
        if self.now >= end {
            self.abort(decision, of_vm, ours, "it takes longer than evacuation.migrationSeconds");
        } else if ready_by.is_some_and(|ready_by| self.now >= ready_by) {
            let limit = spoken(SignedDuration::try_from(limit).unwrap_or_default());
            self.abort(decision, of_vm, ours, &format!("its target was not ready within {limit}"));
        } else if of_vm.abort().is_some_and(|abort| abort.is_of(&ours.name, &ours.uid)) {
            self.abort(decision, of_vm, ours, "");
        } else {
            let to = ours.target.as_ref().map(|node| format!(" to {node}")).unwrap_or_default();
            let what = format!("VM {} is being live-migrated{to} (attempt {attempt})", of_vm.vm);
            decision.by(ready_by.map_or(end, |ready_by| ready_by.min(end)));
            decision.wait(what, asked, end, "abort it");
        }
    }

    fn failed(
        &self,
        decision: &mut Decision,
        of_vm: OfVm<'_>,
        (attempt, why): (u32, &str),
        whole: Timestamp,
        asked: Timestamp,
    ) {
        let again = asked + FIRST_BACKOFF * 2u32.pow(attempt.saturating_sub(1));
        let said = format!("attempt {attempt} failed, {why}");
        if attempt >= MIGRATION_ATTEMPTS || self.now >= whole {
            let (more, cure) = match self.seen.targets.get(of_vm.vm) {
                Some(Target::None { why, cure }) => (format!("; {why}"), cure.as_deref()),
                Some(Target::Open { .. } | Target::Unknown) | None => (String::new(), None),
            };
            self.give_up(decision, of_vm, &format!("{said}{more}"), cure.unwrap_or("see to that"));
        } else if self.now < again {
            let what = format!("VM {} waits to be migrated again; {said}", of_vm.vm);
            decision.wait(what, asked, again, "try again");
        } else {
            self.start(decision, of_vm, (attempt + 1, Some(asked)), Some(whole), &mut 0);
        }
    }

    /// The next attempt, where a node may take the VM; else the wait for one. `last` is when the one before was asked for.
    pub(super) fn start(
        &self,
        decision: &mut Decision,
        of_vm: OfVm<'_>,
        (attempt, last): (u32, Option<Timestamp>),
        whole: Option<Timestamp>,
        in_flight: &mut usize,
    ) {
        let vm = of_vm.vm;
        let is_closed = matches!(self.seen.targets.get(vm), Some(Target::None { .. }));
        let has_slot = last.is_some() || *in_flight < IN_FLIGHT;
        decision.movers.insert(vm.clone(), of_vm.failed_on());
        if !has_slot && !is_closed {
            return;
        }
        let target = match self.known(of_vm, last) {
            Known::Look => {
                decision.look = true;
                return;
            }
            Known::NotBefore(at) => {
                decision.by(at);
                return;
            }
            Known::Target(target) => target,
        };
        let to = match target {
            Target::None { why, cure } => {
                if !self.wait_for_target(
                    decision,
                    of_vm,
                    (why, cure.as_deref()),
                    whole,
                    last.is_none() && has_slot,
                ) {
                    return;
                }
                None
            }
            Target::Open { other } => other.clone(),
            Target::Unknown => None,
        };
        *in_flight += 1;
        decision.actions.push(VmAction::Migrate { vm: vm.clone(), attempt, to });
    }

    /// It is certain that no node takes it now: a migration would only sit there. Yet a proof can err where the scheduler
    /// does not: before the VM is given up it is tried once. Is it time for that?
    fn wait_for_target(
        &self,
        decision: &mut Decision,
        of_vm: OfVm<'_>,
        (why, cure): (&str, Option<&str>),
        whole: Option<Timestamp>,
        may_try: bool,
    ) -> bool {
        let vm = of_vm.vm;
        let since = of_vm.awaited().map_or(self.now, |awaited| awaited.since);
        let whole = whole.unwrap_or(since + self.policy.migration());
        let last_try = whole - LAST_TRY.min(self.policy.migration() / 6);
        if self.now >= whole {
            let cure = cure.unwrap_or("see to that");
            self.give_up(decision, of_vm, &format!("it has no target, {why}"), cure);
            return false;
        }
        if may_try && self.now >= last_try {
            return true;
        }
        if of_vm.awaited().is_none() {
            decision.actions.push(VmAction::AwaitTarget { vm: vm.clone(), why: why.to_owned() });
        }
        let then = match self.policy.on_migration_failure {
            MigrationFailure::Hold => "hold",
            MigrationFailure::ShutdownAndRestore => "shut it down",
        };
        let cure = cure.map(|cure| format!("{cure}, or ")).unwrap_or_default();
        decision.by(if may_try { last_try } else { whole });
        let pause = self.between_looks(Some(self.now.duration_since(since)));
        decision.by(self.seen.looked.unwrap_or(self.now) + pause);
        decision.blockers.push(Blocker {
            what: format!("VM {vm} waits for a target: {why}"),
            since,
            owner: format!("operator: {cure}move or stop it by hand"),
            deadline: Some(whole),
            then: then.to_owned(),
        });
        false
    }
}
