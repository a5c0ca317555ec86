//! Nodes: making one that looks like a Harvester node, and the heartbeats of those that are simulated.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::sim::SimError;
use crate::sim::fields::{self, SIMULATED, annotation, label, list, name, text, uid};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Key, Kind, View};
use crate::sim::wire::{Wire, Write};

const SCHEDULABLE: &str = "kubevirt.io/schedulable";

pub(super) fn decide(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(node) = view.get(Kind::Node, key) else {
        return Decision::nothing();
    };
    if fields::condition_is(node, "Ready", "True") && label(node, SCHEDULABLE).is_none() {
        let metadata =
            json!({"labels": {SCHEDULABLE: "true"}, "annotations": {"kubevirt.io/heartbeat": now.stamp()}});
        return Decision::write([Write::patch(Kind::Node, node, json!({"metadata": metadata}))]);
    }
    let powered = super::power::decide(node, now);
    if powered != Decision::nothing() {
        return powered;
    }
    if annotation(node, SIMULATED).is_none() {
        return Decision::nothing();
    }
    if now.timing.heartbeat_ms == 0 {
        return Decision::nothing();
    }
    let every = Duration::from_millis(now.timing.heartbeat_ms.max(100));
    let due = view.done(uid(node), "heartbeat").map_or(now.instant, |last| last + every);
    now.once(due, || {
        let time = micro_time(now.timing.at(now.instant));
        let body = json!({"spec": {"holderIdentity": name(node), "renewTime": time}});
        let renew = Write::Renew { node: key.clone(), body };
        Decision::write([renew, Write::Done { uid: uid(node).to_owned(), what: "heartbeat" }])
    })
}

fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Creates a Ready node with its lease; `decide` keeps the lease fresh from then on. `allocatable` is added to
/// a default that has room for some 30 VMs; `version` is the kubelet's.
///
/// # Errors
/// [`SimError::Refused`] when the API does not take the node, its status or its lease.
pub async fn register_node(
    wire: &Wire,
    node: &str,
    version: &str,
    labels: &BTreeMap<String, String>,
    allocatable: &BTreeMap<String, String>,
    now: Timestamp,
) -> Result<(), SimError> {
    let refused = |what: &str| {
        let what = format!("{what} {node}");
        move |source: kube::Error| SimError::Refused { what, source: Box::new(source) }
    };
    let object = node_object(node, labels);
    let created = match wire.send(Method::POST, &Kind::Node.path("", ""), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            wire.send(Method::GET, &Kind::Node.path("", node), &Value::Null).await
        }
        other => other,
    };
    let created = created.map_err(refused("node"))?;
    let status = json!({"status": node_status(node, version, allocatable, now)});
    let path = Kind::Node.path("", node);
    wire.send(Method::PATCH, &format!("{path}/status"), &status).await.map_err(refused("status of node"))?;
    if !list(&created, "/spec/taints").is_empty() {
        // Admission taints new nodes as not ready; the node controller, if there is one, would lift it again.
        let kept: Vec<&Value> = list(&created, "/spec/taints")
            .iter()
            .filter(|t| text(t, "/key") != "node.kubernetes.io/not-ready")
            .collect();
        let body = json!({"spec": {"taints": kept}});
        wire.send(Method::PATCH, &path, &body).await.map_err(refused("taints of node"))?;
    }
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": micro_time(now)}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    match wire.send(Method::POST, leases, &lease).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop).map_err(refused("lease of node")),
    }
}

/// A Harvester node as it registers.
pub(in crate::sim) fn node_object(node: &str, labels: &BTreeMap<String, String>) -> Value {
    let mut all: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", node),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        (SCHEDULABLE, "true"),
        ("harvesterhci.io/managed", "true"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    all.extend(labels.clone());
    json!({"apiVersion": "v1", "kind": "Node",
           "metadata": {"name": node, "labels": all, "annotations": {SIMULATED: "true"}}, "spec": {}})
}

/// What a kubelet of this version reports of its node.
pub(in crate::sim) fn node_status(
    node: &str,
    version: &str,
    extra: &BTreeMap<String, String>,
    now: Timestamp,
) -> Value {
    let mut room: BTreeMap<String, String> = [
        ("cpu", "64"),
        ("memory", "256Gi"),
        ("pods", "200"),
        ("devices.kubevirt.io/kvm", "1k"),
        ("devices.kubevirt.io/tun", "1k"),
        ("devices.kubevirt.io/vhost-net", "1k"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    room.extend(extra.clone());
    let stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let boot = fields::hash(node);
    json!({
        "capacity": room, "allocatable": room,
        "addresses": [{"type": "InternalIP", "address": format!("10.0.{}.{}", boot % 250, 1 + boot / 256 % 250)},
                      {"type": "Hostname", "address": node}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                        "message": "kubelet is posting ready status", "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}],
        "nodeInfo": {"kubeletVersion": version, "bootID": fields::uid_from(&format!("boot {node}")),
            "architecture": "amd64", "containerRuntimeVersion": "containerd://2.1.5", "kernelVersion": "6.12.0", "kubeProxyVersion": "",
            "machineID": format!("{boot:032x}"), "systemUUID": format!("{boot:032x}"),
            "operatingSystem": "linux", "osImage": "Harvester v1.8.0"},
    })
}
