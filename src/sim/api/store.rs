//! Every object's newest version, by kind and name, and where to find it. Knows nothing about requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Object;
use super::collection::Collection;
use super::gc::Chore;
use super::history::History;
use super::ids::Ids;
use super::kinds::Kind;
use super::names::{Names, START};
use super::spares::Spares;
use super::warm::Warm;
use super::watchers::Watchers;
use super::webhooks::Webhooks;
use crate::host::clock::Clock;

/// `namespace/name`, or `name`: ordered as etcd orders them.
pub(super) type Key = Arc<str>;

/// Where a kind's collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place(pub(super) usize);

#[derive(Debug)]
pub(super) struct Store {
    pub(super) clock: Clock,
    pub(super) ids: Ids,
    pub(super) version: u64,
    pub(super) history: History,
    pub(super) chores: VecDeque<Chore>,
    /// Owners and namespaces that wait for others to go.
    pub(super) waiting: BTreeSet<(Place, Key)>,
    /// Forks share those that neither side has written to.
    pub(super) collections: Vec<Arc<Collection>>,
    pub(super) watchers: BTreeMap<Place, Watchers>,
    pub(super) owned: Arc<BTreeSet<(u64, Place, Key)>>,
    pub(super) warm: Warm,
    pub(super) spares: Spares,
    pub(super) webhooks: Webhooks,
    names: Arc<Names>,
}

impl Store {
    pub(super) fn new(clock: Clock, seed: u64) -> Self {
        Self {
            clock,
            ids: Ids::new(seed),
            version: 1,
            history: History::default(),
            chores: VecDeque::new(),
            waiting: BTreeSet::new(),
            collections: START.collections.clone(),
            watchers: BTreeMap::new(),
            owned: Arc::default(),
            warm: Warm::default(),
            spares: Spares::default(),
            webhooks: Webhooks::None,
            names: START.names.clone(),
        }
    }

    /// The same objects, to go on with apart from these: without those who watch and without what is past.
    pub(super) fn fork(&self, clock: Clock) -> Self {
        Self {
            clock,
            ids: self.ids.clone(),
            version: self.version,
            history: History::from(self.version),
            chores: VecDeque::new(),
            waiting: self.waiting.clone(),
            collections: self.collections.clone(),
            watchers: BTreeMap::new(),
            owned: self.owned.clone(),
            warm: self.warm.clone(),
            spares: Spares::default(),
            webhooks: Webhooks::None,
            names: self.names.clone(),
        }
    }

    /// Serves a kind from now on; a known one takes the new definition.
    pub(super) fn serve(&mut self, kind: Kind) -> Place {
        if let Some(place) = self.place(&kind.group, &kind.plural) {
            if let Some(collection) = self.collections.get_mut(place.0) {
                Arc::make_mut(collection).kind = Arc::new(kind);
            }
            return place;
        }
        let place = Place(self.collections.len());
        Arc::make_mut(&mut self.names).add(&kind, place);
        self.collections.push(Arc::new(Collection::of(kind)));
        place
    }

    pub(super) fn place(&self, group: &str, plural: &str) -> Option<Place> {
        self.names.plural(group, plural).find(|place| {
            self.collection(*place)
                .is_some_and(|found| found.kind.group == group && found.kind.plural == plural)
        })
    }

    /// The place of objects with this `apiVersion` and `kind`.
    pub(super) fn place_of_kind(&self, api_version: &str, kind: &str) -> Option<Place> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.names.kind(group, kind).find(|place| {
            self.collection(*place).is_some_and(|found| found.kind.group == group && found.kind.kind == kind)
        })
    }

    pub(super) fn collection(&self, place: Place) -> Option<&Collection> {
        self.collections.get(place.0).map(|collection| &**collection)
    }

    pub(super) fn collections(&self) -> impl Iterator<Item = (Place, &Collection)> {
        self.collections.iter().enumerate().map(|(index, collection)| (Place(index), &**collection))
    }

    pub(super) fn get(&self, place: Place, key: &str) -> Option<&Object> {
        Some(&self.collection(place)?.objects.get(key)?.object)
    }

    /// The time as objects carry it.
    pub(super) fn stamp(&self) -> String {
        stamp(self.clock.now())
    }

    /// Forgets the history.
    pub(super) fn compact(&mut self) {
        self.history = History::from(self.version);
    }
}

/// A time as objects carry it.
pub(super) fn stamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The key of an object.
pub(super) fn key_of(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        return name.to_owned();
    }
    let mut key = String::with_capacity(namespace.len() + 1 + name.len());
    for part in [namespace, "/", name] {
        key.push_str(part);
    }
    key
}

/// Namespace and name of a key.
pub(super) fn parts(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}
