//! What may go on otherwise because of what happened to an object: the tasks that a change wakes. Whoever reads more of
//! an object than what it is filed under has to be woken by all of its changes.

use super::{Filed, Key, Kind, Task, View};

impl View {
    pub(super) fn unbound(&self) -> Vec<Task> {
        self.index.on(Kind::Pod, "").map(|key| (Kind::Pod, key.clone())).collect()
    }

    /// Everything that lives on a node.
    pub(super) fn bound_to(&self, node: &str) -> Vec<Task> {
        let kinds = [Kind::Vmi, Kind::Pod, Kind::Engine, Kind::Replica, Kind::InstanceManager];
        let all =
            kinds.into_iter().flat_map(|kind| self.index.on(kind, node).map(move |key| (kind, key.clone())));
        let guests = self.on(Kind::Pod, node).filter_map(|pod| Some((Kind::Vmi, pod.filed.vmi.clone()?)));
        all.chain(guests).chain(self.volumes_on(node)).collect()
    }

    /// The volumes with a replica on this node.
    pub(super) fn volumes_on(&self, node: &str) -> impl Iterator<Item = Task> {
        let replicas = self.on(Kind::Replica, node);
        replicas.flat_map(|replica| &replica.filed.also).map(|volume| (Kind::Volume, volume.clone()))
    }

    /// What may go on otherwise because of an object, and because of what it is filed under if that is new.
    pub(super) fn woken_by(&self, kind: Kind, key: &Key, filed: &Filed, refiled: bool, wake: &mut Vec<Task>) {
        let owned = |of: Kind, owner: &Key| self.index.owned(of, owner).map(move |one| (of, one.clone()));
        if kind == Kind::Pod {
            wake.extend(self.index.seeking().map(|pod| (Kind::Pod, pod.clone())));
        }
        match kind {
            Kind::Node => wake.extend(
                self.index
                    .on(Kind::InstanceManager, key.name())
                    .map(|im| (Kind::InstanceManager, im.clone())),
            ),
            // What a guest reads of its VM it reads once.
            Kind::Vm | Kind::Volume => {}
            Kind::Vmi => {
                wake.push((Kind::Vm, key.clone()));
                if refiled {
                    wake.extend(owned(Kind::Pod, key));
                    wake.extend(filed.also.iter().flat_map(|claim| owned(Kind::Volume, claim)));
                }
                self.wake_around(key, refiled, wake);
            }
            Kind::Vmim | Kind::Pod => {
                if let Some(vmi) = &filed.vmi {
                    wake.push((Kind::Vmi, vmi.clone()));
                    if kind == Kind::Vmim && refiled {
                        wake.extend(owned(Kind::Pod, vmi));
                    }
                    self.wake_around(vmi, refiled, wake);
                } else if kind == Kind::Pod {
                    let used = filed.claims().filter(|_| refiled);
                    wake.extend(used.flat_map(|claim| owned(Kind::Volume, claim)));
                    wake.extend(filed.also.iter().flat_map(|owner| {
                        [(Kind::ReplicaSet, owner.clone()), (Kind::InstanceManager, owner.clone())]
                    }));
                    let sets = filed.also.iter().filter_map(|set| self.entry(Kind::ReplicaSet, set));
                    let chosen = sets.flat_map(|set| &set.filed.also);
                    wake.extend(chosen.flat_map(|by| owned(Kind::Budget, by)));
                }
            }
            Kind::ReplicaSet => wake.extend(filed.also.iter().flat_map(|by| owned(Kind::Budget, by))),
            Kind::Budget => wake.push((Kind::InstanceManager, key.clone())),
            Kind::Engine | Kind::Replica => {
                wake.extend(filed.also.iter().map(|volume| (Kind::Volume, volume.clone())));
                if refiled {
                    let managers = self.index.on(Kind::InstanceManager, &filed.node);
                    wake.extend(managers.map(|im| (Kind::InstanceManager, im.clone())));
                }
            }
            // Whether its replicas live is the volumes' business; what runs in it is not.
            Kind::InstanceManager => wake.extend(self.volumes_on(&filed.node).filter(|_| refiled)),
        }
    }

    /// The migrations of a VMI, and the node it is on when guests are being moved away from there.
    fn wake_around(&self, vmi: &Key, refiled: bool, wake: &mut Vec<Task>) {
        // One that has ended waits only for others to end.
        let open = |vmim: &&Key| refiled || self.entry(Kind::Vmim, vmim).is_none_or(|vmim| !vmim.filed.ended);
        wake.extend(self.index.owned(Kind::Vmim, vmi).filter(open).map(|vmim| (Kind::Vmim, vmim.clone())));
        if let Some(vmi) = self.entry(Kind::Vmi, vmi).filter(|vmi| !vmi.filed.node.is_empty()) {
            wake.push((Kind::Node, Key::new("", &vmi.filed.node)));
        }
    }
}

/// The VMI whose guest is where this object says.
pub(super) fn guest_of(kind: Kind, key: &Key, filed: &Filed) -> Option<Key> {
    if kind == Kind::Vmi { Some(key.clone()) } else { filed.vmi.clone() }
}
