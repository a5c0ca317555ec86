//! The kubelet: brings bound pods up, and takes deleted ones away once what runs in them has ended.

use crate::sim::fields::At as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::power::has_kubelet;
use crate::sim::fields::{self, condition, conditions_with, label, list, text, uid};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Kind, Phase, RUNTIME, View};
use crate::sim::wire::Write;

pub(super) fn decide(view: &View, entry: &Entry, now: &Now<'_>) -> Decision {
    let pod = &entry.object;
    let Some(host) = view.node(&entry.filed.node).filter(|node| has_kubelet(node)) else {
        // No kubelet, nobody who would touch the pod.
        return Decision::nothing();
    };
    if !entry.filed.ended && is_lost(entry, host) {
        let status = after_reboot(pod, &host.object, now);
        return Decision::write([Write::patch_status(Kind::Pod, pod, status)]);
    }
    let ended = guest_ended(view, entry);
    if entry.facts.is_deleting() {
        let Some(due) = removal(entry, ended, now) else {
            return Decision::nothing();
        };
        return match (list(pod, "/metadata/finalizers").is_empty(), entry.filed.ended) {
            (true, _) => now.once(due, || Decision::write([Write::delete(Kind::Pod, pod, Some(0))])),
            // Somebody else lets it go; nothing of it runs any more.
            (false, false) => {
                now.once(due, || Decision::write([Write::patch_status(Kind::Pod, pod, completed(pod, now))]))
            }
            (false, true) => Decision::nothing(),
        };
    }
    if entry.filed.ended {
        return Decision::nothing();
    }
    if let Some(since) = ended {
        let due = since + Duration::from_millis(now.timing.t_pod_ms);
        return now.once(due, || Decision::write([Write::patch_status(Kind::Pod, pod, completed(pod, now))]));
    }
    if entry.facts.phase == Phase::Running {
        return Decision::nothing();
    }
    let due = entry.bound_since + Duration::from_millis(now.timing.pod_ready_ms);
    let status = || running_status(Some(&host.object), pod, now);
    now.once(due, || Decision::write([Write::patch_status(Kind::Pod, pod, status())]))
}

/// When a deleted pod goes; `None` while its guest still holds it up.
fn removal(entry: &Entry, ended: Option<Instant>, now: &Now<'_>) -> Option<Instant> {
    let pod = &entry.object;
    let grace = pod.at("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30);
    let killed = entry.deleting_since + now.timing.seconds(grace);
    if entry.filed.ended {
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
fn guest_ended(view: &View, pod: &Entry) -> Option<Instant> {
    let vmi_key = pod.filed.vmi.as_ref()?;
    let Some(vmi) = view.entry(Kind::Vmi, vmi_key).filter(|vmi| *pod.filed.owner == *vmi.uid) else {
        return Some(pod.deleting_since);
    };
    if vmi.filed.ended {
        return Some(vmi.phase_since);
    }
    let here = vmi.filed.node == pod.filed.node;
    if let Some(job) = &pod.facts.job {
        if here {
            return None;
        }
        return match view.vmims_of(vmi_key).find(|vmim| vmim.uid == *job) {
            Some(migration) if !migration.filed.ended => None,
            Some(migration) => Some(migration.phase_since),
            None => Some(vmi.phase_since),
        };
    }
    if vmi.filed.node.is_empty() {
        // Nothing has started yet: a deleted pod need not wait for anything.
        return pod.facts.is_deleting().then_some(vmi.phase_since);
    }
    (!here).then_some(vmi.copying_since)
}

/// What the kubelet of `node` writes once the pod's containers run.
pub(in crate::sim) fn running_status(node: Option<&Value>, pod: &Value, now: &Now<'_>) -> Value {
    let stamp = now.stamp();
    let host = node.and_then(|node| list(node, "/status/addresses").first()).map(|a| text(a, "/address"));
    let id = container_id(uid(pod), node.map_or("", |node| text(node, "/status/nodeInfo/bootID")));
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
    let ip = pod_ip(uid(pod));
    let conditions = fields::conditions_with_all(
        pod,
        &["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(|kind| (kind, "True", "", "")),
        &stamp,
    );
    let host = host.filter(|host| host.parse::<std::net::IpAddr>().is_ok());
    let status =
        json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": host, "startTime": stamp});
    let lists = [("conditions", Value::Array(conditions)), ("containerStatuses", Value::Array(containers))];
    fields::with(status, lists)
}

/// The id of the containers of the pod with this uid; it names the boot that they were started in.
pub(in crate::sim) fn container_id(pod_uid: &str, boot_id: &str) -> String {
    format!("{RUNTIME}{:016x}", fields::hash_of(&[pod_uid, " ", boot_id]))
}

/// The address of the pod with this uid.
pub(in crate::sim) fn pod_ip(pod_uid: &str) -> String {
    let hash = fields::hash(pod_uid);
    format!("10.42.{}.{}", hash % 256, 1 + hash / 256 % 254)
}

/// Whether a container of a pod was started in an earlier boot of its node.
fn is_lost(pod: &Entry, node: &Entry) -> bool {
    let boot = node.facts.host.boot.as_deref().unwrap_or_default();
    let own = || fields::hash_of(&[&pod.uid, " ", boot]);
    !pod.facts.containers.is_empty() && {
        let own = own();
        pod.facts.containers.iter().any(|id| *id != own)
    }
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
