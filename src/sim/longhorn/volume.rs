//! A volume, its engine and its replicas: attached where its VM is, healthy while all replicas are, built again after.

use crate::sim::fields::At as _;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::build::new_replica;
use super::{instance_manager_name, is_alive, is_schedulable, manager_of, runs_on};
use crate::sim::fields::{text, uid_from};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Health, Key, Kind, Mode, Rest, Robustness, State, View};
use crate::sim::wire::Write;

/// Between two looks for a node that could take a missing replica.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

pub(super) fn decide(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(entry) = view.entry(Kind::Volume, key) else { return Decision::nothing() };
    let Some((engine_key, engine)) = view.keyed_owned(Kind::Engine, key).next() else {
        return Decision::nothing();
    };
    let node = home(view, entry, engine);
    let mut work = Work { writes: Vec::new(), again: None };
    let attached = !node.is_empty();
    let mut modes: Vec<(&str, Mode)> = Vec::new();
    for (replica_key, replica) in view.keyed_owned(Kind::Replica, key) {
        let busy = modes.iter().any(|(_, mode)| *mode == Mode::Building);
        let known = engine.facts.modes.iter().find(|(name, _)| **name == *replica_key.name());
        let was = known.map(|(_, mode)| *mode);
        if let Some(mode) = work.replica(view, (replica_key, replica), (entry, was), (attached, busy), now) {
            modes.push((replica_key.name(), mode));
        }
    }
    work.replenish(view, (key, entry), engine_key, &modes, now);
    work.engine((engine_key, engine), node, &modes);
    work.volume((key, entry), node, &modes, now);
    Decision { writes: work.writes, again: work.again }
}

/// Where the VM is that has this disk, or another pod that uses it; empty when nobody does.
fn home<'a>(view: &'a View, volume: &'a Entry, engine: &Entry) -> &'a str {
    let claims = || volume.filed.also.iter();
    let mut vmis = claims().flat_map(|claim| view.owned(Kind::Vmi, claim));
    if let Some(vmi) = vmis.find(|vmi| matches!(vmi.filed.state, State::Starting | State::Running)) {
        return &vmi.filed.node;
    }
    let pods = claims().flat_map(|claim| view.pods_with(claim));
    let nodes = pods.filter(|pod| !pod.filed.ended).map(|pod| pod.filed.node.as_str());
    // A pod that came elsewhere waits until the one before it has let go.
    nodes.filter(|node| !node.is_empty()).max_by_key(|node| *node == engine.filed.node).unwrap_or_default()
}

/// What an engine's modes are to become; none where they are that already.
fn modes_patch(engine: &Entry, modes: &[(&str, Mode)]) -> Option<(&'static str, Value)> {
    let known = &engine.facts.modes;
    let had = |name: &str| known.iter().find(|(known, _)| **known == *name).map(|(_, mode)| *mode);
    let fresh = modes.iter().filter(|(name, mode)| had(name) != Some(*mode));
    let fresh = fresh.map(|(name, mode)| ((*name).to_owned(), json!(mode.word())));
    // A merge patch removes a key only when told so.
    let gone = known.iter().filter(|(name, _)| !modes.iter().any(|(one, _)| **one == **name));
    let gone = gone.map(|(name, _)| (name.to_string(), Value::Null));
    let patch: Map<String, Value> = fresh.chain(gone).collect();
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

/// Fields with what they are to be.
type Fields<'a> = &'a [(&'a str, Wanted<'a>)];

impl Wanted<'_> {
    fn is_met_by(self, had: Option<&Value>) -> bool {
        match self {
            Is(text) => had.and_then(Value::as_str) == Some(text),
            On(on) => had.and_then(Value::as_bool) == Some(on),
            RunsIn(node) => had.and_then(Value::as_str).is_some_and(|had| runs_on(had, node)),
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
    /// Writes what differs of spec and status, and what comes with the status.
    fn write(
        &mut self,
        kind: Kind,
        (key, object): (&Key, &Value),
        (spec, status): (Fields<'_>, Fields<'_>),
        with: Option<(&'static str, Value)>,
    ) {
        let differs = |within: &str, wanted: &[(&str, Wanted<'_>)]| {
            let had = object.get(within).unwrap_or(&Value::Null);
            let differs = wanted.iter().filter(|(field, wanted)| !wanted.is_met_by(had.get(field)));
            differs.map(|(field, wanted)| ((*field).to_owned(), wanted.value())).collect::<Map<_, _>>()
        };
        let mut status = differs("status", status);
        status.extend(with.map(|(field, value)| (field.to_owned(), value)));
        let both = [("spec", differs("spec", spec)), ("status", status)];
        let body = both.into_iter().filter(|(_, fields)| !fields.is_empty());
        let body: Map<String, Value> =
            body.map(|(part, fields)| (part.to_owned(), Value::Object(fields))).collect();
        if !body.is_empty() {
            self.writes.push(Write::Amend { kind, key: key.clone(), body: Value::Object(body) });
        }
    }

    /// Makes one replica of those that are missing, on a node that has none of this volume. One that has failed is not missing:
    /// it is built again where it was. Longhorn does the same, with its default of one replica a node.
    fn replenish(
        &mut self,
        view: &View,
        (key, entry): (&Key, &Entry),
        engine: &Key,
        modes: &[(&str, Mode)],
        now: &Now<'_>,
    ) {
        let wanted = entry.facts.storage.as_ref().map_or(0, |known| known.replicas);
        let replicas = || view.owned(Kind::Replica, key);
        let is_whole = modes.iter().any(|(_, mode)| *mode == Mode::Whole);
        if !is_whole || replicas().count() as u64 >= wanted {
            return;
        }
        let has_none = |node: &&str| replicas().all(|replica| replica.filed.node.as_str() != *node);
        let free = || view.all(Kind::Node).map(|(node, _)| node.name()).filter(has_none);
        if let Some(node) = free().filter(|node| may_rebuild(view, node)).min() {
            let stamp = now.stamp();
            let unique = uid_from(&format!("{} {node} {stamp}", key.name()));
            let called = format!("{}-r-{}", key.name(), &unique[..8]);
            let object = new_replica(key.name(), engine.name(), node, (&called, &stamp));
            self.writes.push(Write::Create { kind: Kind::Replica, object });
        } else if free().next().is_some() {
            // Nothing tells a volume of nodes that have none of it.
            self.look_at(now.instant + LOOK_AGAIN);
        }
    }

    /// Moves an engine to where its volume is to be; nothing of it is read where it rests there.
    fn engine(&mut self, (key, entry): (&Key, &Entry), node: &str, modes: &[(&str, Mode)]) {
        let attached = !node.is_empty();
        let rest = if attached { Rest::Runs } else { Rest::Stopped };
        let known = entry.facts.modes.iter().map(|(name, mode)| (&**name, *mode));
        if entry.facts.rest == rest && entry.filed.node == node && known.eq(modes.iter().copied()) {
            return;
        }
        let engine = entry.object.value();
        let state = if attached { "running" } else { "stopped" };
        let spec = [("nodeID", Is(node)), ("desireState", Is(state))];
        let status = [
            ("currentState", Is(state)),
            ("started", On(attached)),
            ("instanceManagerName", if attached { RunsIn(node) } else { Is("") }),
        ];
        self.write(Kind::Engine, (key, engine), (&spec, &status), modes_patch(entry, modes));
    }

    /// What is told of a volume with these replicas; nothing of it is read where that is told already.
    fn volume(&mut self, (key, entry): (&Key, &Entry), node: &str, modes: &[(&str, Mode)], now: &Now<'_>) {
        let attached = !node.is_empty();
        let Some(known) = &entry.facts.storage else { return };
        let whole = modes.iter().filter(|(_, mode)| *mode == Mode::Whole).count() as u64;
        let robustness = match whole {
            _ if !attached => Robustness::Unknown,
            0 => Robustness::Faulted,
            whole if whole < known.replicas => Robustness::Degraded,
            _ => Robustness::Healthy,
        };
        if known.attached == Some(attached)
            && known.robustness == robustness
            && known.wanted_on.as_deref() == Some(node)
            && known.is_on.as_deref() == Some(node)
        {
            return;
        }
        let volume = entry.object.value();
        let status = [
            ("state", Is(if attached { "attached" } else { "detached" })),
            ("robustness", Is(robustness.word())),
            ("currentNodeID", Is(node)),
        ];
        let degrades = robustness == Robustness::Degraded && known.robustness != robustness;
        let since = degrades.then(|| ("lastDegradedAt", json!(now.stamp())));
        self.write(Kind::Volume, (key, volume), (&[("nodeID", Is(node))], &status), since);
    }

    /// Moves a replica on; its mode in the engine, if it has one.
    fn replica(
        &mut self,
        view: &View,
        (key, entry): (&Key, &Entry),
        (volume, was): (&Entry, Option<Mode>),
        (attached, busy): (bool, bool),
        now: &Now<'_>,
    ) -> Option<Mode> {
        let node = entry.filed.node.as_str();
        let failed = entry.filed.health == Health::Failed;
        let mut mode = None;
        let mut rest = if attached { Rest::Runs } else { Rest::Stopped };
        let mut with: &[(&str, Wanted<'_>)] = &[];
        let stamp;
        let (fails, heals);
        if attached && !is_alive(view, node) {
            rest = Rest::Broken;
            if !failed {
                stamp = now.stamp();
                fails = [("failedAt", Is(&stamp)), ("lastFailedAt", Is(&stamp))];
                with = &fails;
            }
        } else if attached && failed {
            let begun = view.done(&entry.uid, "rebuilding").filter(|_| was == Some(Mode::Building));
            match begun.map(|begun| begun + rebuilding(&volume.object, now)) {
                Some(due) if now.instant >= due => {
                    stamp = now.stamp();
                    heals = [("failedAt", Is("")), ("healthyAt", Is(&stamp)), ("lastHealthyAt", Is(&stamp))];
                    with = &heals;
                    mode = Some(Mode::Whole);
                }
                Some(due) => {
                    self.look_at(due);
                    mode = Some(Mode::Building);
                }
                None if !busy && may_rebuild(view, node) => {
                    self.writes.push(Write::Done { uid: entry.uid.to_string(), what: "rebuilding" });
                    self.look_at(now.instant + rebuilding(&volume.object, now));
                    mode = Some(Mode::Building);
                }
                // Whatever it waits for wakes the volume: its node, the manager there, the replica before it.
                None => rest = Rest::Stopped,
            }
        } else if attached {
            mode = Some(Mode::Whole);
        }
        if entry.facts.rest != rest || !with.is_empty() {
            self.settle((key, entry), rest, with);
        }
        mode
    }

    /// Writes what a replica that comes to rest there lacks.
    fn settle(&mut self, (key, entry): (&Key, &Entry), rest: Rest, with: &[(&str, Wanted<'_>)]) {
        let replica = entry.object.value();
        let (desired, state) = match rest {
            Rest::Runs => ("running", "running"),
            Rest::Broken => ("stopped", "error"),
            Rest::Stopped | Rest::Nowhere => ("stopped", "stopped"),
        };
        let mut spec = vec![("desireState", Is(desired))];
        spec.extend_from_slice(with);
        let runs = rest == Rest::Runs;
        let status = [
            ("currentState", Is(state)),
            ("started", On(runs)),
            ("instanceManagerName", if runs { RunsIn(&entry.filed.node) } else { Is("") }),
        ];
        self.write(Kind::Replica, (key, replica), (&spec, &status), None);
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
    let host = view.node(node);
    host.is_some_and(|host| host.facts.is_ready)
        && is_schedulable(host)
        && manager_of(view, node).is_some_and(|manager| manager.filed.state == State::Running)
}
