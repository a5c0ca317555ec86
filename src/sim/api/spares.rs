//! The versions before the newest ones: once nobody else holds such a version any more, what it parsed is brought up to
//! date and becomes the next version, which is cheaper than another copy of the whole object.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::Object;
use super::delta::Delta;
use super::store::{Key, Place};

/// How many are kept.
const KEPT: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Spares {
    kept: HashMap<(Place, Key), Spare, foldhash::fast::FixedState>,
}

#[derive(Debug)]
struct Spare {
    before: Object,
    since: Arc<Delta>,
}

impl Spares {
    /// Keeps the version that a write replaced.
    pub(super) fn keep(&mut self, place: Place, key: &Key, before: Object, since: Arc<Delta>) {
        if self.kept.len() >= KEPT {
            self.kept.clear();
        }
        self.kept.insert((place, key.clone()), Spare { before, since });
    }

    /// A copy of the newest version's content.
    pub(super) fn copy(&mut self, place: Place, key: &Key, now: &Object) -> Value {
        let spare = self.kept.remove(&(place, key.clone()));
        let taken = spare.and_then(|spare| Some((spare.before.into_own_value()?, spare.since)));
        if let Some((Value::Object(mut stale), since)) = taken
            && let Some(now) = now.as_object()
        {
            since.follow(&mut stale, now);
            return Value::Object(stale);
        }
        now.value().clone()
    }

    /// After a write that is not noted here.
    pub(super) fn drop_one(&mut self, place: Place, key: &Key) {
        self.kept.remove(&(place, key.clone()));
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}
