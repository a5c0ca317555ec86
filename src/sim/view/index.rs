//! What the view can be asked without looking at every object: who belongs to whom, who is where, which node has how much
//! room left, which migrations are under way. Each object is filed under the few facts of it that matter here.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use serde_json::Value;

use super::filed::{Filed, State};
use super::key::ByKind;
use super::ties::Ties;
use super::{ByName, Entry, Key, Kind};
use crate::sim::fields::{self, At as _};

/// What the pods of one node take.
#[derive(Debug, Clone, Default)]
pub(in crate::sim) struct Room {
    pub(in crate::sim) pods: usize,
    pub(in crate::sim) used: BTreeMap<String, u128>,
}

/// All indices.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// Pods and migrations by VMI; engines and replicas by volume; pods by owner; VMIs and volumes by claim.
    by_owner: ByKind<ByName<Key, BTreeSet<Key>>>,
    /// Pods that are no VM's, by claim.
    by_claim: ByName<Key, BTreeSet<Key>>,
    by_node: ByKind<ByName<String, BTreeSet<Key>>>,
    /// Engines and replicas that run, by node.
    running: ByKind<ByName<String, BTreeSet<Key>>>,
    evacuated: ByName<String, BTreeSet<Key>>,
    /// Pods that keep others off their node, by node; those that keep them off farther ones under no name.
    keeping_off: ByName<String, BTreeSet<Key>>,
    /// Pods without a node that go by where others are.
    seeking: BTreeSet<Key>,
    slots: BTreeSet<Key>,
    rooms: ByName<String, Room>,
    by_load: BTreeSet<(usize, String)>,
}

impl Index {
    pub(super) fn add_node(&mut self, node: &str) {
        let pods = self.rooms.entry(node.to_owned()).or_default().pods;
        self.by_load.insert((pods, node.to_owned()));
    }

    pub(super) fn set(&mut self, kind: Kind, key: &Key, filed: &Filed, present: bool) {
        for owner in filed.vmi.iter().chain(&filed.also) {
            file(self.by_owner.of_mut(kind), owner, key, present);
        }
        for claim in filed.claims() {
            file(&mut self.by_claim, claim, key, present);
        }
        if kind == Kind::Pod || !filed.node.is_empty() {
            file(self.by_node.of_mut(kind), &filed.node, key, present);
        }
        if matches!(kind, Kind::Engine | Kind::Replica) && filed.state == State::Running {
            file(self.running.of_mut(kind), &filed.node, key, present);
        }
        if !filed.evacuated.is_empty() {
            file(&mut self.evacuated, &filed.evacuated, key, present);
        }
        match filed.ties {
            Ties::None => {}
            Ties::OwnNode => file(&mut self.keeping_off, &filed.node, key, present),
            Ties::Farther => file(&mut self.keeping_off, &String::new(), key, present),
            Ties::Seeks if present => {
                self.seeking.insert(key.clone());
            }
            Ties::Seeks => {
                self.seeking.remove(key);
            }
        }
        if filed.slot && present {
            self.slots.insert(key.clone());
        } else if filed.slot {
            self.slots.remove(key);
        }
        if let Some(takes) = &filed.takes {
            self.take(&filed.node, takes, present);
        }
    }

    fn take(&mut self, node: &str, takes: &BTreeMap<String, u128>, present: bool) {
        let room = self.rooms.entry(node.to_owned()).or_default();
        for (resource, amount) in takes {
            let used = room.used.entry(resource.clone()).or_insert(0);
            *used = if present { *used + amount } else { used.saturating_sub(*amount) };
        }
        let known = self.by_load.remove(&(room.pods, node.to_owned()));
        room.pods = if present { room.pods + 1 } else { room.pods.saturating_sub(1) };
        if known {
            self.by_load.insert((room.pods, node.to_owned()));
        }
    }

    pub(super) fn owned<'a>(&'a self, kind: Kind, owner: &Key) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.by_owner.of(kind).get(owner).into_iter().flatten()
    }

    pub(super) fn with_claim<'a>(&'a self, claim: &Key) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.by_claim.get(claim).into_iter().flatten()
    }

    pub(super) fn on<'a>(&'a self, kind: Kind, node: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.by_node.of(kind).get(node).into_iter().flatten()
    }

    pub(super) fn keeping_off<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.keeping_off.get(node).into_iter().chain(self.keeping_off.get("")).flatten()
    }

    pub(super) fn seeking(&self) -> impl Iterator<Item = &Key> {
        self.seeking.iter()
    }

    pub(super) fn running<'a>(&'a self, kind: Kind, node: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.running.of(kind).get(node).into_iter().flatten()
    }

    pub(super) fn evacuated(&self, node: &str) -> impl Iterator<Item = &Key> {
        self.evacuated.get(node).into_iter().flatten()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Key> {
        self.slots.iter()
    }

    pub(super) fn room(&self, node: &str) -> Option<&Room> {
        self.rooms.get(node)
    }

    /// Nodes, those with the fewest pods first, then by name.
    pub(super) fn by_load(&self) -> impl Iterator<Item = &str> {
        self.by_load.iter().map(|(_, node)| node.as_str())
    }

    pub(super) fn drop_node(&mut self, node: &str) {
        let pods = self.rooms.get(node).map_or(0, |room| room.pods);
        self.by_load.remove(&(pods, node.to_owned()));
    }
}

fn file<K: Hash + Eq + Clone>(index: &mut ByName<K, BTreeSet<Key>>, of: &K, key: &Key, present: bool) {
    match index.get_mut(of) {
        Some(keys) if present => {
            keys.insert(key.clone());
        }
        Some(keys) => {
            keys.remove(key);
            if keys.is_empty() {
                index.remove(of);
            }
        }
        None if present => {
            index.insert(of.clone(), BTreeSet::from([key.clone()]));
        }
        None => {}
    }
}

/// Whether a node takes pods again, or no longer.
pub(super) fn cordons_differ(old: &Value, new: &Value) -> bool {
    old.at("/spec/unschedulable") != new.at("/spec/unschedulable")
}

/// Whether scheduling on a node may go otherwise than before; `runs` says whether its guests may.
pub(super) fn places_differ(old: &Value, new: &Value, runs: bool) -> bool {
    runs || ["/spec", "/metadata/labels", "/status/allocatable"].iter().any(|p| old.at(p) != new.at(p))
}

/// Whether pods and guests of a node may go on otherwise than before.
pub(super) fn runs_differ(old: &Entry, new: &Entry) -> bool {
    let boot = |entry: &'_ Entry| entry.facts.host.boot.clone().unwrap_or_default();
    old.facts.is_ready != new.facts.is_ready
        || boot(old) != boot(new)
        || [fields::OFF, fields::AWAY]
            .iter()
            .any(|key| fields::annotation(&old.object, key) != fields::annotation(&new.object, key))
}
