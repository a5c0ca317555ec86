//! One machine in memory: disks that forget, a service manager on a real D-Bus wire, RKE2 and its ports, and lives of the
//! agent that end at any effect. Knows nothing of the cluster but through the hooks that the world gives it.
//!
//! - [`image`] is what it is before it starts, [`disk`] its file systems, [`release`] the programs on them.
//! - [`life`] counts the agent's effects and ends it; `effects` is what production code sees of that.
//! - `systemd` is the service manager, [`rke2`] how its starts turn out, [`ports`], [`etcd`] and `processes` what shows of it.
//! - `web` is what it can fetch.
//!
//! The lock of a machine is never held while a hook runs; a hook may ask the machine anything. Hooks live as long as the
//! machine: let them hold weak handles of the world, or call [`SimMachine::unplug`] at the end.

pub mod disk;
mod effects;
pub mod etcd;
mod hooks;
pub mod image;
pub mod life;
mod looks;
pub mod ports;
mod processes;
pub mod random;
pub mod release;
pub mod rke2;
mod state;
pub mod strangers;
mod systemd;
#[cfg(test)]
mod tests;
mod web;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use disk::{CutMode, Disk};
use hooks::Hooks;
use image::MachineImage;
use life::{Life, LifePlan};
use random::Dice;
use rke2::{Cause, Fate, Fates, StartRecord};
use state::{Event, State};
pub use systemd::SnapshotFault;
use systemd::{Order, Refusal, Service};

/// A machine; clones are the same one.
#[derive(Clone)]
pub struct SimMachine {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    hooks: Mutex<Hooks>,
    is_up: watch::Sender<bool>,
}

impl fmt::Debug for SimMachine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SimMachine").finish_non_exhaustive()
    }
}

impl SimMachine {
    /// A machine that has been up for long, its RKE2 running. Needs a runtime of tokio, whose clock may be paused.
    #[must_use]
    pub fn start(image: &MachineImage) -> Self {
        let spec = image.spec.clone();
        let mut state = State {
            origin: Instant::now(),
            disk: image.disk.clone(),
            boot: 0,
            boots: 0,
            boot_id: String::new(),
            service: Service::new(spec.role.unit()),
            transients: BTreeMap::new(),
            subscribers: Vec::new(),
            starts: Vec::new(),
            fates: Fates::default(),
            ports: BTreeMap::new(),
            snapshots: None,
            noexec: None,
            web: BTreeMap::new(),
            containers: false,
            locks: BTreeMap::new(),
            cut_off_until: Duration::ZERO,
            reach: CancellationToken::new(),
            lives: Vec::new(),
            next_life: 1,
            next_pid: 1000,
            next_job: 0,
            dice: Dice::new(spec.seed),
            events: Vec::new(),
            spec,
        };
        state.new_boot();
        if !state.spec.boot_id.is_empty() {
            state.boot_id.clone_from(&state.spec.boot_id);
        }
        state.find_running();
        let (is_up, _) = watch::channel(true);
        Self { inner: Arc::new(Inner { state: Mutex::new(state), hooks: Mutex::default(), is_up }) }
    }

    /// A new life of the agent on it. On a machine without power it is born dead: wait with [`SimMachine::wait_up`].
    #[must_use]
    pub fn life(&self, plan: LifePlan) -> Life {
        let machine = self.clone();
        let (life, is_on) = self.with(|state| {
            let (life, core) = Life::new(machine, state.next_life, plan);
            state.next_life += 1;
            state.lives.retain(|life| life.strong_count() > 0);
            state.lives.push(Arc::downgrade(&core));
            (life, state.is_on())
        });
        if !is_on {
            life.die();
        }
        life
    }

    /// Turns the power off: all that runs here dies, the disks keep what `mode` says, and after a while it boots.
    pub fn power_cut(&self, mode: CutMode) {
        self.with(|state| {
            if !state.is_on() {
                return;
            }
            state.disk.power_cut(mode);
            state.boot = 0;
            state.boot_id.clear();
            state.containers = false;
            state.transients.clear();
            state.subscribers.clear();
            state.locks.clear();
            state.service = state.service.unloaded();
            for life in state.lives.drain(..).filter_map(|life| Weak::upgrade(&life)) {
                life.dead.cancel();
            }
            state.events.push(Event::PowerCut { boot: state.spec.boot });
        });
    }

    /// Ends when the machine has power and has booted.
    pub async fn wait_up(&self) {
        let mut is_up = self.inner.is_up.subscribe();
        // The sender lives as long as we do.
        is_up.wait_for(|is_up| *is_up).await.ok();
    }

    /// Has it booted?
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.look(State::is_on)
    }

    /// From now on neither an API server nor another member of etcd can be reached from here, for so long. RKE2 bears that for a
    /// quarter of an hour, and etcd has no leader without the others.
    pub fn cut_off(&self, length: Duration) {
        self.with(|state| state.cut_off(length));
    }

    /// Cancelled when it is cut off the next time: connections to the API end with it.
    pub(crate) fn reach(&self) -> CancellationToken {
        self.look(|state| state.reach.clone())
    }

    /// Does the cluster's API answer, as far as this machine is concerned? While it is cut off from it, none does; besides, only
    /// the one server of a cluster can take it away: while it has no power, and while its RKE2 comes up and replaces the API
    /// server's container.
    #[must_use]
    pub fn api_is_up(&self) -> bool {
        self.look(|state| {
            let is_here = state.is_on() && state.containers && !state.service.is_coming_up();
            state.is_cut_off_for().is_none() && (!state.spec.is_only_server || is_here)
        })
    }

    /// Is RKE2, and with it the kubelet, running?
    #[must_use]
    pub fn rke2_is_running(&self) -> bool {
        self.look(|state| state.service.is_running())
    }

    /// The kernel's name for this boot; empty while there is no power.
    #[must_use]
    pub fn boot_id(&self) -> String {
        self.look(|state| state.boot_id.clone())
    }

    /// RKE2's unit.
    #[must_use]
    pub fn unit(&self) -> String {
        self.look(|state| state.spec.role.unit().to_owned())
    }

    /// Every start of RKE2 since the rehearsal began.
    #[must_use]
    pub fn starts(&self) -> Vec<StartRecord> {
        self.look(|state| state.starts.clone())
    }

    /// How its next starts turn out; after those it is up to [`SimMachine::every_start_of`].
    pub fn next_starts(&self, fates: impl IntoIterator<Item = Fate>) {
        self.with(|state| state.fates.next.extend(fates));
    }

    /// How all starts of a version turn out.
    pub fn every_start_of(&self, version: &str, fate: Fate) {
        self.with(|state| state.fates.of_version.insert(version.to_owned(), fate));
    }

    /// The next stop of RKE2 takes until systemd kills it, and the unit counts as failed then.
    pub fn ignore_next_stop(&self) {
        self.with(|state| state.service.ignores_stop = true);
    }

    /// RKE2 ends by itself with this status, as after a kill by the kernel; systemd starts it again.
    pub fn crash_rke2(&self, status: i32) {
        self.with(|state| {
            if state.service.is_running() || state.service.is_coming_up() {
                state.exit(status);
            }
        });
    }

    /// Somebody else on the machine orders RKE2 to restart, as an installer or an operator would.
    ///
    /// # Errors
    /// systemd's words, when it is fenced.
    pub fn stranger_restarts(&self) -> Result<(), String> {
        let unit = self.unit();
        self.with(|state| state.order(Order::Restart, &unit, Cause::Stranger)).map(|_| ()).map_err(
            |refusal| match refusal {
                Refusal::OnlyByDependency(why) | Refusal::NoSuchUnit(why) | Refusal::UnitExists(why) => why,
            },
        )
    }

    /// Looks at the disks, as they are shown now.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.look(|state| state.disk.clone())
    }

    /// Changes the disks from outside of the agent; what is changed is durable only if it is synced.
    pub fn change_disk<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        self.with(|state| change(&mut state.disk))
    }

    /// Since the rehearsal began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.look(State::now)
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state())
    }

    /// Changes something, and then lets everybody know who has to.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (out, events) = {
            let mut state = self.state();
            let out = change(&mut state);
            (out, std::mem::take(&mut state.events))
        };
        for event in events {
            self.follow(event);
        }
        out
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
