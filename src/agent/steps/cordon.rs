//! Cordon: no new VM arrives. What was there before, and who is on the node, is recorded first.

use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::agent::steps::ledger;
use crate::cluster::beside;
use crate::cluster::nodes::{self, Closing};
use crate::flow::record::Record;

/// Cordons and taints the node; one beside which no other is open is closed by taints alone.
///
/// # Errors
/// Retries while the API is away; needs an operator when the node is gone.
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
    let elsewhere = beside::open_node(&client, &run.plan.node_name).await?;
    let closing = if elsewhere.is_some() { Closing::Cordon } else { Closing::Taint };
    nodes::close(&client, &node, closing, &run.plan.upgrade_uid).await?;
    Ok(run.record(Record::Cordoned)?)
}
