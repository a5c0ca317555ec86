//! Ties the machines of a world to its cluster: what happens on one shows in the other; and what is wrong with a machine from the
//! beginning. Decides nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;

use super::World;
use crate::rehearsal::afflict::Missing;
use crate::rehearsal::doings::{Doing, Machine};
use crate::rehearsal::etcd;
use crate::rehearsal::faults::Fault;
use crate::rehearsal::life::lets_start;
use crate::sim::machine::image::STATE_DIR;
use crate::sim::machine::rke2::Fate;
use crate::sim::machine::{SimMachine, SnapshotFault};
use crate::sim::{SimError, Wire, world};

impl World {
    /// What happens on the machine shows in the cluster, and the other way round.
    pub(super) fn plug(&self, node: &str, machine: &SimMachine, stray: &Arc<AtomicBool>) {
        let (guests, name, left) = (self.guests.clone(), node.to_owned(), Arc::clone(stray));
        machine.set_guests(Arc::new(move || {
            let known = guests.on(&name).into_iter().map(|(namespace, name)| format!("{namespace}/{name}"));
            let left = left.load(Ordering::Relaxed).then(|| "nobody/knows".to_owned());
            known.chain(left).collect()
        }));
        let (server, own) = (self.server.clone(), node.to_owned());
        machine.set_etcd(Arc::new(move || etcd::members(&server, &own)));
        let guarded = machine.clone();
        machine.set_guard(Arc::new(move |uid| lets_start(&guarded, uid)));
        let missing = Missing::of(&self.order.faults, node);
        let wire = || (Wire::from(self.server.clone()), node.to_owned(), self.clock);
        let never_returns = missing.node;
        let ((wire_again, name, clock), own) = (wire(), machine.clone());
        machine.on_kubelet_reports(Arc::new(move |version| {
            if !never_returns {
                told(world::kubelet_reports(&wire_again, &name, version, &own.boot_id(), clock.now()));
            }
        }));
        let ((wire_up, name, clock), own, server) = (wire(), machine.clone(), self.server.clone());
        machine.on_rke2_ready(Arc::new(move |version| {
            if never_returns {
                return;
            }
            let boot = own.boot_id();
            told(world::kubelet_started(&wire_up, &name, version, &boot, clock.now()));
            missing.take_away(&server, &name);
        }));
        let (down, name, clock) = wire();
        machine.on_rke2_stopped(Arc::new(move || told(world::kubelet_stopped(&down, &name, clock.now()))));
        let (off, name, clock) = wire();
        machine.on_power_cut(Arc::new(move || told(world::power_off(&off, &name, clock.now()))));
    }

    /// What is wrong with it from the beginning.
    pub(super) fn spoil(&self, node: &str, machine: &SimMachine) {
        let to = self.order.to.to_string();
        for fault in &self.order.faults {
            let Fault::Node(name, flaw) = fault else { continue };
            if name != node {
                continue;
            }
            let Doing::Machine(wrong) = flaw.doing() else { continue };
            let fate = match wrong {
                Machine::Rke2Crashes => Fate::Crashes,
                Machine::Rke2Hangs => Fate::Hangs,
                Machine::Rke2IsNotExecutable => Fate::CannotExecute,
                Machine::Rke2ReportsTheOldVersion => Fate::Reports(self.order.from.to_string()),
                Machine::Rke2Dies => Fate::DiesAfter(Duration::from_mins(1)),
                Machine::SavesNoSnapshot => {
                    machine.break_snapshots(Some(SnapshotFault::Refused));
                    continue;
                }
                Machine::TearsSnapshots => {
                    machine.break_snapshots(Some(SnapshotFault::Torn));
                    continue;
                }
                Machine::BarsTheGuard => {
                    machine.mount_noexec(Some(Path::new(STATE_DIR)));
                    continue;
                }
                Machine::LosesDevices
                | Machine::LosesOneOfEach
                | Machine::RenamesDevices
                | Machine::NeverReturns
                | Machine::HasStrayGuest => continue,
            };
            machine.every_start_of(&to, fate);
        }
    }
}

/// The API server in memory answers at once.
fn told(write: impl Future<Output = Result<(), SimError>>) {
    match write.now_or_never() {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::warn!(%error, "the kubelet's doings could not be shown"),
        None => tracing::error!("the API server in memory did not answer at once"),
    }
}
