//! A volume, its engine and its replicas: attached where its VM is, healthy while all replicas are, built again after.

use crate::sim::fields::At as _;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{instance_manager_name, is_alive, is_schedulable, manager_of};
use crate::sim::fields::{condition_is, name, text, uid};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Health, Key, Kind, State, View};
use crate::sim::wire::Write;

pub(super) fn decide(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(entry) = view.entry(Kind::Volume, key) else { return Decision::nothing() };
    let Some(engine) = view.owned(Kind::Engine, key).next() else {
        return Decision::nothing();
    };
    let (volume, engine) = (entry.object.value(), engine.object.value());
    let node = home(view, entry);
    let mut work = Work { writes: Vec::new(), again: None };
    let attached = !node.is_empty();
    let mut modes: Vec<(&str, &str)> = Vec::new();
    for replica in view.owned(Kind::Replica, key) {
        let busy = modes.iter().any(|(_, mode)| *mode == "WO");
        if let Some(mode) = work.replica(view, replica, (volume, engine), (attached, busy), now) {
            modes.push((name(&replica.object), mode));
        }
    }
    let state = if attached { "running" } else { "stopped" };
    work.patch(Kind::Engine, engine, "/spec", &[("nodeID", Is(node)), ("desireState", Is(state))], None);
    let status = [
        ("currentState", Is(state)),
        ("started", On(attached)),
        ("instanceManagerName", if attached { RunsIn(node) } else { Is("") }),
    ];
    work.patch(Kind::Engine, engine, "/status", &status, modes_patch(engine, &modes));
    work.patch(Kind::Volume, volume, "/spec", &[("nodeID", Is(node))], None);
    let wanted = volume.at("/spec/numberOfReplicas").and_then(Value::as_u64).unwrap_or(1);
    let whole = modes.iter().filter(|(_, mode)| *mode == "RW").count() as u64;
    let robustness = match whole {
        _ if !attached => "unknown",
        0 => "faulted",
        whole if whole < wanted => "degraded",
        _ => "healthy",
    };
    let degrades = robustness == "degraded" && text(volume, "/status/robustness") != robustness;
    let status = [
        ("state", Is(if attached { "attached" } else { "detached" })),
        ("robustness", Is(robustness)),
        ("currentNodeID", Is(node)),
    ];
    let since = degrades.then(|| ("lastDegradedAt", json!(now.stamp())));
    work.patch(Kind::Volume, volume, "/status", &status, since);
    Decision { writes: work.writes, again: work.again }
}

/// Where the VM is that has this disk; empty when it does not run.
fn home<'a>(view: &'a View, volume: &'a Entry) -> &'a str {
    let mut vmis = volume.filed.also.iter().flat_map(|claim| view.owned(Kind::Vmi, claim));
    vmis.find(|vmi| matches!(vmi.filed.state, State::Starting | State::Running))
        .map_or("", |vmi| vmi.filed.node.as_str())
}

/// What an engine's modes are to become; none where they are that already.
fn modes_patch(engine: &Value, modes: &[(&str, &str)]) -> Option<(&'static str, Value)> {
    let known = engine.at("/status/replicaModeMap").and_then(Value::as_object);
    let had = |name: &str| known.and_then(|known| known.get(name)?.as_str());
    let fresh = modes.iter().filter(|(name, mode)| had(name) != Some(*mode));
    let fresh = fresh.map(|(name, mode)| ((*name).to_owned(), json!(mode)));
    // A merge patch removes a key only when told so.
    let gone = known.into_iter().flat_map(Map::keys).filter(|name| !modes.iter().any(|(one, _)| one == name));
    let patch: Map<String, Value> = fresh.chain(gone.map(|name| (name.clone(), Value::Null))).collect();
    (!patch.is_empty()).then_some(("replicaModeMap", Value::Object(patch)))
}

/// What a field is to be.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    Is(&'a str),
    On(bool),
    /// The name of the instance manager on this node.
    RunsIn(&'a str),
}
use Wanted::{Is, On, RunsIn};

impl Wanted<'_> {
    fn is_met_by(self, had: Option<&Value>) -> bool {
        match self {
            Is(text) => had.and_then(Value::as_str) == Some(text),
            On(on) => had.and_then(Value::as_bool) == Some(on),
            RunsIn(node) => had.and_then(Value::as_str).is_some_and(|had| had == instance_manager_name(node)),
        }
    }

    fn value(self) -> Value {
        match self {
            Is(text) => json!(text),
            On(on) => json!(on),
            RunsIn(node) => json!(instance_manager_name(node)),
        }
    }
}

struct Work {
    writes: Vec<Write>,
    again: Option<Instant>,
}

impl Work {
    /// Writes what differs, and what comes with it.
    fn patch(
        &mut self,
        kind: Kind,
        object: &Value,
        within: &'static str,
        wanted: &[(&str, Wanted<'_>)],
        with: Option<(&'static str, Value)>,
    ) {
        let had = object.at(within).unwrap_or(&Value::Null);
        let differs = wanted.iter().filter(|(field, wanted)| !wanted.is_met_by(had.get(field)));
        let differs = differs.map(|(field, wanted)| ((*field).to_owned(), wanted.value()));
        let with = with.map(|(field, value)| (field.to_owned(), value));
        let body: Map<String, Value> = differs.chain(with).collect();
        if body.is_empty() {
            return;
        }
        // One decision writes spec and status of the same object, so neither can insist on a version.
        let status = within == "/status";
        let body = if status { json!({"status": body}) } else { json!({"spec": body}) };
        self.writes.push(Write::Patch { kind, key: Key::of(object), status, body });
    }

    /// Moves a replica on; its mode in the engine, if it has one.
    fn replica(
        &mut self,
        view: &View,
        entry: &Entry,
        (volume, engine): (&Value, &Value),
        (attached, busy): (bool, bool),
        now: &Now<'_>,
    ) -> Option<&'static str> {
        let replica = entry.object.value();
        let node = entry.filed.node.as_str();
        let failed = entry.filed.health == Health::Failed;
        let mut mode = None;
        let (mut desired, mut state) = if attached { ("running", "running") } else { ("stopped", "stopped") };
        let mut with: &[(&str, Wanted<'_>)] = &[];
        let stamp;
        let (fails, heals);
        if attached && !is_alive(view, node) {
            (desired, state) = ("stopped", "error");
            if !failed {
                stamp = now.stamp();
                fails = [("failedAt", Is(&stamp)), ("lastFailedAt", Is(&stamp))];
                with = &fails;
            }
        } else if attached && failed {
            let was =
                engine.at("/status/replicaModeMap").and_then(|modes| modes.get(name(replica))?.as_str());
            let begun = view.done(uid(replica), "rebuilding").filter(|_| was == Some("WO"));
            match begun.map(|begun| begun + rebuilding(volume, now)) {
                Some(due) if now.instant >= due => {
                    stamp = now.stamp();
                    heals = [("failedAt", Is("")), ("healthyAt", Is(&stamp)), ("lastHealthyAt", Is(&stamp))];
                    with = &heals;
                    mode = Some("RW");
                }
                Some(due) => {
                    self.look_at(due);
                    mode = Some("WO");
                }
                None if !busy && may_rebuild(view, node) => {
                    self.writes.push(Write::Done { uid: uid(replica).to_owned(), what: "rebuilding" });
                    self.look_at(now.instant + rebuilding(volume, now));
                    mode = Some("WO");
                }
                // Whatever it waits for wakes the volume: its node, the manager there, the replica before it.
                None => (desired, state) = ("stopped", "stopped"),
            }
        } else if attached {
            mode = Some("RW");
        }
        let mut spec = vec![("desireState", Is(desired))];
        spec.extend_from_slice(with);
        self.patch(Kind::Replica, replica, "/spec", &spec, None);
        let runs = state == "running";
        let status = [
            ("currentState", Is(state)),
            ("started", On(runs)),
            ("instanceManagerName", if runs { RunsIn(node) } else { Is("") }),
        ];
        self.patch(Kind::Replica, replica, "/status", &status, None);
        mode
    }

    fn look_at(&mut self, at: Instant) {
        self.again = self.again.into_iter().chain([at]).min();
    }
}

/// How long a replica takes to be built again: Longhorn copies the blocks that are written, not the whole disk.
/// Until it is done the other replica of a volume with two is the last good one, and the budget of its node stays:
/// a cluster of two nodes really waits that long before the second node can be drained.
fn rebuilding(volume: &Value, now: &Now<'_>) -> Duration {
    let written = volume.at("/status/actualSize").and_then(Value::as_u64);
    let bytes = written.or_else(|| text(volume, "/spec/size").parse().ok()).unwrap_or(0);
    Duration::from_millis((bytes >> 20) * 1000 / now.timing.rebuild_mib_per_second.max(1))
}

/// A failed replica comes back only on a node that takes pods again.
fn may_rebuild(view: &View, node: &str) -> bool {
    let object = view.node(node);
    object.is_some_and(|object| condition_is(object, "Ready", "True"))
        && is_schedulable(object)
        && manager_of(view, node).is_some_and(|manager| manager.filed.state == State::Running)
}
