//! Where a plan comes from: a file, the node's `NodeUpgrade`, or the journal. All three become one `NodePlan`.

use std::path::Path;

use anyhow::{Context, anyhow};
use kube::api::Api;

use crate::cli::{Failure, PlanSource};
use crate::cluster::crd::node_upgrade::{NodeUpgrade, NodeUpgradeSpec};
use crate::cluster::names::safe_concat;
use crate::cluster::{Cluster, ClusterError, ask_opt};
use crate::config::Config;
use crate::flow::plan::NodePlan;
use crate::host::fs::Fs;
use crate::host::root::HostRoot;
use crate::journal;

/// Larger files are no plans.
const LARGEST_PLAN: u64 = 1 << 20;

/// The plan, checked as far as a plan can be checked by itself.
///
/// # Errors
/// Exit code 2 for a file that is no plan, 3 for an upgrade that is not there.
pub async fn plan(config: &Config, source: &PlanSource) -> Result<NodePlan, Failure> {
    let plan = match (&source.plan, &source.upgrade) {
        (Some(file), _) => plan_file(file)?,
        (None, Some(upgrade)) => of_upgrade(config, upgrade).await?,
        (None, None) => return Err(Failure::usage(anyhow!("give --plan FILE or --upgrade NAME"))),
    };
    plan.check().map_err(Failure::usage)?;
    match &config.node_name {
        Some(here) if *here != plan.node_name => Err(Failure::refused(anyhow!(
            "the plan is for node {}, this machine is {here}; run it there, or correct the plan or --node-name",
            plan.node_name
        ))),
        Some(_) | None => Ok(plan),
    }
}

/// The plan in a file, unchecked.
///
/// # Errors
/// Exit code 2 for a file that is no plan.
pub fn plan_file(file: &Path) -> Result<NodePlan, Failure> {
    let read = || -> anyhow::Result<NodePlan> {
        let bytes = Fs::read_named(file, LARGEST_PLAN).context("give the path of a plan")?;
        if bytes.len() as u64 > LARGEST_PLAN {
            return Err(anyhow!(
                "{} is more than {} MiB; that is no plan",
                file.display(),
                LARGEST_PLAN >> 20
            ));
        }
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not text", file.display()))?;
        parse(text)
            .with_context(|| format!("{} is not a plan; see docs/plan.md for its form", file.display()))
    };
    read().map_err(Failure::usage)
}

/// A plan, or a whole `NodeUpgrade`, from YAML or JSON.
///
/// # Errors
/// The parser's error, with the place, in one line.
pub fn parse(text: &str) -> anyhow::Result<NodePlan> {
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|error| one_line(&error))?;
    if value.get("kind").is_some() {
        let object: Manifest = serde_saphyr::from_str(text).map_err(|error| one_line(&error))?;
        return Ok(object.spec.plan());
    }
    serde_saphyr::from_str(text).map_err(|error| one_line(&error))
}

/// The parser draws a picture over several lines; its first one says what and where.
fn one_line(error: &serde_saphyr::Error) -> anyhow::Error {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    anyhow!("{}", first.trim_start_matches("error: ").to_owned())
}

/// `NodeUpgrade` as a file: what the server adds may be missing.
#[derive(serde::Deserialize)]
struct Manifest {
    spec: NodeUpgradeSpec,
}

async fn of_upgrade(config: &Config, upgrade: &str) -> Result<NodePlan, Failure> {
    if let Some(plan) = from_journal(config, upgrade)? {
        return Ok(plan);
    }
    let node = node_name(config)?;
    let cluster = cluster(config).await?;
    let name = safe_concat(&[upgrade, &node]);
    let api: Api<NodeUpgrade> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let found =
        ask_opt(format!("read NodeUpgrade {name}"), api.get(&name)).await.map_err(Failure::refused)?;
    found.map(|order| order.spec.plan()).ok_or_else(|| {
        Failure::refused(anyhow!(
            "there is no NodeUpgrade {name} in {} and no journal of {upgrade} on this machine; \
             create it, or give --plan FILE",
            cluster.namespace
        ))
    })
}

/// The plan of an unfinished run of this upgrade.
fn from_journal(config: &Config, upgrade: &str) -> Result<Option<NodePlan>, Failure> {
    let (runs, unreadable) = journal::runs(&Fs::kernel(), &config.state_dir).map_err(Failure::failed)?;
    // An Upgrade of the same name that has ended is another one.
    let mut open = runs.iter().filter(|run| run.outcome().is_none() && !run.is_untouched());
    match open.find_map(|run| run.plan().filter(|plan| plan.upgrade_name == upgrade)) {
        Some(plan) => Ok(Some(plan.clone())),
        // It may be the one that is meant.
        None => unreadable.into_iter().next().map_or(Ok(None), |error| Err(Failure::failed(error))),
    }
}

/// This node's name: as told, else the machine's host name.
///
/// # Errors
/// Exit code 2 when neither is there.
pub fn node_name(config: &Config) -> Result<String, Failure> {
    if let Some(name) = &config.node_name {
        return Ok(name.clone());
    }
    let path = HostRoot::new(config.host_root.clone()).at("/etc/hostname");
    let bytes = Fs::kernel().read_opt(&path).map_err(Failure::usage)?.unwrap_or_default();
    let name = String::from_utf8_lossy(&bytes).trim().to_owned();
    if name.is_empty() {
        return Err(Failure::usage(anyhow!(
            "this node's name is not known; give --node-name or set NODE_NAME"
        )));
    }
    Ok(name)
}

/// A client for the cluster.
///
/// # Errors
/// Exit code 2 when no kubeconfig can be used.
pub async fn cluster(config: &Config) -> Result<Cluster, Failure> {
    // On an RKE2 server its own admin kubeconfig is there; on any node the kubelet's would not have the rights.
    let on_server = HostRoot::new(config.host_root.clone()).at("/etc/rancher/rke2/rke2.yaml");
    let in_pod = Cluster::connect(None, &config.namespace).await;
    match (&config.kubeconfig, in_pod) {
        (Some(file), _) => Cluster::connect(Some(file), &config.namespace).await.map_err(usage),
        (None, Ok(cluster)) => Ok(cluster),
        (None, Err(error)) => match Fs::kernel().read_opt(&on_server) {
            Ok(Some(_)) => Cluster::connect(Some(&on_server), &config.namespace).await.map_err(usage),
            Ok(None) | Err(_) => Err(usage(error)),
        },
    }
}

fn usage(error: ClusterError) -> Failure {
    Failure::usage(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::plan::tests::plan as sound;

    const PLAN: &str = "upgradeName: hvst-upgrade-abcde\nupgradeUID: 6f1c9a3e-0001\nnodeName: node1\n\
        rke2: { from: v1.34.2+rke2r1, to: v1.35.6+rke2r1 }\n\
        artifacts:\n  source: file:///var/lib/rancher/release\n  sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n";

    #[test]
    fn a_file_holds_a_plan_or_a_node_upgrade() {
        assert_eq!(parse(PLAN).unwrap(), sound());
        let indented = PLAN.trim_end().replace('\n', "\n  ");
        let manifest = format!(
            "apiVersion: agent.harvesterhci.io/v1alpha1\nkind: NodeUpgrade\nmetadata: {{ name: x }}\nspec:\n  {indented}\n  control: Pause\n"
        );
        assert_eq!(parse(&manifest).unwrap(), sound());
        assert_eq!(parse(&serde_json::to_string(&sound()).unwrap()).unwrap(), sound());
    }

    #[test]
    fn what_is_no_plan_is_refused_with_its_place() {
        let typo = PLAN.replace("nodeName", "nodename");
        assert!(parse(&typo).unwrap_err().to_string().contains("nodename"));
        for text in
            ["", "a: b", "[1, 2]", "\0\0", "upgradeName: [", &PLAN.replace("v1.35.6+rke2r1", "1.35.6")]
        {
            assert!(parse(text).is_err(), "{text:?} should be refused");
        }
    }
}
