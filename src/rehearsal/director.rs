//! Shows the judge what happens, in order and at once: before every effect of an agent, after every change of the cluster,
//! at every event of a machine. Plays the users whose doings are faults. Decides nothing about right and wrong.

mod hearing;
mod kinds;
mod moments;
mod seat;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

use crate::cluster::turn::LEASE;
use crate::flow::record::{Entry, Record};
use crate::flow::report::NodeReport;
use crate::flow::vms::VmKey;
use crate::host::clock::Clock;
use crate::rehearsal::doings::Moment;
use crate::rehearsal::judge::{Binaries, Broken, Judge, Start, Truth};
use crate::rehearsal::life::{Listener, NAMESPACE};
use crate::rehearsal::schedule::LineAt;
use crate::rehearsal::wire::LifeWire;
use crate::rehearsal::world::{Seat, UPGRADE};
use crate::rehearsal::{Order, Scene};
use crate::sim::api::{ApiServer, Event, Subscription};
use crate::sim::fate::{self, Labels, Will};
use crate::sim::machine::SimMachine;
use crate::sim::machine::life::Life;
use crate::sim::object::Object;
use crate::sim::troubles::Troubles;
use kinds::Kind;
use moments::Deeds;
use seat::Watched;

/// One director for one rehearsal; clones are the same one.
#[derive(Clone)]
pub(super) struct Director {
    server: ApiServer,
    clock: Clock,
    troubles: Troubles,
    deeds: Arc<Deeds>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    judge: Judge,
    truth: Truth,
    ears: Vec<(Kind, Subscription)>,
    seats: BTreeMap<String, Watched>,
    lines: BTreeMap<String, Vec<Entry>>,
    /// Effects of the lives before this one, and the effect that came after each step's line.
    effects: u64,
    written: Vec<LineAt>,
    working: String,
    last_line: Timestamp,
    report: Option<watch::Receiver<NodeReport>>,
    /// The life that is lived now, and its wire.
    life: Option<(Life, LifeWire)>,
    /// Machines of nodes that are done, and are not up yet.
    booting: Vec<SimMachine>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let turns = self.seats.values().map(|seat| &seat.machine);
        for machine in turns.chain(&self.booting) {
            machine.unplug();
        }
    }
}

impl Director {
    pub(super) fn new(
        server: &ApiServer,
        clock: Clock,
        (order, troubles): (&Order, Troubles),
        binaries: BTreeMap<String, Binaries>,
    ) -> Self {
        // One after the other: thousands of them, parsed at once, are most of what a large world takes.
        let objects = |group: &str, plural: &str| {
            server.list_objects(group, plural, "", "").into_iter().map(Object::into_value)
        };
        let ours = server.get_object("harvesterhci.io", "upgrades", NAMESPACE, UPGRADE);
        let upgrade = ours.map(|upgrade| (*upgrade).clone()).unwrap_or_default();
        let (vmis, nodes) = (objects("kubevirt.io", "virtualmachineinstances"), objects("", "nodes"));
        let wills = objects("kubevirt.io", "virtualmachines").map(|vm| (key_of(&vm), Will::of(&vm)));
        let launchers = launchers(server, order);
        let judge = Judge::new(clock.now(), vmis, (&wills.collect(), &launchers), nodes, upgrade, binaries);
        let inner = Inner {
            judge,
            truth: Truth::default(),
            ears: Kind::ALL.iter().map(|kind| (*kind, kind.listen(server))).collect(),
            seats: BTreeMap::new(),
            lines: BTreeMap::new(),
            effects: 0,
            written: Vec::new(),
            working: String::new(),
            last_line: clock.now(),
            report: None,
            life: None,
            booting: Vec::new(),
        };
        let inner = Arc::new(Mutex::new(inner));
        Self { server: server.clone(), clock, troubles, deeds: Arc::new(Deeds::of(&order.faults)), inner }
    }

    /// A node's turn begins.
    pub(super) fn begin(&self, node: &str, seat: &Seat) {
        {
            let mut inner = self.inner();
            inner.seats.insert(node.to_owned(), Watched::of(seat));
            node.clone_into(&mut inner.working);
        }
        self.hear_machine(node, &seat.machine);
    }

    /// A node's turn is over; what is not needed any more is let go.
    pub(super) fn end(&self, node: &str, asks: Option<&str>) {
        self.look();
        let now = self.clock.now();
        let mut inner = self.inner();
        let Inner { judge, truth, seats, .. } = &mut *inner;
        judge.run_ended(now, node, asks, truth);
        if let Some(seat) = seats.get(node).filter(|_| asks.is_none()) {
            judge.prefix_left(now, node, &seat.machine);
            let turn = self.server.get_object("coordination.k8s.io", "leases", NAMESPACE, LEASE);
            let holder =
                turn.as_ref().and_then(|turn| turn.pointer("/spec/holderIdentity")).and_then(Value::as_str);
            judge.turn_left(now, node, holder);
        }
        if let Some(seat) = inner.seats.remove(node) {
            // One that has just lost its power still has to come up, and to say so.
            if seat.machine.rke2_is_running() {
                seat.machine.unplug();
            } else {
                inner.booting.push(seat.machine);
            }
        }
        // A run that holds still owes what its journal says, and its guests may go off after it.
        if asks.is_none() {
            inner.truth.durable.remove(node);
        }
        inner.report = None;
    }

    /// The API accepted a request to stop a VM.
    pub(super) fn stop_heard(&self, namespace: &str, name: &str) {
        let (now, vm) = (self.clock.now(), VmKey::new(namespace, name));
        {
            let mut inner = self.inner();
            let Inner { judge, truth, .. } = &mut *inner;
            judge.stop_accepted(now, &vm, truth);
        }
        self.vm_moment(Moment::StopAccepted, &vm);
    }

    /// Something was seen that nobody may do.
    pub(super) fn with_judge<T>(&self, look: impl FnOnce(&mut Judge) -> T) -> T {
        look(&mut self.inner().judge)
    }

    /// All that was broken.
    pub(super) fn broken(&self) -> Vec<Broken> {
        self.inner().judge.broken().to_vec()
    }

    /// The lines of a node that is through, those of lives that were killed before they could tell included.
    pub(super) fn take_lines(&self, node: &str) -> Vec<Entry> {
        self.inner().lines.remove(node).unwrap_or_default()
    }

    /// Which effect came after each step's line.
    pub(super) fn written(&self) -> Vec<LineAt> {
        self.inner().written.clone()
    }

    /// Looks at everything that may have changed.
    pub(super) fn look(&self) {
        let now = self.clock.now();
        let mut inner = self.inner();
        let grown = inner.look(now);
        let told = inner.hear(now);
        let Inner { judge, truth, working, .. } = &mut *inner;
        judge.opened(now, working, truth);
        judge.every_step(now, truth, grown);
        drop(inner);
        for (kind, event) in &told {
            match (kind, event) {
                (Kind::Instance, Event::Deleted(vmi)) => self.vm_moment(Moment::Gone, &key_of(vmi)),
                (Kind::Node, Event::Added(node) | Event::Modified(node, _)) => self.node_changed(node),
                (Kind::Instance | Kind::Order | Kind::Upgrade, _) | (Kind::Node, Event::Deleted(_)) => {}
            }
        }
    }

    /// Follows the cluster as long as the rehearsal lasts.
    pub(super) async fn follow(self) {
        use futures::StreamExt;
        let wakers = Kind::ALL.iter().map(|kind| kind.listen(&self.server));
        let mut any = futures::stream::select_all(wakers);
        while any.next().await.is_some() {
            self.look();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the launchers of an export ask of their nodes. Those of made-up clusters ask for nothing that their guests do not.
fn launchers(server: &ApiServer, order: &Order) -> BTreeMap<VmKey, Labels> {
    if matches!(order.scene, Scene::Preset(_)) {
        return BTreeMap::new();
    }
    let pods = server.list_objects("", "pods", "", "").into_iter().map(Object::into_value);
    let asked = pods.filter_map(|pod| {
        let (namespace, name, labels) = fate::asked_by(&pod)?;
        Some((VmKey::new(namespace, name), labels))
    });
    asked.collect()
}

fn metadata<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|all| all.get(field)).and_then(Value::as_str).unwrap_or_default()
}

fn key_of(object: &Value) -> VmKey {
    VmKey::new(metadata(object, "namespace"), metadata(object, "name"))
}

impl Inner {
    /// Looks at the machine; tells whether its journal has grown.
    fn look(&mut self, now: Timestamp) -> bool {
        let Some(seat) = self.seats.get_mut(&self.working) else { return false };
        let node = self.working.as_str();
        let changed = seat.has_changed();
        let lines = self.lines.entry(node.to_owned()).or_default();
        let known = lines.len();
        let grown = changed && seat.read_journal(&mut self.truth, lines, node);
        if grown {
            self.last_line = now;
            let effect = self.effects + self.life.as_ref().map_or(0, |(life, _)| life.count_so_far()) + 1;
            let new = lines.iter().skip(known).filter_map(|entry| LineAt::of(effect, &entry.record));
            self.written.extend(new);
        }
        if seat.machine.is_up() {
            self.truth.powerless.remove(node);
        } else {
            self.truth.powerless.insert(node.to_owned());
        }
        let starts = seat.machine.starts_since(seat.starts);
        seat.starts += starts.len();
        for start in starts {
            let start = Start {
                node: node.to_owned(),
                sha256: start.sha256,
                guests: start.guests,
                fenced: seat.machine.is_durably_fenced(),
            };
            self.judge.rke2_started(now, &start, &self.truth);
        }
        if changed {
            let machine = seat.machine.clone();
            self.judge.live_binary(now, node, seat.live_digest(), || machine.guests_now(), &self.truth);
            seat.look_for_fence();
        }
        self.judge.fence(now, node, seat.fence, seat.machine.is_fenced(), &self.truth);
        if let Some(report) = &self.report {
            self.judge.report(now, node, &report.borrow(), self.last_line);
        }
        grown
    }

    /// Everything that the cluster told since the last time.
    fn hear(&mut self, now: Timestamp) -> Vec<(Kind, Event)> {
        let mut told = Vec::new();
        for (kind, ear) in &mut self.ears {
            while let Some(event) = ear.try_next() {
                told.push((*kind, event));
            }
        }
        for (kind, event) in &told {
            let object = event.object();
            let there = (!matches!(event, Event::Deleted(_))).then_some(&**object);
            match kind {
                Kind::Instance => self.judge.instance(now, &key_of(object), there, &self.truth),
                Kind::Node => self.judge.node(now, object, &self.truth),
                Kind::Order => self.judge.order(now, object, &self.truth),
                // An exported cluster may have others, of earlier times.
                Kind::Upgrade if metadata(object, "name") == UPGRADE => {
                    self.judge.upgrade(now, (object, event.changes()), &self.working);
                }
                Kind::Upgrade => {}
            }
        }
        told
    }
}

impl Listener for Director {
    fn line(&self, node: &str, entry: &Entry) {
        self.inner().last_line = self.clock.now();
        if entry.record == Record::PreDrained
            && self.deeds.leave_stray(node)
            && let Some(seat) = self.inner().seats.get(node)
        {
            seat.stray.store(true, Ordering::Relaxed);
        }
        if let Record::LedgerWritten { vms } = &entry.record {
            self.listed(node, vms);
        }
    }

    fn begins(&self, report: watch::Receiver<NodeReport>) {
        let now = self.clock.now();
        let mut inner = self.inner();
        inner.report = Some(report);
        inner.last_line = now;
    }

    fn lives(&self, life: &Life, wire: &LifeWire) {
        self.inner().life = Some((life.clone(), wire.clone()));
    }

    fn ends(&self) {
        let mut inner = self.inner();
        inner.effects += inner.life.as_ref().map_or(0, |(life, _)| life.count_so_far());
        (inner.report, inner.life) = (None, None);
    }
}
