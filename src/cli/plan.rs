//! `plan`: what would be done, to whom, and why; changes nothing.

use anyhow::anyhow;
use serde_json::json;

use crate::agent::narrate::table;
use crate::agent::placement::Surroundings;
use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure, Output, PlanSource, source};
use crate::cluster::{Cluster, ClusterError, nodes, vm_facts, vms};
use crate::config::Config;
use crate::flow::classify;
use crate::flow::placement::Proof;
use crate::flow::plan::{MigrationFailure, NodePlan};
use crate::flow::step::Step;
use crate::flow::trail::DEFAULT_GRACE_SECONDS;
use crate::flow::vms::{Verdict, VmEntry, VmKey};

/// Prints the steps and what each VM of the node is in for; exit code 4 when a VM would hold the node or has no place to go.
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
    let (mut entries, proof) = read_entries(&cluster, &plan).await.map_err(Failure::refused)?;
    entries.sort_by(|one, other| one.vm.cmp(&other.vm));
    let holds = entries.iter().filter(|entry| matches!(entry.verdict, Verdict::Hold { .. })).count();
    let tries = plan.evacuation.on_migration_failure;
    let holds = holds + if tries == MigrationFailure::Hold { proof.unplaced.len() } else { 0 };
    match output {
        Output::Json => {
            let steps = Step::WALK.map(|step| {
                json!({ "step": step, "does": step.explain(), "deadlineSeconds": step.deadline(&plan).as_secs() })
            });
            let text =
                json!({ "plan": plan, "steps": steps, "vms": entries, "placement": placement_json(&proof) });
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
            terminal.line(&format!("\n{}", table(&rows(&entries, &proof, tries)).trim_end()));
        }
    }
    Ok(if holds == 0 { Exit::Done } else { Exit::Operator })
}

fn placement_json(proof: &Proof) -> serde_json::Value {
    let unplaced = proof
        .unplaced
        .iter()
        .map(|one| json!({ "vm": one.vm, "why": one.reasons(), "smallestChange": one.smallest_change() }));
    let placed = proof.placed.iter().map(|(vm, node)| (vm.to_string(), json!(node)));
    json!({ "placed": placed.collect::<serde_json::Map<_, _>>(), "unplaced": unplaced.collect::<Vec<_>>() })
}

async fn read_entries(cluster: &Cluster, plan: &NodePlan) -> Result<(Vec<VmEntry>, Proof), ClusterError> {
    let instances = vms::instances_on(&cluster.client, &plan.node_name).await?;
    let all: Vec<_> = instances.iter().collect();
    let mut surroundings = Surroundings::of(&cluster.client, &plan.node_name, &all).await?;
    let mut entries = Vec::new();
    for vmi in &instances {
        let facts = vm_facts::facts(&cluster.client, vmi).await?;
        let elsewhere = surroundings.elsewhere(&facts.vm).await?;
        entries.push(classify::enter(&facts, &plan.evacuation, &elsewhere));
    }
    let moves = |vm: &VmKey| entries.iter().any(|entry| entry.vm == *vm && entry.verdict == Verdict::Migrate);
    let proof = surroundings.prove(moves).await?;
    Ok((entries, proof))
}

fn rows(entries: &[VmEntry], proof: &Proof, tries: MigrationFailure) -> Vec<[String; 3]> {
    let header = ["VM", "WOULD BE", "WHY"].map(str::to_owned);
    let unplaced = |entry: &VmEntry| proof.unplaced.iter().find(|one| one.vm == entry.vm);
    let row = |entry: &VmEntry| {
        let (what, why) = match &entry.verdict {
            Verdict::Migrate => match (proof.placed.get(&entry.vm), unplaced(entry)) {
                (Some(node), _) => {
                    ("live-migrated", format!("KubeVirt says that it can move; {node} has room for it"))
                }
                (None, Some(unplaced)) => {
                    let change = unplaced.smallest_change().map(|change| format!("; {change}"));
                    let then = match tries {
                        MigrationFailure::Hold => "TRIED, then the node holds",
                        MigrationFailure::ShutdownAndRestore => "TRIED, then shut down and started again",
                    };
                    (then, format!("{}{}", unplaced.reasons(), change.unwrap_or_default()))
                }
                (None, None) => ("live-migrated", "KubeVirt says that it can move".to_owned()),
            },
            Verdict::ShutDown { why } if entry.left_off => ("shut down for good", why.clone()),
            Verdict::ShutDown { why } => {
                ("shut down and started again", format!("{why}; {}", its_time(entry)))
            }
            Verdict::Leaving => ("waited for", "it is going away already".to_owned()),
            Verdict::Hold { why } => ("LEFT ALONE, the node holds", why.clone()),
        };
        [entry.vm.to_string(), what.to_owned(), why]
    };
    std::iter::once(header).chain(entries.iter().map(row)).collect()
}

/// `KubeVirt` cuts a guest's power itself, whatever the plan says: nobody shall be surprised.
fn its_time(entry: &VmEntry) -> String {
    let seconds = entry.grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    format!("its guest has {seconds} s, then KubeVirt cuts its power")
}
