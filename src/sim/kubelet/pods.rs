//! The kubelet: brings bound pods up, and takes deleted ones away once what runs in them has ended.

use crate::sim::fields::At as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::power::has_kubelet;
use crate::sim::fields::{
    self, MIGRATION_JOB, condition, conditions_with, is_deleting, is_final, label, list, phase, text, uid,
};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Kind, View, vmi_of_pod};
use crate::sim::wire::Write;

pub(super) fn decide(view: &View, entry: &Entry, now: &Now<'_>) -> Decision {
    let pod = &entry.object;
    let node = &entry.filed.node;
    let Some(host) = view.node(node).filter(|node| has_kubelet(node)) else {
        // No kubelet, nobody who would touch the pod.
        return Decision::nothing();
    };
    if !is_final(pod) && list(pod, "/status/containerStatuses").iter().any(|one| is_lost(one, pod, host)) {
        return Decision::write([Write::patch_status(Kind::Pod, pod, &after_reboot(pod, host, now))]);
    }
    let ended = guest_ended(view, pod);
    if is_deleting(pod) {
        let Some(due) = removal(entry, ended, now) else {
            return Decision::nothing();
        };
        return now.once(due, || Decision::write([Write::delete(Kind::Pod, pod, Some(0))]));
    }
    if is_final(pod) {
        return Decision::nothing();
    }
    if let Some(since) = ended {
        let due = since + Duration::from_millis(now.timing.t_pod_ms);
        return now
            .once(due, || Decision::write([Write::patch_status(Kind::Pod, pod, &completed(pod, now))]));
    }
    if phase(pod) == "Running" {
        return Decision::nothing();
    }
    let due = entry.bound_since + Duration::from_millis(now.timing.pod_ready_ms);
    let status = || running_status(Some(host), pod, now);
    now.once(due, || Decision::write([Write::patch_status(Kind::Pod, pod, &status())]))
}

/// When a deleted pod goes; `None` while its guest still holds it up.
fn removal(entry: &Entry, ended: Option<Instant>, now: &Now<'_>) -> Option<Instant> {
    let pod = &entry.object;
    let grace = pod.at("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30);
    let killed = entry.deleting_since + now.timing.seconds(grace);
    if is_final(pod) {
        return Some(entry.deleting_since);
    }
    if label(pod, "kubevirt.io") == Some("virt-launcher") {
        // Virt-handler ends every guest before the pod's grace is over; its word is awaited, not raced.
        let since = ended?.max(entry.deleting_since);
        return Some(since + Duration::from_millis(now.timing.t_pod_ms));
    }
    Some(killed.min(entry.deleting_since + Duration::from_millis(now.timing.plain_pod_stop_ms)))
}

/// Since when a launcher has no guest any more; `None` while it has one, and for other pods.
fn guest_ended(view: &View, pod: &Value) -> Option<Instant> {
    let vmi_key = vmi_of_pod(pod)?;
    let Some(vmi) = view.entry(Kind::Vmi, &vmi_key).filter(|vmi| fields::is_controlled_by(pod, &vmi.object))
    else {
        return view.entry(Kind::Pod, &crate::sim::view::Key::of(pod)).map(|pod| pod.deleting_since);
    };
    if is_final(&vmi.object) {
        return Some(vmi.phase_since);
    }
    if let Some(job) = label(pod, MIGRATION_JOB) {
        let migration = view.vmims_of(&vmi_key).find(|vmim| uid(&vmim.object) == job);
        let here = text(&vmi.object, "/status/nodeName") == text(pod, "/spec/nodeName");
        if here {
            return None;
        }
        return match migration {
            Some(migration) if !is_final(&migration.object) => None,
            Some(migration) => Some(migration.phase_since),
            None => Some(vmi.phase_since),
        };
    }
    let at = text(&vmi.object, "/status/nodeName");
    if at.is_empty() {
        // Nothing has started yet: a deleted pod need not wait for anything.
        return is_deleting(pod).then_some(vmi.phase_since);
    }
    (at != text(pod, "/spec/nodeName")).then_some(vmi.copying_since)
}

/// What the kubelet of `node` writes once the pod's containers run.
pub(in crate::sim) fn running_status(node: Option<&Value>, pod: &Value, now: &Now<'_>) -> Value {
    let stamp = now.stamp();
    let host = node.and_then(|node| list(node, "/status/addresses").first()).map(|a| text(a, "/address"));
    let id = container_id(pod, node.unwrap_or(&Value::Null));
    let restarts = pod.at("/status/containerStatuses/0/restartCount").and_then(Value::as_u64);
    let restarts = restarts.map_or(0, |restarts| restarts + 1);
    let containers: Vec<Value> = list(pod, "/spec/containers")
        .iter()
        .map(|container| {
            json!({"name": name_of(container), "image": text(container, "/image"), "imageID": "", "ready": true,
                   "containerID": id, "started": true, "restartCount": restarts,
                   "state": {"running": {"startedAt": stamp}}})
        })
        .collect();
    let hash = fields::hash(uid(pod));
    let ip = format!("10.42.{}.{}", hash % 256, 1 + hash / 256 % 254);
    let conditions = fields::conditions_with_all(
        pod,
        &["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(|kind| (kind, "True", "", "")),
        &stamp,
    );
    let host = host.filter(|host| host.parse::<std::net::IpAddr>().is_ok());
    json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": host, "startTime": stamp,
           "conditions": conditions, "containerStatuses": containers})
}

const RUNTIME: &str = "containerd://sim-";

/// A container's id names the boot that it was started in.
fn container_id(pod: &Value, node: &Value) -> String {
    format!(
        "{RUNTIME}{:016x}",
        fields::hash(&format!("{} {}", uid(pod), text(node, "/status/nodeInfo/bootID")))
    )
}

/// Whether a container was started in an earlier boot of its node.
fn is_lost(container: &Value, pod: &Value, node: &Value) -> bool {
    let id = text(container, "/containerID");
    id.starts_with(RUNTIME) && id != container_id(pod, node)
}

/// What the kubelet finds after a reboot: pods that never restart have failed, the others run again.
fn after_reboot(pod: &Value, node: &Value, now: &Now<'_>) -> Value {
    if text(pod, "/spec/restartPolicy") != "Never" {
        return running_status(Some(node), pod, now);
    }
    let mut status = completed(pod, now);
    let failed = json!({"phase": "Failed", "reason": "Terminated",
        "message": "Pod was terminated in response to imminent node shutdown."});
    fields::merge(&mut status, &failed);
    status
}

fn name_of(container: &Value) -> &str {
    text(container, "/name")
}

fn completed(pod: &Value, now: &Now<'_>) -> Value {
    let stamp = now.stamp();
    let containers: Vec<Value> = list(pod, "/spec/containers")
        .iter()
        .map(|container| {
            let ended = json!({"exitCode": 0, "reason": "Completed", "finishedAt": stamp,
                "startedAt": text(pod, "/status/startTime")});
            json!({"name": name_of(container), "image": text(container, "/image"), "imageID": "",
                   "ready": false, "restartCount": 0, "state": {"terminated": ended}})
        })
        .collect();
    let mut status = json!({"phase": "Succeeded", "containerStatuses": containers});
    if condition(pod, "Ready").is_some()
        && let Some(fields) = status.as_object_mut()
    {
        let conditions = conditions_with(pod, "Ready", "False", "PodCompleted", "", &stamp);
        fields.insert("conditions".to_owned(), json!(conditions));
    }
    status
}
