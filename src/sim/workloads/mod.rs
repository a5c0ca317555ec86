//! The pods that are no VMs, so that a drain has something to do: `ReplicaSet`s that replace what is evicted, and the
//! status of disruption budgets. `DaemonSet`s only own pods here; a drain leaves those alone.

use crate::sim::fields::At as _;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::api::selects;
use super::fields::{
    self, condition_is, is_controlled_by, is_deleting, is_final, label, map, name, namespace, suffix, text,
    uid,
};
use super::turns::{Decision, Now};
use super::view::{Key, Kind, Task, View};
use super::wire::Write;

/// What the workload controllers would write about this object now.
pub(super) fn decide(view: &View, (kind, key): &Task, now: &Now<'_>) -> Decision {
    match kind {
        Kind::ReplicaSet => replace(view, key, now),
        Kind::Budget => budget(view, key),
        Kind::Node
        | Kind::Vm
        | Kind::Vmi
        | Kind::Vmim
        | Kind::Pod
        | Kind::Volume
        | Kind::Engine
        | Kind::Replica
        | Kind::InstanceManager => Decision::nothing(),
    }
}

fn replace(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(set) = view.get(Kind::ReplicaSet, key) else { return Decision::nothing() };
    let own = || view.owned(Kind::Pod, key).map(|pod| &pod.object).filter(|pod| is_controlled_by(pod, set));
    let wanted = set.at("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    let live: Vec<_> = own().filter(|pod| !is_final(pod) && !is_deleting(pod)).collect();
    let missing = wanted.saturating_sub(live.len() as u64);
    let mut writes = Vec::new();
    if missing > 0 && !is_deleting(set) {
        // One at a time: the answer wakes this set again.
        let seed = format!("{} {} {}", uid(set), now.timing.at(now.instant).as_nanosecond(), own().count());
        writes.push(Write::Create { kind: Kind::Pod, object: pod(set, &suffix(&seed)) });
        return Decision::write(writes);
    }
    let ready = live.iter().filter(|pod| condition_is(pod, "Ready", "True")).count();
    let status = json!({"replicas": live.len(), "readyReplicas": ready});
    if ["replicas", "readyReplicas"]
        .iter()
        .any(|field| set.at(&format!("/status/{field}")) != status.get(field))
    {
        writes.push(Write::patch_status(Kind::ReplicaSet, set, status));
    }
    Decision::write(writes)
}

/// A pod of a set, as its template says.
pub(super) fn pod(set: &Value, end: &str) -> Value {
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name(set), "uid": uid(set),
        "controller": true, "blockOwnerDeletion": true});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{}-{end}", name(set)), "namespace": namespace(set),
            "labels": map(set, "/spec/template/metadata/labels"), "ownerReferences": [owner]},
        "spec": map(set, "/spec/template/spec"),
    })
}

/// What the disruption controller says of a budget: how many of its pods may go now.
fn budget(view: &View, key: &Key) -> Decision {
    let Some(budget) =
        view.get(Kind::Budget, key).filter(|budget| label(budget, "longhorn.io/managed-by").is_none())
    else {
        return Decision::nothing();
    };
    let selector = budget.at("/spec/selector");
    let chosen = |set: &Value| {
        selector.zip(set.at("/spec/template")).is_some_and(|(selector, template)| selects(selector, template))
    };
    let filed = view.entry(Kind::Budget, key).into_iter().flat_map(|entry| &entry.filed.also);
    let sets = filed.flat_map(|by| view.keyed_owned(Kind::ReplicaSet, by));
    let sets: Vec<_> = sets.filter(|(_, set)| chosen(&set.object)).collect();
    let count = |set: &Value| set.at("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    let expected: u64 = sets.iter().map(|(_, set)| count(&set.object)).sum();
    let pods = sets.iter().flat_map(|(set, _)| view.owned(Kind::Pod, set));
    let healthy = pods.filter(|pod| condition_is(&pod.object, "Ready", "True") && !is_deleting(&pod.object));
    let healthy = healthy.count() as u64;
    let desired = amount(budget, "minAvailable", expected)
        .unwrap_or_else(|| expected.saturating_sub(amount(budget, "maxUnavailable", expected).unwrap_or(0)));
    let wanted: BTreeMap<&str, Value> = [
        ("expectedPods", json!(expected)),
        ("currentHealthy", json!(healthy)),
        ("desiredHealthy", json!(desired)),
        ("disruptionsAllowed", json!(healthy.saturating_sub(desired))),
        ("observedGeneration", budget.at("/metadata/generation").cloned().unwrap_or(json!(1))),
        ("disruptedPods", Value::Null),
    ]
    .into();
    let had = |field: &str| budget.at("/status").and_then(|status| status.get(field)).unwrap_or(&Value::Null);
    if wanted.iter().all(|(field, value)| had(field) == value) {
        return Decision::nothing();
    }
    Decision::write([Write::patch_status(Kind::Budget, budget, json!(wanted))])
}

/// A number, or a share of all in percent, rounded up.
fn amount(budget: &Value, field: &str, all: u64) -> Option<u64> {
    let value = budget.at("/spec").and_then(|spec| spec.get(field))?;
    let share = value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<u64>().ok());
    value.as_u64().or_else(|| share.map(|percent| (all * percent).div_ceil(100)))
}

/// The owner of one pod on each node.
pub(super) fn daemon_set(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"k8s-app": name}},
            "template": {"metadata": {"labels": {"k8s-app": name}},
                "spec": {"containers": [{"name": name, "image": "sim/daemon"}]}}}})
}

/// A `DaemonSet`'s pod on a node.
pub(super) fn daemon_pod(set: &Value, node: &str) -> Value {
    let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": name(set), "uid": uid(set),
        "controller": true, "blockOwnerDeletion": true});
    let end = suffix(&format!("{} {node}", uid(set)));
    let mut spec = map(set, "/spec/template/spec");
    spec.extend(fields::map(&json!({"nodeName": node, "tolerations": [{"operator": "Exists"}]}), ""));
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{}-{end}", name(set)), "namespace": namespace(set),
            "labels": map(set, "/spec/template/metadata/labels"), "ownerReferences": [owner]},
        "spec": spec})
}

/// Some pods of an application, apart from each other where there is room, and the budget that lets one of them go.
pub(super) fn application(namespace: &str, name: &str, replicas: usize) -> [Value; 2] {
    let labels = json!({"app": name});
    [
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 30,
                    "containers": [{"name": "app", "image": "sim/app"}]}}}}),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}}}),
    ]
}

/// Where the status of an application's set and budget ends up when all of its pods run.
pub(super) fn settled(object: &mut Value, replicas: usize) {
    let status = if text(object, "/kind") == "ReplicaSet" {
        json!({"replicas": replicas, "readyReplicas": replicas})
    } else {
        json!({"expectedPods": replicas, "currentHealthy": replicas,
            "desiredHealthy": replicas.saturating_sub(1),
            "disruptionsAllowed": replicas.min(1), "observedGeneration": 1})
    };
    fields::merge(object, &json!({"status": status}));
}
