//! Restore: exactly the VMs that are owed are started again; what their users did meanwhile is respected.

use std::pin::pin;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;

use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::agent::steps::bring_back::{Fared, Return, VM_DEADLINE};
use crate::agent::steps::node_watch::NodeWatch;
use crate::agent::steps::premises::Premises;
use crate::agent::steps::settle_stop::{Settled, settle_stop};
use crate::agent::steps::waits::Waits;
use crate::agent::steps::{ledger, vm_actions};
use crate::flow::record::Record;
use crate::flow::report::{Blocker, NOBODY};
use crate::flow::restore;
use crate::flow::step::Step;
use crate::flow::vms::{Fate, LedgerLine, VmKey};
use crate::mutation::{self, Mutation};

/// VMs being started at the same time.
const AT_ONCE: usize = 8;

/// What became of one VM, or of its last stop.
enum Done {
    Settled(Box<LedgerLine>, Settled),
    Fared(VmKey, Fared),
}

/// What all starts share.
struct Together {
    upgrade_uid: String,
    premises: Premises,
    watch: NodeWatch,
    turns: Semaphore,
    waits: Waits,
}

/// Starts the owed VMs, several at once; one that does not come up does not delay the others.
///
/// # Errors
/// Needs an operator for VMs that do not come up, each named with its reason; interrupted when told to stop.
pub async fn start_owed_vms(run: &mut Run) -> Result<(), StepError> {
    // Harvester's own job may read the list from now on: whoever has shortened it meanwhile is put right.
    if run.journal.progress().ledger().owed().next().is_some() {
        ledger::sync_list(run).await?;
    }
    let (client, node) = (run.cluster.client.clone(), run.plan.node_name.clone());
    let together = Together {
        upgrade_uid: run.plan.upgrade_uid.clone(),
        premises: Premises::new(run.cluster.clone(), node.clone()),
        watch: NodeWatch::new(),
        turns: Semaphore::new(AT_ONCE),
        waits: Waits::default(),
    };
    let mut following = pin!(together.watch.follow(client.clone(), &node));
    let mut all: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
    let (mut failed, mut not_up) = (Vec::new(), Vec::new());
    let begun = run.now();
    for line in restore::start_order(run.journal.progress().ledger().owed()) {
        // Cancelled while its guest was still going down: first it has to be off.
        if let Fate::Stopping { since, .. } = line.fate {
            let time = run.plan.evacuation.guest_shutdown(line.entry.grace_seconds) + Duration::from_mins(1);
            let (client, asked) = (client.clone(), run.now().duration_since(since));
            all.push(Box::pin(async move {
                let settled = settle_stop(&client, &line, asked, time).await;
                Done::Settled(Box::new(line), settled)
            }));
        } else {
            all.push(start(run, &together, &client, line)?);
        }
    }
    loop {
        run.publish_blockers(blockers(run, &together.waits, begun));
        let done = tokio::select! {
            biased;
            // Cancel-safe: what is under way is asked for again after the next start, and found done.
            () = run.shutdown.cancelled() => return Err(StepError::interrupted()),
            done = all.next() => match done {
                Some(done) => done,
                None => break,
            },
            () = together.waits.changed() => continue,
            () = &mut following => continue,
        };
        match done {
            Done::Settled(line, Settled::Off) => {
                vm_actions::record_as_left(run, &line).await?;
                run.record(Record::VmStopped { vm: line.entry.vm.clone(), graceful: None })?;
                let line = run.journal.progress().ledger().line(&line.entry.vm).cloned().unwrap_or(*line);
                all.push(start(run, &together, &client, line)?);
            }
            Done::Settled(line, Settled::RunsOn) => {
                vm_actions::unmark(run, &line).await?;
                let reason = "its shutdown was never heard; it runs on".to_owned();
                run.record(Record::VmStruck { vm: line.entry.vm, reason })?;
            }
            Done::Settled(_, Settled::Not(why)) => failed.push(why),
            Done::Fared(vm, Fared::Running(node)) => run.record(Record::VmRestored { vm, node })?,
            Done::Fared(vm, Fared::Struck(reason)) => run.record(Record::VmStruck { vm, reason })?,
            Done::Fared(vm, Fared::Failed(reason)) if mutation::is_on(Mutation::StrikeWhatDoesNotStart) => {
                run.record(Record::VmStruck { vm, reason })?;
            }
            Done::Fared(vm, Fared::Failed(why)) => not_up.push((vm, why)),
        }
    }
    failed.extend(restore::not_up(&not_up));
    if failed.is_empty() {
        Ok(())
    } else {
        Err(StepError::operator(format!("{}; start it by hand or mend that, then resume", failed.join(". "))))
    }
}

/// The intent, and what is done for that VM then.
fn start<'a>(
    run: &mut Run,
    together: &'a Together,
    client: &'a kube::Client,
    line: LedgerLine,
) -> Result<BoxFuture<'a, Done>, StepError> {
    let vm = line.entry.vm.clone();
    let asked = matches!(line.fate, Fate::Restoring { .. });
    if !asked {
        run.record(Record::RestoreIntent { vm: vm.clone() })?;
    }
    let line = run.journal.progress().ledger().line(&vm).cloned().unwrap_or(line);
    let Together { upgrade_uid, premises, watch, turns, waits } = together;
    let one = Return { client, upgrade_uid, premises, watch, turns, waits, line, asked };
    Ok(Box::pin(async move { Done::Fared(vm, Box::pin(one.bring_back()).await) }))
}

fn blockers(run: &Run, waits: &Waits, begun: Timestamp) -> Vec<Blocker> {
    let now = run.now();
    let one = |line: &LedgerLine| {
        let vm = &line.entry.vm;
        let (what, since, time) = match (waits.of(vm), &line.fate) {
            (Some((since, what)), _) => {
                let since = now - SignedDuration::try_from(since).unwrap_or_default();
                (format!("VM {vm} is to be started again: {what}"), since, VM_DEADLINE)
            }
            (None, Fate::Stopping { since, .. }) => {
                let what = format!("VM {vm} is still shutting down, and is started again then");
                let time = run.plan.evacuation.guest_shutdown(line.entry.grace_seconds);
                (what, *since, time + Duration::from_mins(1))
            }
            (None, _) => (
                format!("VM {vm} waits for its turn to be started again"),
                begun,
                Step::Restore.deadline(&run.plan),
            ),
        };
        let (owner, then) = (NOBODY.to_owned(), "hold".to_owned());
        Blocker { what, since, owner, deadline: Some(since + time), then }
    };
    run.journal.progress().ledger().owed().map(one).collect()
}
