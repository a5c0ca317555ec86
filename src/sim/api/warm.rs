//! Which parsed objects stay in memory: those that were used since one last came by, up to a number.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::store::{Key, Place, Store};

/// How many parsed objects stay in memory.
const WARM: usize = 384;

/// Parsed objects in the order in which they are looked at for being forgotten.
#[derive(Debug, Clone, Default)]
pub(super) struct Warm {
    queue: VecDeque<(Place, Key)>,
    queued: HashSet<(Place, Key), foldhash::fast::FixedState>,
}

impl Warm {
    fn add(&mut self, place: Place, key: Key) -> Option<(Place, Key)> {
        if self.queued.insert((place, key.clone())) {
            self.queue.push_back((place, key));
        }
        if self.queue.len() <= WARM {
            return None;
        }
        let oldest = self.queue.pop_front()?;
        self.queued.remove(&oldest);
        Some(oldest)
    }
}

impl Store {
    /// Where as many are in memory as may be, an object that comes to rest with this write is forgotten at once.
    pub(super) fn rests(&mut self, place: Place, key: &str) {
        if self.warm.queue.len() >= WARM {
            self.cool_one(place, key);
        }
    }

    /// Notes that somebody parsed this object, and forgets the parsed form of the one that was first noted.
    pub(super) fn warmed(&mut self, place: Place, key: Key) {
        if let Some((place, key)) = self.warm.add(place, key) {
            self.spares.drop_one(place, &key);
            self.cool_one(place, &key);
        }
    }

    fn cool_one(&mut self, place: Place, key: &str) {
        let is_warm = |object: &super::Object| object.is_warm();
        if self.get(place, key).is_some_and(is_warm)
            && let Some(collection) = self.collections.get_mut(place.0)
            && let Some(entry) = Arc::make_mut(collection).objects.get_mut(key)
        {
            entry.object.cool();
        }
    }

    /// Forgets all parsed forms.
    pub(super) fn cool(&mut self) {
        self.warm = Warm::default();
        self.spares.clear();
        self.history.cool();
        for collection in &mut self.collections {
            if collection.objects.is_empty() {
                continue;
            }
            for entry in Arc::make_mut(collection).objects.values_mut() {
                entry.object.cool();
            }
        }
    }
}
