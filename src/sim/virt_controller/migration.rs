//! The migration controller: admission, slots, back-off, target pod, hand-off to the virt-handlers, the end, and what is
//! swept up afterwards. The copying itself is played by `kubelet::guest`.

use crate::sim::fields::At as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::vmi::launcher_pod;
use crate::sim::fields::{
    self, MIGRATION_JOB, VMIM_FINALIZER, annotation, condition, has_finalizer, is_deleting, is_final, label,
    map, name, phase, text, transitions_with, uid,
};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Key, Kind, View, is_live_pod, vmi_of_vmim};
use crate::sim::wire::Write;

pub(super) const EVACUATION: &str = "kubevirt.io/evacuationMigration";
pub(super) const PER_CLUSTER: usize = 5;
pub(super) const PER_NODE: usize = 2;
const KEPT: usize = 5;
const COMPONENT: &str = "virtualmachine-controller";

/// Why virt-api's webhook would refuse a migration of this VMI; `others` are the VMI's other migrations.
pub(in crate::sim) fn refusal<'a>(
    vmi: Option<&Value>,
    vmi_name: &str,
    mut others: impl Iterator<Item = &'a Value>,
) -> Option<String> {
    let Some(vmi) = vmi else {
        return Some(format!("the VMI \"{vmi_name}\" does not exist under the cluster"));
    };
    if is_final(vmi) {
        return Some(format!("Cannot migrate VMI in finalized state: {}", name(vmi)));
    }
    if let Some(no) = condition(vmi, "LiveMigratable").filter(|c| text(c, "/status") == "False") {
        let (reason, message) = (text(no, "/reason"), text(no, "/message"));
        return Some(format!("Cannot migrate VMI, Reason: {reason}, Message: {message}"));
    }
    others.find(|vmim| !is_final(vmim)).map(|other| {
        let (job, vmi) = (uid(other), name(vmi));
        format!(
            "in-flight migration detected. Active migration job ({job}) is currently already in progress for \
             VMI {vmi}."
        )
    })
}

pub(super) fn decide(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(entry) = view.entry(Kind::Vmim, key) else {
        return Decision::nothing();
    };
    let vmim = &entry.object;
    let vmi_key = vmi_of_vmim(vmim);
    let vmi = view.get(Kind::Vmi, &vmi_key);
    if is_final(vmim) {
        return sweep(view, vmim, vmi, &vmi_key);
    }
    if phase(vmim).is_empty() {
        return admit(view, vmim, vmi, &vmi_key, now);
    }
    let target = vmi.and_then(|vmi| target_pod(view, vmi, vmim));
    let Some(vmi) = vmi.filter(|vmi| !is_final(vmi) && !is_deleting(vmi)) else {
        let text = "Migration failed vmi shutdown during migration.";
        return fail(vmim, None, vmi, text, now);
    };
    let handed_off = text(vmi, "/status/migrationState/migrationUid") == uid(vmim);
    if is_deleting(vmim) && !handed_off {
        return fail(vmim, target, Some(vmi), "Migration failed due to being canceled", now);
    }
    match phase(vmim) {
        "Pending" => begin(view, entry, vmi, now),
        "Scheduling" | "Scheduled" | "PreparingTarget" | "TargetReady" | "Running" => {
            if let Some(why) = failure(vmim, vmi, target, handed_off) {
                return fail(vmim, target, Some(vmi), why, now);
            }
            target.map_or_else(Decision::nothing, |target| advance(view, entry, vmi, target, handed_off, now))
        }
        _ => Decision::nothing(),
    }
}

fn admit(view: &View, vmim: &Value, vmi: Option<&Value>, vmi_key: &Key, now: &Now<'_>) -> Decision {
    let before =
        |other: &Value| (text(other, "/metadata/creationTimestamp").to_owned(), name(other).to_owned());
    let others = view.vmims_of(vmi_key).map(|other| &*other.object).filter(|other| {
        uid(other) != uid(vmim) && (!phase(other).is_empty() || before(other) < before(vmim))
    });
    if let Some(why) = refusal(vmi, &vmi_key.name, others) {
        return fail(vmim, None, None, &why, now);
    }
    if !has_finalizer(vmim, VMIM_FINALIZER) && !is_deleting(vmim) {
        let body = json!({"metadata": {"finalizers": fields::finalizers_with(vmim, VMIM_FINALIZER),
            "labels": {"kubevirt.io/vmi-name": vmi_key.name}}});
        return Decision::write([Write::patch(Kind::Vmim, vmim, body)]);
    }
    move_to(vmim, "Pending", now)
}

fn move_to(vmim: &Value, phase: &str, now: &Now<'_>) -> Decision {
    let status =
        json!({"phase": phase, "phaseTransitionTimestamps": transitions_with(vmim, phase, &now.stamp())});
    Decision::write([Write::patch_status(Kind::Vmim, vmim, &status)])
}

/// Slots free in the cluster and for migrations away from this node.
pub(super) fn free_slots(view: &View, node: &str) -> usize {
    let from_node = view.slots().filter(|vmim| {
        let vmi = vmim.filed.vmi.as_ref().and_then(|vmi| view.entry(Kind::Vmi, vmi));
        vmi.is_some_and(|vmi| vmi.filed.node == node)
    });
    PER_CLUSTER.saturating_sub(view.slots().count()).min(PER_NODE.saturating_sub(from_node.count()))
}

fn begin(view: &View, entry: &Entry, vmi: &Value, now: &Now<'_>) -> Decision {
    let vmim = &entry.object;
    let retry = now.instant + now.timing.seconds(5);
    if target_pod(view, vmi, vmim).is_some() {
        return move_to(vmim, "Scheduling", now);
    }
    let earliest = entry.phase_since + Duration::from_millis(now.timing.migration_start_ms);
    let earliest = earliest.max(back_off_end(view, vmim, now));
    if now.instant < earliest {
        return Decision::at(earliest);
    }
    let live = view.pods_of(vmi).filter(|pod| is_live_pod(pod)).count();
    let node = text(vmi, "/status/nodeName");
    if phase(vmi) != "Running" || live != 1 || free_slots(view, node) == 0 {
        return Decision::at(retry);
    }
    let pod = launcher_pod(vmi, Some(vmim));
    let message = format!("Created migration target pod {}", fields::name(&pod));
    let event = now.event(Kind::Vmim, vmim, false, COMPONENT, ("SuccessfulCreate", &message));
    let mut decision = move_to(vmim, "Scheduling", now);
    decision.writes.insert(0, Write::Create { kind: Kind::Pod, object: pod });
    decision.writes.push(event);
    decision
}

/// Evacuations wait 20 s after a failure, twice as long after each further one; other migrations never wait.
fn back_off_end(view: &View, vmim: &Value, now: &Now<'_>) -> tokio::time::Instant {
    let long_ago = now.timing.origin;
    if annotation(vmim, EVACUATION).is_none() {
        return long_ago;
    }
    let mut ended: Vec<&Entry> =
        view.vmims_of(&vmi_of_vmim(vmim)).filter(|other| is_final(&other.object)).collect();
    ended.sort_by_key(|other| std::cmp::Reverse(other.phase_since));
    let failures = ended.iter().take_while(|other| phase(&other.object) == "Failed").count();
    let Some(last) = ended.first().filter(|_| failures > 0) else {
        return long_ago;
    };
    let doublings = u32::try_from(failures - 1).unwrap_or(4).min(4);
    last.phase_since + now.timing.seconds(20 * 2_u64.pow(doublings))
}

fn target_pod<'a>(view: &'a View, vmi: &'a Value, vmim: &Value) -> Option<&'a Entry> {
    view.pods_of(vmi).find(|pod| label(&pod.object, MIGRATION_JOB) == Some(uid(vmim)))
}

fn failure(vmim: &Value, vmi: &Value, target: Option<&Entry>, handed_off: bool) -> Option<&'static str> {
    let completed = vmi.at("/status/migrationState/completed") == Some(&Value::Bool(true));
    if handed_off && completed {
        let failed = vmi.at("/status/migrationState/failed") == Some(&Value::Bool(true));
        return failed.then_some("source node reported migration failed");
    }
    match target.map(|pod| &pod.object) {
        None => Some("Migration target pod was removed during active migration."),
        Some(pod) if is_final(pod) || is_deleting(pod) => {
            Some("Migration failed because target pod shutdown during migration")
        }
        Some(_) if phase(vmim) != "Scheduling" && phase(vmim) != "Scheduled" && !handed_off => {
            Some("VMI is not eligible for migration because another migration job is in progress.")
        }
        Some(_) => None,
    }
}

fn advance(
    view: &View,
    entry: &Entry,
    vmi: &Value,
    target: &Entry,
    handed_off: bool,
    now: &Now<'_>,
) -> Decision {
    let (vmim, pod) = (&entry.object, &target.object);
    let state = |field: &str| text(vmi, &format!("/status/migrationState/{field}"));
    match phase(vmim) {
        "Scheduling" if fields::condition_is(pod, "Ready", "True") => move_to(vmim, "Scheduled", now),
        "Scheduling" => wait_for_room(entry, target, vmi, now),
        "Scheduled" if !handed_off => hand_off(view, vmim, vmi, pod),
        "Scheduled" => move_to(vmim, "PreparingTarget", now),
        "PreparingTarget" if !state("targetNodeAddress").is_empty() => move_to(vmim, "TargetReady", now),
        "TargetReady" if !state("startTimestamp").is_empty() => move_to(vmim, "Running", now),
        "Running" if vmi.at("/status/migrationState/completed") == Some(&Value::Bool(true)) => {
            let status = json!({"phase": "Succeeded", "migrationState": map(vmi, "/status/migrationState"),
                "phaseTransitionTimestamps": transitions_with(vmim, "Succeeded", &now.stamp())});
            let said = ("SuccessfulMigration", "Source node reported migration succeeded");
            let event = now.event(Kind::Vmim, vmim, false, COMPONENT, said);
            Decision::write([Write::patch_status(Kind::Vmim, vmim, &status), event])
        }
        _ if is_deleting(vmim) && vmi.at("/status/migrationState/abortRequested").is_none() => {
            let body = json!({"migrationState": {"abortRequested": true}});
            Decision::write([Write::patch_status(Kind::Vmi, vmi, &body)])
        }
        _ => Decision::nothing(),
    }
}

fn wait_for_room(entry: &Entry, target: &Entry, vmi: &Value, now: &Now<'_>) -> Decision {
    let unschedulable =
        condition(&target.object, "PodScheduled").is_some_and(|c| text(c, "/status") == "False");
    let limit = now.timing.seconds(if unschedulable { 300 } else { 900 });
    now.once(entry.phase_since + limit, || {
        fail(&entry.object, Some(target), Some(vmi), "Migration target pod is unschedulable", now)
    })
}

fn hand_off(view: &View, vmim: &Value, vmi: &Value, pod: &Value) -> Decision {
    let target = text(pod, "/spec/nodeName");
    // The whole former state goes: what a merge patch does not name would live on.
    let former = map(vmi, "/status/migrationState");
    let mut state: serde_json::Map<String, Value> =
        former.keys().map(|field| (field.clone(), Value::Null)).collect();
    let source = text(vmi, "/status/nodeName");
    let source_pod =
        view.pods_of(vmi).map(|pod| &*pod.object).find(|pod| text(pod, "/spec/nodeName") == source);
    state.extend(map(
        &json!({"migrationUid": uid(vmim), "sourceNode": source, "sourcePod": source_pod.map(name),
                "targetNode": target, "targetPod": name(pod), "mode": "PreCopy"}),
        "",
    ));
    let labels = json!({"kubevirt.io/migrationTargetNodeName": target});
    let body = json!({"metadata": {"labels": labels}, "status": {"migrationState": state}});
    Decision::write([Write::patch(Kind::Vmi, vmi, body)])
}

fn fail(vmim: &Value, target: Option<&Entry>, vmi: Option<&Value>, why: &str, now: &Now<'_>) -> Decision {
    let copied = vmi.filter(|vmi| text(vmi, "/status/migrationState/migrationUid") == uid(vmim));
    let mut state = copied.map(|vmi| map(vmi, "/status/migrationState")).unwrap_or_default();
    state.insert("failed".to_owned(), json!(true));
    state.entry("failureReason").or_insert_with(|| json!(why));
    let status = json!({"phase": "Failed", "migrationState": state,
        "phaseTransitionTimestamps": transitions_with(vmim, "Failed", &now.stamp())});
    let mut writes = vec![Write::patch_status(Kind::Vmim, vmim, &status)];
    if let Some(pod) = target.map(|pod| &pod.object).filter(|pod| !is_deleting(pod)) {
        writes.push(Write::delete(Kind::Pod, pod, None));
    }
    writes.push(now.event(Kind::Vmim, vmim, true, COMPONENT, ("FailedMigration", why)));
    Decision::write(writes)
}

/// After the end: a VMI that still believes in this migration is told, the finalizer goes, old migrations go.
fn sweep(view: &View, vmim: &Value, vmi: Option<&Value>, vmi_key: &Key) -> Decision {
    if has_finalizer(vmim, VMIM_FINALIZER) {
        let doomed = vmi.and_then(|vmi| target_pod(view, vmi, vmim)).map(|pod| &pod.object);
        let doomed = doomed.filter(|pod| phase(vmim) == "Failed" && !is_deleting(pod) && !is_final(pod));
        let finalizers = fields::finalizers_without(vmim, VMIM_FINALIZER);
        let freed = Write::patch(Kind::Vmim, vmim, json!({"metadata": {"finalizers": finalizers}}));
        let pod = doomed.map(|pod| Write::delete(Kind::Pod, pod, None));
        return Decision::write(pod.into_iter().chain([freed]).collect::<Vec<_>>());
    }
    if is_deleting(vmim) {
        return Decision::nothing();
    }
    let mut ended: Vec<&Entry> = view.vmims_of(vmi_key).filter(|other| is_final(&other.object)).collect();
    ended.sort_by_key(|other| {
        (text(&other.object, "/metadata/creationTimestamp").to_owned(), name(&other.object).to_owned())
    });
    let spare = if vmi.is_some() { ended.len().saturating_sub(KEPT) } else { ended.len() };
    // A refused migration of a VMI that never existed would have had no object at all; it stays to be read.
    let refused = annotation(vmim, EVACUATION).is_none() && label(vmim, "kubevirt.io/vmi-name").is_none();
    let doomed =
        ended.iter().take(spare).any(|other| uid(&other.object) == uid(vmim)) && !(vmi.is_none() && refused);
    if doomed { Decision::write([Write::delete(Kind::Vmim, vmim, None)]) } else { Decision::nothing() }
}
