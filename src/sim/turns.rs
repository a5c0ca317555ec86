//! The loop under controller and kubelet: take in what the watches bring, ask the pure `decide` functions about every
//! object that something happened to, write, and take in the answers. It is the only writer and knows no `KubeVirt` rule.
//!
//! One batch holds at most one task per VM, so that no two writers race; tasks that compete for shared room (slots,
//! devices) run alone. A task that was refused is tried again with a growing delay, never in a busy loop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::select_all;
use futures::{FutureExt, StreamExt};
use kube::Client;
use kube::runtime::watcher::{Event, Result as WatchResult};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::view::{Key, Kind, Task, View, vmi_of_pod, vmi_of_vmim};
use super::wire::{self, Learned, Write};
use super::{SimError, Timing, kubelet, virt_controller};

/// How many VMs are written about at once.
const BATCH: usize = 16;

/// What `decide` wants: writes now, or a look again later.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decision {
    pub(super) writes: Vec<Write>,
    pub(super) again: Option<Instant>,
}

impl Decision {
    pub(super) fn write(writes: impl Into<Vec<Write>>) -> Self {
        Self { writes: writes.into(), again: None }
    }

    pub(super) fn at(again: Instant) -> Self {
        Self { writes: Vec::new(), again: Some(again) }
    }

    pub(super) fn nothing() -> Self {
        Self::default()
    }

    /// The other decision if this one writes nothing; the earlier of the two times otherwise.
    pub(super) fn or(self, other: impl FnOnce() -> Self) -> Self {
        if !self.writes.is_empty() {
            return self;
        }
        let mut next = other();
        next.again = next.again.into_iter().chain(self.again).min();
        next
    }
}

/// What every `decide` may know besides the view.
#[derive(Debug)]
pub(super) struct Now<'a> {
    pub(super) timing: &'a Timing,
    pub(super) instant: Instant,
}

impl Now<'_> {
    /// The time as Kubernetes writes it, to the second.
    pub(super) fn stamp(&self) -> String {
        self.timing.at(self.instant).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Decides once the instant has come, and asks to be woken for it before.
    pub(super) fn once(&self, due: Instant, then: impl FnOnce() -> Decision) -> Decision {
        if self.instant >= due { then() } else { Decision::at(due) }
    }
}

fn decide(view: &View, task: &Task, now: &Now<'_>) -> Decision {
    virt_controller::decide(view, task, now).or(|| kubelet::decide(view, task, now))
}

#[derive(Default)]
struct Queue {
    dirty: BTreeSet<Task>,
    timers: BTreeSet<(Instant, Task)>,
    due: BTreeMap<Task, Instant>,
    refused: BTreeMap<Task, u32>,
}

impl Queue {
    fn later(&mut self, task: Task, at: Instant) {
        if let Some(old) = self.due.insert(task.clone(), at) {
            self.timers.remove(&(old, task.clone()));
        }
        self.timers.insert((at, task));
    }

    fn wake_due(&mut self, now: Instant) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, task)) = self.timers.pop_first() else {
                return;
            };
            self.due.remove(&task);
            self.dirty.insert(task);
        }
    }

    /// The next tasks that do not get into each other's way.
    fn batch(&mut self, view: &View) -> Vec<Task> {
        let mut batch = Vec::new();
        let mut families = BTreeSet::new();
        for task in &self.dirty {
            let Some(family) = family(view, task) else {
                if batch.is_empty() {
                    batch.push(task.clone());
                    break;
                }
                continue;
            };
            if batch.len() < BATCH && families.insert(family) {
                batch.push(task.clone());
            }
        }
        for task in &batch {
            self.dirty.remove(task);
        }
        batch
    }
}

/// The VM that a task is about; `None` for tasks that must run alone.
fn family(view: &View, (kind, key): &Task) -> Option<Key> {
    match kind {
        Kind::Vm | Kind::Vmi => Some(key.clone()),
        Kind::Node => None,
        Kind::Vmim => view.get(*kind, key).filter(|vmim| super::fields::is_final(vmim)).map(vmi_of_vmim),
        Kind::Pod => {
            let pod = view.get(*kind, key);
            let bound = pod.filter(|pod| !super::fields::text(pod, "/spec/nodeName").is_empty());
            bound.map(|pod| vmi_of_pod(pod).unwrap_or_else(|| key.clone()))
        }
    }
}

struct Turns {
    client: Client,
    timing: Timing,
    view: View,
    queue: Queue,
    listing: BTreeMap<Kind, BTreeSet<Key>>,
    listed: BTreeSet<Kind>,
    serial: u64,
}

pub(super) async fn run(client: Client, timing: Timing, shutdown: CancellationToken) -> Result<(), SimError> {
    let mut events = select_all(Kind::ALL.map(|kind| wire::watch(&client, kind)));
    let resync = Duration::from_millis(timing.resync_ms.max(100));
    let mut turns = Turns {
        client,
        timing,
        view: View::default(),
        queue: Queue::default(),
        listing: BTreeMap::new(),
        listed: BTreeSet::new(),
        serial: 0,
    };
    let mut next_resync = Instant::now() + resync;
    while !shutdown.is_cancelled() {
        while let Some(Some((kind, event))) = events.next().now_or_never() {
            turns.take_in(kind, event);
        }
        let now = Instant::now();
        if now >= next_resync {
            turns.wake_all();
            next_resync = now + resync;
        }
        turns.queue.wake_due(now);
        if turns.listed.len() == Kind::ALL.len() && turns.act(now).await {
            continue;
        }
        let next = turns.queue.timers.first().map_or(next_resync, |(at, _)| next_resync.min(*at));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // `next` of a stream loses nothing when it is dropped.
            event = events.next() => match event {
                Some((kind, event)) => turns.take_in(kind, event),
                None => return Err(SimError::WatchesEnded),
            },
            () = sleep_until(next) => {}
        }
    }
    Ok(())
}

impl Turns {
    fn take_in(&mut self, kind: Kind, event: WatchResult<Event<Value>>) {
        let now = Instant::now();
        let wake = match event {
            Ok(Event::Init) => {
                self.listing.insert(kind, BTreeSet::new());
                Vec::new()
            }
            Ok(Event::InitApply(object)) => {
                self.listing.entry(kind).or_default().insert(Key::of(&object));
                self.view.store(kind, object, now)
            }
            Ok(Event::InitDone) => {
                self.listed.insert(kind);
                let listed = self.listing.remove(&kind).unwrap_or_default();
                self.view.keep_only(kind, &listed)
            }
            Ok(Event::Apply(object)) => self.view.store(kind, object, now),
            Ok(Event::Delete(object)) => self.view.lose(kind, &object),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, ?kind, "watch failed, going on");
                Vec::new()
            }
        };
        self.queue.dirty.extend(wake);
    }

    fn wake_all(&mut self) {
        for kind in Kind::ALL {
            let all: Vec<Task> = self.view.all(kind).map(|(key, _)| (kind, key.clone())).collect();
            self.queue.dirty.extend(all);
        }
    }

    /// Acts on one batch; false when there was nothing to do.
    async fn act(&mut self, instant: Instant) -> bool {
        let batch = self.queue.batch(&self.view);
        if batch.is_empty() {
            return false;
        }
        let mut pending = Vec::new();
        for task in batch {
            let decision = decide(&self.view, &task, &Now { timing: &self.timing, instant });
            if let Some(at) = decision.again {
                self.queue.later(task.clone(), at);
            }
            if !decision.writes.is_empty() {
                self.serial += 1;
                let (client, at, serial) = (&self.client, self.timing.at(instant), self.serial);
                let writing = wire::perform(client, decision.writes, at, serial);
                pending.push(async move { (task, writing.await) });
            }
        }
        for (task, (learned, refusal)) in join_all(pending).await {
            for news in learned {
                self.learn(news);
            }
            match refusal {
                None => {
                    self.queue.refused.remove(&task);
                    self.queue.dirty.insert(task);
                }
                Some(error) => self.put_off(task, &error),
            }
        }
        true
    }

    fn learn(&mut self, news: Learned) {
        let now = Instant::now();
        let wake = match news {
            Learned::Now(kind, object) => self.view.store(kind, *object, now),
            Learned::Gone(kind, key) => self.view.bury(kind, &key),
            Learned::Bound(pod, node) => {
                self.view.bind(&pod, &node, now);
                vec![(Kind::Pod, pod)]
            }
            Learned::Done(uid, what) => {
                self.view.mark_done(&uid, what, now);
                Vec::new()
            }
        };
        self.queue.dirty.extend(wake);
    }

    fn put_off(&mut self, task: Task, error: &kube::Error) {
        let times = self.queue.refused.entry(task.clone()).or_insert(0);
        *times = times.saturating_add(1).min(6);
        let delay = Duration::from_millis(50) * 2_u32.pow(*times);
        if let kube::Error::Api(status) = error
            && status.code == 409
        {
            tracing::debug!(?task, %status.message, "conflict");
        } else {
            tracing::warn!(?task, error = error as &dyn std::error::Error, "write refused, trying again");
        }
        self.queue.dirty.remove(&task);
        self.queue.later(task, Instant::now() + delay);
    }
}
