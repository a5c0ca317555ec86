//! Which guests run where at this instant, as a machine sees it in its process list: a `qemu` on the source until its
//! migration ends, one on the target from the target pod's start. Told by the simulators, asked by the machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::view::{Entry, Key, Kind, Phase, View};

/// The guests of all nodes; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Guests(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    on: BTreeMap<String, BTreeSet<(String, String)>>,
    of: BTreeMap<Key, BTreeSet<String>>,
}

impl Guests {
    /// The VMs with a guest process on this node, as namespace and name, in order.
    #[must_use]
    pub fn on(&self, node: &str) -> Vec<(String, String)> {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.on.get(node).into_iter().flatten().cloned().collect()
    }

    /// The same as libvirt names its domains: `namespace_name`.
    #[must_use]
    pub fn domains(&self, node: &str) -> Vec<String> {
        self.on(node).into_iter().map(|(namespace, name)| format!("{namespace}_{name}")).collect()
    }

    /// How many guest processes run on this node.
    #[must_use]
    pub fn count(&self, node: &str) -> usize {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.on.get(node).map_or(0, BTreeSet::len)
    }

    /// Looks where the guest of this VMI is now.
    pub(super) fn see(&self, view: &View, key: &Key) {
        let now = nodes_of(view, key);
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match running.of.get(key) {
            Some(before) if *before == now => return,
            None if now.is_empty() => return,
            before => before.cloned().unwrap_or_default(),
        };
        let guest = (key.namespace().to_owned(), key.name().to_owned());
        for node in before.difference(&now) {
            if let Some(on) = running.on.get_mut(node) {
                on.remove(&guest);
            }
        }
        for node in now.difference(&before) {
            running.on.entry(node.clone()).or_default().insert(guest.clone());
        }
        if now.is_empty() {
            running.of.remove(key);
        } else {
            running.of.insert(key.clone(), now);
        }
    }
}

fn nodes_of(view: &View, key: &Key) -> BTreeSet<String> {
    let Some(vmi) = view.entry(Kind::Vmi, key).filter(|vmi| vmi.facts.phase == Phase::Running) else {
        return BTreeSet::new();
    };
    let pods = view.pods_of(key, vmi).filter(|pod| !pod.filed.node.is_empty() && !pod.filed.ended);
    let hosts = pods.filter(|pod| {
        pod.filed.node == vmi.filed.node || (pod.facts.phase == Phase::Running && receives(view, key, pod))
    });
    let on = hosts.filter(|pod| view.node(&pod.filed.node).is_none_or(|node| !node.facts.host.is_off));
    on.map(|pod| pod.filed.node.clone()).collect()
}

/// Whether a pod is the target of a migration that has not ended.
fn receives(view: &View, vmi: &Key, pod: &Entry) -> bool {
    let Some(job) = &pod.facts.job else { return false };
    view.vmims_of(vmi).any(|vmim| !vmim.filed.ended && vmim.uid == *job)
}
