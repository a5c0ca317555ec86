//! Drain: the other pods leave through the eviction API, budgets respected. What is left is named, never ignored. Where no other
//! node takes them they stay: while Harvester's webhook waited for a place, every write to a node would be refused, also the
//! one that opens it again.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::Instant;

use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::cluster::beside::{self, Beside};
use crate::cluster::brief::BriefPod;
use crate::cluster::crd::kubevirt::LAUNCHER_SELECTOR;
use crate::cluster::evict::{self, Eviction};
use crate::cluster::nodes;
use crate::flow::record::Record;
use crate::flow::report::Blocker;

/// How long budgets and slow pods may hold the drain.
const DRAIN_DEADLINE: Duration = Duration::from_mins(10);
/// An eviction that a budget refuses is asked for again after this; the eviction API has no watch.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Evicts every pod that has to go and waits until they are gone.
///
/// # Errors
/// Needs an operator when pods are left at the deadline; each is named with its reason.
pub async fn evict_pods(run: &mut Run) -> Result<(), StepError> {
    let begun = run.now();
    let deadline = Instant::now() + DRAIN_DEADLINE;
    let mut evicted = BTreeSet::new();
    let mut stay = None;
    loop {
        let pods = evict::pods_on(&run.cluster.client, &run.plan.node_name).await?;
        let all: Vec<&BriefPod> = pods.iter().filter(|pod| evict::must_leave(pod)).collect();
        let mut others = all.iter().filter(|pod| !is_launcher(pod));
        // Before any of them is asked to leave: the other nodes may be closed, or go away, meanwhile.
        if others.any(|pod| stay.is_none() || pod.metadata.deletion_timestamp.is_none()) {
            let before = stay.replace(stay_here(run).await?);
            if stay == Some(true) && before != stay {
                tracing::info!(
                    "no other node could take the other pods: they stay, and run on while RKE2 restarts"
                );
            }
        }
        let left: Vec<&BriefPod> =
            all.into_iter().filter(|pod| stay != Some(true) || is_launcher(pod)).collect();
        if left.is_empty() {
            nodes_take_writes(run).await?;
            let count = u32::try_from(evicted.len()).unwrap_or(u32::MAX);
            return Ok(run.record(Record::Drained { evicted: count })?);
        }
        let mut reasons = Vec::new();
        for pod in left {
            let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
            if is_launcher(pod) {
                let refusal = format!("a VM came back during the drain: launcher pod {name}");
                run.record(Record::GateRefused { refusal: refusal.clone() })?;
                return Err(StepError::operator(format!(
                    "{refusal}; resume, and it is evacuated like the others"
                )));
            }
            if pod.metadata.deletion_timestamp.is_some() {
                reasons.push(format!("pod {name} is terminating"));
                continue;
            }
            match evict::evict(&run.cluster.client, pod).await? {
                Eviction::Accepted => {
                    evicted.insert(name.clone());
                    reasons.push(format!("pod {name} is terminating"));
                }
                Eviction::NotNow { why } => reasons.push(format!("pod {name}: {why}")),
            }
        }
        if Instant::now() >= deadline {
            let what = format!(
                "pods do not leave: {}; mend that or delete them by hand, then resume",
                reasons.join("; ")
            );
            return Err(StepError::operator(what));
        }
        let owner = "a budget's owner, if a pod stays".to_owned();
        let ends = begun + DRAIN_DEADLINE;
        let blockers = reasons.into_iter().map(|what| Blocker {
            what,
            since: begun,
            owner: owner.clone(),
            deadline: Some(ends),
            then: "hold".to_owned(),
        });
        run.publish_blockers(blockers.collect());
        run.pause(ASK_AGAIN).await?;
    }
}

/// Whether the other pods stay. A node that came after this one was closed by a taint changes nothing: Longhorn lets its pods
/// go only from a cordoned node.
async fn stay_here(run: &Run) -> Result<bool, StepError> {
    let (client, name) = (&run.cluster.client, &run.plan.node_name);
    let node = nodes::get(client, name).await?;
    let by_taint =
        node.is_some_and(|node| nodes::closed_taint(&node).is_some() && !nodes::is_cordoned(&node));
    Ok(by_taint || !matches!(beside::look(client, name).await?, Beside::Open(_)))
}

/// The pod of Harvester's webhook may have been among those that left. Without it nobody could open the node again, and a kubelet that is
/// new in the cluster could not report.
async fn nodes_take_writes(run: &Run) -> Result<(), StepError> {
    nodes::sign_again(&run.cluster.client, &run.plan.node_name, &run.plan.upgrade_uid).await.map_err(
        |error| {
            let what = format!(
                "the pods have left, and RKE2 is not touched while nobody can write to nodes: {}",
                chain(&error)
            );
            if error.is_passing() { StepError::retry(what) } else { StepError::operator(what) }
        },
    )
}

fn is_launcher(pod: &BriefPod) -> bool {
    LAUNCHER_SELECTOR
        .split_once('=')
        .is_some_and(|(key, value)| pod.labels().get(key).is_some_and(|found| found == value))
}
