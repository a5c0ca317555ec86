//! New versions: numbered, indexed, kept in the history, told to those who watch.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::Object;
use super::collection::Entry;
use super::delta::Delta;
use super::facts::{Facts, hash};
use super::gc::Chore;
use super::history::{Before, Change};
use super::json::{meta, metadata, owners, text};
use super::store::{Key, Place, Store};

impl Store {
    /// Stores a version under the next number and tells everybody.
    pub(super) fn put(&mut self, place: Place, key: &str, mut value: Value) -> Object {
        self.version += 1;
        let fields = metadata(&mut value);
        fields.insert("resourceVersion".to_owned(), self.version.to_string().into());
        let object = Object::of(value);
        let Some(collection) = self.collections.get_mut(place.0).map(Arc::make_mut) else {
            return object;
        };
        let facts = Facts::of(&collection.kind, &object);
        let old = collection.objects.get(key).cloned();
        let key = match collection.objects.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => Key::from(key),
        };
        let new = Entry { object: object.clone(), facts };
        collection.reindex(&key, old.as_ref().map(|old| &old.facts), Some(&new.facts));
        collection.objects.insert(key.clone(), new.clone());
        self.spares.drop_one(place, &key);
        self.reown(place, &key, old.as_ref().map(|old| &old.object), Some(&object));
        let before = old.clone().map_or(Before::Nothing, Before::Whole);
        self.tell(Change { version: self.version, place, key: key.clone(), old, new: Some(new) }, before);
        self.warmed(place, key);
        object
    }

    /// Stores a version that differs by `delta` from the one that is there. Its number is in it already.
    pub(super) fn put_changed(&mut self, place: Place, key: &Key, value: Value, delta: Delta) -> Object {
        let Some(collection) = self.collections.get_mut(place.0).map(Arc::make_mut) else {
            return Object::of(value);
        };
        let kind = &collection.kind;
        let asks_anew = kind.is_budget() && delta.touches("spec.selector");
        let same_facts = !asks_anew
            && !delta.touches("metadata.labels")
            && !kind.fields.iter().any(|path| delta.touches(path));
        let Some(entry) = collection.objects.get_mut(key) else {
            return Object::of(value);
        };
        let object = Object::after(value, &entry.object, |section| match section {
            "metadata" => delta.changes_only(section, "resourceVersion"),
            other => !delta.keys().any(|key| key == other),
        });
        let facts = if same_facts { entry.facts.clone() } else { Facts::of(kind, &object) };
        let new = Entry { object: object.clone(), facts };
        let old = std::mem::replace(entry, new.clone());
        if !same_facts {
            collection.reindex(key, Some(&old.facts), Some(&new.facts));
        }
        if delta.touches("metadata.ownerReferences") {
            self.reown(place, key, Some(&old.object), Some(&object));
        }
        let delta = Arc::new(delta);
        self.spares.keep(place, key, old.object.clone(), delta.clone());
        let before = Before::Less(delta, old.facts.clone());
        self.tell(
            Change { version: self.version, place, key: key.clone(), old: Some(old), new: Some(new) },
            before,
        );
        self.warmed(place, key.clone());
        object
    }

    /// Removes an object; `value` is its last version, which gets the next number.
    pub(super) fn remove(&mut self, place: Place, key: &str, mut value: Value) -> Object {
        self.version += 1;
        metadata(&mut value).insert("resourceVersion".to_owned(), self.version.to_string().into());
        let last = Object::of(value);
        let Some(collection) = self.collections.get_mut(place.0).map(Arc::make_mut) else {
            return last;
        };
        let Some((key, old)) = collection.objects.remove_entry(key) else {
            return last;
        };
        collection.reindex(&key, Some(&old.facts), None);
        self.spares.drop_one(place, &key);
        self.reown(place, &key, Some(&old.object), None);
        let told = Entry { object: last.clone(), facts: old.facts.clone() };
        self.chores.push_back(Chore::OwnerGone(meta(&last, "uid").to_owned()));
        let before = Before::Removed(old, told.clone());
        self.tell(Change { version: self.version, place, key, old: Some(told), new: None }, before);
        last
    }

    fn tell(&mut self, change: Change, before: Before) {
        if let Some(watchers) = self.watchers.get_mut(&change.place) {
            let delta = if let Before::Less(delta, _) = &before { Some(delta) } else { None };
            watchers.tell(&change, delta);
        }
        self.history.push(change.version, change.place, change.key, before);
    }

    /// Keeps the index of owners; what an owner waits for may have changed.
    fn reown(&mut self, place: Place, key: &Key, old: Option<&Object>, new: Option<&Object>) {
        let uids = |object: Option<&Object>| -> BTreeSet<String> {
            object
                .into_iter()
                .flat_map(|object| owners(object))
                .map(|owner| text(owner, "/uid").to_owned())
                .collect()
        };
        let (old_owners, new_owners) = (uids(old), uids(new));
        for uid in old_owners.difference(&new_owners) {
            Arc::make_mut(&mut self.owned).remove(&(hash(&[uid]), place, key.clone()));
            self.chores.push_back(Chore::DependentLeft(uid.clone()));
        }
        for uid in new_owners.difference(&old_owners) {
            Arc::make_mut(&mut self.owned).insert((hash(&[uid]), place, key.clone()));
            self.chores.push_back(Chore::Dependent(place, key.clone()));
        }
    }

    /// Objects that name this uid as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(Place, Key)> {
        let number = hash(&[uid]);
        let range = self.owned.range((number, Place(0), Key::default())..);
        let same = range.take_while(|(found, _, _)| *found == number);
        same.map(|(_, place, key)| (*place, key.clone()))
            .filter(|(place, key)| {
                self.get(*place, key)
                    .is_some_and(|object| owners(object).any(|owner| text(owner, "/uid") == uid))
            })
            .collect()
    }
}
