//! Nodes: read, close with the drain taint, put back exactly what was found.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::brief::BriefNode;
use crate::cluster::places::PAGE;
use crate::cluster::write::{Part, merge};
use crate::cluster::{ClusterError, ask, ask_opt, each};
use crate::flow::skew::{Kubelet, Server};

/// Taint that `KubeVirt` and Harvester's volume-detach controller look at (reference `kubevirt.md` §4.1).
pub const DRAIN_TAINT: &str = "kubevirt.io/drain";
/// Its value during an upgrade.
pub const DRAIN_TAINT_VALUE: &str = "draining";
/// Taint that closes a node to new pods where it cannot be cordoned.
pub const CLOSED_TAINT: &str = "agent.harvesterhci.io/closed";
/// Annotation of a node in Harvester's maintenance mode, or on its way there (reference `harvester-upgrade.md` §6.1).
pub const MAINTENANCE: &str = "harvesterhci.io/maintain-status";
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

/// The cluster's servers, without the node `leaving`: whoever carries the control plane's or etcd's label.
///
/// # Errors
/// [`ClusterError`].
pub async fn other_servers(client: &Client, leaving: &str) -> Result<Vec<Server>, ClusterError> {
    let mut others: BTreeMap<String, Server> = BTreeMap::new();
    for role in ["control-plane", "etcd"] {
        let params = ListParams::default().labels(&format!("node-role.kubernetes.io/{role}=true"));
        let found = ask("list the cluster's servers", api(client).list(&params)).await?;
        others.extend(found.items.iter().map(|node| (node.name_any(), server(node))));
    }
    others.remove(leaving);
    Ok(others.into_values().collect())
}

/// The kubelets of all other nodes, as far as they have ever reported.
///
/// # Errors
/// [`ClusterError`].
pub async fn other_kubelets(client: &Client, leaving: &str) -> Result<Vec<Kubelet>, ClusterError> {
    let mut kubelets = Vec::new();
    each("list nodes", &api(client), ListParams::default().limit(PAGE), |node: &BriefNode| {
        let version = kubelet_version(node).filter(|version| !version.is_empty());
        if let Some(version) = version.filter(|_| node.name_any() != leaving) {
            kubelets.push(Kubelet { node: node.name_any(), version: version.parse().ok() });
        }
    })
    .await?;
    Ok(kubelets)
}

fn server(node: &BriefNode) -> Server {
    let condition = |kind: &str| node.status.conditions.iter().find(|one| one.r#type == kind);
    Server {
        name: node.name_any(),
        version: kubelet_version(node).and_then(|version| version.parse().ok()),
        ready: is_ready(node),
        // RKE2's etcd controller writes it (k3s pull request 8724).
        votes: condition("EtcdIsVoter").map(|voter| voter.status == "True"),
    }
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
    taints(node).iter().find(|taint| keeps_off(taint, DRAIN_TAINT))
}

/// Our taint in a cordon's stead.
#[must_use]
pub fn closed_taint(node: &BriefNode) -> Option<&Taint> {
    taints(node).iter().find(|taint| keeps_off(taint, CLOSED_TAINT))
}

/// It takes no new VM: it is cordoned, or carries our taint in a cordon's stead.
#[must_use]
pub fn is_closed(node: &BriefNode) -> bool {
    is_cordoned(node) || closed_taint(node).is_some()
}

/// Closed, tainted and signed for this upgrade: nothing of that is left to do.
#[must_use]
pub fn is_closed_for(node: &BriefNode, upgrade_uid: &str) -> bool {
    let owner = node.annotations().get(OWNER_ANNOTATION);
    is_closed(node) && drain_taint(node).is_some() && owner.is_some_and(|owner| owner == upgrade_uid)
}

/// The drain taint, and ours.
pub fn upgrade_taints(node: &BriefNode) -> impl Iterator<Item = &Taint> {
    drain_taint(node).into_iter().chain(closed_taint(node))
}

/// The commands that take off what an upgrade may have left on it. Without a signature, or beside our taint in its stead, a cordon
/// is somebody else's.
#[must_use]
pub fn unmark_commands(node: &BriefNode) -> String {
    let name = node.name_any();
    let is_signed = node.annotations().contains_key(OWNER_ANNOTATION);
    let taints: Vec<String> =
        upgrade_taints(node).map(|taint| format!("{}:NoSchedule-", taint.key)).collect();
    let is_ours = is_signed && is_cordoned(node) && closed_taint(node).is_none();
    let commands = [
        (is_signed, format!("annotate node {name} {OWNER_ANNOTATION}-")),
        (!taints.is_empty(), format!("taint node {name} {}", taints.join(" "))),
        (is_ours, format!("uncordon {name}")),
    ];
    let needed = commands.into_iter().filter(|(is_needed, _)| *is_needed);
    needed.map(|(_, command)| format!("kubectl {command}")).collect::<Vec<_>>().join("; ")
}

fn keeps_off(taint: &Taint, key: &str) -> bool {
    taint.key == key && taint.effect == "NoSchedule"
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

/// How a node is closed to new pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// By a cordon, as anybody would.
    Cordon,
    /// By a taint of ours: Harvester lets nobody cordon the last available node.
    Taint,
}

/// Closes it to new pods, sets the drain taint, and signs it. Harmless when done already.
///
/// # Errors
/// [`ClusterError`]; a conflict when somebody else wrote meanwhile.
pub async fn close(
    client: &Client,
    node: &BriefNode,
    closing: Closing,
    upgrade_uid: &str,
) -> Result<(), ClusterError> {
    let mut wanted: Vec<Taint> = taints(node).to_vec();
    let mut want = |key: &str, value: &str| {
        if !wanted.iter().any(|taint| keeps_off(taint, key)) {
            wanted.push(Taint {
                key: key.to_owned(),
                value: Some(value.to_owned()),
                effect: "NoSchedule".to_owned(),
                time_added: None,
            });
        }
    };
    want(DRAIN_TAINT, DRAIN_TAINT_VALUE);
    let cordon = match closing {
        Closing::Cordon => Some(json!(true)),
        Closing::Taint => {
            want(CLOSED_TAINT, upgrade_uid);
            None
        }
    };
    write(client, node, cordon, &wanted, Some(upgrade_uid)).await
}

/// Takes our marks away; what was there before stays, and so does what maintenance mode has set meanwhile. A cordon that somebody else has taken off meanwhile does not come back.
///
/// # Errors
/// [`ClusterError`]; a conflict when somebody else wrote meanwhile.
pub async fn open(
    client: &Client,
    node: &BriefNode,
    was_cordoned: bool,
    was_tainted: bool,
) -> Result<(), ClusterError> {
    // Whoever takes it into maintenance meanwhile cordons and taints it as well.
    let in_maintenance = node.annotations().contains_key(MAINTENANCE);
    let mut wanted: Vec<Taint> = taints(node).to_vec();
    let drain_stays = was_tainted || in_maintenance;
    wanted.retain(|taint| !keeps_off(taint, CLOSED_TAINT) && (drain_stays || !keeps_off(taint, DRAIN_TAINT)));
    // Beside our taint in its stead no cordon is ours.
    let ours = !was_cordoned && closed_taint(node).is_none() && !in_maintenance;
    let cordon = ours.then_some(Value::Null);
    write(client, node, cordon, &wanted, None).await
}

/// Takes away what closes a node for this upgrade where our taint is all that says whose it is.
///
/// # Errors
/// [`ClusterError`]; a conflict when somebody else wrote meanwhile.
pub async fn open_unsigned(
    client: &Client,
    node: &BriefNode,
    was_tainted: bool,
    upgrade_uid: &str,
) -> Result<(), ClusterError> {
    if closed_taint(node).is_none_or(|taint| taint.value.as_deref() != Some(upgrade_uid)) {
        return Ok(());
    }
    // Both taints came in one write; there is no cordon of ours beside this one.
    open(client, node, true, was_tainted).await
}

/// Signs a node that is closed for this upgrade once more: a write that changes nothing, and that admission is asked about.
///
/// # Errors
/// [`ClusterError`], also while a webhook for nodes has nobody to answer it.
pub async fn sign_again(client: &Client, name: &str, upgrade_uid: &str) -> Result<(), ClusterError> {
    let patch = json!({ "metadata": { "annotations": { OWNER_ANNOTATION: upgrade_uid } } });
    let what = format!("write to node {name}");
    ask(what, merge::<BriefNode>(client, (None, name), Part::Whole, &patch)).await
}

/// Writes taints and signature, and the cordon where it is to change.
async fn write(
    client: &Client,
    node: &BriefNode,
    cordon: Option<Value>,
    taints: &[Taint],
    owner: Option<&str>,
) -> Result<(), ClusterError> {
    let name = node.name_any();
    // The list of taints is replaced whole, so the patch only holds for the version that was read.
    let spec = [("taints", json!(taints))].into_iter();
    let spec = spec.chain(cordon.map(|cordon| ("unschedulable", cordon)));
    let patch = json!({
        "metadata": { "resourceVersion": node.resource_version(), "annotations": { OWNER_ANNOTATION: owner } },
        "spec": spec.collect::<BTreeMap<_, _>>(),
    });
    let what = format!("{} node {name}", if owner.is_some() { "close" } else { "open" });
    ask(what, merge::<BriefNode>(client, (None, &name), Part::Whole, &patch)).await
}
