//! The end of the ladder: what hangs is aborted, and its end awaited; who cannot be moved holds the node or is shut down.

use jiff::SignedDuration;

use super::of_vm::OfVm;
use super::{ASK_AGAIN, Decision, Look, SeenMigration, VmAction, order};
use crate::flow::plan::MigrationFailure;
use crate::flow::report::Blocker;
use crate::flow::vms::VmKey;

/// `KubeVirt` answers an abort in seconds; while the guest is copied its virt-handler has to.
const ABORT: SignedDuration = SignedDuration::from_mins(3);

impl Look<'_> {
    /// Deletes a migration, and sees to it that it ends: before that nothing else is done to its VM.
    pub(super) fn abort(
        &self,
        decision: &mut Decision,
        of_vm: OfVm<'_>,
        migration: &SeenMigration,
        why: &str,
    ) {
        let OfVm { vm, .. } = of_vm;
        let SeenMigration { name, uid, id, deleting, .. } = migration;
        let abort = |why: &str| VmAction::Abort {
            vm: vm.clone(),
            migration: name.clone(),
            uid: uid.clone(),
            ours: id.is_some(),
            why: why.to_owned(),
        };
        let Some(asked) = of_vm.abort().filter(|abort| abort.is_of(name, uid)) else {
            decision.actions.push(abort(why));
            return;
        };
        let deadline = asked.since + ABORT;
        if self.now >= deadline {
            decision.holds.push(Blocker {
                what: format!(
                    "KubeVirt does not end migration {name} of VM {vm}, which was aborted: {}",
                    asked.why
                ),
                since: asked.since,
                owner: "operator: look at virt-controller and at virt-handler of its node, then resume"
                    .to_owned(),
                deadline: None,
                then: "hold".to_owned(),
            });
        } else if !deleting && self.now >= asked.asked + ASK_AGAIN {
            decision.actions.push(abort(&asked.why));
        } else {
            decision.by(asked.asked + ASK_AGAIN);
            let what = format!("VM {vm}: KubeVirt is aborting migration {name}, {}", asked.why);
            decision.wait(what, asked.since, deadline, "hold");
        }
    }

    pub(super) fn give_up(&self, decision: &mut Decision, of_vm: OfVm<'_>, why: &str, cure: &str) {
        let vm = of_vm.vm;
        match self.policy.on_migration_failure {
            MigrationFailure::ShutdownAndRestore => decision.given_up.push(vm.clone()),
            MigrationFailure::Hold => decision.holds.push(Blocker {
                what: format!("VM {vm} could not be live-migrated: {why}"),
                since: self.tried_since(of_vm),
                owner: format!("operator: {cure}, or move or stop it by hand, then resume"),
                deadline: None,
                then: "hold".to_owned(),
            }),
        }
    }

    /// Those that policy lets be shut down, in the order that their owner wants.
    pub(super) fn shut_down_given_up(&self, decision: &mut Decision) {
        let given_up: Vec<VmKey> = std::mem::take(&mut decision.given_up);
        for vm in &given_up {
            let Some(line) = self.ledger.line(vm) else { continue };
            match order::first(self.ledger, line, &given_up) {
                Some(first) => decision.turns.push(order::turn(vm, first, self.begun)),
                None => decision.actions.push(VmAction::Stop { vm: vm.clone() }),
            }
        }
    }
}
