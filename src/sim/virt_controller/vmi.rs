//! The VMI controller: launcher pods, the phases up to Scheduled, the failures that no virt-handler reports, finalizers.

use crate::sim::fields::At as _;
use serde_json::{Map, Value, json};

use super::asks;
use crate::sim::fields::{
    self, CREATED_BY, FIRST_NODE, FOREGROUND, HOSTNAME, MIGRATION_JOB, NODE_LABEL, VM_FINALIZER, annotation,
    condition, conditions_with, grace_seconds, has_finalizer, is_deleting, list, map, name, namespace,
    suffix, text, transitions_with, uid,
};
use crate::sim::script::{self, Held};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Key, Kind, Phase, View};
use crate::sim::wire::Write;

const COMPONENT: &str = "virtualmachine-controller";

pub(super) fn decide(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(entry) = view.entry(Kind::Vmi, key) else {
        return Decision::nothing();
    };
    let vmi = &entry.object;
    let pods: Vec<&Entry> = view.pods_of(key, entry).collect();
    let deleting = entry.facts.is_deleting();
    if deleting {
        let doomed = delete_pods(vmi, &pods, now);
        if !doomed.writes.is_empty() {
            return doomed;
        }
    }
    if entry.filed.ended {
        if deleting && pods.is_empty() && has_finalizer(vmi, FOREGROUND) {
            let freed = || {
                let finalizers = fields::finalizers_without(vmi, FOREGROUND);
                let body = json!({"metadata": {"finalizers": finalizers}});
                Decision::write([Write::patch(Kind::Vmi, vmi, body)])
            };
            return match script::terminating(view, key, entry, now) {
                Held::No => freed(),
                Held::For(held) => now.once(entry.phase_since + held, freed),
                Held::ForEver => Decision::nothing(),
            };
        }
        return Decision::nothing();
    }
    let first = || pods.iter().find(|pod| pod.facts.job.is_none());
    match entry.facts.phase {
        Phase::Unset | Phase::Pending if deleting => fail(vmi, now),
        Phase::Unset | Phase::Pending => {
            let scheduling = json!({"phase": "Scheduling",
                "phaseTransitionTimestamps": transitions_with(vmi, "Scheduling", &now.stamp())});
            let moved = Write::patch_status(Kind::Vmi, vmi, scheduling);
            if first().is_some() {
                return Decision::write([moved]);
            }
            let pod = launcher_pod(vmi, None);
            let message = format!("Created virtual machine pod {}", name(&pod));
            let event = now.event(Kind::Vmi, vmi, false, COMPONENT, ("SuccessfulCreate", &message));
            Decision::write([Write::Create { kind: Kind::Pod, object: pod }, moved, event])
        }
        Phase::Scheduling => match first() {
            None => fail(vmi, now),
            Some(pod) if pod.filed.ended => fail(vmi, now),
            Some(pod) => place(vmi, &pod.object, now),
        },
        Phase::Scheduled | Phase::Running => {
            let here = pods.iter().filter(|pod| pod.filed.node == entry.filed.node);
            // The guest of one that has been here before is in the youngest, as `CurrentVMIPod` of KubeVirt has it.
            match here.max_by_key(|pod| (text(&pod.object, "/metadata/creationTimestamp"), !pod.filed.ended))
            {
                // A launcher that was killed takes its guest with it, and nobody else reports that.
                None => fail(vmi, now),
                Some(pod) if pod.facts.phase == Phase::Failed => fail(vmi, now),
                Some(pod) => refresh(entry, pod, &pods, now),
            }
        }
        Phase::PreparingTarget | Phase::TargetReady | Phase::Succeeded | Phase::Failed | Phase::Other => {
            Decision::nothing()
        }
    }
}

fn fail(vmi: &Value, now: &Now<'_>) -> Decision {
    let stamp = now.stamp();
    let said = "virt-launcher pod has not yet been scheduled";
    let status = json!({"phase": "Failed",
        "phaseTransitionTimestamps": transitions_with(vmi, "Failed", &stamp),
        "conditions": conditions_with(vmi, "Ready", "False", "PodNotExists", said, &stamp)});
    Decision::write([Write::patch_status(Kind::Vmi, vmi, status)])
}

fn delete_pods(vmi: &Value, pods: &[&Entry], now: &Now<'_>) -> Decision {
    let mut writes = Vec::new();
    for pod in pods.iter().filter(|pod| !pod.facts.is_deleting()).map(|pod| &pod.object) {
        let message = format!("Deleted virtual machine pod {}", name(pod));
        writes.push(Write::delete(Kind::Pod, pod, None));
        writes.push(now.event(Kind::Vmi, vmi, false, COMPONENT, ("SuccessfulDelete", &message)));
    }
    Decision::write(writes)
}

/// Scheduling: on to Scheduled when the pod is ready, or tell why it is not.
fn place(vmi: &Value, pod: &Value, now: &Now<'_>) -> Decision {
    let stamp = now.stamp();
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() && fields::condition_is(pod, "Ready", "True") && !is_deleting(pod) {
        let kept: Vec<&Value> =
            list(vmi, "/status/conditions").iter().filter(|c| text(c, "/type") != "PodScheduled").collect();
        let mut status = json!({"phase": "Scheduled", "nodeName": node, "activePods": {uid(pod): node},
            "phaseTransitionTimestamps": transitions_with(vmi, "Scheduled", &stamp)});
        if kept.len() < list(vmi, "/status/conditions").len()
            && let Some(fields) = status.as_object_mut()
        {
            fields.insert("conditions".to_owned(), json!(kept));
        }
        let body = json!({"metadata": {"labels": {NODE_LABEL: node}}, "status": status});
        return Decision::write([Write::patch(Kind::Vmi, vmi, body)]);
    }
    let Some(why) = condition(pod, "PodScheduled").filter(|c| text(c, "/status") == "False") else {
        return Decision::nothing();
    };
    let told = condition(vmi, "PodScheduled");
    if told.map(|c| text(c, "/message")) == Some(text(why, "/message")) {
        return Decision::nothing();
    }
    let conditions =
        conditions_with(vmi, "PodScheduled", "False", text(why, "/reason"), text(why, "/message"), &stamp);
    Decision::write([Write::patch_status(Kind::Vmi, vmi, json!({"conditions": conditions}))])
}

/// Keeps `activePods` and the Ready condition true to the pods.
fn refresh(entry: &Entry, pod: &Entry, pods: &[&Entry], now: &Now<'_>) -> Decision {
    let vmi = &entry.object;
    let mut status = Map::new();
    let present = || pods.iter().filter(|pod| !pod.filed.node.is_empty());
    let known = vmi.at("/status/activePods").and_then(Value::as_object);
    let is_known = |pod: &&&Entry| {
        known.is_some_and(|known| known.get(&*pod.uid).is_some_and(|node| *node == pod.filed.node))
    };
    let count = present().count();
    if known.map_or(0, serde_json::Map::len) != count || !present().all(|pod| is_known(&pod)) {
        let active = present().map(|pod| (pod.uid.to_string(), json!(pod.filed.node)));
        // A merge patch removes a key only when told so.
        let stale = known.into_iter().flat_map(serde_json::Map::keys).map(|uid| (uid.clone(), Value::Null));
        status.insert("activePods".to_owned(), Value::Object(stale.chain(active).collect()));
    }
    let told = || condition(vmi, "Ready").map(|c| text(c, "/reason")).unwrap_or_default();
    if pod.facts.is_deleting() && entry.facts.phase == Phase::Running && told() != "PodTerminating" {
        let message = "virt-launcher pod is terminating";
        let conditions = conditions_with(vmi, "Ready", "False", "PodTerminating", message, &now.stamp());
        status.insert("conditions".to_owned(), json!(conditions));
    }
    if status.is_empty() {
        return Decision::nothing();
    }
    Decision::write([Write::patch_status(Kind::Vmi, vmi, Value::Object(status))])
}

/// A migration, the pod that the guest leaves, and labels that its new node has to have besides those of the VMI.
pub(in crate::sim) type Move<'a> = (&'a Value, &'a Value, Map<String, Value>);

/// The launcher pod of a VMI, or the target pod of a migration of it.
pub(in crate::sim) fn launcher_pod(vmi: &Value, migration: Option<Move<'_>>) -> Value {
    let mut labels = map(vmi, "/metadata/labels");
    labels.remove(NODE_LABEL);
    for (key, value) in
        [("kubevirt.io", "virt-launcher"), (CREATED_BY, uid(vmi)), ("vm.kubevirt.io/name", name(vmi))]
    {
        labels.insert(key.to_owned(), json!(value));
    }
    let mut annotations = Map::new();
    annotations.insert("kubevirt.io/domain".to_owned(), json!(name(vmi)));
    let vmim = migration.as_ref().map(|(vmim, ..)| *vmim);
    let source = migration.as_ref().map(|(_, source, _)| *source);
    let mut selector = map(vmi, "/spec/nodeSelector");
    selector.insert("kubevirt.io/schedulable".to_owned(), json!("true"));
    let mut affinity = map(vmi, "/spec/affinity");
    selector.extend(asks::named_cpu(vmi));
    if let Some((vmim, _, asked)) = migration {
        selector.extend(asked);
        labels.insert(MIGRATION_JOB.to_owned(), json!(uid(vmim)));
        annotations.insert("kubevirt.io/migrationJobName".to_owned(), json!(name(vmim)));
        selector.extend(map(vmim, "/spec/addedNodeSelector"));
        let apart =
            json!({"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": {CREATED_BY: uid(vmi)}}});
        let anti = affinity.entry("podAntiAffinity").or_insert_with(|| json!({}));
        if let Some(anti) = anti.as_object_mut() {
            let required =
                anti.entry("requiredDuringSchedulingIgnoredDuringExecution").or_insert_with(|| json!([]));
            if let Some(required) = required.as_array_mut() {
                required.push(apart);
            }
        }
    } else if let Some(first) = annotation(vmi, FIRST_NODE) {
        annotations.insert(FIRST_NODE.to_owned(), json!(first));
    }
    let limits = asks::devices(vmi);
    let mut requests = limits.clone();
    requests.extend(asks::room(vmi));
    let seed = vmim.map_or_else(|| uid(vmi), uid);
    let metadata =
        json!({"name": format!("virt-launcher-{}-{}", name(vmi), suffix(seed)), "namespace": namespace(vmi)});
    let metadata = fields::with(
        metadata,
        [
            ("labels", Value::Object(labels)),
            ("annotations", Value::Object(annotations)),
            ("ownerReferences", Value::Array(vec![fields::owner_reference("VirtualMachineInstance", vmi)])),
        ],
    );
    let resources =
        fields::object([("limits", Value::Object(limits)), ("requests", Value::Object(requests))]);
    let container = json!({"name": "compute", "image": "sim/launcher"});
    // The same is asked for where it goes, also what only an exported pod tells.
    let containers = match source.map(|source| list(source, "/spec/containers")) {
        Some(known) if !known.is_empty() => known.to_vec(),
        _ => vec![fields::with(container, [("resources", resources)])],
    };
    let spec = json!({"automountServiceAccountToken": false, "enableServiceLinks": false, "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace_seconds(vmi) + 30, "tolerations": list(vmi, "/spec/tolerations")});
    let spec = fields::with(
        spec,
        [
            ("nodeSelector", Value::Object(selector)),
            ("affinity", Value::Object(affinity)),
            ("containers", Value::Array(containers)),
        ],
    );
    let spread = vmi.at("/spec/topologySpreadConstraints").filter(|spread| spread.is_array());
    let spec = match spread {
        Some(spread) => fields::with(spec, [("topologySpreadConstraints", spread.clone())]),
        None => spec,
    };
    fields::with(json!({"apiVersion": "v1", "kind": "Pod"}), [("metadata", metadata), ("spec", spec)])
}

/// The VMI of a VM that starts, as it is after admission.
pub(in crate::sim) fn new_vmi(vm: &Value, now: &Now<'_>) -> Value {
    let stamp = now.stamp();
    let mut spec = map(vm, "/spec/template/spec");
    // What virt-api's mutating webhook would fill in.
    spec.entry("evictionStrategy").or_insert_with(|| json!("None"));
    let mut labels = map(vm, "/spec/template/metadata/labels");
    labels.insert("vm.kubevirt.io/name".to_owned(), json!(name(vm)));
    let mut annotations = map(vm, "/spec/template/metadata/annotations");
    let generation = vm.at("/metadata/generation").map(ToString::to_string).unwrap_or_default();
    annotations.insert("kubevirt.io/vm-generation".to_owned(), json!(generation));
    if let Some(first) = annotation(vm, FIRST_NODE).filter(|_| text(vm, "/status/runStrategy").is_empty()) {
        annotations.insert(FIRST_NODE.to_owned(), json!(first));
    }
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {
            "name": name(vm), "namespace": namespace(vm), "labels": labels, "annotations": annotations,
            "finalizers": [VM_FINALIZER, FOREGROUND],
            "ownerReferences": [fields::owner_reference("VirtualMachine", vm)],
        },
        "spec": spec,
        "status": {"phase": "Pending",
            "phaseTransitionTimestamps": fields::transitions_with(&Value::Null, "Pending", &stamp)},
    })
}
