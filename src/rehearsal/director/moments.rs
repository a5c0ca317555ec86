//! Whose moment has come: deeds of users, operators and servers, each done when what moves it has happened.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::Director;
use crate::flow::vms::{VmEntry, VmKey};
use crate::rehearsal::doings::{Deed, Doing, Machine, Moment};
use crate::rehearsal::faults::Fault;
use crate::sim::people;
use crate::sim::troubles::Place;

/// The deeds of one rehearsal; none in most.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    of_vms: Vec<(Moment, VmKey, Deed)>,
    of_nodes: Vec<(Moment, String, Deed)>,
    strays: Vec<String>,
    /// Those that are done once in a rehearsal, by their place.
    done: Mutex<BTreeSet<(bool, usize)>>,
}

impl Deeds {
    pub(super) fn of(faults: &[Fault]) -> Self {
        let mut deeds = Self::default();
        for fault in faults {
            match fault {
                Fault::Vm(vm, flaw) => {
                    if let Doing::Deed(moment, deed) = flaw.doing() {
                        deeds.of_vms.push((moment, vm.clone(), deed));
                    }
                }
                Fault::Node(node, flaw) => match flaw.doing() {
                    Doing::Deed(moment, deed) => deeds.of_nodes.push((moment, node.clone(), deed)),
                    Doing::Machine(Machine::HasStrayGuest) => deeds.strays.push(node.clone()),
                    Doing::Machine(_) | Doing::Annotation(..) | Doing::Setup(_) => {}
                },
                Fault::At(..) | Fault::KillAtAwait(_) => {}
            }
        }
        deeds
    }

    /// Does a VM process stay on this node that nobody knows?
    pub(super) fn leave_stray(&self, node: &str) -> bool {
        self.strays.iter().any(|stray| stray == node)
    }

    fn due_for_vm(&self, moment: Moment, vm: &VmKey) -> Vec<Deed> {
        let due = self.of_vms.iter().enumerate().filter(|(_, (when, of, _))| *when == moment && of == vm);
        due.filter(|(place, _)| self.first((true, *place))).map(|(_, (.., deed))| *deed).collect()
    }

    fn due_for_node(&self, moment: Moment, node: &str) -> Vec<Deed> {
        let due = self.of_nodes.iter().enumerate().filter(|(_, (when, of, _))| *when == moment && of == node);
        due.filter(|(place, _)| self.first((false, *place))).map(|(_, (.., deed))| *deed).collect()
    }

    fn first(&self, place: (bool, usize)) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(place)
    }
}

impl Director {
    /// Something happened to a VM.
    pub(super) fn vm_moment(&self, moment: Moment, vm: &VmKey) {
        for deed in self.deeds.due_for_vm(moment, vm) {
            self.act(deed, vm);
        }
    }

    fn act(&self, deed: Deed, vm: &VmKey) {
        if let Deed::User(own) = deed
            && own.takes_over()
        {
            self.with_judge(|judge| judge.taken_over(vm));
        }
        match deed {
            Deed::KillAgent => {
                if let Some((life, _)) = &self.inner().life {
                    life.die();
                }
            }
            Deed::Evict => {
                // Who evicts a guest that cannot move ends it.
                let (director, vm) = (self.clone(), vm.clone());
                tokio::spawn(async move {
                    match people::evict(&director.server.clone().into(), &vm).await {
                        Ok(true) => director.with_judge(|judge| judge.taken_over(&vm)),
                        Ok(false) => {}
                        Err(error) => tracing::debug!(%vm, %error, "nobody could be evicted"),
                    }
                });
            }
            Deed::User(own) => {
                tokio::spawn(people::act(self.server.clone().into(), people::PEOPLE, own, vm.clone()));
            }
            Deed::MigrateHere | Deed::RemoveTaint | Deed::Trouble(..) => {}
        }
    }

    /// A node's turn is about to begin. True when something is on its way there.
    pub(in crate::rehearsal) async fn turn_begins(&self, node: &str) -> bool {
        let mut on_its_way = false;
        for (moment, vm, deed) in &self.deeds.of_vms {
            if (*moment, *deed) == (Moment::TurnBegins, Deed::MigrateHere) {
                match people::migrate_here(&self.server.clone().into(), vm, node).await {
                    Ok(goes) => on_its_way |= goes,
                    Err(error) => tracing::debug!(%vm, node, %error, "the user's migration was refused"),
                }
            }
        }
        on_its_way
    }

    /// These VMs are in a node's ledger now.
    pub(super) fn listed(&self, node: &str, vms: &[VmEntry]) {
        for entry in vms {
            self.vm_moment(Moment::Listed, &entry.vm);
        }
        for deed in self.deeds.due_for_node(Moment::Listed, node) {
            if let Deed::Trouble(trouble, length) = deed {
                let again = self.clone();
                self.troubles.begin(Place::Memory(self.server.clone()), trouble, length, move || {
                    let wire = again.inner().life.as_ref().map(|(_, wire)| wire.clone());
                    if let Some(wire) = wire {
                        wire.hang_up();
                    }
                });
            }
        }
    }

    /// A node is as told now.
    pub(super) fn node_changed(&self, node: &Value) {
        if self.deeds.of_nodes.is_empty() || !people::is_tainted(node) {
            return;
        }
        let name = node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let removes = |(moment, of, deed): &(Moment, String, Deed)| {
            (*moment, *deed) == (Moment::NodeChanged, Deed::RemoveTaint) && of == name
        };
        if self.deeds.of_nodes.iter().any(removes) {
            let (wire, name) = (self.server.clone().into(), name.to_owned());
            tokio::spawn(async move {
                if let Err(error) = people::remove_taint(&wire, &name).await {
                    tracing::debug!(name, %error, "the taint could not be taken off");
                }
            });
        }
    }
}
