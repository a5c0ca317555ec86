//! The migration controller: admission, slots, back-off, target pod, hand-off to the virt-handlers, the end, and what is
//! swept up afterwards. The copying itself is played by `kubelet::guest`.

use crate::sim::fields::At as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::cpu::labels_of_target;
use super::vmi::launcher_pod;
use crate::sim::fields::{
    self, VMIM_FINALIZER, condition, has_finalizer, is_deleting, is_final, label, map, name, phase, text,
    transitions_with, uid,
};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Copying, Entry, Key, Kind, Phase, View, is_live_pod};
use crate::sim::wire::Write;

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
    let Some(vmi_key) = &entry.filed.vmi else {
        return Decision::nothing();
    };
    let vmim = &entry.object;
    let vmi = view.entry(Kind::Vmi, vmi_key);
    if entry.filed.ended {
        return sweep(view, entry, vmi, vmi_key);
    }
    if entry.facts.phase == Phase::Unset {
        return admit(view, vmim, vmi.map(|vmi| &*vmi.object), vmi_key, now);
    }
    let Some(vmi) = vmi.filter(|vmi| !vmi.filed.ended && !vmi.facts.is_deleting()) else {
        let text = "Migration failed vmi shutdown during migration.";
        return fail(vmim, None, vmi.map(|vmi| &*vmi.object), text, now);
    };
    let target = target_pod(view, vmi_key, vmi, entry);
    let handed_off = *vmi.facts.copy_job() == *entry.uid;
    if entry.facts.is_deleting() && !handed_off {
        return fail(vmim, target, Some(&vmi.object), "Migration failed due to being canceled", now);
    }
    match entry.facts.phase {
        Phase::Pending => begin(view, (vmi_key, vmi), entry, target, now),
        Phase::Scheduling
        | Phase::Scheduled
        | Phase::PreparingTarget
        | Phase::TargetReady
        | Phase::Running => {
            if let Some(why) = failure(entry, vmi, target, handed_off) {
                return fail(vmim, target, Some(&vmi.object), why, now);
            }
            target.map_or_else(Decision::nothing, |target| {
                advance(view, (vmi_key, vmi), entry, target, handed_off, now)
            })
        }
        Phase::Unset | Phase::Succeeded | Phase::Failed | Phase::Other => Decision::nothing(),
    }
}

fn admit(view: &View, vmim: &Value, vmi: Option<&Value>, vmi_key: &Key, now: &Now<'_>) -> Decision {
    let before =
        |other: &Value| (text(other, "/metadata/creationTimestamp").to_owned(), name(other).to_owned());
    let others = view.vmims_of(vmi_key).map(|other| &*other.object).filter(|other| {
        uid(other) != uid(vmim) && (!phase(other).is_empty() || before(other) < before(vmim))
    });
    if let Some(why) = refusal(vmi, vmi_key.name(), others) {
        return fail(vmim, None, None, &why, now);
    }
    if !has_finalizer(vmim, VMIM_FINALIZER) && !is_deleting(vmim) {
        let body = json!({"metadata": {"finalizers": fields::finalizers_with(vmim, VMIM_FINALIZER),
            "labels": {"kubevirt.io/vmi-name": vmi_key.name()}}});
        return Decision::write([Write::patch(Kind::Vmim, vmim, body)]);
    }
    move_to(vmim, "Pending", now)
}

fn move_to(vmim: &Value, phase: &str, now: &Now<'_>) -> Decision {
    let transitions = Value::Array(transitions_with(vmim, phase, &now.stamp()));
    let status = fields::object([("phase", phase.into()), ("phaseTransitionTimestamps", transitions)]);
    Decision::write([Write::patch_status(Kind::Vmim, vmim, status)])
}

/// Slots free in the cluster and for migrations away from this node.
pub(super) fn free_slots(view: &View, node: &str) -> usize {
    let from_node = view.slots().filter(|vmim| {
        let vmi = vmim.filed.vmi.as_ref().and_then(|vmi| view.entry(Kind::Vmi, vmi));
        vmi.is_some_and(|vmi| vmi.filed.node == node)
    });
    PER_CLUSTER.saturating_sub(view.slots().count()).min(PER_NODE.saturating_sub(from_node.count()))
}

fn begin(
    view: &View,
    (vmi_key, vmi): (&Key, &Entry),
    entry: &Entry,
    target: Option<&Entry>,
    now: &Now<'_>,
) -> Decision {
    let vmim = &entry.object;
    let retry = now.instant + now.timing.seconds(5);
    if target.is_some() {
        return move_to(vmim, "Scheduling", now);
    }
    let earliest = entry.phase_since + Duration::from_millis(now.timing.migration_start_ms);
    let earliest = earliest.max(back_off_end(view, entry, vmi_key, now));
    if now.instant < earliest {
        return Decision::at(earliest);
    }
    let mut live = view.pods_of(vmi_key, vmi).filter(|pod| is_live_pod(pod));
    let (Some(source), None) = (live.next(), live.next()) else {
        return Decision::at(retry);
    };
    if vmi.facts.phase != Phase::Running || free_slots(view, &vmi.filed.node) == 0 {
        return Decision::at(retry);
    }
    let host = view.node(&vmi.filed.node).map(|host| &*host.object);
    let labels = labels_of_target(&source.object, &vmi.object, host);
    let pod = launcher_pod(&vmi.object, Some((vmim, &source.object, labels)));
    let message = format!("Created migration target pod {}", fields::name(&pod));
    let event = now.event(Kind::Vmim, vmim, false, COMPONENT, ("SuccessfulCreate", &message));
    let mut decision = move_to(vmim, "Scheduling", now);
    decision.writes.insert(0, Write::Create { kind: Kind::Pod, object: pod });
    decision.writes.push(event);
    decision
}

/// Evacuations wait 20 s after a failure, twice as long after each further one; other migrations never wait.
fn back_off_end(view: &View, entry: &Entry, vmi_key: &Key, now: &Now<'_>) -> tokio::time::Instant {
    let long_ago = now.timing.origin;
    if !entry.facts.is_evacuation {
        return long_ago;
    }
    let mut ended: Vec<&Entry> = view.vmims_of(vmi_key).filter(|other| other.filed.ended).collect();
    ended.sort_by_key(|other| std::cmp::Reverse(other.phase_since));
    let failures = ended.iter().take_while(|other| other.facts.phase == Phase::Failed).count();
    let Some(last) = ended.first().filter(|_| failures > 0) else {
        return long_ago;
    };
    let doublings = u32::try_from(failures - 1).unwrap_or(4).min(4);
    last.phase_since + now.timing.seconds(20 * 2_u64.pow(doublings))
}

fn target_pod<'a>(view: &'a View, key: &Key, vmi: &'a Entry, vmim: &Entry) -> Option<&'a Entry> {
    view.pods_of(key, vmi).find(|pod| pod.facts.job.as_ref() == Some(&vmim.uid))
}

fn failure(vmim: &Entry, vmi: &Entry, target: Option<&Entry>, handed_off: bool) -> Option<&'static str> {
    if let Some(copying) = vmi.facts.copying.as_ref().filter(|copying| handed_off && copying.completed) {
        return copying.failed.then_some("source node reported migration failed");
    }
    match target {
        None => Some("Migration target pod was removed during active migration."),
        Some(pod) if pod.filed.ended || pod.facts.is_deleting() => {
            Some("Migration failed because target pod shutdown during migration")
        }
        Some(_) if !matches!(vmim.facts.phase, Phase::Scheduling | Phase::Scheduled) && !handed_off => {
            Some("VMI is not eligible for migration because another migration job is in progress.")
        }
        Some(_) => None,
    }
}

fn advance(
    view: &View,
    (vmi_key, vmi): (&Key, &Entry),
    entry: &Entry,
    target: &Entry,
    handed_off: bool,
    now: &Now<'_>,
) -> Decision {
    let vmim = &entry.object;
    let copying = vmi.facts.copying.as_deref();
    match entry.facts.phase {
        Phase::Scheduling if target.facts.is_ready => move_to(vmim, "Scheduled", now),
        Phase::Scheduling => wait_for_room(entry, target, &vmi.object, now),
        Phase::Scheduled if !handed_off => hand_off(view, vmim, (vmi_key, vmi), &target.object),
        Phase::Scheduled => move_to(vmim, "PreparingTarget", now),
        Phase::PreparingTarget if copying.is_some_and(|copying| copying.is_prepared) => {
            move_to(vmim, "TargetReady", now)
        }
        Phase::TargetReady if copying.is_some_and(Copying::has_started) => move_to(vmim, "Running", now),
        Phase::Running if copying.is_some_and(|copying| copying.completed) => {
            let status = json!({"phase": "Succeeded", "migrationState": map(&vmi.object, "/status/migrationState"),
                "phaseTransitionTimestamps": transitions_with(vmim, "Succeeded", &now.stamp())});
            let said = ("SuccessfulMigration", "Source node reported migration succeeded");
            let event = now.event(Kind::Vmim, vmim, false, COMPONENT, said);
            Decision::write([Write::patch_status(Kind::Vmim, vmim, status), event])
        }
        Phase::Unset
        | Phase::Pending
        | Phase::PreparingTarget
        | Phase::TargetReady
        | Phase::Running
        | Phase::Succeeded
        | Phase::Failed
        | Phase::Other => abort(entry, vmi),
    }
}

/// Asks for the end of a migration that was deleted while the guest was copied.
fn abort(entry: &Entry, vmi: &Entry) -> Decision {
    if entry.facts.is_deleting() && vmi.object.at("/status/migrationState/abortRequested").is_none() {
        let body = json!({"migrationState": {"abortRequested": true}});
        return Decision::write([Write::patch_status(Kind::Vmi, &vmi.object, body)]);
    }
    Decision::nothing()
}

fn wait_for_room(entry: &Entry, target: &Entry, vmi: &Value, now: &Now<'_>) -> Decision {
    let unschedulable =
        condition(&target.object, "PodScheduled").is_some_and(|c| text(c, "/status") == "False");
    let limit = now.timing.seconds(if unschedulable { 300 } else { 900 });
    now.once(entry.phase_since + limit, || {
        fail(&entry.object, Some(target), Some(vmi), "Migration target pod is unschedulable", now)
    })
}

fn hand_off(view: &View, vmim: &Value, (vmi_key, vmi): (&Key, &Entry), pod: &Value) -> Decision {
    let pods = view.pods_of(vmi_key, vmi);
    let vmi = &vmi.object;
    let target = text(pod, "/spec/nodeName");
    // The whole former state goes: what a merge patch does not name would live on.
    let former = map(vmi, "/status/migrationState");
    let mut state: serde_json::Map<String, Value> =
        former.keys().map(|field| (field.clone(), Value::Null)).collect();
    let source = text(vmi, "/status/nodeName");
    let source_pod = pods.map(|pod| &*pod.object).find(|pod| text(pod, "/spec/nodeName") == source);
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
    let mut writes = vec![Write::patch_status(Kind::Vmim, vmim, status)];
    if let Some(pod) = target.map(|pod| &pod.object).filter(|pod| !is_deleting(pod)) {
        writes.push(Write::delete(Kind::Pod, pod, None));
    }
    writes.push(now.event(Kind::Vmim, vmim, true, COMPONENT, ("FailedMigration", why)));
    Decision::write(writes)
}

/// After the end: a VMI that still believes in this migration is told, the finalizer goes, old migrations go.
fn sweep(view: &View, entry: &Entry, vmi: Option<&Entry>, vmi_key: &Key) -> Decision {
    let vmim = &entry.object;
    if has_finalizer(vmim, VMIM_FINALIZER) {
        let doomed = vmi.and_then(|vmi| target_pod(view, vmi_key, vmi, entry));
        let failed = entry.facts.phase == Phase::Failed;
        let doomed = doomed.filter(|pod| failed && !pod.facts.is_deleting() && !pod.filed.ended);
        let finalizers = fields::finalizers_without(vmim, VMIM_FINALIZER);
        let freed = Write::patch(Kind::Vmim, vmim, json!({"metadata": {"finalizers": finalizers}}));
        let pod = doomed.map(|pod| Write::delete(Kind::Pod, &pod.object, None));
        return Decision::write(pod.into_iter().chain([freed]).collect::<Vec<_>>());
    }
    if entry.facts.is_deleting() {
        return Decision::nothing();
    }
    let mut ended: Vec<&Entry> = view.vmims_of(vmi_key).filter(|other| other.filed.ended).collect();
    let spare = if vmi.is_some() { ended.len().saturating_sub(KEPT) } else { ended.len() };
    if spare == 0 {
        return Decision::nothing();
    }
    ended.sort_by_key(|other| {
        (text(&other.object, "/metadata/creationTimestamp").to_owned(), name(&other.object).to_owned())
    });
    // A refused migration of a VMI that never existed would have had no object at all; it stays to be read.
    let refused = !entry.facts.is_evacuation && label(vmim, "kubevirt.io/vmi-name").is_none();
    let doomed = ended.iter().take(spare).any(|other| other.uid == entry.uid) && !(vmi.is_none() && refused);
    if doomed { Decision::write([Write::delete(Kind::Vmim, vmim, None)]) } else { Decision::nothing() }
}
