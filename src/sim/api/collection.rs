//! The objects of one kind, with the index that lists use. Copied on write, so that servers can share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Object;
use super::facts::Facts;
use super::kinds::Kind;
use super::store::Key;

/// A stored version and what it is found by.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) object: Object,
    pub(super) facts: Facts,
}

/// All objects of one kind.
#[derive(Debug, Clone)]
pub(super) struct Collection {
    pub(super) kind: Arc<Kind>,
    pub(super) objects: BTreeMap<Key, Entry>,
    index: BTreeSet<(u64, Key)>,
}

impl Collection {
    pub(super) fn of(kind: Kind) -> Self {
        Self { kind: Arc::new(kind), objects: BTreeMap::new(), index: BTreeSet::new() }
    }

    /// Keeps the index when the facts of an object change.
    pub(super) fn reindex(&mut self, key: &Key, old: Option<&Facts>, new: Option<&Facts>) {
        if old == new {
            return;
        }
        let has = |facts: Option<&Facts>, number| facts.is_some_and(|facts| facts.hashes().contains(&number));
        for number in old.map_or(&[][..], Facts::hashes).iter().filter(|number| !has(new, **number)) {
            self.index.remove(&(*number, key.clone()));
        }
        for number in new.map_or(&[][..], Facts::hashes).iter().filter(|number| !has(old, **number)) {
            self.index.insert((*number, key.clone()));
        }
    }

    /// Keys of the objects that have a fact with this number, and perhaps a few others.
    pub(super) fn with_fact(&self, number: u64) -> impl Iterator<Item = &Key> {
        let range = self.index.range((number, Key::default())..);
        range.take_while(move |(found, _)| *found == number).map(|(_, key)| key)
    }
}
