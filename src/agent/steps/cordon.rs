//! Cordon: no new VM arrives. What was there before, and who is on the node, is recorded first.

use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::agent::steps::ledger;
use crate::cluster::ClusterError;
use crate::cluster::beside::{self, Beside};
use crate::cluster::brief::BriefNode;
use crate::cluster::nodes::{self, Closing};
use crate::flow::record::Record;

/// Cordons and taints the node; one beside which no other is open is closed by taints alone.
///
/// # Errors
/// Retries while the API is away, and while the only other nodes are being upgraded; needs an operator when the node is gone.
pub async fn cordon_node(run: &mut Run) -> Result<(), StepError> {
    let client = run.cluster.client.clone();
    let Some(node) = nodes::get(&client, &run.plan.node_name).await? else {
        let what = format!("node {} is gone from the cluster; cancel the upgrade", run.plan.node_name);
        return Err(StepError::operator(what));
    };
    if run.journal.progress().cordon_before().is_none() {
        let (was_cordoned, was_tainted) = (nodes::is_cordoned(&node), nodes::drain_taint(&node).is_some());
        run.record(Record::CordonIntent { was_cordoned, was_tainted })?;
    }
    // The taint alone makes KubeVirt move VMs: who is here is written down before it is set.
    ledger::write_first(run).await?;
    let held: Vec<String> = run.journal.progress().ledger().on_node().filter_map(ledger::held).collect();
    if !held.is_empty() {
        return Err(StepError::operator(format!("the node is left open: {}", held.join(". "))));
    }
    // An attempt before this one may have closed it.
    if !nodes::is_closed_for(&node, &run.plan.upgrade_uid) {
        close(run, &node).await?;
    }
    Ok(run.record(Record::Cordoned)?)
}

/// By a cordon where another node takes its pods, else by a taint; not at all while the others are being upgraded.
async fn close(run: &Run, node: &BriefNode) -> Result<(), StepError> {
    let (client, name) = (&run.cluster.client, &run.plan.node_name);
    let beside = beside::look(client, name).await?;
    if let Some((why, fix)) = beside.objection(name) {
        return Err(StepError::retry(format!("{why}; {fix}")));
    }
    let closing = match beside {
        Beside::Open(_) => Closing::Cordon,
        Beside::InUpgrade { .. } | Beside::Nobody => Closing::Taint,
    };
    match nodes::close(client, node, closing, &run.plan.upgrade_uid).await {
        // Harvester sees it before we do when the other node has just been closed: the next look tells.
        Err(error @ ClusterError::Rejected { .. }) if closing == Closing::Cordon => {
            Err(StepError::retry(chain(&error)))
        }
        closed => Ok(closed?),
    }
}
