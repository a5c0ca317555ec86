//! The loop under controller and kubelet: take in what the watches bring, ask the pure `decide` functions about every
//! object that something happened to, write, and take in the answers. It is the only writer and knows no `KubeVirt` rule.
//!
//! One batch holds at most one task per VM, so that no two writers race; tasks that compete for shared room (slots,
//! devices) run alone. With an API server in memory nothing can race: there, tasks run one by one in the order of their
//! keys. A task that was refused is tried again with a growing delay, never in a busy loop.

mod decision;
mod now;
mod queue;
mod unrest;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::guests::Guests;
use super::known::Begun;
use super::switch::Switch;
use super::view::{Key, Kind, Task, View, version_of};
use super::wire::{self, Events, Heard, Learned, Wire, Write};
use super::{SimError, Timing, kubelet, longhorn, virt_controller, workloads};
pub(super) use decision::Decision;
pub(super) use now::Now;
use queue::Queue;
use unrest::Unrest;

/// After so many tasks in memory everybody else gets a turn.
const SHIFT: usize = 256;
/// So many objects may be parsed at once before those at rest are let go.
pub(super) const WARM: usize = 384;

fn decide(view: &View, task: &Task, now: &Now<'_>, controlled: bool) -> Decision {
    match task.0 {
        Kind::Node | Kind::Vm | Kind::Vmi | Kind::Vmim | Kind::Pod if !controlled => {
            kubelet::decide(view, task, now)
        }
        Kind::Node | Kind::Vm | Kind::Vmi | Kind::Vmim | Kind::Pod => {
            virt_controller::decide(view, task, now).or(|| kubelet::decide(view, task, now))
        }
        Kind::ReplicaSet | Kind::Budget => workloads::decide(view, task, now),
        Kind::Volume | Kind::Engine | Kind::Replica | Kind::InstanceManager => {
            longhorn::decide(view, task, now)
        }
    }
}

struct Turns {
    wire: Wire,
    timing: Timing,
    view: View,
    guests: Guests,
    queue: Queue,
    listing: BTreeMap<Kind, BTreeSet<Key>>,
    unlisted: BTreeSet<Kind>,
    touched: BTreeSet<Task>,
    serial: u64,
    /// Whether virt-controller is there.
    controlled: bool,
    /// Versions that we wrote and that the watch is still to tell of.
    own: BTreeSet<u64>,
    unrest: Unrest,
}

pub(super) async fn run(
    (wire, begun): (Wire, Option<Begun>),
    timing: Timing,
    guests: Guests,
    virt_controller: &Switch,
    shutdown: CancellationToken,
) -> Result<(), SimError> {
    let direct = wire.is_direct();
    let mut switched = virt_controller.listen();
    let kinds: &[Kind] = if direct { &Kind::ALL } else { &Kind::CORE };
    let (view, mut events) = match begun {
        Some(Begun { view, events }) => (view, events),
        None => (View::default(), Events::of(&wire, kinds)),
    };
    let resync = (timing.resync_ms > 0).then(|| Duration::from_millis(timing.resync_ms.max(100)));
    let mut turns = Turns {
        wire,
        timing,
        view,
        guests,
        queue: Queue::default(),
        listing: BTreeMap::new(),
        unlisted: if direct { BTreeSet::new() } else { kinds.iter().copied().collect() },
        touched: BTreeSet::new(),
        serial: 0,
        controlled: virt_controller.is_on(),
        own: BTreeSet::new(),
        unrest: Unrest::default(),
    };
    turns.begin();
    let mut next_resync = resync.map(|resync| Instant::now() + resync);
    while !shutdown.is_cancelled() {
        while let Some((kind, heard)) = events.told() {
            turns.take_in(kind, heard);
        }
        let now = Instant::now();
        if let (Some(at), Some(resync)) = (next_resync, resync)
            && now >= at
        {
            turns.wake_all();
            next_resync = Some(now + resync);
        }
        turns.queue.wake_due(now);
        let acted = turns.unlisted.is_empty()
            && if direct { turns.act_in_memory(now, &mut events).await? } else { turns.act(now).await };
        if acted {
            continue;
        }
        turns.cool();
        let next = turns.queue.next_due().into_iter().chain(next_resync).min();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            heard = events.next() => match heard {
                Some((kind, heard)) => turns.take_in(kind, heard),
                None => return Err(SimError::WatchesEnded),
            },
            Ok(()) = switched.changed() => {
                turns.controlled = *switched.borrow_and_update();
                turns.wake_all();
            }
            () = until(next) => {}
        }
    }
    Ok(())
}

fn full_name(key: &Key) -> String {
    if key.namespace().is_empty() {
        key.name().to_owned()
    } else {
        format!("{}/{}", key.namespace(), key.name())
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Turns {
    /// What is known already is so since now.
    fn begin(&mut self) {
        self.view.begin(Instant::now());
        self.wake(Vec::new());
    }

    fn take_in(&mut self, kind: Kind, heard: Heard) {
        match heard {
            Heard::Listing => {
                self.listing.insert(kind, BTreeSet::new());
            }
            Heard::Listed(object) => {
                self.listing.entry(kind).or_default().insert(Key::of(&object));
                self.store(kind, object);
            }
            Heard::ListedAll => {
                self.unlisted.remove(&kind);
                let listed = self.listing.remove(&kind).unwrap_or_default();
                let wake = self.view.keep_only(kind, &listed);
                self.wake(wake);
            }
            // The watch repeats what the answers to our own writes told.
            Heard::Now(object) if self.own.remove(&version_of(&object)) => {}
            Heard::Now(object) => self.store(kind, object),
            Heard::Gone(object) => {
                let wake = self.view.lose(kind, &object);
                self.wake(wake);
            }
            Heard::Broken(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, ?kind, "watch failed, going on");
            }
        }
    }

    fn store(&mut self, kind: Kind, object: super::object::Object) {
        let wake = self.view.store(kind, object, Instant::now());
        self.touched.extend(wake.first().cloned());
        self.wake(wake);
        if self.touched.len() > WARM {
            self.cool();
        }
    }

    fn wake(&mut self, tasks: Vec<Task>) {
        for key in self.view.moved() {
            self.guests.see(&self.view, &key);
        }
        self.queue.wake(tasks);
    }

    /// Lets go of what was parsed of objects that nothing happens to.
    fn cool(&mut self) {
        if self.touched.len() > WARM {
            for task in std::mem::take(&mut self.touched) {
                self.view.cool(&task);
            }
        }
    }

    fn wake_all(&mut self) {
        for kind in Kind::ALL {
            let all: Vec<Task> = self.view.all(kind).map(|(key, _)| (kind, key.clone())).collect();
            self.queue.wake(all);
        }
    }

    fn decide(&mut self, task: &Task, instant: Instant) -> Vec<Write> {
        let decision = decide(&self.view, task, &Now { timing: &self.timing, instant }, self.controlled);
        if let Some(at) = decision.again {
            self.queue.later(task.clone(), at);
        }
        let mut writes = decision.writes;
        if !self.timing.events {
            writes.retain(|write| !matches!(write, Write::Event { .. }));
        }
        writes
    }

    /// Acts on everything that is due, one task after the other; false when there was nothing to do.
    async fn act_in_memory(&mut self, instant: Instant, events: &mut Events) -> Result<bool, SimError> {
        let mut acted = 0;
        while let Some(task) = self.queue.pop() {
            self.touched.insert(task.clone());
            let writes = self.decide(&task, instant);
            if !writes.is_empty() {
                if self.unrest.is_endless(instant, self.view.size()) {
                    let ((kind, key), at) = (task, self.timing.at(instant));
                    let what = format!("{} {}", kind.names().1, full_name(&key));
                    return Err(SimError::NoRest { what, at });
                }
                let binds = writes.iter().any(|write| matches!(write, Write::Bind { .. }));
                self.serial += 1;
                let at = self.timing.at(instant);
                let (learned, refusal) = wire::perform(&self.wire, writes, at, self.serial).await;
                self.settle(task, learned, refusal);
                while binds && let Some((kind, heard)) = events.told() {
                    self.take_in(kind, heard);
                }
            }
            acted += 1;
            if acted >= SHIFT {
                self.cool();
                tokio::task::yield_now().await;
                break;
            }
        }
        Ok(acted > 0)
    }

    /// Acts on one batch; false when there was nothing to do.
    async fn act(&mut self, instant: Instant) -> bool {
        let batch = self.queue.batch(&self.view);
        if batch.is_empty() {
            return false;
        }
        let mut pending = Vec::new();
        for task in batch {
            let writes = self.decide(&task, instant);
            if !writes.is_empty() {
                self.serial += 1;
                let (wire, at, serial) = (self.wire.clone(), self.timing.at(instant), self.serial);
                pending.push(async move { (task, wire::perform(&wire, writes, at, serial).await) });
            }
        }
        for (task, (learned, refusal)) in join_all(pending).await {
            self.settle(task, learned, refusal);
        }
        true
    }

    fn settle(&mut self, task: Task, learned: Vec<Learned>, refusal: Option<kube::Error>) {
        for news in learned {
            self.learn(news);
        }
        match refusal {
            None => self.queue.went_well(task),
            Some(error) => self.put_off(task, &error),
        }
    }

    fn learn(&mut self, news: Learned) {
        let now = Instant::now();
        match news {
            Learned::Now(kind, object) => {
                if self.wire.is_direct() {
                    self.own.insert(version_of(&object));
                }
                self.store(kind, object);
            }
            Learned::Gone(kind, key) => {
                let wake = self.view.bury(kind, &key);
                self.wake(wake);
            }
            // In memory the watch has told already.
            Learned::Bound(pod, _) if self.wire.is_direct() => self.queue.wake(vec![(Kind::Pod, pod)]),
            Learned::Bound(pod, node) => {
                self.view.bind(&pod, &node, now);
                self.queue.wake(vec![(Kind::Pod, pod)]);
            }
            Learned::Done(uid, what) => self.view.mark_done(&uid, what, now),
        }
    }

    fn put_off(&mut self, task: Task, error: &kube::Error) {
        if let kube::Error::Api(status) = error
            && status.code == 409
        {
            tracing::debug!(?task, %status.message, "conflict");
        } else {
            tracing::warn!(?task, error = error as &dyn std::error::Error, "write refused, trying again");
        }
        self.queue.refused(task, Instant::now());
    }
}
