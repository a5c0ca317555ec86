//! The names of objects, and a place for something of each kind.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use super::Kind;
use crate::sim::fields::{name, namespace};

/// Namespace and name; the namespace of a node is empty. A clone costs a reference count, a comparison one look: keys
/// are what the simulators' lists are full of. They are ordered by namespace, then by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sim) struct Key {
    /// Both, with a zero byte between them, which sorts before everything that a name may contain. A name alone stands
    /// for itself, so that a node is found without a key being made for it.
    joined: Arc<str>,
    /// Where the name begins.
    from: usize,
}

impl Key {
    pub(in crate::sim) fn new(namespace: &str, name: &str) -> Self {
        if namespace.is_empty() {
            return Self { joined: name.into(), from: 0 };
        }
        let mut joined = String::with_capacity(namespace.len() + 1 + name.len());
        joined.push_str(namespace);
        joined.push('\0');
        joined.push_str(name);
        Self { joined: joined.into(), from: namespace.len() + 1 }
    }

    pub(in crate::sim) fn of(object: &Value) -> Self {
        Self::new(namespace(object), name(object))
    }

    pub(in crate::sim) fn namespace(&self) -> &str {
        self.joined.get(..self.from.saturating_sub(1)).unwrap_or_default()
    }

    pub(in crate::sim) fn name(&self) -> &str {
        self.joined.get(self.from..).unwrap_or_default()
    }
}

/// As the text that both lie in, by which nodes are looked up.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.joined.hash(state);
    }
}

/// Nodes are looked up by their bare name.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.joined
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("namespace", &self.namespace()).field("name", &self.name()).finish()
    }
}

/// What is looked up by name, in no order: the names are long and alike, so an ordered map compares a lot of them. The
/// hash is the same in every run.
pub(in crate::sim) type ByName<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// One of something for each kind.
#[derive(Debug, Clone, Default)]
pub(super) struct ByKind<T>([T; Kind::ALL.len()]);

impl<T> ByKind<T> {
    pub(super) fn of(&self, kind: Kind) -> &T {
        let [vmi, vmim, pod, vm, set, budget, volume, engine, replica, manager, node] = &self.0;
        match kind {
            Kind::Vmi => vmi,
            Kind::Vmim => vmim,
            Kind::Pod => pod,
            Kind::Vm => vm,
            Kind::ReplicaSet => set,
            Kind::Budget => budget,
            Kind::Volume => volume,
            Kind::Engine => engine,
            Kind::Replica => replica,
            Kind::InstanceManager => manager,
            Kind::Node => node,
        }
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut T {
        let [vmi, vmim, pod, vm, set, budget, volume, engine, replica, manager, node] = &mut self.0;
        match kind {
            Kind::Vmi => vmi,
            Kind::Vmim => vmim,
            Kind::Pod => pod,
            Kind::Vm => vm,
            Kind::ReplicaSet => set,
            Kind::Budget => budget,
            Kind::Volume => volume,
            Kind::Engine => engine,
            Kind::Replica => replica,
            Kind::InstanceManager => manager,
            Kind::Node => node,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_namespace_and_then_by_name() {
        let mut keys =
            [("b", "a"), ("a-b", "a"), ("a", "z"), ("a", "b"), ("a", "b-c")].map(|(namespace, name)| {
                let key = Key::new(namespace, name);
                assert_eq!((key.namespace(), key.name()), (namespace, name));
                key
            });
        keys.sort();
        let sorted = keys.each_ref().map(|key| (key.namespace(), key.name()));
        assert_eq!(sorted, [("a", "b"), ("a", "b-c"), ("a", "z"), ("a-b", "a"), ("b", "a")]);
        let node = Key::new("", "node1");
        assert_eq!((node.namespace(), node.name()), ("", "node1"));
        assert_eq!(Borrow::<str>::borrow(&node), "node1");
        assert_eq!(format!("{node:?}"), r#"Key { namespace: "", name: "node1" }"#);
    }
}
