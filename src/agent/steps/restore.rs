//! Restore: exactly the VMs that are owed are started again; what their users did meanwhile is respected.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use kube::api::Api;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use tokio::time::{Instant, timeout_at};

use crate::agent::run::Run;
use crate::agent::step_error::{Reaction, StepError, chain};
use crate::cluster::crd::kubevirt::VirtualMachineInstance;
use crate::cluster::vms::{self, Answer};
use crate::cluster::{ClusterError, nodes, places};
use crate::flow::record::Record;
use crate::flow::report::Blocker;
use crate::flow::restore;
use crate::flow::vms::{Fate, LedgerLine, VmKey};

/// VMs being started at the same time.
const AT_ONCE: usize = 8;
/// How long one VM may take from its start to running, with its devices' plugins coming back first.
const VM_DEADLINE: Duration = Duration::from_mins(15);
/// Device plugins and the queue of `KubeVirt` have no watch that says "ready": asked again this often.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The longest pause between two looks at a node that is not ready.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One try.
enum Tried {
    Fared(Fared),
    NotYet(String),
    /// Its node is not ready for it; the VM itself need not be looked at before it is.
    NoGround(String),
}

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
    let mut waiting = restore::start_order(run.journal.progress().ledger().owed()).into_iter();
    let mut starting = FuturesUnordered::new();
    let mut failed = Vec::new();
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
            let (client, node) = (run.cluster.client.clone(), run.plan.node_name.clone());
            starting.push(async move {
                let vm = line.entry.vm.clone();
                let fared = bring_back(&client, &node, &line).await;
                (vm, fared)
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

/// A VM that was being stopped when the run was called off: is it off by now? `false` when it never was stopped.
async fn settle_stop(run: &mut Run, line: &LedgerLine) -> Result<bool, StepError> {
    let vm = &line.entry.vm;
    let client = run.cluster.client.clone();
    let is_old = |vmi: &VirtualMachineInstance| vmi.uid().as_deref() == Some(&line.entry.vmi_uid);
    if let Some(vmi) = vms::instance(&client, vm).await?.filter(is_old)
        && !vms::stop_was_heard(&client, &vmi).await?
    {
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

/// One VM, from "is it still ours to start?" to "it runs", or to its deadline with the last reason why not.
async fn bring_back(client: &Client, node: &str, line: &LedgerLine) -> Fared {
    let deadline = Instant::now() + VM_DEADLINE;
    let mut waits_for = "it was started and does not run".to_owned();
    loop {
        match timeout_at(deadline, try_bring_back(client, node, line)).await {
            Ok(Ok(Tried::Fared(fared))) => return fared,
            Ok(Ok(Tried::NotYet(why))) => waits_for = why,
            Ok(Ok(Tried::NoGround(why))) if Instant::now() < deadline => {
                waits_for = why;
                wait_for_ground(client, node, line, deadline, &mut waits_for).await;
                continue;
            }
            Ok(Err(error)) if error.is_passing() => waits_for = chain(&error),
            Ok(Err(error)) => return Fared::Failed(chain(&error)),
            Ok(Ok(Tried::NoGround(_))) | Err(_) => {
                let minutes = VM_DEADLINE.as_secs() / 60;
                return Fared::Failed(format!("it did not run within {minutes} min; last seen: {waits_for}"));
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn try_bring_back(client: &Client, node: &str, line: &LedgerLine) -> Result<Tried, ClusterError> {
    let key = &line.entry.vm;
    let Some(vm) = vms::vm(client, key).await? else {
        return Ok(Tried::Fared(Fared::Struck("it was deleted meanwhile".to_owned())));
    };
    if vm.uid() != line.entry.vm_uid || vm.metadata.deletion_timestamp.is_some() {
        return Ok(Tried::Fared(Fared::Struck(
            "it was deleted, or deleted and made anew, meanwhile".to_owned(),
        )));
    }
    if let Some(vmi) = vms::instance(client, key).await? {
        // The old instance may still be on its way out; a new one means that somebody, or we, started it.
        if vmi.uid().as_deref() == Some(&line.entry.vmi_uid) {
            return Ok(Tried::NotYet("its old instance is still ending".to_owned()));
        }
        return wait_running(client, key).await;
    }
    let recorded = line.entry.run_strategy.as_deref();
    let present = vm.spec.effective_strategy();
    if present == Some("Halted") && !matches!(recorded, Some("Always" | "Once")) {
        return Ok(Tried::Fared(Fared::Struck("its user halted it meanwhile".to_owned())));
    }
    if let Some(why) = not_ready(client, node, line).await? {
        return Ok(Tried::NoGround(why));
    }
    match (recorded, present, vm.spec.run_strategy.is_some()) {
        // A stop turns Always and Once into Halted, and a start would make Always of both: write back what was there.
        (Some(strategy @ ("Always" | "Once")), Some("Halted"), true) => {
            vms::set_run_strategy(client, key, "Halted", strategy).await?;
        }
        _ => match vms::start(client, key).await? {
            Answer::Accepted => {}
            Answer::NoSuchVm => return Ok(Tried::NotYet("virt-api does not know it".to_owned())),
            // Running already, or its stop is still queued: the next look tells.
            Answer::LookAgain { why } => return Ok(Tried::NotYet(format!("virt-api says: {why}"))),
        },
    }
    wait_running(client, key).await
}

/// Looks at the node alone until it is ready, cannot be read, or time is up. What is asked then tells more.
async fn wait_for_ground(
    client: &Client,
    node: &str,
    line: &LedgerLine,
    deadline: Instant,
    waits_for: &mut String,
) {
    let mut pause = ASK_AGAIN;
    while Instant::now() < deadline {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        match timeout_at(deadline, not_ready(client, node, line)).await {
            Ok(Ok(Some(why))) => *waits_for = why,
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        }
    }
}

/// What is missing for a start; pods are read only for a VM with devices, which others may hold.
async fn not_ready(client: &Client, name: &str, line: &LedgerLine) -> Result<Option<String>, ClusterError> {
    let mut ground = nodes::get(client, name).await?.as_ref().map(places::ground);
    if let (Some(ground), false) = (&mut ground, line.entry.devices.is_empty()) {
        for (resource, amount) in places::pods_on(client, name).await?.into_iter().flat_map(|pod| pod.asks) {
            *ground.taken.entry(resource).or_insert(0) += amount;
        }
    }
    Ok(restore::missing(&line.entry, name, ground.as_ref()))
}

async fn wait_running(client: &Client, key: &VmKey) -> Result<Tried, ClusterError> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), &key.namespace);
    let settled = |vmi: Option<&VirtualMachineInstance>| {
        vmi.is_some_and(|vmi| phase(vmi) == "Running" || vms::ended(vmi).is_some())
    };
    match await_condition(api, &key.name, settled).await {
        Ok(Some(vmi)) if phase(&vmi) == "Running" => {
            let node = vmi.status.and_then(|status| status.node_name).unwrap_or_default();
            Ok(Tried::Fared(Fared::Running(node)))
        }
        // KubeVirt tries again by itself under most strategies; the deadline ends this.
        Ok(_) => Ok(Tried::NotYet("it was started and ended at once; its events say why".to_owned())),
        Err(error) => Err(ClusterError::NoAnswer { what: format!("watch VM {key} start ({error})") }),
    }
}

fn phase(vmi: &VirtualMachineInstance) -> &str {
    vmi.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}
