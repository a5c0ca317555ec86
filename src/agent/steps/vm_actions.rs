//! What pre-drain does to one VM: intent, request, fact. Called for each action that `flow::evacuate` decides.

use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::cluster::migrations::{self, Attempt};
use crate::cluster::vm_mark::{self, Marked};
use crate::cluster::vm_state::{self, VmState};
use crate::cluster::vms::{self, Answer};
use crate::flow::evacuate::VmAction;
use crate::flow::record::Record;
use crate::flow::vms::{AsLeft, Fate, LedgerLine, Verdict, VmKey};
use crate::mutation::{self, Mutation};

/// What `KubeVirt` said to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Nothing against it.
    Nothing,
    /// That it cannot be now, and why.
    Refused(String),
}

impl From<Answer> for Said {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Accepted | Answer::NoSuchVm => Self::Nothing,
            Answer::LookAgain { why } => Self::Refused(why),
        }
    }
}

/// Performs one action.
///
/// # Errors
/// Retries while the API is away; needs an operator when it refuses.
pub async fn perform(run: &mut Run, action: VmAction, last_end: Option<bool>) -> Result<Said, StepError> {
    match action {
        VmAction::Migrate { vm, attempt, to } => migrate(run, vm, attempt, to).await,
        VmAction::AwaitTarget { vm, why } => {
            run.record(Record::TargetAwaited { vm, why })?;
            Ok(Said::Nothing)
        }
        VmAction::Abort { vm, migration, uid, ours, why } => {
            let record = Record::AbortIntent {
                vm: vm.clone(),
                migration: migration.clone(),
                uid: Some(uid.clone()),
                ours,
                why,
            };
            run.record(record)?;
            migrations::abort(&run.cluster.client, &vm, &migration, &uid).await?;
            Ok(Said::Nothing)
        }
        VmAction::Stop { vm } => stop(run, &vm).await,
        VmAction::AskAgain { vm } => ask_stop_again(run, &vm).await,
        VmAction::ForceOff { vm } => {
            run.record(Record::ForceOffIntent { vm: vm.clone() })?;
            request_stop(run, &vm, Some(0)).await
        }
        VmAction::RecordGone { vm } => record_gone(run, vm, last_end).await.map(|()| Said::Nothing),
    }
}

async fn migrate(run: &mut Run, vm: VmKey, attempt: u32, to: Option<String>) -> Result<Said, StepError> {
    run.record(Record::MigrationIntent { vm: vm.clone(), attempt, to: to.clone() })?;
    let id = run.journal.progress().seq();
    let (upgrade, upgrade_uid) = (&run.plan.upgrade_name, &run.plan.upgrade_uid);
    let attempt = Attempt { vm: &vm, id, node: &run.plan.node_name, upgrade, upgrade_uid, to: to.as_deref() };
    Ok(migrations::create(&run.cluster.client, attempt).await?.into())
}

/// One that could move is stopped only when nothing moves it: the watch may not have shown yet what has just begun.
async fn stop(run: &mut Run, vm: &VmKey) -> Result<Said, StepError> {
    let line = run.journal.progress().ledger().line(vm);
    let could_move = line.is_some_and(|line| line.entry.verdict == Verdict::Migrate);
    if could_move {
        let unfinished = migrations::unfinished_of_vm(&run.cluster.client, vm).await?;
        // KubeVirt's own evacuations come again and again; one that has no target yet is no move.
        let (uid, node) = (&run.plan.upgrade_uid, &run.plan.node_name);
        let moves =
            |one: &&_| migrations::has_target(one) || migrations::attempt_of(one, uid, node).is_some();
        let moving = unfinished.iter().find(moves);
        if let Some(one) = moving.and_then(|one| one.metadata.name.as_deref()) {
            tracing::info!(%vm, migration = one, "not stopped: a migration of it is under way");
            return Ok(Said::Nothing);
        }
    }
    ask_stop(run, vm).await
}

/// Intent, mark, request: the guest's time begins with the intent, and no stop of ours is ever without its mark.
async fn ask_stop(run: &mut Run, vm: &VmKey) -> Result<Said, StepError> {
    run.record(Record::StopIntent { vm: vm.clone() })?;
    let line = run.journal.progress().ledger().line(vm);
    let owed = line.filter(|line| !line.entry.left_off);
    let uid = owed.and_then(|line| line.entry.vm_uid.clone());
    if let Some(uid) = uid {
        match vm_mark::put(&run.cluster.client, vm, &uid, &run.plan.upgrade_uid).await? {
            // What its user does to it from now on, while its guest is still going down, is not our doing.
            Marked::Yes(marked) => {
                let as_left = VmState::of(*marked, &run.plan.upgrade_uid).to_be_left();
                run.record(Record::VmAsLeft { vm: vm.clone(), as_left })?;
            }
            // Unmarked it is not stopped.
            Marked::No(not_now) => return Ok(not_now.into()),
        }
    }
    request_stop(run, vm, None).await
}

/// Takes our mark off a VM that was not shut down after all.
///
/// # Errors
/// As [`perform`].
pub async fn unmark(run: &Run, line: &LedgerLine) -> Result<(), StepError> {
    let (vm, Some(uid)) = (&line.entry.vm, &line.entry.vm_uid) else { return Ok(()) };
    match vm_mark::take_off(&run.cluster.client, vm, uid).await? {
        Answer::Accepted | Answer::NoSuchVm => {}
        Answer::LookAgain { why } => tracing::warn!(%vm, why, "the mark of the upgrade stays on the VM"),
    }
    Ok(())
}

/// How its VM was left, for the day when it is to be started again: what is different then is its user's doing. What was
/// written down with the stop stays; only the generation goes on, because controllers write the spec when a guest ends.
///
/// # Errors
/// As [`perform`].
pub async fn record_as_left(run: &mut Run, line: &LedgerLine) -> Result<(), StepError> {
    let vm = &line.entry.vm;
    let state = vm_state::read(&run.cluster.client, vm, &run.plan.upgrade_uid).await?;
    let Some(state) = state.filter(|state| !line.entry.left_off && state.now.uid == line.entry.vm_uid) else {
        return Ok(());
    };
    let now = state.as_left();
    let as_left = match &line.as_left {
        Some(with_the_stop) => AsLeft { generation: now.generation, ..with_the_stop.clone() },
        None => now,
    };
    Ok(run.record(Record::VmAsLeft { vm: vm.clone(), as_left })?)
}

/// After a crash, or when the instance shows no sign of its stop: asks again, but only where nobody has heard the first.
///
/// # Errors
/// As [`perform`].
pub async fn ask_stop_again(run: &mut Run, vm: &VmKey) -> Result<Said, StepError> {
    let Some(vmi) = vms::instance(&run.cluster.client, vm).await? else { return Ok(Said::Nothing) };
    let line = run.journal.progress().ledger().line(vm);
    let uid = line.map(|line| line.entry.vmi_uid.clone());
    let node = vmi.status.as_ref().and_then(|status| status.node_name.as_ref());
    // Made anew, or moved away: the watch will show it, and it is none of those that are to go.
    if vmi.metadata.uid != uid || node != Some(&run.plan.node_name) {
        return Ok(Said::Nothing);
    }
    let heard = vms::stop_was_heard(&run.cluster.client, &vmi).await?;
    if heard && !mutation::is_on(Mutation::RepeatTheStop) {
        return Ok(Said::Nothing);
    }
    ask_stop(run, vm).await
}

/// Sends the stop. Any answer about the VM is fine here: whether it goes is seen by the watch, with a deadline.
///
/// # Errors
/// As [`perform`].
pub async fn request_stop(run: &mut Run, vm: &VmKey, grace_seconds: Option<u32>) -> Result<Said, StepError> {
    Ok(vms::stop(&run.cluster.client, vm, grace_seconds).await?.into())
}

/// The VM is not on the node any more: where did it go?
async fn record_gone(run: &mut Run, vm: VmKey, last_end: Option<bool>) -> Result<(), StepError> {
    let Some(line) = run.journal.progress().ledger().line(&vm).cloned() else {
        return Ok(());
    };
    let now = vms::instance(&run.cluster.client, &vm).await?;
    let node = now.as_ref().and_then(|vmi| vmi.status.as_ref()).and_then(|status| status.node_name.clone());
    // An instance that has ended is no guest any more, however long its object stays.
    let same = now.as_ref().is_some_and(|vmi| {
        vmi.metadata.uid.as_deref() == Some(&line.entry.vmi_uid) && vms::ended(vmi).is_none()
    });
    let on_this_node = node.as_deref() == Some(run.plan.node_name.as_str());
    let record = match line.fate {
        // The watch lags behind the object: not gone after all.
        _ if same && on_this_node => return Ok(()),
        Fate::Stopping { forced, .. } => {
            // It was told to stop and moved instead: a migration that was under way won.
            if let Some(vmi) = now.filter(|_| same) {
                let heard = vms::stop_was_heard(&run.cluster.client, &vmi).await?;
                return match node {
                    Some(to) if !heard && !forced => {
                        unmark(run, &line).await?;
                        Ok(run.record(Record::VmMigrated { vm, to })?)
                    }
                    Some(_) | None => Ok(()),
                };
            }
            record_as_left(run, &line).await?;
            let graceful = if forced { Some(false) } else { last_end };
            Record::VmStopped { vm, graceful }
        }
        Fate::Here | Fate::Migrating { .. } => match (same, node) {
            (true, Some(to)) => Record::VmMigrated { vm, to },
            (true, None) => return Ok(()),
            // Our own migration has cost it its guest: that is as if we had shut it down.
            (false, _) if last_end == Some(false) && matches!(line.fate, Fate::Migrating { .. }) => {
                run.record(Record::StopIntent { vm: vm.clone() })?;
                record_as_left(run, &line).await?;
                Record::VmStopped { vm, graceful: Some(false) }
            }
            (false, _) => {
                let reason = "its guest ended, or it was stopped, by somebody else".to_owned();
                Record::VmLeft { vm, reason }
            }
        },
        Fate::Migrated { .. }
        | Fate::ShutDown { .. }
        | Fate::Left { .. }
        | Fate::Restoring { .. }
        | Fate::Restored { .. }
        | Fate::Struck { .. } => return Ok(()),
    };
    Ok(run.record(record)?)
}
