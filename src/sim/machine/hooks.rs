//! Where the world hears of the machine and the machine of the world, outside of the machine's lock.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::SimMachine;
use super::etcd::EtcdMember;
use super::image::write_boot_files;
use super::state::{Event, State};

type Hook = Arc<dyn Fn() + Send + Sync>;
type ReadyHook = Arc<dyn Fn(&str) + Send + Sync>;
type Guard = Arc<dyn Fn(&str) -> bool + Send + Sync>;
type Guests = Arc<dyn Fn() -> Vec<String> + Send + Sync>;
type Members = Arc<dyn Fn() -> Vec<EtcdMember> + Send + Sync>;

/// What the world wants to hear, and what it says.
#[derive(Default, Clone)]
pub(super) struct Hooks {
    guests: Option<Guests>,
    guard: Option<Guard>,
    pub(super) etcd: Option<Members>,
    ready: Vec<ReadyHook>,
    reports: Vec<ReadyHook>,
    stopped: Vec<Hook>,
    power_cut: Vec<Hook>,
    booted: Vec<Hook>,
    effect: Vec<Hook>,
    obeyed_others: Vec<Hook>,
}

impl SimMachine {
    /// Who says which guests run here now.
    pub fn set_guests(&self, guests: Arc<dyn Fn() -> Vec<String> + Send + Sync>) {
        self.hooks().guests = Some(guests);
    }

    /// Who plays the guard that a fenced unit asks before each start, with the uid of the upgrade; without one, every start goes on.
    pub fn set_guard(&self, guard: Arc<dyn Fn(&str) -> bool + Send + Sync>) {
        self.hooks().guard = Some(guard);
    }

    /// Called when RKE2 is up, with the version that its kubelet reports.
    pub fn on_rke2_ready(&self, hook: Arc<dyn Fn(&str) + Send + Sync>) {
        self.hooks().ready.push(hook);
    }

    /// Called when a kubelet that has started since the rehearsal began reports again, with the version that it reports.
    pub fn on_kubelet_reports(&self, hook: Arc<dyn Fn(&str) + Send + Sync>) {
        self.hooks().reports.push(hook);
    }

    /// Called when RKE2, and with it the kubelet, has ended; also after a start that came to nothing.
    pub fn on_rke2_stopped(&self, hook: Arc<dyn Fn() + Send + Sync>) {
        self.hooks().stopped.push(hook);
    }

    /// Called when the power fails; the guests are dead then.
    pub fn on_power_cut(&self, hook: Arc<dyn Fn() + Send + Sync>) {
        self.hooks().power_cut.push(hook);
    }

    /// Called when the machine has booted, before its services are up.
    pub fn on_boot(&self, hook: Arc<dyn Fn() + Send + Sync>) {
        self.hooks().booted.push(hook);
    }

    /// Called when systemd has taken somebody else's order to restart RKE2.
    pub fn on_obeyed_others(&self, hook: Arc<dyn Fn() + Send + Sync>) {
        self.hooks().obeyed_others.push(hook);
    }

    pub(super) fn obeyed_others(&self) {
        let hooks = self.hooks().obeyed_others.clone();
        for hook in hooks {
            hook();
        }
    }

    /// Called before every effect of a life that is not dead.
    pub fn on_effect(&self, hook: Arc<dyn Fn() + Send + Sync>) {
        self.hooks().effect.push(hook);
    }

    pub(super) fn before_effect(&self) {
        let hooks = self.hooks().effect.clone();
        for hook in hooks {
            hook();
        }
    }

    /// Forgets all hooks, so that machine and world do not keep each other alive.
    pub fn unplug(&self) {
        *self.hooks() = Hooks::default();
    }

    /// The guests that run here now; none without power.
    pub(super) fn guests(&self) -> Vec<String> {
        let guests = self.hooks().guests.clone();
        if self.is_up() { guests.map(|guests| guests()).unwrap_or_default() } else { Vec::new() }
    }

    /// What a change of the machine leads to.
    pub(super) fn follow(&self, event: Event) {
        let hooks = self.hooks().clone();
        match event {
            Event::Later { after, generation, tick } => {
                // Reports go on as long as RKE2 runs: they must not keep a machine that nobody looks at any more.
                let machine = Arc::downgrade(&self.inner);
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    if let Some(inner) = machine.upgrade() {
                        Self { inner }.with(|state| state.tick(generation, tick));
                    }
                });
            }
            Event::Timer { after, name, timer, cause } => {
                let machine = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    machine.with(|state| state.elapse(&name, timer, cause));
                });
            }
            Event::Ready(version) => hooks.ready.iter().for_each(|hook| hook(&version)),
            Event::Reports(version) => hooks.reports.iter().for_each(|hook| hook(&version)),
            Event::Stopped => hooks.stopped.iter().for_each(|hook| hook()),
            Event::AskGuard { uid, generation, cause } => {
                let lets = hooks.guard.is_none_or(|guard| guard(&uid));
                self.with(|state| state.guarded(generation, cause, lets));
            }
            Event::AskGuests(index) => {
                let guests = self.guests();
                self.with(|state| {
                    if let Some(start) = state.starts.get_mut(index) {
                        start.guests = guests;
                    }
                });
            }
            Event::PowerCut { boot } => {
                self.inner.is_up.send_replace(false);
                hooks.power_cut.iter().for_each(|hook| hook());
                let machine = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(boot).await;
                    machine.boot();
                });
            }
        }
    }

    fn boot(&self) {
        self.with(|state| {
            state.new_boot();
            if let Err(errno) = write_boot_files(&mut state.disk, &state.spec) {
                tracing::error!(%errno, "the machine boots without its files in memory");
            }
        });
        let hooks = self.hooks().clone();
        hooks.booted.iter().for_each(|hook| hook());
        self.with(State::start_units);
        self.inner.is_up.send_replace(true);
    }

    pub(super) fn hooks(&self) -> MutexGuard<'_, Hooks> {
        self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
