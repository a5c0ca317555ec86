//! Restore: exactly the VMs that are owed are started again; what their users did meanwhile is respected.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use kube::api::Api;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};

use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::cluster::crd::kubevirt::VirtualMachineInstance;
use crate::cluster::vms::{self, Answer};
use crate::cluster::{ClusterError, nodes};
use crate::flow::record::Record;
use crate::flow::report::Blocker;
use crate::flow::vms::{Fate, LedgerLine, VmKey};

/// VMs being started at the same time.
const AT_ONCE: usize = 8;
/// How long one VM may take from its start to running, with its devices' plugins coming back first.
const VM_DEADLINE: Duration = Duration::from_mins(15);
/// Device plugins and the queue of `KubeVirt` have no watch that says "ready": asked again this often.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What became of one VM.
enum Fared {
    Running(String),
    Struck(String),
    Failed(String),
}

/// Starts the owed VMs, several at once; one that does not come up does not delay the others.
///
/// # Errors
/// Needs an operator for VMs that do not come up, each named with its reason; interrupted when told to stop.
pub async fn start_owed_vms(run: &mut Run) -> Result<(), StepError> {
    let mut waiting: Vec<LedgerLine> = run.journal.progress().ledger().owed().cloned().collect();
    waiting.reverse();
    let mut starting = FuturesUnordered::new();
    let mut failed = Vec::new();
    let begun = run.now();
    loop {
        while starting.len() < AT_ONCE {
            let Some(line) = waiting.pop() else { break };
            // Cancelled while its guest was still going down: first it has to be off.
            if let Fate::Stopping { .. } = line.fate {
                settle_stop(run, &line).await?;
            }
            run.record(Record::RestoreIntent { vm: line.entry.vm.clone() })?;
            let (client, node) = (run.cluster.client.clone(), run.plan.node_name.clone());
            starting.push(async move {
                let vm = line.entry.vm.clone();
                if let Ok(fared) = tokio::time::timeout(VM_DEADLINE, bring_back(&client, &node, &line)).await
                {
                    (vm, fared)
                } else {
                    let why =
                        format!("it did not run within {} min of its start", VM_DEADLINE.as_secs() / 60);
                    (vm, Fared::Failed(why))
                }
            });
        }
        run.publish_blockers(blockers(run, begun));
        let (vm, fared) = tokio::select! {
            // Cancel-safe: what is under way is asked for again after the next start, and found done.
            () = run.shutdown.cancelled() => return Err(StepError::interrupted()),
            ended = starting.next() => match ended {
                Some(ended) => ended,
                None => break,
            },
        };
        match fared {
            Fared::Running(node) => run.record(Record::VmRestored { vm, node })?,
            Fared::Struck(reason) => run.record(Record::VmStruck { vm, reason })?,
            Fared::Failed(why) => failed.push(format!("VM {vm} is owed a start: {why}")),
        }
    }
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

async fn settle_stop(run: &mut Run, line: &LedgerLine) -> Result<(), StepError> {
    let vm = &line.entry.vm;
    let grace = run.plan.evacuation.guest_shutdown(line.entry.grace_seconds) + Duration::from_mins(1);
    let api: Api<VirtualMachineInstance> = Api::namespaced(run.cluster.client.clone(), &vm.namespace);
    let uid = line.entry.vmi_uid.clone();
    let gone = await_condition(api, &vm.name, move |vmi: Option<&VirtualMachineInstance>| {
        vmi.is_none_or(|vmi| vmi.uid().as_deref() != Some(&uid))
    });
    match tokio::time::timeout(grace, gone).await {
        Ok(Ok(_)) => Ok(run.record(Record::VmStopped { vm: vm.clone(), graceful: None })?),
        Ok(Err(error)) => Err(StepError::retry(format!("could not watch VM {vm}: {error}"))),
        Err(_) => Err(StepError::operator(format!(
            "VM {vm} was told to shut down and does not; look at its guest, then resume"
        ))),
    }
}

/// One VM, from "is it still ours to start?" to "it runs". Passing errors are retried inside; the caller has the deadline.
async fn bring_back(client: &Client, node: &str, line: &LedgerLine) -> Fared {
    loop {
        match try_bring_back(client, node, line).await {
            Ok(Some(fared)) => return fared,
            Ok(None) => {}
            Err(error) if error.is_passing() => {
                tracing::debug!(vm = %line.entry.vm, error = chain(&error), "asking again");
            }
            Err(error) => return Fared::Failed(chain(&error)),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn try_bring_back(
    client: &Client,
    node: &str,
    line: &LedgerLine,
) -> Result<Option<Fared>, ClusterError> {
    let key = &line.entry.vm;
    let Some(vm) = vms::vm(client, key).await? else {
        return Ok(Some(Fared::Struck("it was deleted meanwhile".to_owned())));
    };
    if vm.uid() != line.entry.vm_uid || vm.metadata.deletion_timestamp.is_some() {
        return Ok(Some(Fared::Struck("it was deleted, or deleted and made anew, meanwhile".to_owned())));
    }
    if let Some(vmi) = vms::instance(client, key).await? {
        // The old instance may still be on its way out; a new one means that somebody, or we, started it.
        if vmi.uid().as_deref() == Some(&line.entry.vmi_uid) {
            return Ok(None);
        }
        return wait_running(client, key).await.map(Some);
    }
    let recorded = line.entry.run_strategy.as_deref();
    let present = vm.spec.effective_strategy();
    if present == Some("Halted") && !matches!(recorded, Some("Always" | "Once")) {
        return Ok(Some(Fared::Struck("its user halted it meanwhile".to_owned())));
    }
    if !devices_back(client, node, line).await? {
        return Ok(None);
    }
    match (recorded, present, vm.spec.run_strategy.is_some()) {
        // A stop turns Always and Once into Halted, and a start would make Always of both: write back what was there.
        (Some(strategy @ ("Always" | "Once")), Some("Halted"), true) => {
            vms::set_run_strategy(client, key, "Halted", strategy).await?;
        }
        _ => match vms::start(client, key).await? {
            Answer::Accepted => {}
            Answer::NoSuchVm => return Ok(None),
            // Running already, or its stop is still queued: the next look tells.
            Answer::LookAgain { why } => {
                tracing::info!(vm = %key, why, "virt-api would not start the VM; looking again");
                return Ok(None);
            }
        },
    }
    wait_running(client, key).await.map(Some)
}

/// The devices' plugins have to offer them again, else the launcher dies at admission (reference `kubevirt.md` §6.3).
async fn devices_back(client: &Client, node: &str, line: &LedgerLine) -> Result<bool, ClusterError> {
    if line.entry.devices.is_empty() {
        return Ok(true);
    }
    let Some(node) = nodes::get(client, node).await? else {
        return Ok(false);
    };
    let ready = nodes::is_ready(&node) && !nodes::is_cordoned(&node);
    Ok(ready && line.entry.devices.iter().all(|device| nodes::allocatable(&node, device) > 0))
}

async fn wait_running(client: &Client, key: &VmKey) -> Result<Fared, ClusterError> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), &key.namespace);
    let settled = |vmi: Option<&VirtualMachineInstance>| {
        vmi.is_some_and(|vmi| phase(vmi) == "Running" || vms::ended(vmi).is_some())
    };
    match await_condition(api, &key.name, settled).await {
        Ok(Some(vmi)) if phase(&vmi) == "Running" => {
            let node = vmi.status.and_then(|status| status.node_name).unwrap_or_default();
            Ok(Fared::Running(node))
        }
        Ok(_) => Ok(Fared::Failed("it was started and ended at once; look at its events".to_owned())),
        Err(error) => Err(ClusterError::NoAnswer { what: format!("watch VM {key} start ({error})") }),
    }
}

fn phase(vmi: &VirtualMachineInstance) -> &str {
    vmi.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}
