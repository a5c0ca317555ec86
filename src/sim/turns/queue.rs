//! Which objects are to be looked at next, and when. It orders tasks and knows nothing of what is done about them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::sim::view::{ByName, Key, Kind, Task, View};

/// How many VMs are written about at once.
const BATCH: usize = 16;

#[derive(Default)]
pub(super) struct Queue {
    dirty: BTreeSet<Task>,
    timers: BTreeSet<(Instant, Task)>,
    due: ByName<Task, Instant>,
    refused: BTreeMap<Task, u32>,
}

impl Queue {
    pub(super) fn wake(&mut self, tasks: Vec<Task>) {
        self.dirty.extend(tasks);
    }

    pub(super) fn pop(&mut self) -> Option<Task> {
        self.dirty.pop_first()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(super) fn went_well(&mut self, task: Task) {
        self.refused.remove(&task);
        self.dirty.insert(task);
    }

    /// Tries again with a growing delay.
    pub(super) fn refused(&mut self, task: Task, now: Instant) {
        let times = self.refused.entry(task.clone()).or_insert(0);
        *times = times.saturating_add(1).min(6);
        let delay = Duration::from_millis(50) * 2_u32.pow(*times);
        self.dirty.remove(&task);
        self.later(task, now + delay);
    }

    pub(super) fn later(&mut self, task: Task, at: Instant) {
        if let Some(old) = self.due.insert(task.clone(), at) {
            self.timers.remove(&(old, task.clone()));
        }
        self.timers.insert((at, task));
    }

    pub(super) fn wake_due(&mut self, now: Instant) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, task)) = self.timers.pop_first() else {
                return;
            };
            self.due.remove(&task);
            self.dirty.insert(task);
        }
    }

    /// The next tasks that do not get into each other's way.
    pub(super) fn batch(&mut self, view: &View) -> Vec<Task> {
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
        Kind::Node
        | Kind::ReplicaSet
        | Kind::Budget
        | Kind::Volume
        | Kind::Engine
        | Kind::Replica
        | Kind::InstanceManager => None,
        Kind::Vmim => {
            let vmim = view.entry(*kind, key).filter(|vmim| vmim.filed.ended);
            vmim.and_then(|vmim| vmim.filed.vmi.clone())
        }
        Kind::Pod => {
            let bound = view.entry(*kind, key).filter(|pod| !pod.filed.node.is_empty());
            bound.map(|pod| pod.filed.vmi.clone().unwrap_or_else(|| key.clone()))
        }
    }
}
