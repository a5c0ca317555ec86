//! The scheduler: which node takes a pod, or why none does. Deterministic: fewest pods first, then by name.

use crate::sim::fields::At as _;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::sim::fields::{
    self, FIRST_NODE, annotation, condition, conditions_with, is_deleting, is_final, label, list, map, name,
    text, uid,
};
use crate::sim::script;
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Key, Kind, View, requests};
use crate::sim::wire::Write;

use super::company::Company;
use super::spread::Spread;

pub(super) fn decide(view: &View, entry: &Entry, now: &Now<'_>) -> Decision {
    let pod = &entry.object;
    if is_deleting(pod) || is_final(pod) {
        return Decision::nothing();
    }
    match place(view, entry) {
        Ok(node) => Decision::write([Write::Bind { pod: Key::of(pod), uid: uid(pod).to_owned(), node }]),
        Err(message) => {
            let told = condition(pod, "PodScheduled").map(|c| text(c, "/message")).unwrap_or_default();
            if told == message {
                return Decision::nothing();
            }
            let conditions =
                conditions_with(pod, "PodScheduled", "False", "Unschedulable", &message, &now.stamp());
            let status =
                Write::patch_status(Kind::Pod, pod, json!({"phase": "Pending", "conditions": conditions}));
            let event = now.event(Kind::Pod, pod, true, "default-scheduler", ("FailedScheduling", &message));
            Decision::write([status, event])
        }
    }
}

/// The node for a pod, or the scheduler's sentence about why there is none.
fn place(view: &View, entry: &Entry) -> Result<String, String> {
    let pod = &*entry.object;
    if entry.facts.job.is_some()
        && let Some(key) = &entry.filed.vmi
        && view.entry(Kind::Vmi, key).is_some_and(|vmi| script::finds_no_target(view, key, vmi))
    {
        let nodes = view.all(Kind::Node).count();
        return Err(format!("0/{nodes} nodes are available: {nodes} Insufficient memory."));
    }
    let wishes = Wishes::of(view, pod);
    if let Some((node, _)) = view.nodes_by_load().find(|(_, node)| misfit(view, &wishes, node).is_none()) {
        return Ok(node.to_owned());
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut nodes = 0;
    for (_, node) in view.all(Kind::Node) {
        nodes += 1;
        if let Some(reason) = misfit(view, &wishes, node) {
            *reasons.entry(reason).or_insert(0) += 1;
        }
    }
    let reasons: Vec<String> =
        reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    Err(format!("0/{nodes} nodes are available: {}.", reasons.join(", ")))
}

/// What a pod asks of a node, read once for all nodes.
struct Wishes<'a> {
    pod: &'a Value,
    room: BTreeMap<String, u128>,
    company: Company<'a>,
    spread: Vec<Spread<'a>>,
}

impl<'a> Wishes<'a> {
    fn of(view: &'a View, pod: &'a Value) -> Self {
        Self { pod, room: requests(pod), company: Company::of(view, pod), spread: Spread::all_of(view, pod) }
    }
}

fn misfit(view: &View, wishes: &Wishes<'_>, node: &Entry) -> Option<String> {
    let pod = wishes.pod;
    if !node.facts.is_ready {
        return Some("node(s) were not ready".to_owned());
    }
    if node.facts.host.is_cordoned {
        return Some("node(s) were unschedulable".to_owned());
    }
    let node = &node.object;
    if let Some(taint) = untolerated(pod, node) {
        let (key, value) = (text(taint, "/key"), text(taint, "/value"));
        return Some(format!("node(s) had untolerated taint {{{key}: {value}}}"));
    }
    let first = annotation(pod, FIRST_NODE).is_none_or(|first| first == name(node));
    if !first || !is_selected(pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let uneven = || wishes.spread.iter().find_map(|spread| spread.misfit(node));
    if let Some(why) = uneven().or_else(|| wishes.company.misfit(node)) {
        return Some(why.to_owned());
    }
    lacking(view, &wishes.room, node).map(|resource| format!("Insufficient {resource}"))
}

/// The first taint of a node that keeps a pod off.
pub(super) fn untolerated<'a>(pod: &Value, node: &'a Value) -> Option<&'a Value> {
    list(node, "/spec/taints").iter().find(|taint| !tolerated(pod, taint))
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

/// Whether a node has what the `nodeSelector` and the required node affinity of a pod, or of a guest, ask for.
pub(in crate::sim) fn is_selected(pod: &Value, node: &Value) -> bool {
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
            let (labels, fields) = (list(term, "/matchExpressions"), list(term, "/matchFields"));
            // One that asks for nothing selects no node.
            !(labels.is_empty() && fields.is_empty())
                && labels.iter().all(|e| holds(e, label(node, text(e, "/key"))))
                && fields.iter().all(|e| text(e, "/key") == "metadata.name" && holds(e, Some(name(node))))
        })
}

pub(super) fn holds(expression: &Value, found: Option<&str>) -> bool {
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

/// The first resource that does not fit. CPU, memory and `KubeVirt`'s own devices count only where the node names them:
/// nodes that somebody else plays need not.
fn lacking(view: &View, wanted: &BTreeMap<String, u128>, node: &Value) -> Option<String> {
    let room = view.room(name(node));
    let used = |resource: &str| room.and_then(|room| room.used.get(resource)).copied().unwrap_or(0);
    let lenient = |resource: &str| !resource.contains('/') || resource.starts_with("devices.kubevirt.io/");
    wanted.iter().find_map(|(resource, amount)| {
        let total = match node.at("/status/allocatable").and_then(|all| all.get(resource)?.as_str()) {
            Some(total) => fields::quantity(total).unwrap_or(0),
            None if lenient(resource) => return None,
            None => 0,
        };
        (used(resource) + amount > total).then(|| resource.clone())
    })
}

#[cfg(test)]
mod tests;
