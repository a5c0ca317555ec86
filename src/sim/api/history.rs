//! The newest changes, so that watches and lists can go back to a version that is not long past. It keeps what each write
//! changed and not the versions themselves, which are made again for those who ask.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::Object;
use super::collection::{Collection, Entry};
use super::delta::Delta;
use super::facts::Facts;
use super::store::{Key, Place};

/// How many changes are kept.
const KEPT: usize = 2_048;

/// One write.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) place: Place,
    pub(super) key: Key,
    /// What was there; for a removal its last version, numbered as the removal.
    pub(super) old: Option<Entry>,
    pub(super) new: Option<Entry>,
}

/// What has to be known of a write to go back behind it.
#[derive(Debug)]
pub(super) enum Before {
    /// There was nothing.
    Nothing,
    /// There was this.
    Whole(Entry),
    /// There was what the new version is without these changes.
    Less(Arc<Delta>, Facts),
    /// It was removed: what was there, and what watchers were told of its end.
    Removed(Entry, Entry),
}

#[derive(Debug)]
struct Past {
    version: u64,
    place: Place,
    key: Key,
    before: Before,
}

#[derive(Debug, Default)]
pub(super) struct History {
    changes: VecDeque<Past>,
    /// Newest version of each kind that a change was forgotten of.
    forgotten: BTreeMap<Place, u64>,
    /// As `forgotten`, of all kinds.
    floor: u64,
}

impl History {
    /// Nothing that was before this version.
    pub(super) fn from(version: u64) -> Self {
        Self { changes: VecDeque::new(), forgotten: BTreeMap::new(), floor: version }
    }

    /// Keeps a change.
    pub(super) fn push(&mut self, version: u64, place: Place, key: Key, before: Before) {
        if self.changes.len() >= KEPT
            && let Some(dropped) = self.changes.pop_front()
        {
            self.forgotten.insert(dropped.place, dropped.version);
        }
        self.changes.push_back(Past { version, place, key, before });
    }

    /// The newest version of a kind that a change has been forgotten of.
    pub(super) fn forgotten(&self, place: Place) -> u64 {
        self.forgotten.get(&place).copied().unwrap_or(0).max(self.floor)
    }

    fn after(&self, place: Place, version: u64) -> impl DoubleEndedIterator<Item = &Past> {
        let first = self.changes.partition_point(|past| past.version <= version);
        self.changes.range(first..).filter(move |past| past.place == place)
    }

    /// Changes of a collection after a version, oldest first.
    pub(super) fn since(&self, place: Place, version: u64, now: &Collection) -> Vec<Change> {
        let mut states = BTreeMap::new();
        let changes = self.after(place, version).rev().map(|past| {
            let new = state(&mut states, past, now);
            let (old, told) = past.before(new.as_ref());
            states.insert(past.key.clone(), old.clone());
            Change { version: past.version, place, key: past.key.clone(), old: told.or(old), new }
        });
        let mut changes: Vec<Change> = changes.collect();
        changes.reverse();
        changes
    }

    /// What was different in a collection at this version: what each object was then that has changed since.
    pub(super) fn differences(
        &self,
        place: Place,
        version: u64,
        now: &Collection,
    ) -> BTreeMap<Key, Option<Entry>> {
        let mut then = BTreeMap::new();
        for past in self.after(place, version).rev() {
            let new = state(&mut then, past, now);
            then.insert(past.key.clone(), past.before(new.as_ref()).0);
        }
        then
    }

    /// Forgets the parsed forms.
    pub(super) fn cool(&mut self) {
        for past in &mut self.changes {
            match &mut past.before {
                Before::Nothing | Before::Less(..) => {}
                Before::Whole(entry) => entry.object.cool(),
                Before::Removed(entry, last) => {
                    entry.object.cool();
                    last.object.cool();
                }
            }
        }
    }
}

/// What a write left behind, given what was undone already.
fn state(states: &mut BTreeMap<Key, Option<Entry>>, past: &Past, now: &Collection) -> Option<Entry> {
    match states.remove(&past.key) {
        Some(state) => state,
        None => now.objects.get(&past.key).cloned(),
    }
}

impl Past {
    /// What was there before, and what watchers were told instead.
    fn before(&self, new: Option<&Entry>) -> (Option<Entry>, Option<Entry>) {
        match (&self.before, new) {
            (Before::Nothing, _) | (Before::Less(..), None) => (None, None),
            (Before::Whole(entry), _) => (Some(entry.clone()), None),
            (Before::Removed(entry, last), _) => (Some(entry.clone()), Some(last.clone())),
            (Before::Less(delta, facts), Some(new)) => {
                let mut value = new.object.value().clone();
                if let Value::Object(fields) = &mut value {
                    delta.undo(fields);
                }
                (Some(Entry { object: Object::of(value), facts: facts.clone() }), None)
            }
        }
    }
}
