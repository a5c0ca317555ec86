//! The scheduler: which node takes a pod, or why none does. Deterministic: fewest launcher pods first, then by name.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::sim::fields::{
    self, FIRST_NODE, annotation, condition, condition_is, conditions_with, is_deleting, is_final, label,
    list, map, name, quantity, text, uid,
};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Key, Kind, View};
use crate::sim::wire::Write;

pub(super) fn decide(view: &View, entry: &Entry, now: &Now<'_>) -> Decision {
    let pod = &entry.object;
    if is_deleting(pod) || is_final(pod) {
        return Decision::nothing();
    }
    match place(view, pod) {
        Ok(node) => Decision::write([Write::Bind { pod: Key::of(pod), uid: uid(pod).to_owned(), node }]),
        Err(message) => {
            let told = condition(pod, "PodScheduled").map(|c| text(c, "/message")).unwrap_or_default();
            if told == message {
                return Decision::nothing();
            }
            let conditions =
                conditions_with(pod, "PodScheduled", "False", "Unschedulable", &message, &now.stamp());
            let status =
                Write::patch_status(Kind::Pod, pod, &json!({"phase": "Pending", "conditions": conditions}));
            let event =
                Write::event(Kind::Pod, pod, true, "default-scheduler", ("FailedScheduling", &message));
            Decision::write([status, event])
        }
    }
}

/// The node for a pod, or the scheduler's sentence about why there is none.
fn place(view: &View, pod: &Value) -> Result<String, String> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting: Vec<(usize, &str)> = Vec::new();
    let mut nodes = 0;
    for (key, node) in view.all(Kind::Node) {
        nodes += 1;
        if let Some(reason) = misfit(view, pod, &node.object) {
            *reasons.entry(reason).or_insert(0) += 1;
            continue;
        }
        let launchers = view.pods_on(&key.name).map(|p| &p.object);
        let busy = launchers.filter(|p| label(p, "kubevirt.io") == Some("virt-launcher") && !is_final(p));
        fitting.push((busy.count(), &key.name));
    }
    if let Some((_, node)) = fitting.into_iter().min() {
        return Ok(node.to_owned());
    }
    let reasons: Vec<String> =
        reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    Err(format!("0/{nodes} nodes are available: {}.", reasons.join(", ")))
}

fn misfit(view: &View, pod: &Value, node: &Value) -> Option<String> {
    if !condition_is(node, "Ready", "True") {
        return Some("node(s) were not ready".to_owned());
    }
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        return Some("node(s) were unschedulable".to_owned());
    }
    if let Some(taint) = list(node, "/spec/taints").iter().find(|taint| !tolerated(pod, taint)) {
        let (key, value) = (text(taint, "/key"), text(taint, "/value"));
        return Some(format!("node(s) had untolerated taint {{{key}: {value}}}"));
    }
    let first = annotation(pod, FIRST_NODE).is_none_or(|first| first == name(node));
    if !first || !selected(pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    if apart(view, pod, node) {
        return Some("node(s) didn't match pod anti-affinity rules".to_owned());
    }
    lacking(view, pod, node).map(|resource| format!("Insufficient {resource}"))
}

fn tolerated(pod: &Value, taint: &Value) -> bool {
    if text(taint, "/effect") == "PreferNoSchedule" {
        return true;
    }
    list(pod, "/spec/tolerations").iter().any(|toleration| {
        let wants = |field: &str| text(toleration, field);
        let key = wants("/key").is_empty() || wants("/key") == text(taint, "/key");
        let effect = wants("/effect").is_empty() || wants("/effect") == text(taint, "/effect");
        let value = wants("/operator") == "Exists" || wants("/value") == text(taint, "/value");
        key && effect && value
    })
}

fn selected(pod: &Value, node: &Value) -> bool {
    let labels = map(pod, "/spec/nodeSelector");
    if !labels.iter().all(|(key, value)| label(node, key) == value.as_str()) {
        return false;
    }
    let terms = list(
        pod,
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    );
    terms.is_empty()
        || terms.iter().any(|term| {
            let by_label =
                list(term, "/matchExpressions").iter().all(|e| holds(e, label(node, text(e, "/key"))));
            by_label && list(term, "/matchFields").iter().all(|e| holds(e, Some(name(node))))
        })
}

fn holds(expression: &Value, found: Option<&str>) -> bool {
    let listed = found.is_some_and(|found| list(expression, "/values").iter().any(|value| value == found));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = number(list(expression, "/values").first().and_then(Value::as_str));
    match text(expression, "/operator") {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => number(found).zip(bound).is_some_and(|(found, bound)| found > bound),
        "Lt" => number(found).zip(bound).is_some_and(|(found, bound)| found < bound),
        _ => false,
    }
}

/// Required pod anti-affinity, for the host name topology that migrations use.
fn apart(view: &View, pod: &Value, node: &Value) -> bool {
    list(pod, "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution").iter().any(
        |term| {
            let wanted = map(term, "/labelSelector/matchLabels");
            !wanted.is_empty()
                && view.pods_on(name(node)).map(|other| &other.object).any(|other| {
                    !is_final(other)
                        && uid(other) != uid(pod)
                        && wanted.iter().all(|(key, value)| label(other, key) == value.as_str())
                })
        },
    )
}

fn requests(pod: &Value) -> BTreeMap<String, u128> {
    let mut sum = BTreeMap::new();
    for container in list(pod, "/spec/containers") {
        let mut asked = map(container, "/resources/limits");
        asked.extend(map(container, "/resources/requests"));
        for (resource, amount) in asked {
            let amount = amount.as_str().and_then(quantity).unwrap_or(0);
            *sum.entry(resource).or_insert(0) += amount;
        }
    }
    sum
}

/// The first resource that does not fit. CPU, memory and `KubeVirt`'s own devices count only where the node names them:
/// nodes that somebody else plays need not.
fn lacking(view: &View, pod: &Value, node: &Value) -> Option<String> {
    let allocatable = map(node, "/status/allocatable");
    let wanted = requests(pod);
    let mut used: BTreeMap<String, u128> = BTreeMap::new();
    for other in view.pods_on(name(node)).map(|other| &other.object).filter(|other| !is_final(other)) {
        for (resource, amount) in requests(other) {
            *used.entry(resource).or_insert(0) += amount;
        }
    }
    let lenient = |resource: &str| !resource.contains('/') || resource.starts_with("devices.kubevirt.io/");
    wanted.into_iter().find_map(|(resource, amount)| {
        let total = match allocatable.get(&resource).and_then(Value::as_str) {
            Some(total) => fields::quantity(total).unwrap_or(0),
            None if lenient(&resource) => return None,
            None => 0,
        };
        (used.get(&resource).copied().unwrap_or(0) + amount > total).then_some(resource)
    })
}
