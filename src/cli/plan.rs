//! `plan`: what would be done, to whom, and why; changes nothing.

use anyhow::anyhow;
use serde_json::json;

use crate::agent::narrate::table;
use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure, Output, PlanSource, source};
use crate::cluster::{Cluster, ClusterError, nodes, vms};
use crate::config::Config;
use crate::flow::classify;
use crate::flow::plan::NodePlan;
use crate::flow::step::Step;
use crate::flow::vms::{Verdict, VmEntry};

/// Prints the steps and what each VM of the node is in for; exit code 4 when a VM would hold the node.
///
/// # Errors
/// [`Failure`] when there is no plan, or the VMs cannot be read.
pub async fn print(
    config: &Config,
    from: &PlanSource,
    explain: bool,
    output: Output,
    terminal: &Terminal,
) -> Result<Exit, Failure> {
    let plan = source::plan(config, from).await?;
    let cluster = source::cluster(config).await?;
    let known = nodes::get(&cluster.client, &plan.node_name).await.map_err(Failure::refused)?;
    if known.is_none() {
        let node = &plan.node_name;
        return Err(Failure::refused(anyhow!(
            "the cluster has no node {node}; `kubectl get nodes` lists them"
        )));
    }
    let mut entries = read_entries(&cluster, &plan).await.map_err(Failure::refused)?;
    entries.sort_by(|one, other| one.vm.cmp(&other.vm));
    let holds = entries.iter().filter(|entry| matches!(entry.verdict, Verdict::Hold { .. })).count();
    match output {
        Output::Json => {
            let steps = Step::WALK.map(|step| {
                json!({ "step": step, "does": step.explain(), "deadlineSeconds": step.deadline(&plan).as_secs() })
            });
            let text = json!({ "plan": plan, "steps": steps, "vms": entries });
            terminal.line(&serde_json::to_string_pretty(&text).map_err(Failure::failed)?);
        }
        Output::Table => {
            terminal.line(&format!("{plan}\n"));
            for (count, step) in (1..).zip(Step::WALK) {
                let minutes = step.deadline(&plan).as_secs() / 60;
                terminal.line(&if explain {
                    format!(
                        "{count:>2}. {:<10} {} (holds after {minutes} min)",
                        step.to_string(),
                        step.explain()
                    )
                } else {
                    format!("{count:>2}. {step}")
                });
            }
            terminal.line(&format!("\n{}", table(&rows(&entries)).trim_end()));
        }
    }
    Ok(if holds == 0 { Exit::Done } else { Exit::Operator })
}

async fn read_entries(cluster: &Cluster, plan: &NodePlan) -> Result<Vec<VmEntry>, ClusterError> {
    let targets = nodes::count_targets(&cluster.client, &plan.node_name).await?;
    let mut entries = Vec::new();
    for vmi in vms::instances_on(&cluster.client, &plan.node_name).await? {
        let facts = vms::facts(&cluster.client, &vmi).await?;
        entries.push(classify::enter(&facts, &plan.evacuation, targets));
    }
    Ok(entries)
}

fn rows(entries: &[VmEntry]) -> Vec<[String; 3]> {
    let header = ["VM", "WOULD BE", "WHY"].map(str::to_owned);
    let row = |entry: &VmEntry| {
        let (what, why) = match &entry.verdict {
            Verdict::Migrate => ("live-migrated", "KubeVirt says that it can move"),
            Verdict::ShutDown { why } => ("shut down and started again", why.as_str()),
            Verdict::Leaving => ("waited for", "it is going away already"),
            Verdict::Hold { why } => ("LEFT ALONE, the node holds", why.as_str()),
        };
        [entry.vm.to_string(), what.to_owned(), why.to_owned()]
    };
    std::iter::once(header).chain(entries.iter().map(row)).collect()
}
