//! Who watches a kind, and what of a change each of them sees.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::Object;
use super::collection::Entry;
use super::delta::Delta;
use super::facts::Facts;
use super::history::Change;
use super::json::metadata;
use super::selector::{Selector, name_anchor};
use super::store::parts;
use super::subscription::{Changes, Event};

/// What somebody wants to see of a kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Interest {
    /// Everywhere when empty.
    pub(super) namespace: String,
    pub(super) selector: Selector,
}

impl Interest {
    pub(super) fn includes(&self, key: &str, facts: &Facts) -> bool {
        let (namespace, name) = parts(key);
        (self.namespace.is_empty() || self.namespace == namespace)
            && (self.selector.is_empty() || self.selector.matches(namespace, name, facts))
    }

    /// The change as it looks to somebody who sees only part of the objects; with what it consists of where that is known.
    pub(super) fn view(&self, change: &Change, delta: Option<&Arc<Delta>>) -> Option<Event> {
        let seen = |entry: &&Entry| self.includes(&change.key, &entry.facts);
        let old = change.old.as_ref().filter(seen).map(|entry| &entry.object);
        let new = change.new.as_ref().filter(seen).map(|entry| &entry.object);
        match (old, new) {
            (None, None) => None,
            (None, Some(new)) => Some(Event::Added(new.clone())),
            (Some(_), Some(new)) => Some(Event::Modified(new.clone(), delta.cloned().map(Changes))),
            (Some(old), None) if change.new.is_none() => Some(Event::Deleted(old.clone())),
            // It left the selection: its last version in it, numbered as the change that took it out.
            (Some(old), None) => {
                let mut last = old.value().clone();
                metadata(&mut last).insert("resourceVersion".to_owned(), change.version.to_string().into());
                Some(Event::Deleted(Object::of(last)))
            }
        }
    }
}

#[derive(Debug)]
struct Watcher {
    interest: Interest,
    sink: UnboundedSender<Event>,
}

/// Watchers by what their selector makes certain about an object, so that a write does not ask all of them.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    of_all: Vec<Watcher>,
    anchored: BTreeMap<u64, Vec<Watcher>>,
}

impl Watchers {
    pub(super) fn add(&mut self, interest: Interest, sink: UnboundedSender<Event>) {
        let list = match interest.selector.anchor() {
            None => &mut self.of_all,
            Some(anchor) => self.anchored.entry(anchor).or_default(),
        };
        // Those who left since nothing happened would stay for ever otherwise.
        list.retain(|watcher| !watcher.sink.is_closed());
        list.push(Watcher { interest, sink });
    }

    pub(super) fn tell(&mut self, change: &Change, delta: Option<&Arc<Delta>>) {
        tell_each(&mut self.of_all, change, delta);
        if self.anchored.is_empty() {
            return;
        }
        let entries = change.old.iter().chain(&change.new);
        let mut anchors: Vec<u64> = entries.flat_map(|entry| entry.facts.hashes()).copied().collect();
        anchors.push(name_anchor(parts(&change.key).1));
        anchors.sort_unstable();
        anchors.dedup();
        for anchor in anchors {
            if let Some(list) = self.anchored.get_mut(&anchor) {
                tell_each(list, change, delta);
                if list.is_empty() {
                    self.anchored.remove(&anchor);
                }
            }
        }
    }
}

fn tell_each(list: &mut Vec<Watcher>, change: &Change, delta: Option<&Arc<Delta>>) {
    list.retain(|watcher| match watcher.interest.view(change, delta) {
        Some(event) => watcher.sink.send(event).is_ok(),
        None => !watcher.sink.is_closed(),
    });
}
