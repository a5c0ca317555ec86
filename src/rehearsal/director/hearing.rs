//! What the machine of the node whose turn it is tells at once, and not only when somebody looks: that its power is gone, that it
//! obeys somebody else, that the agent is about to have an effect.

use std::sync::{Arc, Mutex};

use super::moments::Deeds;
use super::{Director, Inner, lock};
use crate::host::clock::Clock;
use crate::sim::api::ApiServer;
use crate::sim::machine::SimMachine;
use crate::sim::troubles::Troubles;

impl Director {
    /// Hears of this machine from now on. Machines hold no director that would hold them.
    pub(super) fn hear_machine(&self, node: &str, machine: &SimMachine) {
        let (own, name, clock) = (Arc::downgrade(&self.inner), node.to_owned(), self.clock);
        machine.on_power_cut(Arc::new(move || {
            if let Some(inner) = own.upgrade() {
                let mut inner = lock(&inner);
                inner.truth.powerless.insert(name.clone());
                inner.judge.power_lost(clock.now(), &name);
                inner.last_line = clock.now();
            }
        }));
        let (own, name, fence) = (Arc::downgrade(&self.inner), node.to_owned(), machine.clone());
        machine.on_obeyed_others(Arc::new(move || {
            if let Some(inner) = own.upgrade() {
                let Inner { judge, truth, .. } = &mut *lock(&inner);
                judge.others_were_obeyed(clock.now(), &name, fence.is_durably_fenced(), truth);
            }
        }));
        let again = self.clone_weak();
        machine.on_effect(Arc::new(move || again.look()));
    }

    fn clone_weak(&self) -> Weak {
        let Self { server, clock, troubles, deeds, inner } = self;
        Weak {
            server: server.clone(),
            clock: *clock,
            troubles: troubles.clone(),
            deeds: Arc::clone(deeds),
            inner: Arc::downgrade(inner),
        }
    }
}

/// A director that does not keep the rehearsal alive: machines hold it.
struct Weak {
    server: ApiServer,
    clock: Clock,
    troubles: Troubles,
    deeds: Arc<Deeds>,
    inner: std::sync::Weak<Mutex<Inner>>,
}

impl Weak {
    fn look(&self) {
        if let Some(inner) = self.inner.upgrade() {
            let (server, deeds) = (self.server.clone(), Arc::clone(&self.deeds));
            Director { server, clock: self.clock, troubles: self.troubles.clone(), deeds, inner }.look();
        }
    }
}
