//! The garbage collector: what owners leave behind goes, in the same turn as the write that made it garbage.

use serde_json::{Value, json};

use super::Object;
use super::delete::{DeleteOptions, FOREGROUND, ORPHAN};
use super::json::{finalizers, is_deleting, map, meta, metadata, owners, text};
use super::store::{Key, Place, Store, key_of, parts};
use super::watchers::Interest;

/// Something that may have become garbage.
#[derive(Debug)]
pub(super) enum Chore {
    /// The owner with this uid is gone.
    OwnerGone(String),
    /// An object has a new owner reference.
    Dependent(Place, Key),
    /// An object no longer names this uid.
    DependentLeft(String),
    /// An owner is being deleted and waits for its dependents.
    Owner(Place, Key),
}

/// What became of an owner that is named by a reference.
#[derive(PartialEq)]
enum Owner {
    Solid,
    /// It waits for its dependents to go.
    Waiting,
    Absent,
}

impl Store {
    /// Does what has become due, and what that makes due.
    pub(super) fn collect_garbage(&mut self) {
        while let Some(chore) = self.chores.pop_front() {
            match chore {
                Chore::OwnerGone(uid) => {
                    for (place, key) in self.dependents(&uid) {
                        self.examine(place, &key);
                    }
                    self.empty_namespaces();
                }
                Chore::Dependent(place, key) => self.examine(place, &key),
                Chore::DependentLeft(uid) => self.unblock(&uid),
                Chore::Owner(place, key) => self.advance(place, &key),
            }
        }
    }

    /// Deletes a dependent that has no owner left, or drops the references that lead nowhere.
    fn examine(&mut self, place: Place, key: &Key) {
        // What is only looked at here is not kept parsed.
        let Some(object) = self.get(place, key).map(Object::apart) else {
            return;
        };
        if is_deleting(&object) && !finalizers(&object).any(|one| one == FOREGROUND) {
            return;
        }
        let namespace = parts(key).0;
        let states: Vec<Owner> = owners(&object).map(|owner| self.owner(namespace, owner)).collect();
        if states.is_empty() || states.iter().all(|state| *state == Owner::Solid) {
            return;
        }
        if states.contains(&Owner::Solid) {
            let kept = owners(&object).zip(&states).filter(|(_, state)| **state == Owner::Solid);
            let kept: Vec<Value> = kept.map(|(owner, _)| owner.clone()).collect();
            let mut value = object.value().clone();
            metadata(&mut value).insert("ownerReferences".to_owned(), kept.into());
            self.put(place, key, value);
            return;
        }
        let has_dependents = !self.dependents(meta(&object, "uid")).is_empty();
        let policy = if finalizers(&object).any(|one| one == ORPHAN) {
            "Orphan"
        } else if states.contains(&Owner::Waiting) && has_dependents
            || finalizers(&object).any(|one| one == FOREGROUND)
        {
            "Foreground"
        } else {
            "Background"
        };
        let options = DeleteOptions { propagation: Some(policy.to_owned()), ..DeleteOptions::default() };
        // Refused only when it is gone already or waits for its finalizers.
        if let Err(refusal) = self.delete(place, key, &options) {
            tracing::debug!(%refusal, %key, "not collected");
        }
    }

    fn owner(&self, namespace: &str, owner: &Value) -> Owner {
        let place = self.place_of_kind(text(owner, "/apiVersion"), text(owner, "/kind"));
        // An unknown kind cannot be told from one whose server is away.
        let Some((place, collection)) = place.and_then(|place| Some((place, self.collection(place)?))) else {
            return Owner::Solid;
        };
        if collection.kind.namespaced && namespace.is_empty() {
            return Owner::Solid;
        }
        let namespace = if collection.kind.namespaced { namespace } else { "" };
        let found = self.get(place, &key_of(namespace, text(owner, "/name"))).map(Object::apart);
        match found.filter(|found| meta(found, "uid") == text(owner, "/uid")) {
            None => Owner::Absent,
            Some(found) if is_deleting(&found) && finalizers(&found).any(|one| one == FOREGROUND) => {
                Owner::Waiting
            }
            Some(_) => Owner::Solid,
        }
    }

    /// Lets owners go on that wait for dependents and may have lost one.
    fn unblock(&mut self, uid: &str) {
        let waiting: Vec<(Place, Key)> = self
            .waiting
            .iter()
            .filter(|(place, key)| self.get(*place, key).is_some_and(|object| meta(object, "uid") == uid))
            .cloned()
            .collect();
        for (place, key) in waiting {
            self.advance(place, &key);
        }
    }

    /// Orphans or deletes the dependents of an owner that is being deleted, and lets it go once none blocks it.
    fn advance(&mut self, place: Place, key: &Key) {
        let Some(object) = self.get(place, key).cloned().filter(|object| is_deleting(object)) else {
            self.waiting.remove(&(place, key.clone()));
            return;
        };
        let uid = meta(&object, "uid");
        if Some(place) == self.place("", "namespaces") {
            self.waiting.insert((place, key.clone()));
            self.clear_namespace(parts(key).1);
            self.empty_namespaces();
            return;
        }
        if finalizers(&object).any(|one| one == ORPHAN) {
            for (place, key) in self.dependents(uid) {
                self.disown(place, &key, uid);
            }
            self.drop_finalizer(place, key, ORPHAN);
        } else if finalizers(&object).any(|one| one == FOREGROUND) {
            self.waiting.insert((place, key.clone()));
            for (place, key) in self.dependents(uid) {
                self.examine(place, &key);
            }
            let blocking = self.dependents(uid).into_iter().any(|(place, key)| {
                self.get(place, &key).is_some_and(|dependent| {
                    owners(dependent).any(|owner| {
                        text(owner, "/uid") == uid
                            && owner.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true)
                    })
                })
            });
            if !blocking {
                self.waiting.remove(&(place, key.clone()));
                self.drop_finalizer(place, key, FOREGROUND);
            }
        }
    }

    fn members(&self, namespace: &str) -> Vec<(Place, Key)> {
        let interest = Interest { namespace: namespace.to_owned(), ..Interest::default() };
        let collections = self.collections().filter(|(_, collection)| collection.kind.namespaced);
        let places: Vec<Place> = collections.map(|(place, _)| place).collect();
        let members = places.into_iter().flat_map(|place| {
            let found = self.select(place, &interest);
            found.into_iter().map(move |(key, _)| (place, key.clone())).collect::<Vec<_>>()
        });
        members.collect()
    }

    fn clear_namespace(&mut self, namespace: &str) {
        for (place, key) in self.members(namespace) {
            if let Err(refusal) = self.delete(place, &key, &DeleteOptions::default()) {
                tracing::debug!(%refusal, %key, "not cleared");
            }
        }
    }

    /// Lets terminating namespaces go that have nothing in them any more.
    fn empty_namespaces(&mut self) {
        let Some(namespaces) = self.place("", "namespaces") else {
            return;
        };
        let waiting: Vec<Key> = self
            .waiting
            .iter()
            .filter(|(place, _)| *place == namespaces)
            .map(|(_, key)| key.clone())
            .collect();
        for key in waiting {
            if !self.members(&key).is_empty() {
                continue;
            }
            self.waiting.remove(&(namespaces, key.clone()));
            if let Some(object) = self.get(namespaces, &key) {
                let mut value = object.value().clone();
                map(map(&mut value).entry("spec").or_insert(Value::Null)).remove("finalizers");
                self.settle(namespaces, &key, value);
            }
        }
    }

    fn disown(&mut self, place: Place, key: &Key, uid: &str) {
        let Some(object) = self.get(place, key) else {
            return;
        };
        let kept: Vec<Value> = owners(object).filter(|owner| text(owner, "/uid") != uid).cloned().collect();
        let mut value = object.value().clone();
        if kept.is_empty() {
            metadata(&mut value).remove("ownerReferences");
        } else {
            metadata(&mut value).insert("ownerReferences".to_owned(), kept.into());
        }
        self.put(place, key, value);
    }

    fn drop_finalizer(&mut self, place: Place, key: &Key, finalizer: &str) {
        let Some(object) = self.get(place, key) else {
            return;
        };
        let kept: Vec<&str> = finalizers(object).filter(|one| *one != finalizer).collect();
        let (gone, kept) = (kept.is_empty(), json!(kept));
        let mut value = object.value().clone();
        let fields = map(map(&mut value).entry("metadata").or_insert(Value::Null));
        if gone {
            fields.remove("finalizers");
        } else {
            fields.insert("finalizers".to_owned(), kept);
        }
        self.settle(place, key, value);
    }
}
