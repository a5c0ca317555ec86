//! `virt-handler` and the guests: boot, conditions, shutdown (clean, slow, ignored) and the copying of a migration.

use crate::sim::fields::At as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::pods::pod_ip;
use crate::sim::fields::{
    self, DIRTY, LOCAL_DISK, NODE_LABEL, SHUTDOWN, annotation, conditions_with, did_run, grace_seconds,
    memory_mib, text, transitions_with, uid,
};
use crate::sim::script;
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Key, Kind, Phase, View};
use crate::sim::wire::Write;

const COMPONENT: &str = "virt-handler";
/// `progressTimeout` and `completionTimeoutPerGiB`, in seconds.
const PATIENCE_SECONDS: u64 = 150;
/// What virt-launcher says of a copy that broke off, as `KubeVirt`'s own tests quote it.
const LOST_ITS_TARGET: &str = "Live migration failed error encountered during MigrateToURI3 libvirt api call: \
     virError(Code=1, Domain=7, Message='internal error: client socket is closed')";

pub(super) fn decide(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(entry) = view.entry(Kind::Vmi, key) else {
        return Decision::nothing();
    };
    if !matches!(entry.facts.phase, Phase::Scheduled | Phase::Running) {
        return Decision::nothing();
    }
    let vmi = &entry.object;
    let node = &entry.filed.node;
    let pod = view.pods_of(key, entry).find(|pod| pod.filed.node == *node && !pod.filed.ended);
    let leaving = [Some(entry), pod].into_iter().flatten().filter(|e| e.facts.is_deleting());
    let leaving = leaving.map(|e| e.deleting_since).min();
    if view.node(node).is_some_and(|node| node.facts.host.is_off) {
        // No machine, no guest and nobody who could say so.
        return Decision::nothing();
    }
    match (entry.facts.phase == Phase::Running, leaving) {
        // There is no guest yet that could be asked to leave.
        (false, Some(_)) => end(vmi, Ending::Died, now),
        (false, None) => {
            let due = entry.phase_since + Duration::from_millis(now.timing.boot_ms);
            now.once(due, || {
                if script::boot_fails(view, key, entry) {
                    let Decision { mut writes, again } = end(vmi, Ending::Died, now);
                    writes.push(Write::Done { uid: script::counted(view, key, entry), what: script::DIED });
                    return Decision { writes, again };
                }
                boot(vmi, now)
            })
        }
        (true, Some(since)) => shut_down(view, vmi, pod, since, now),
        (true, None) => copy(view, key, entry, now),
    }
}

fn boot(vmi: &Value, now: &Now<'_>) -> Decision {
    let event = now.event(Kind::Vmi, vmi, false, COMPONENT, ("Started", "VirtualMachineInstance started."));
    Decision::write([Write::patch_status(Kind::Vmi, vmi, running_status(vmi, now)), event])
}

/// What virt-handler writes once the guest runs.
pub(in crate::sim) fn running_status(vmi: &Value, now: &Now<'_>) -> Value {
    let stamp = now.stamp();
    let migratable = migratable(vmi);
    let (status, reason, message) =
        migratable.map_or(("True", "", ""), |(reason, message)| ("False", reason, message));
    let conditions = fields::conditions_with_all(
        vmi,
        &[
            ("Ready", "True", "", ""),
            ("LiveMigratable", status, reason, message),
            ("AgentConnected", "True", "", ""),
        ],
        &stamp,
    );
    let status = json!({"phase": "Running", "selinuxContext": "none",
        "migrationMethod": "LiveMigration", "migrationTransport": "Unix"});
    let transitions = Value::Array(transitions_with(vmi, "Running", &stamp));
    let lists = [("phaseTransitionTimestamps", transitions), ("conditions", Value::Array(conditions))];
    fields::with(status, lists)
}

/// Why a guest cannot be migrated; `None` when it can.
fn migratable(vmi: &Value) -> Option<(&'static str, &'static str)> {
    if !fields::device_requests(vmi).is_empty() {
        return Some(("HostDeviceNotLiveMigratable", "VMI uses a PCI host devices"));
    }
    annotation(vmi, LOCAL_DISK).map(|_| {
        (
            "DisksNotLiveMigratable",
            "cannot migrate VMI: PVC is not shared, live migration requires that all PVCs must be shared \
             (using ReadWriteMany access mode)",
        )
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The guest powered itself off.
    Clean,
    /// Destroyed because it had no grace at all: looks clean.
    Destroyed,
    /// Destroyed at the end of its grace.
    Forced,
    /// Ended without anybody who could report more.
    Died,
}

fn shut_down(view: &View, vmi: &Value, pod: Option<&Entry>, since: Instant, now: &Now<'_>) -> Decision {
    // The launcher was told its own limit when it was made (grace + 15): raising the VMI's later does not help.
    let limit =
        pod.and_then(|pod| pod.object.at("/spec/terminationGracePeriodSeconds")).and_then(Value::as_u64);
    let grace = grace_seconds(vmi).min(limit.map_or(u64::MAX, |limit| limit.saturating_sub(15)));
    if grace == 0 {
        return end(vmi, Ending::Destroyed, now);
    }
    if view.done(uid(vmi), "ShuttingDown").is_none() {
        let said = ("ShuttingDown", "Signaled Graceful Shutdown");
        let event = now.event(Kind::Vmi, vmi, false, COMPONENT, said);
        return Decision::write([event, Write::Done { uid: uid(vmi).to_owned(), what: "ShuttingDown" }]);
    }
    let profile = annotation(vmi, SHUTDOWN).or_else(|| {
        view.get(Kind::Vm, &Key::of(vmi))
            .filter(|vm| fields::is_controlled_by(vmi, vm))
            .and_then(|vm| annotation(vm, SHUTDOWN))
    });
    let deaf = profile == Some("ignore") || fields::condition_is(vmi, "Paused", "True");
    let asked = profile.and_then(|seconds| seconds.parse().ok()).unwrap_or(now.timing.guest_shutdown_seconds);
    let (seconds, ending) =
        if deaf || asked > grace { (grace, Ending::Forced) } else { (asked, Ending::Clean) };
    now.once(since + now.timing.seconds(seconds), || end(vmi, ending, now))
}

fn end(vmi: &Value, ending: Ending, now: &Now<'_>) -> Decision {
    let stamp = now.stamp();
    let (phase, warning, message) = match ending {
        Ending::Clean | Ending::Destroyed => {
            ("Succeeded", false, "The VirtualMachineInstance was shut down.")
        }
        Ending::Forced | Ending::Died => ("Failed", true, "The VirtualMachineInstance crashed."),
    };
    let said = "Guest VM is not reported as running";
    let status = json!({"phase": phase, "phaseTransitionTimestamps": transitions_with(vmi, phase, &stamp),
        "conditions": conditions_with(vmi, "Ready", "False", "GuestNotRunning", said, &stamp)});
    let mut writes = vec![Write::patch_status(Kind::Vmi, vmi, status)];
    if matches!(ending, Ending::Forced | Ending::Destroyed) {
        writes.push(now.event(
            Kind::Vmi,
            vmi,
            false,
            COMPONENT,
            ("Deleted", "VirtualMachineInstance stopping"),
        ));
    }
    if did_run(vmi) {
        writes.push(now.event(Kind::Vmi, vmi, warning, COMPONENT, ("Stopped", message)));
    }
    Decision::write(writes)
}

fn copy(view: &View, key: &Key, entry: &Entry, now: &Now<'_>) -> Decision {
    let Some(copying) = entry.facts.copying.as_deref() else { return Decision::nothing() };
    if copying.job.is_empty() || copying.completed {
        return Decision::nothing();
    }
    let vmi = &entry.object;
    let state = |field: &str| vmi.at("/status/migrationState").and_then(|state| state.get(field));
    let said = |field: &str| state(field).and_then(Value::as_str).unwrap_or_default();
    let on = |field: &str| state(field) == Some(&Value::Bool(true));
    let mut pods = view.keyed_owned(Kind::Pod, key).filter(|(_, pod)| *pod.filed.owner == *entry.uid);
    let target = pods.find(|(pod, _)| *pod.name() == *copying.target_pod).map(|(_, pod)| pod);
    let broken = target.is_none_or(|pod| pod.filed.ended || pod.facts.is_deleting());
    if on("abortRequested") || broken {
        let why = if broken { "target pod shutdown during migration" } else { "Live migration aborted" };
        return if broken { fail(vmi, why, now) } else { aborted(vmi, why, now) };
    }
    if !copying.is_prepared {
        // People strip addresses from what they export: then it has the one that it would have got here.
        let told = target.map(|pod| text(&pod.object, "/status/podIP")).filter(|ip| !ip.is_empty());
        let made_up = || target.map(|pod| pod_ip(&pod.uid)).unwrap_or_default();
        let ip = told.map_or_else(made_up, str::to_owned);
        let status = json!({"migrationState":
            {"targetNodeAddress": ip, "targetDirectMigrationNodePorts": {"49152": 49152}}});
        return Decision::write([Write::patch_status(Kind::Vmi, vmi, status)]);
    }
    if !copying.has_started() {
        let ready =
            view.vmims_of(key).any(|vmim| vmim.uid == copying.job && vmim.facts.phase == Phase::TargetReady);
        if !ready {
            return Decision::nothing();
        }
        let status = json!({"migrationState": {"startTimestamp": now.stamp()}});
        return Decision::write([Write::patch_status(Kind::Vmi, vmi, status)]);
    }
    let memory = memory_mib(vmi);
    let dirty = annotation(vmi, DIRTY).and_then(|dirty| dirty.parse().ok()).unwrap_or(0);
    // What KubeVirt allows a copy: some progress within 150 s, and 150 s for each GiB in all.
    let whole = now.timing.seconds(PATIENCE_SECONDS * memory.div_ceil(1024).max(1));
    let late = match now.timing.copying(memory, dirty) {
        Some(copying) if copying <= whole => None,
        Some(_) => {
            let seconds = whole.as_secs();
            Some((
                whole,
                format!("Live migration is not completed after {seconds} seconds and has been aborted"),
            ))
        }
        None => {
            let why = format!("Live migration stuck for {PATIENCE_SECONDS} seconds and has been aborted");
            Some((now.timing.seconds(PATIENCE_SECONDS), why))
        }
    };
    if let Some((patience, why)) = late {
        return now.once(entry.copying_since + patience, || aborted(vmi, &why, now));
    }
    let whole = now.timing.copying(memory, dirty).unwrap_or_default();
    if script::migration_fails(view, key, entry) {
        return now.once(entry.copying_since + whole / 2, || {
            let Decision { mut writes, again } = fail(vmi, LOST_ITS_TARGET, now);
            writes.push(Write::Done { uid: script::counted(view, key, entry), what: script::FAILED });
            Decision { writes, again }
        });
    }
    let due = entry.copying_since + whole;
    now.once(due, || {
        let (node, stamp) = (said("targetNode"), now.stamp());
        let done = json!({"completed": true, "endTimestamp": stamp, "targetNodeDomainDetected": true,
                          "targetNodeDomainReadyTimestamp": stamp});
        let body = json!({
            "metadata": {"labels": {NODE_LABEL: node, "kubevirt.io/migrationTargetNodeName": null}},
            "status": {"nodeName": node, "evacuationNodeName": null, "migrationState": done}});
        let message = format!("The VirtualMachineInstance migrated to node {node}.");
        let event = now.event(Kind::Vmi, vmi, false, COMPONENT, ("Migrated", &message));
        Decision::write([Write::patch(Kind::Vmi, vmi, body), event])
    })
}

/// A migration that ended without the guest having moved.
fn fail(vmi: &Value, why: &str, now: &Now<'_>) -> Decision {
    end_copy(vmi, why, &[], now)
}

/// The same, as somebody had asked for it.
fn aborted(vmi: &Value, why: &str, now: &Now<'_>) -> Decision {
    end_copy(vmi, why, &[("abortStatus", "Succeeded")], now)
}

fn end_copy(vmi: &Value, why: &str, also: &[(&str, &str)], now: &Now<'_>) -> Decision {
    let mut ended =
        json!({"completed": true, "failed": true, "failureReason": why, "endTimestamp": now.stamp()});
    if let Some(fields) = ended.as_object_mut() {
        fields.extend(also.iter().map(|(field, value)| ((*field).to_owned(), json!(value))));
    }
    let event = now.event(Kind::Vmi, vmi, true, COMPONENT, ("Migrated", why));
    Decision::write([Write::patch_status(Kind::Vmi, vmi, json!({"migrationState": ended})), event])
}
