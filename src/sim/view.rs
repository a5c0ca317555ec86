//! What the simulators know of the cluster: the newest seen state of each watched object, indexed by who belongs to whom.
//! It is filled from watches and from the answers to our own writes, and never talks to the API itself.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::time::Instant;

use super::fields::{self, label, name, namespace, text, uid};
pub(super) use super::kind::Kind;

/// Namespace and name; the namespace of a node is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(super) fn of(object: &Value) -> Self {
        Self::new(namespace(object), name(object))
    }
}

/// One object to look at again.
pub(super) type Task = (Kind, Key);

/// An object, and since when its important fields have the value they have.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) object: Value,
    pub(super) phase_since: Instant,
    pub(super) deleting_since: Instant,
    pub(super) bound_since: Instant,
    pub(super) copying_since: Instant,
}

const COPY_START: &str = "/status/migrationState/startTimestamp";

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct View {
    objects: BTreeMap<Kind, BTreeMap<Key, Entry>>,
    pods_of: BTreeMap<Key, BTreeSet<Key>>,
    vmims_of: BTreeMap<Key, BTreeSet<Key>>,
    pods_on: BTreeMap<String, BTreeSet<Key>>,
    vmis_on: BTreeMap<String, BTreeSet<Key>>,
    gone: BTreeSet<String>,
    done: BTreeMap<String, BTreeMap<&'static str, Instant>>,
}

impl View {
    pub(super) fn entry(&self, kind: Kind, key: &Key) -> Option<&Entry> {
        self.objects.get(&kind)?.get(key)
    }

    pub(super) fn get(&self, kind: Kind, key: &Key) -> Option<&Value> {
        self.entry(kind, key).map(|entry| &entry.object)
    }

    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Entry)> {
        self.objects.get(&kind).into_iter().flatten()
    }

    pub(super) fn node(&self, node: &str) -> Option<&Value> {
        self.get(Kind::Node, &Key::new("", node))
    }

    /// Pods controlled by this very VMI (same uid), finished ones too.
    pub(super) fn pods_of<'a>(&'a self, vmi: &'a Value) -> impl Iterator<Item = &'a Entry> {
        let pods = self.pods_of.get(&Key::of(vmi)).into_iter().flatten();
        pods.filter_map(|key| self.entry(Kind::Pod, key))
            .filter(|pod| fields::is_controlled_by(&pod.object, vmi))
    }

    pub(super) fn vmims_of(&self, vmi: &Key) -> impl Iterator<Item = &Entry> {
        self.vmims_of.get(vmi).into_iter().flatten().filter_map(|key| self.entry(Kind::Vmim, key))
    }

    pub(super) fn pods_on(&self, node: &str) -> impl Iterator<Item = &Entry> {
        self.pods_on.get(node).into_iter().flatten().filter_map(|key| self.entry(Kind::Pod, key))
    }

    pub(super) fn vmis_on(&self, node: &str) -> impl Iterator<Item = &Entry> {
        self.vmis_on.get(node).into_iter().flatten().filter_map(|key| self.entry(Kind::Vmi, key))
    }

    /// When something was last done about the object with this uid.
    pub(super) fn done(&self, uid: &str, what: &str) -> Option<Instant> {
        self.done.get(uid)?.get(what).copied()
    }

    pub(super) fn mark_done(&mut self, uid: &str, what: &'static str, now: Instant) {
        self.done.entry(uid.to_owned()).or_default().insert(what, now);
    }

    /// Takes in a newer state and says what to look at because of it; an older or repeated one changes nothing.
    pub(super) fn store(&mut self, kind: Kind, mut object: Value, now: Instant) -> Vec<Task> {
        let key = Key::of(&object);
        if self.gone.contains(uid(&object)) {
            return Vec::new();
        }
        let old = self.entry(kind, &key).cloned();
        if let Some(old) = old.as_ref().filter(|old| uid(&old.object) == uid(&object))
            && version(&old.object) >= version(&object)
        {
            return Vec::new();
        }
        if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let since = |pointer: &str, before: fn(&Entry) -> Instant| {
            let same = old.as_ref().filter(|old| {
                uid(&old.object) == uid(&object) && old.object.pointer(pointer) == object.pointer(pointer)
            });
            same.map_or(now, before)
        };
        let entry = Entry {
            phase_since: since("/status/phase", |e| e.phase_since),
            deleting_since: since("/metadata/deletionTimestamp", |e| e.deleting_since),
            bound_since: since("/spec/nodeName", |e| e.bound_since),
            copying_since: since(COPY_START, |e| e.copying_since),
            object,
        };
        let mut wake = Vec::new();
        if let Some(old) = &old {
            self.index(kind, &old.object, false);
            if kind != Kind::Node {
                wake.extend(self.woken_by(kind, &old.object));
            }
        }
        self.index(kind, &entry.object, true);
        wake.extend(self.woken_by(kind, &entry.object));
        let freed = match kind {
            Kind::Node => old.as_ref().is_none_or(|old| places_differ(&old.object, &entry.object)),
            Kind::Pod => fields::is_final(&entry.object),
            Kind::Vm | Kind::Vmi | Kind::Vmim => false,
        };
        self.objects.entry(kind).or_default().insert(key, entry);
        if freed {
            wake.extend(self.unbound());
        }
        wake
    }

    /// Notes that a pod was bound, ahead of the watch: the next pod must not get the same devices.
    pub(super) fn bind(&mut self, pod: &Key, node: &str, now: Instant) {
        if let Some(entry) = self.objects.get_mut(&Kind::Pod).and_then(|pods| pods.get_mut(pod)) {
            if let Some(spec) = entry.object.pointer_mut("/spec").and_then(Value::as_object_mut) {
                spec.insert("nodeName".to_owned(), node.into());
            }
            entry.bound_since = now;
            file(&mut self.pods_on, String::new(), pod.clone(), false);
            file(&mut self.pods_on, node.to_owned(), pod.clone(), true);
        }
    }

    /// Forgets an object because we removed it ourselves; late watch events about it are ignored.
    pub(super) fn bury(&mut self, kind: Kind, key: &Key) -> Vec<Task> {
        if let Some(object) = self.get(kind, key) {
            self.gone.insert(uid(object).to_owned());
        }
        self.forget(kind, key)
    }

    /// Forgets an object because the watch says that it is gone.
    pub(super) fn lose(&mut self, kind: Kind, object: &Value) -> Vec<Task> {
        self.gone.remove(uid(object));
        let key = Key::of(object);
        // A successor of the same name may be known already, from the answer to our own create.
        match self.get(kind, &key) {
            Some(known) if uid(known) == uid(object) => self.forget(kind, &key),
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
        let Some(entry) = self.objects.get_mut(&kind).and_then(|all| all.remove(key)) else {
            return Vec::new();
        };
        self.index(kind, &entry.object, false);
        self.done.remove(uid(&entry.object));
        let mut wake = self.woken_by(kind, &entry.object);
        if kind == Kind::Pod {
            wake.extend(self.unbound());
        }
        wake
    }

    pub(super) fn unbound(&self) -> Vec<Task> {
        let unbound = self.pods_on.get("").into_iter().flatten();
        unbound.map(|key| (Kind::Pod, key.clone())).collect()
    }

    fn index(&mut self, kind: Kind, object: &Value, present: bool) {
        let key = Key::of(object);
        match kind {
            Kind::Node | Kind::Vm => {}
            Kind::Vmi => file(&mut self.vmis_on, text(object, "/status/nodeName").to_owned(), key, present),
            Kind::Vmim => file(&mut self.vmims_of, vmi_of_vmim(object), key, present),
            Kind::Pod => {
                if let Some(vmi) = vmi_of_pod(object) {
                    file(&mut self.pods_of, vmi, key.clone(), present);
                }
                file(&mut self.pods_on, text(object, "/spec/nodeName").to_owned(), key, present);
            }
        }
    }

    fn woken_by(&self, kind: Kind, object: &Value) -> Vec<Task> {
        let key = Key::of(object);
        let mut wake = vec![(kind, key.clone())];
        let vmi = match kind {
            Kind::Node => None,
            Kind::Vm | Kind::Vmi => Some(key),
            Kind::Vmim => Some(vmi_of_vmim(object)),
            Kind::Pod => vmi_of_pod(object),
        };
        let Some(vmi) = vmi else { return wake };
        wake.push((Kind::Vmi, vmi.clone()));
        if kind == Kind::Vmi {
            wake.push((Kind::Vm, vmi.clone()));
            wake.extend(self.pods_of.get(&vmi).into_iter().flatten().map(|pod| (Kind::Pod, pod.clone())));
        }
        if kind != Kind::Vm {
            wake.extend(self.vmims_of.get(&vmi).into_iter().flatten().map(|vmim| (Kind::Vmim, vmim.clone())));
            let node = self.get(Kind::Vmi, &vmi).map(|vmi| text(vmi, "/status/nodeName")).unwrap_or_default();
            if !node.is_empty() {
                wake.push((Kind::Node, Key::new("", node)));
            }
        }
        wake
    }
}

fn file<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Key>>, of: K, key: Key, present: bool) {
    if present {
        index.entry(of).or_default().insert(key);
    } else if let Some(keys) = index.get_mut(&of) {
        keys.remove(&key);
        if keys.is_empty() {
            index.remove(&of);
        }
    }
}

fn version(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().unwrap_or(0)
}

fn places_differ(old: &Value, new: &Value) -> bool {
    ["/spec", "/metadata/labels", "/status/allocatable"].iter().any(|p| old.pointer(p) != new.pointer(p))
        || fields::condition_is(old, "Ready", "True") != fields::condition_is(new, "Ready", "True")
}

/// The VMI that a launcher pod belongs to.
pub(super) fn vmi_of_pod(pod: &Value) -> Option<Key> {
    (label(pod, "kubevirt.io") == Some("virt-launcher"))
        .then(|| fields::controller(pod).map(|owner| Key::new(namespace(pod), text(owner, "/name"))))
        .flatten()
}

/// The VMI that a migration is about.
pub(super) fn vmi_of_vmim(vmim: &Value) -> Key {
    Key::new(namespace(vmim), text(vmim, "/spec/vmiName"))
}

/// A pod that counts against "one live pod per VMI".
pub(super) fn is_live_pod(pod: &Entry) -> bool {
    !fields::is_final(&pod.object)
}
