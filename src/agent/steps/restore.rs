//! Restore: exactly the VMs that are owed are started again; what their users did meanwhile is respected.

use std::pin::pin;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::wait::await_condition;

use crate::agent::run::Run;
use crate::agent::step_error::{Reaction, StepError};
use crate::agent::steps::bring_back::{Fared, Return, VM_DEADLINE};
use crate::agent::steps::node_watch::NodeWatch;
use crate::agent::steps::premises::Premises;
use crate::agent::steps::{ledger, vm_actions};
use crate::cluster::crd::kubevirt::VirtualMachineInstance;
use crate::cluster::vms;
use crate::flow::record::Record;
use crate::flow::report::Blocker;
use crate::flow::restore;
use crate::flow::vms::{Fate, LedgerLine};
use crate::mutation::{self, Mutation};

/// VMs being started at the same time.
const AT_ONCE: usize = 8;

/// Starts the owed VMs, several at once; one that does not come up does not delay the others.
///
/// # Errors
/// Needs an operator for VMs that do not come up, each named with its reason; interrupted when told to stop.
pub async fn start_owed_vms(run: &mut Run) -> Result<(), StepError> {
    // Harvester's own job may read the list from now on: whoever has shortened it meanwhile is put right.
    if run.journal.progress().ledger().owed().next().is_some() {
        ledger::sync_list(run).await?;
    }
    let (client, uid) = (run.cluster.client.clone(), run.plan.upgrade_uid.clone());
    let node = run.plan.node_name.clone();
    let premises = Premises::new(run.cluster.clone(), node.clone());
    let watch = NodeWatch::new();
    let mut following = pin!(watch.follow(client.clone(), &node));
    let mut waiting = restore::start_order(run.journal.progress().ledger().owed()).into_iter();
    let mut starting = FuturesUnordered::new();
    let (mut failed, mut not_up) = (Vec::new(), Vec::new());
    let begun = run.now();
    loop {
        while starting.len() < AT_ONCE {
            let Some(line) = waiting.next() else { break };
            // Cancelled while its guest was still going down: first it has to be off.
            if matches!(line.fate, Fate::Stopping { .. }) {
                match settle_stop(run, &line).await {
                    Ok(true) => {}
                    Ok(false) => continue,
                    // One that does not go off does not keep the others off.
                    Err(error) if error.reaction == Reaction::AskOperator => {
                        failed.push(error.sentence());
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            run.record(Record::RestoreIntent { vm: line.entry.vm.clone() })?;
            let line = run.journal.progress().ledger().line(&line.entry.vm).cloned().unwrap_or(line);
            let (client, uid, premises, watch) = (&client, &uid, &premises, &watch);
            starting.push(async move {
                let one = Return { client, upgrade_uid: uid, premises, watch, line: &line };
                let fared = one.bring_back().await;
                (line.entry.vm.clone(), fared)
            });
        }
        run.publish_blockers(blockers(run, begun));
        let (vm, fared) = tokio::select! {
            biased;
            // Cancel-safe: what is under way is asked for again after the next start, and found done.
            () = run.shutdown.cancelled() => return Err(StepError::interrupted()),
            ended = starting.next() => match ended {
                Some(ended) => ended,
                None => break,
            },
            () = &mut following => continue,
        };
        match fared {
            Fared::Running(node) => run.record(Record::VmRestored { vm, node })?,
            Fared::Struck(reason) => run.record(Record::VmStruck { vm, reason })?,
            Fared::Failed(reason) if mutation::is_on(Mutation::StrikeWhatDoesNotStart) => {
                run.record(Record::VmStruck { vm, reason })?;
            }
            Fared::Failed(why) => not_up.push((vm, why)),
        }
    }
    failed.extend(restore::not_up(&not_up));
    if failed.is_empty() {
        Ok(())
    } else {
        Err(StepError::operator(format!("{}; start it by hand or mend that, then resume", failed.join(". "))))
    }
}

fn blockers(run: &Run, begun: jiff::Timestamp) -> Vec<Blocker> {
    let owed = run.journal.progress().ledger().owed();
    owed.map(|line| Blocker {
        what: format!("VM {} is being started again", line.entry.vm),
        since: begun,
        owner: "nobody has to act yet".to_owned(),
        deadline: Some(begun + VM_DEADLINE),
        then: "hold".to_owned(),
    })
    .collect()
}

/// A VM that was being stopped when the run was called off: is it off by now? `false` when it never was stopped.
async fn settle_stop(run: &mut Run, line: &LedgerLine) -> Result<bool, StepError> {
    let vm = &line.entry.vm;
    let client = run.cluster.client.clone();
    let is_old = |vmi: &VirtualMachineInstance| vmi.uid().as_deref() == Some(&line.entry.vmi_uid);
    if let Some(vmi) = vms::instance(&client, vm).await?.filter(is_old)
        && !vms::stop_was_heard(&client, &vmi).await?
    {
        vm_actions::unmark(run, line).await?;
        let reason = "its shutdown was never asked for; it runs on".to_owned();
        run.record(Record::VmStruck { vm: vm.clone(), reason })?;
        return Ok(false);
    }
    let grace = run.plan.evacuation.guest_shutdown(line.entry.grace_seconds) + Duration::from_mins(1);
    let api: Api<VirtualMachineInstance> = Api::namespaced(client, &vm.namespace);
    let gone =
        await_condition(api, &vm.name, |vmi: Option<&VirtualMachineInstance>| !vmi.is_some_and(is_old));
    match tokio::time::timeout(grace, gone).await {
        Ok(Ok(_)) => {
            vm_actions::record_as_left(run, line).await?;
            run.record(Record::VmStopped { vm: vm.clone(), graceful: None })?;
            Ok(true)
        }
        Ok(Err(error)) => Err(StepError::retry(format!("could not watch VM {vm}: {error}"))),
        Err(_) => {
            let what = format!("VM {vm} was told to shut down and does not; look at its guest, then resume");
            Err(StepError::operator(what))
        }
    }
}
