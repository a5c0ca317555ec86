//! Nodes: read, cordon with the drain taint, put back exactly what was found.

use k8s_openapi::api::core::v1::Taint;
use kube::api::Api;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::cluster::brief::BriefNode;
use crate::cluster::write::{Part, merge};
use crate::cluster::{ClusterError, ask, ask_opt};

/// Taint that `KubeVirt` and Harvester's volume-detach controller look at (reference `kubevirt.md` §4.1).
pub const DRAIN_TAINT: &str = "kubevirt.io/drain";
/// Its value during an upgrade.
pub const DRAIN_TAINT_VALUE: &str = "draining";
/// Annotation that says whose cordon and taint these are.
pub const OWNER_ANNOTATION: &str = "agent.harvesterhci.io/upgrade-uid";

fn api(client: &Client) -> Api<BriefNode> {
    Api::all(client.clone())
}

/// One node; none when there is no such node.
///
/// # Errors
/// [`ClusterError`].
pub async fn get(client: &Client, name: &str) -> Result<Option<BriefNode>, ClusterError> {
    ask_opt(format!("read node {name}"), api(client).get(name)).await
}

/// Holds no VM, ever: it is there for quorum only.
#[must_use]
pub fn is_witness(node: &BriefNode) -> bool {
    node.labels().contains_key("node-role.harvesterhci.io/witness")
}

/// Condition Ready is True.
#[must_use]
pub fn is_ready(node: &BriefNode) -> bool {
    node.status.conditions.iter().any(|one| one.r#type == "Ready" && one.status == "True")
}

/// `spec.unschedulable`.
#[must_use]
pub fn is_cordoned(node: &BriefNode) -> bool {
    node.spec.unschedulable
}

/// The drain taint, whatever its value.
#[must_use]
pub fn drain_taint(node: &BriefNode) -> Option<&Taint> {
    taints(node).iter().find(|taint| taint.key == DRAIN_TAINT && taint.effect == "NoSchedule")
}

fn taints(node: &BriefNode) -> &[Taint] {
    &node.spec.taints
}

/// What the kubelet reports.
#[must_use]
pub fn kubelet_version(node: &BriefNode) -> Option<&str> {
    node.status.node_info.as_ref().map(|info| info.kubelet_version.as_str())
}

/// When the kubelet last said that it is ready.
#[must_use]
pub fn heartbeat(node: &BriefNode) -> Option<jiff::Timestamp> {
    let mut conditions = node.status.conditions.iter();
    conditions.find(|one| one.r#type == "Ready")?.last_heartbeat_time.as_ref().map(|time| time.0)
}

/// Cordons, taints, and signs it. Harmless when done already.
///
/// # Errors
/// [`ClusterError`]; a conflict when somebody else wrote meanwhile.
pub async fn cordon(client: &Client, node: &BriefNode, upgrade_uid: &str) -> Result<(), ClusterError> {
    let mut wanted: Vec<Taint> = taints(node).to_vec();
    if drain_taint(node).is_none() {
        wanted.push(Taint {
            key: DRAIN_TAINT.to_owned(),
            value: Some(DRAIN_TAINT_VALUE.to_owned()),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        });
    }
    write(client, node, true, &wanted, Some(upgrade_uid)).await
}

/// Takes our marks away; what was there before stays.
///
/// # Errors
/// [`ClusterError`]; a conflict when somebody else wrote meanwhile.
pub async fn uncordon(
    client: &Client,
    node: &BriefNode,
    was_cordoned: bool,
    was_tainted: bool,
) -> Result<(), ClusterError> {
    let mut wanted: Vec<Taint> = taints(node).to_vec();
    if !was_tainted {
        wanted.retain(|taint| !(taint.key == DRAIN_TAINT && taint.effect == "NoSchedule"));
    }
    write(client, node, was_cordoned, &wanted, None).await
}

async fn write(
    client: &Client,
    node: &BriefNode,
    cordoned: bool,
    taints: &[Taint],
    owner: Option<&str>,
) -> Result<(), ClusterError> {
    let name = node.name_any();
    // The list of taints is replaced whole, so the patch only holds for the version that was read.
    let patch = json!({
        "metadata": { "resourceVersion": node.resource_version(), "annotations": { OWNER_ANNOTATION: owner } },
        "spec": { "unschedulable": if cordoned { Some(true) } else { None }, "taints": taints },
    });
    let what = format!("{} node {name}", if owner.is_some() { "cordon" } else { "uncordon" });
    ask(what, merge::<BriefNode>(client, (None, &name), Part::Whole, &patch)).await
}
