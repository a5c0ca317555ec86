//! Machines that go and come back: what the API shows of a kubelet that stops, starts again, or starts after a reboot.
//! Whoever plays the machine calls the three functions; what time adds (not ready, devices back) follows by itself.

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::sim::SimError;
use crate::sim::fields::{
    AWAY, DEVICES, OFF, annotation, condition_is, conditions_with, list, map, name, text,
};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Key, Kind};
use crate::sim::wire::{Wire, Write};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// How long the node controller waits for a kubelet.
const GRACE_SECONDS: u64 = 40;

/// The kubelet of a node stops; its pods and guests go on. The node stays Ready for another 40 s.
///
/// # Errors
/// [`SimError::Refused`] when the API does not take what changes on the Node.
pub async fn kubelet_stopped(wire: &Wire, node: &str, now: Timestamp) -> Result<(), SimError> {
    let body = json!({"metadata": {"annotations": {AWAY: now.to_string()}}});
    patch(wire, node, "", &body).await.map(drop)
}

/// The machine of a node stops, and with it everything on it: guests lose their power.
///
/// # Errors
/// [`SimError::Refused`] when the API does not take what changes on the Node.
pub async fn power_off(wire: &Wire, node: &str, now: Timestamp) -> Result<(), SimError> {
    let body = json!({"metadata": {"annotations": {AWAY: now.to_string(), OFF: "true"}}});
    patch(wire, node, "", &body).await.map(drop)
}

/// The kubelet of a node starts, in this version and this boot of the machine. Devices are offered again once their
/// plugins have registered. In another boot than before, no container has survived.
///
/// # Errors
/// [`SimError::Refused`] when the API does not take what changes on the Node.
pub async fn kubelet_started(
    wire: &Wire,
    node: &str,
    version: &str,
    boot_id: &str,
    now: Timestamp,
) -> Result<(), SimError> {
    let known = read(wire, node).await?;
    let mut devices = map(&known, "/status/allocatable");
    devices.retain(|resource, _| resource.contains('/'));
    // A start before the plugins were back: what they offer is still noted from the first one.
    let noted = annotation(&known, DEVICES).and_then(|noted| serde_json::from_str::<Value>(noted).ok());
    if let Some(noted) = noted {
        devices = map(&noted, "/devices");
    }
    let unplugged: serde_json::Map<String, Value> =
        devices.keys().map(|device| (device.clone(), json!("0"))).collect();
    let status = json!({"status": {"allocatable": unplugged, "conditions": ready(&known, now),
        "nodeInfo": {"kubeletVersion": version, "bootID": boot_id}}});
    patch(wire, node, "/status", &status).await?;
    let plugins = json!({"since": now.to_string(), "devices": devices}).to_string();
    let kept = without_taint(&known);
    let annotations = json!({AWAY: null, OFF: null, DEVICES: plugins});
    let body = json!({"metadata": {"annotations": annotations}, "spec": {"taints": kept}});
    patch(wire, node, "", &body).await.map(drop)
}

/// A kubelet that goes on as it was says so again.
///
/// # Errors
/// [`SimError::Refused`] when the API does not take what changes on the Node.
pub async fn kubelet_reports(
    wire: &Wire,
    node: &str,
    version: &str,
    boot_id: &str,
    now: Timestamp,
) -> Result<(), SimError> {
    let known = read(wire, node).await?;
    let status = json!({"status": {"conditions": ready(&known, now),
        "nodeInfo": {"kubeletVersion": version, "bootID": boot_id}}});
    patch(wire, node, "/status", &status).await.map(drop)
}

/// A condition of a node has a heartbeat, and no probe time.
fn ready(known: &Value, now: Timestamp) -> Vec<Value> {
    let stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let said = "kubelet is posting ready status";
    let mut ready = conditions_with(known, "Ready", "True", "KubeletReady", said, &stamp);
    if let Some(fields) = ready.last_mut().and_then(Value::as_object_mut) {
        fields.remove("lastProbeTime");
        fields.insert("lastHeartbeatTime".to_owned(), json!(stamp));
    }
    ready
}

async fn read(wire: &Wire, node: &str) -> Result<crate::sim::object::Object, SimError> {
    let refused = |source| SimError::Refused { what: format!("node {node}"), source: Box::new(source) };
    wire.send(Method::GET, &Kind::Node.path("", node), &Value::Null).await.map_err(refused)
}

async fn patch(
    wire: &Wire,
    node: &str,
    of: &str,
    body: &Value,
) -> Result<crate::sim::object::Object, SimError> {
    let path = format!("{}{of}", Kind::Node.path("", node));
    let refused = |source| SimError::Refused { what: format!("node {node}"), source: Box::new(source) };
    wire.send(Method::PATCH, &path, body).await.map_err(refused)
}

fn without_taint(node: &Value) -> Value {
    let kept: Vec<&Value> =
        list(node, "/spec/taints").iter().filter(|t| text(t, "/key") != UNREACHABLE).collect();
    if kept.is_empty() { Value::Null } else { json!(kept) }
}

/// Whether a kubelet is there that could do something about pods.
pub(super) fn has_kubelet(node: &Entry) -> bool {
    !node.facts.host.is_away && node.facts.is_ready
}

/// What time does: a node whose kubelet stays away is not ready, devices come back.
pub(super) fn decide(node: &Value, now: &Now<'_>) -> Decision {
    let at = |stamp: &str| stamp.parse().ok().map(|stamp: Timestamp| now.timing.instant_of(stamp));
    if let Some(since) = annotation(node, AWAY).and_then(at) {
        if !condition_is(node, "Ready", "True") {
            return Decision::nothing();
        }
        return now.once(since + now.timing.seconds(GRACE_SECONDS), || {
            let said = "Kubelet stopped posting node status.";
            let conditions =
                conditions_with(node, "Ready", "Unknown", "NodeStatusUnknown", said, &now.stamp());
            let mut taints = list(node, "/spec/taints").to_vec();
            taints.push(json!({"key": UNREACHABLE, "effect": "NoSchedule", "timeAdded": now.stamp()}));
            // The spec first: the second patch must not insist on the version before it.
            let tainted = Write::patch(Kind::Node, node, json!({"spec": {"taints": taints}}));
            let status = json!({"status": {"conditions": conditions}});
            let key = Key::new("", name(node));
            let unknown = Write::Patch { kind: Kind::Node, key, status: true, body: status };
            Decision::write([tainted, unknown])
        });
    }
    let noted = annotation(node, DEVICES).and_then(|noted| serde_json::from_str::<Value>(noted).ok());
    let Some(noted) = noted else { return Decision::nothing() };
    let since = at(text(&noted, "/since")).unwrap_or(now.instant);
    now.once(since + std::time::Duration::from_millis(now.timing.plugin_ms), || {
        let offered = json!({"status": {"allocatable": map(&noted, "/devices")}});
        let key = Key::new("", name(node));
        let back = Write::Patch { kind: Kind::Node, key, status: true, body: offered };
        let done = Write::patch(Kind::Node, node, json!({"metadata": {"annotations": {DEVICES: null}}}));
        Decision::write([done, back])
    })
}
