//! A node's instance manager: its state follows its pod, its maps say what runs in it, its budget goes when a drain may
//! take it (`node-drain-policy: allow-if-replica-is-stopped`).

use crate::sim::fields::At as _;
use std::cmp::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{NAMESPACE, build, is_schedulable, manager_of};
use crate::sim::fields::{is_deleting, name, text};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Health, Key, Kind, Phase, State, View};
use crate::sim::wire::Write;

/// Between two looks at whether a budget may go.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub(super) fn decide(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(entry) = view.entry(Kind::InstanceManager, key) else { return Decision::nothing() };
    let manager = &entry.object;
    let node = &entry.filed.node;
    let pod = view.get(Kind::Pod, key);
    let host = view.node(node);
    let state = state(host, view.entry(Kind::Pod, key));
    let mut writes = Vec::new();
    let keeps = matches!(state, "running" | "unknown");
    let mut status = Map::new();
    if text(manager, "/status/currentState") != state {
        status.insert("currentState".to_owned(), json!(state));
    }
    for (kind, field) in [(Kind::Engine, "instanceEngines"), (Kind::Replica, "instanceReplicas")] {
        let patch = instances(view, manager, (kind, field), node, keeps);
        if !patch.is_empty() {
            status.insert(field.to_owned(), Value::Object(patch));
        }
    }
    if !status.is_empty() {
        writes.push(Write::patch_status(Kind::InstanceManager, manager, Value::Object(status)));
    }
    match (state, pod) {
        ("error", Some(pod)) if !is_deleting(pod) => writes.push(Write::delete(Kind::Pod, pod, Some(0))),
        ("error", None) if is_schedulable(host) => {
            writes.push(Write::Create { kind: Kind::Pod, object: build::manager_pod(manager, node) });
        }
        _ => {}
    }
    let again = if state == "running" { budget(view, key, node, &mut writes, now) } else { None };
    Decision { writes, again }
}

fn state(host: Option<&Entry>, pod: Option<&Entry>) -> &'static str {
    let down = host.is_none_or(|host| !host.facts.is_ready || host.facts.host.is_off);
    match pod {
        _ if down => "unknown",
        None => "error",
        Some(pod) if pod.facts.is_deleting() => "error",
        Some(pod) => match pod.facts.phase {
            Phase::Running if pod.facts.is_ready => "running",
            Phase::Running | Phase::Pending | Phase::Unset => "starting",
            Phase::Scheduling
            | Phase::Scheduled
            | Phase::PreparingTarget
            | Phase::TargetReady
            | Phase::Succeeded
            | Phase::Failed
            | Phase::Other => "error",
        },
    }
}

/// What is new and what is gone of the map of what runs in a manager, as a merge patch. Both lists are in order of the
/// names, so one pass over the two finds what is in only one of them.
fn instances(
    view: &View,
    manager: &Value,
    (kind, field): (Kind, &str),
    node: &str,
    keeps: bool,
) -> Map<String, Value> {
    let known = manager.at("/status").and_then(|status| status.get(field)?.as_object());
    let mut known = known.into_iter().flat_map(Map::keys).peekable();
    let mut running = view.running(kind, node).filter(|_| keeps).peekable();
    let mut patch = Map::new();
    loop {
        let order = match (running.peek(), known.peek()) {
            (Some(one), Some(name)) => one.name().cmp(name.as_str()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return patch,
        };
        if order.is_le()
            && let Some(one) = running.next()
            && order.is_lt()
        {
            let fresh = view.get(kind, one).map(build::instance);
            patch.extend(fresh);
        }
        if order.is_ge()
            && let Some(name) = known.next()
            && order.is_gt()
        {
            // A merge patch removes a key only when told so.
            patch.insert(name.clone(), Value::Null);
        }
    }
}

fn budget(
    view: &View,
    key: &Key,
    node: &str,
    writes: &mut Vec<Write>,
    now: &Now<'_>,
) -> Option<tokio::time::Instant> {
    let budget = view.get(Kind::Budget, key);
    let cordoned = !is_schedulable(view.node(node));
    match budget {
        None if !cordoned => writes.push(Write::Create { kind: Kind::Budget, object: build::budget(node) }),
        None => {}
        Some(budget) if cordoned && may_go(view, node) => {
            writes.push(Write::delete(Kind::Budget, budget, None));
        }
        Some(budget) => {
            // One pod, one wanted: it never allows a disruption.
            let status = status(budget);
            let had = budget.at("/status").unwrap_or(&Value::Null);
            if status.as_object().into_iter().flatten().any(|(field, value)| had.get(field) != Some(value)) {
                writes.push(Write::patch_status(Kind::Budget, budget, status));
            }
            return cordoned.then(|| now.instant + LOOK_AGAIN);
        }
    }
    None
}

/// The status of a manager's budget.
pub(in crate::sim) fn status(budget: &Value) -> Value {
    let generation = budget.at("/metadata/generation").cloned().unwrap_or(json!(1));
    json!({"expectedPods": 1, "currentHealthy": 1, "desiredHealthy": 1, "disruptionsAllowed": 0,
        "observedGeneration": generation})
}

/// No engine on the node, and each replica that runs there has a protected peer elsewhere.
fn may_go(view: &View, node: &str) -> bool {
    let manager = manager_of(view, node);
    let engines = manager.and_then(|manager| manager.object.at("/status/instanceEngines")?.as_object());
    if engines.is_some_and(|engines| !engines.is_empty()) || view.on(Kind::Engine, node).next().is_some() {
        return false;
    }
    view.on(Kind::Replica, node).all(|replica| {
        replica.filed.state == State::Stopped
            || replica.filed.health == Health::New
            || replica.filed.also.iter().any(|volume| {
                view.owned(Kind::Replica, volume).any(|peer| peer.filed.node != node && protects(view, peer))
            })
    })
}

fn protects(view: &View, peer: &Entry) -> bool {
    let node = &peer.filed.node;
    let budget =
        |manager: &Entry| view.get(Kind::Budget, &Key::new(NAMESPACE, name(&manager.object))).is_some();
    peer.filed.health == Health::Whole
        && is_schedulable(view.node(node))
        && manager_of(view, node)
            .is_some_and(|manager| manager.filed.state == State::Running && budget(manager))
}
