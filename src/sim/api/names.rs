//! Which kind is kept where: by plural and by kind, found by number instead of by text.

use std::sync::{Arc, LazyLock};

use super::collection::Collection;
use super::facts::hash;
use super::kinds::Kind;
use super::store::Place;

/// Places by a number of the name; two names may share a number.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    plurals: Vec<(u64, Place)>,
    kinds: Vec<(u64, Place)>,
}

/// What every server begins with.
pub(super) struct Start {
    pub(super) names: Arc<Names>,
    pub(super) collections: Vec<Arc<Collection>>,
}

/// Made once: servers share it until they define kinds of their own.
pub(super) static START: LazyLock<Start> = LazyLock::new(|| {
    let mut names = Names::default();
    let mut collections = Vec::new();
    for kind in super::table::kinds() {
        names.add(&kind, Place(collections.len()));
        collections.push(Arc::new(Collection::of(kind)));
    }
    Start { names: Arc::new(names), collections }
});

impl Names {
    pub(super) fn add(&mut self, kind: &Kind, place: Place) {
        for (list, name) in [(&mut self.plurals, &kind.plural), (&mut self.kinds, &kind.kind)] {
            let entry = (number(&kind.group, name), place);
            let at = list.partition_point(|one| *one < entry);
            list.insert(at, entry);
        }
    }

    /// Places that may be those of this plural: nearly always one or none.
    pub(super) fn plural(&self, group: &str, plural: &str) -> impl Iterator<Item = Place> {
        with(&self.plurals, number(group, plural))
    }

    /// As [`Self::plural`], by kind.
    pub(super) fn kind(&self, group: &str, kind: &str) -> impl Iterator<Item = Place> {
        with(&self.kinds, number(group, kind))
    }
}

fn number(group: &str, name: &str) -> u64 {
    hash(&[group, "/", name])
}

fn with(list: &[(u64, Place)], number: u64) -> impl Iterator<Item = Place> {
    let first = list.partition_point(|(found, _)| *found < number);
    let same = list.get(first..).unwrap_or_default().iter().take_while(move |(found, _)| *found == number);
    same.map(|(_, place)| *place)
}
