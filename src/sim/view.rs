//! What the simulators know of the cluster: the newest seen state of each watched object, indexed by who belongs to whom.
//! It is filled from watches and from the answers to our own writes, and never talks to the API itself.

mod facts;
mod filed;
mod index;
mod key;
mod parts;
mod ties;
mod wake;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::time::Instant;

use super::fields::{self, uid};
pub(super) use super::kind::Kind;
use super::object::Object;
pub(super) use facts::{Copying, Facts, Mode, Phase, RUNTIME, Rest, Robustness, Strategy};
pub(super) use filed::{Filed, Health, State, requests, vmi_of_pod};
pub(super) use index::Room;
use index::{Index, cordons_differ, places_differ, runs_differ};
use key::ByKind;
pub(super) use key::ByName;
pub(super) use key::Key;
use parts::Parts;
pub(super) use ties::{apart_terms, is_of_own_guest, spread_terms, together_terms};
use wake::guest_of;

/// One object to look at again.
pub(super) type Task = (Kind, Key);

/// An object, and since when its important fields have the value they have.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) object: Object,
    pub(super) filed: Filed,
    pub(super) facts: Facts,
    pub(super) uid: Box<str>,
    version: u64,
    pub(super) phase_since: Instant,
    pub(super) deleting_since: Instant,
    pub(super) bound_since: Instant,
    pub(super) copying_since: Instant,
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    objects: ByKind<ByName<Key, Entry>>,
    index: Index,
    gone: BTreeSet<Box<str>>,
    done: BTreeMap<Box<str>, BTreeMap<&'static str, (Instant, u32)>>,
    moved: BTreeSet<Key>,
}

impl View {
    pub(super) fn entry(&self, kind: Kind, key: &Key) -> Option<&Entry> {
        self.objects.of(kind).get(key)
    }

    pub(super) fn get(&self, kind: Kind, key: &Key) -> Option<&Value> {
        self.entry(kind, key).map(|entry| &*entry.object)
    }

    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Entry)> {
        self.objects.of(kind).iter()
    }

    /// How many there are of all kinds.
    pub(super) fn size(&self) -> usize {
        Kind::ALL.iter().map(|kind| self.objects.of(*kind).len()).sum()
    }

    pub(super) fn node(&self, node: &str) -> Option<&Entry> {
        self.objects.of(Kind::Node).get(node)
    }

    /// Pods controlled by this very VMI (same uid), finished ones too.
    pub(super) fn pods_of<'a>(
        &'a self,
        key: &Key,
        vmi: &'a Entry,
    ) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.owned(Kind::Pod, key).filter(move |pod| *pod.filed.owner == *vmi.uid)
    }

    pub(super) fn vmims_of<'a>(&'a self, vmi: &Key) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.owned(Kind::Vmim, vmi)
    }

    /// Objects of a kind that are filed under this owner, volume or claim.
    pub(super) fn owned<'a>(&'a self, kind: Kind, owner: &Key) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.index.owned(kind, owner).filter_map(move |key| self.entry(kind, key))
    }

    /// The pods, but for those of VMs, that use this claim.
    pub(super) fn pods_with<'a>(&'a self, claim: &Key) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.index.with_claim(claim).filter_map(move |key| self.entry(Kind::Pod, key))
    }

    /// Objects of a kind that are on this node.
    pub(super) fn on<'a>(&'a self, kind: Kind, node: &str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.index.on(kind, node).filter_map(move |key| self.entry(kind, key))
    }

    /// Objects of a kind that are filed under this owner, with their keys.
    pub(super) fn keyed_owned<'a>(
        &'a self,
        kind: Kind,
        owner: &Key,
    ) -> impl Iterator<Item = (&'a Key, &'a Entry)> + use<'a> {
        self.index.owned(kind, owner).filter_map(move |key| Some((key, self.entry(kind, key)?)))
    }

    /// Objects of a kind that are on this node, with their keys.
    pub(super) fn keyed_on<'a>(
        &'a self,
        kind: Kind,
        node: &str,
    ) -> impl Iterator<Item = (&'a Key, &'a Entry)> + use<'a> {
        self.index.on(kind, node).filter_map(move |key| Some((key, self.entry(kind, key)?)))
    }

    /// Pods that may keep others off this node: by anti-affinity, and beyond what the pods of a VMI ask of each other.
    pub(super) fn keeping_off<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.index.keeping_off(node).filter_map(move |key| self.entry(Kind::Pod, key))
    }

    /// Engines or replicas that run on this node.
    pub(super) fn running<'a>(&'a self, kind: Kind, node: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.index.running(kind, node)
    }

    /// Whether any VMI is asked to leave this node.
    pub(super) fn evacuates(&self, node: &str) -> bool {
        self.index.evacuated(node).next().is_some()
    }

    /// Migrations that hold a slot.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Entry> {
        self.index.slots().filter_map(|key| self.entry(Kind::Vmim, key))
    }

    /// What is taken of a node.
    pub(super) fn room(&self, node: &str) -> Option<&Room> {
        self.index.room(node)
    }

    /// Nodes, those with the fewest pods first, then by name.
    pub(super) fn nodes_by_load(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.index.by_load().filter_map(|name| Some((name, self.node(name)?)))
    }

    /// When something was last done about the object with this uid.
    pub(super) fn done(&self, uid: &str, what: &str) -> Option<Instant> {
        self.done.get(uid)?.get(what).map(|(last, _)| *last)
    }

    /// How often that was done.
    pub(super) fn count(&self, uid: &str, what: &str) -> u32 {
        self.done.get(uid).and_then(|done| done.get(what)).map_or(0, |(_, times)| *times)
    }

    pub(super) fn mark_done(&mut self, uid: &str, what: &'static str, now: Instant) {
        let (last, times) = self.done.entry(uid.into()).or_default().entry(what).or_insert((now, 0));
        *last = now;
        *times = times.saturating_add(1);
    }

    /// VMIs whose guest may run somewhere else since this was last asked.
    pub(super) fn moved(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.moved)
    }

    /// Everything is as it is since now.
    pub(super) fn begin(&mut self, now: Instant) {
        for kind in Kind::ALL {
            for entry in self.objects.of_mut(kind).values_mut() {
                entry.phase_since = now;
                entry.deleting_since = now;
                entry.bound_since = now;
                entry.copying_since = now;
            }
        }
    }

    /// Lets go of what was parsed of an object; its text stays.
    pub(super) fn cool(&mut self, (kind, key): &Task) {
        if let Some(entry) = self.objects.of_mut(*kind).get_mut(key) {
            entry.object.cool();
        }
    }

    /// Takes in a newer state and says what to look at because of it; an older or repeated one changes nothing.
    pub(super) fn store(&mut self, kind: Kind, object: Object, now: Instant) -> Vec<Task> {
        let value = object.value();
        let parts = Parts::of(value);
        let uid = parts.metadata.text("uid");
        let version = parts.metadata.text("resourceVersion").parse().unwrap_or(0);
        let key = Key::new(parts.metadata.text("namespace"), parts.metadata.text("name"));
        if !self.gone.is_empty() && self.gone.contains(uid) {
            return Vec::new();
        }
        let known = self.entry(kind, &key);
        let same = known.filter(|known| *known.uid == *uid);
        if same.is_some_and(|known| known.version >= version) {
            return Vec::new();
        }
        let facts = Facts::of(kind, parts);
        let filed = Filed::of(kind, value, parts, &facts, same.map(|same| &same.filed));
        let since = |same: Option<&Entry>, before: fn(&Entry) -> Instant| same.map_or(now, before);
        let (phase, boot) = (facts.phase, &facts.host.boot);
        let as_before = same.filter(|old| old.facts.phase == phase && old.facts.host.boot == *boot);
        let deleted = same.filter(|old| old.facts.deleted == facts.deleted);
        let bound = same.filter(|old| kind == Kind::Pod && old.filed.node == filed.node);
        let copying = same.filter(|old| kind == Kind::Vmi && old.facts.copy_start() == facts.copy_start());
        let entry = Entry {
            phase_since: since(as_before, |e| e.phase_since),
            deleting_since: since(deleted, |e| e.deleting_since),
            bound_since: since(bound, |e| e.bound_since),
            copying_since: since(copying, |e| e.copying_since),
            uid: uid.into(),
            filed,
            facts,
            version,
            object,
        };
        self.replace(kind, &key, entry)
    }

    fn replace(&mut self, kind: Kind, key: &Key, entry: Entry) -> Vec<Task> {
        let mut wake = vec![(kind, key.clone())];
        let known = self.objects.of(kind).get(key);
        let refiled = known.is_none_or(|old| old.filed != entry.filed);
        let mut freed = kind == Kind::Pod && refiled && entry.filed.ended;
        if kind == Kind::Node {
            let runs = known.is_some_and(|old| runs_differ(old, &entry));
            freed = known.is_none_or(|old| places_differ(&old.object, &entry.object, runs));
            if runs {
                let bound = self.bound_to(key.name());
                let vmis = bound.iter().filter(|(kind, _)| *kind == Kind::Vmi).map(|(_, vmi)| vmi.clone());
                self.moved.extend(vmis);
                wake.extend(bound);
            } else if known.is_some_and(|old| cordons_differ(&old.object, &entry.object)) {
                wake.extend(self.volumes_on(key.name()));
            }
            self.index.add_node(key.name());
        }
        if refiled {
            if let Some(old) = self.objects.of(kind).get(key) {
                self.index.set(kind, key, &old.filed, false);
                self.woken_by(kind, key, &old.filed, true, &mut wake);
            }
            self.index.set(kind, key, &entry.filed, true);
            self.moved.extend(guest_of(kind, key, &entry.filed));
        }
        match self.objects.of_mut(kind).get_mut(key) {
            Some(known) => *known = entry,
            None => {
                self.objects.of_mut(kind).insert(key.clone(), entry);
            }
        }
        if let Some(entry) = self.objects.of(kind).get(key) {
            self.woken_by(kind, key, &entry.filed, refiled, &mut wake);
        }
        if freed {
            wake.extend(self.unbound());
        }
        wake
    }

    /// Notes that a pod was bound, ahead of the watch: the next pod must not get the same devices.
    pub(super) fn bind(&mut self, pod: &Key, node: &str, now: Instant) {
        let Some(entry) = self.objects.of_mut(Kind::Pod).get_mut(pod) else { return };
        let mut bound = Value::clone(&entry.object);
        fields::merge(&mut bound, &serde_json::json!({"spec": {"nodeName": node}}));
        let parts = Parts::of(&bound);
        let filed = Filed::of(Kind::Pod, &bound, parts, &entry.facts, Some(&entry.filed));
        let before = std::mem::replace(&mut entry.filed, filed);
        entry.object = Object::of(bound);
        entry.bound_since = now;
        self.index.set(Kind::Pod, pod, &before, false);
        self.index.set(Kind::Pod, pod, &entry.filed, true);
    }

    /// Forgets an object because we removed it ourselves; late watch events about it are ignored.
    pub(super) fn bury(&mut self, kind: Kind, key: &Key) -> Vec<Task> {
        if let Some(entry) = self.entry(kind, key) {
            let uid = entry.uid.clone();
            self.gone.insert(uid);
        }
        self.forget(kind, key)
    }

    /// Forgets an object that the watch reports as deleted.
    pub(super) fn lose(&mut self, kind: Kind, object: &Value) -> Vec<Task> {
        let key = Key::of(object);
        // The watch says nothing of it after this.
        self.gone.remove(uid(object));
        // A successor of the same name may be known already, from the answer to our own create.
        match self.entry(kind, &key) {
            Some(known) if *known.uid == *uid(object) => self.forget(kind, &key),
            Some(_) | None => Vec::new(),
        }
    }

    /// Forgets what a complete list did not contain.
    pub(super) fn keep_only(&mut self, kind: Kind, listed: &BTreeSet<Key>) -> Vec<Task> {
        let lost: Vec<Key> =
            self.all(kind).map(|(key, _)| key.clone()).filter(|key| !listed.contains(key)).collect();
        lost.iter().flat_map(|key| self.forget(kind, key)).collect()
    }

    fn forget(&mut self, kind: Kind, key: &Key) -> Vec<Task> {
        let Some(entry) = self.objects.of_mut(kind).remove(key) else { return Vec::new() };
        self.index.set(kind, key, &entry.filed, false);
        self.moved.extend(guest_of(kind, key, &entry.filed));
        if kind == Kind::Node {
            self.index.drop_node(key.name());
        }
        self.done.remove(&entry.uid);
        let mut wake = vec![(kind, key.clone())];
        self.woken_by(kind, key, &entry.filed, true, &mut wake);
        if kind == Kind::Pod {
            wake.extend(self.unbound());
        }
        wake
    }
}

/// The number of a version.
pub(super) fn version_of(object: &Value) -> u64 {
    fields::metadata(object, "resourceVersion").parse().unwrap_or(0)
}

/// A pod that counts against "one live pod per VMI".
pub(super) fn is_live_pod(pod: &Entry) -> bool {
    !pod.filed.ended
}

#[cfg(test)]
mod tests;
