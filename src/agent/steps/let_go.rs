//! What must not go on when a run stops waiting: our own migrations are aborted and their end is awaited, and VMs whose
//! eviction had come to nothing lose its mark. Stops no VM.

use std::time::Duration;

use kube::ResourceExt;

use crate::agent::run::Run;
use crate::agent::step_error::{Reaction, StepError, chain};
use crate::cluster::{ClusterError, migrations, vms};
use crate::flow::record::Record;
use crate::flow::vms::{Fate, VmKey};

/// How long the end of an abort is waited for.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks whether it has ended: at first, then twice as long each time.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// The longest pause between two looks.
const LONGEST_LOOK: Duration = Duration::from_secs(15);

/// Aborts what this upgrade has asked for and has not ended; gives the names of those that did not end in time.
///
/// # Errors
/// Retries while the API is away.
pub async fn abort_migrations(run: &mut Run, why: &str) -> Result<Vec<String>, StepError> {
    let is_moving = run.journal.progress().ledger().on_node().any(|line| migrates(&line.fate));
    if !is_moving {
        return Ok(Vec::new());
    }
    let (mut waited, mut pause) = (Duration::ZERO, FIRST_LOOK);
    loop {
        let unfinished =
            migrations::unfinished_of_upgrade(&run.cluster.client, &run.plan.upgrade_uid).await?;
        let mut left = Vec::new();
        for migration in unfinished {
            let (vm, name) = (migrations::vm_of(&migration), migration.name_any());
            let line = run.journal.progress().ledger().line(&vm);
            // Other nodes' agents move VMs for the same upgrade.
            if !line.is_some_and(|line| migrates(&line.fate)) {
                continue;
            }
            if migration.metadata.deletion_timestamp.is_none() {
                let uid = migration.uid().unwrap_or_default();
                let own = Some(uid.clone());
                let (migration, why) = (name.clone(), why.to_owned());
                run.record(Record::AbortIntent { vm: vm.clone(), migration, uid: own, ours: true, why })?;
                migrations::abort(&run.cluster.client, &vm, &name, &uid).await?;
            }
            left.push(format!("{name} of VM {vm}"));
        }
        if left.is_empty() || waited >= PATIENCE {
            return Ok(left);
        }
        run.pause(pause).await?;
        waited += pause;
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}

/// Where an eviction by somebody else had come to nothing and was aborted, `KubeVirt` would begin it again and again.
pub async fn unmark_evictions(run: &Run) {
    let ledger = run.journal.progress().ledger();
    let stuck =
        ledger.on_node().filter(|line| ledger.trail(&line.entry.vm).is_some_and(|trail| trail.foreign_abort));
    for line in stuck {
        let vm = &line.entry.vm;
        if let Err(error) = unmark(run, vm).await {
            let error = chain(&error);
            tracing::warn!(%vm, error, "the mark of its eviction stays; cancel it when the drain taint is off");
        }
    }
}

async fn unmark(run: &Run, vm: &VmKey) -> Result<(), ClusterError> {
    let client = &run.cluster.client;
    let node = &run.plan.node_name;
    let marked = vms::instance(client, vm).await?.and_then(|vmi| vmi.status?.evacuation_node_name);
    if marked.as_ref() == Some(node) {
        migrations::cancel_evacuation(client, vm, node).await?;
    }
    Ok(())
}

/// Before a hold: nothing of ours goes on behind the back of the operator who is asked. What could not be ended is said with
/// the reason of the hold.
pub async fn before_hold(run: &mut Run, error: StepError) -> StepError {
    match error.reaction {
        Reaction::Retry | Reaction::AskOperator | Reaction::Refuse => {}
        Reaction::Interrupted | Reaction::Fatal => return error,
    }
    let goes_on = what_goes_on(run, "the run holds").await;
    unmark_evictions(run).await;
    match goes_on {
        Ok(None) => error,
        Ok(Some(left)) => StepError::operator(format!("{}. Besides, {left}", error.sentence())),
        Err(ended) => ended,
    }
}

/// Before a pause: the same, and in words what goes on all the same.
///
/// # Errors
/// Interrupted, or the journal cannot be written.
pub async fn before_pause(run: &mut Run) -> Result<String, StepError> {
    let goes_on = what_goes_on(run, "the run is paused").await?;
    let mut left = goes_on.map(|left| format!("; {left}")).unwrap_or_default();
    let ledger = run.journal.progress().ledger();
    let going = ledger.on_node().filter(|line| matches!(line.fate, Fate::Stopping { .. }));
    let going: Vec<String> = going.map(|line| line.entry.vm.to_string()).collect();
    if !going.is_empty() {
        left = format!("{left}; told to shut down already: {}", going.join(", "));
    }
    Ok(left)
}

/// Aborts our migrations; what of them could not be ended, in words.
///
/// # Errors
/// Interrupted, or the journal cannot be written: the next start goes on from here.
async fn what_goes_on(run: &mut Run, why: &str) -> Result<Option<String>, StepError> {
    match tokio::time::timeout(PATIENCE * 2, abort_migrations(run, why)).await {
        Ok(Ok(left)) if left.is_empty() => Ok(None),
        Ok(Ok(left)) => {
            Ok(Some(format!("these migrations were aborted and do not end: {}", left.join(", "))))
        }
        Ok(Err(failed)) if matches!(failed.reaction, Reaction::Fatal | Reaction::Interrupted) => Err(failed),
        Ok(Err(failed)) => {
            let why = failed.sentence();
            Ok(Some(format!("its migrations may go on, they could not be aborted ({why})")))
        }
        Err(_) => Ok(Some("its migrations may go on, the API did not answer".to_owned())),
    }
}

fn migrates(fate: &Fate) -> bool {
    matches!(fate, Fate::Migrating { .. })
}
