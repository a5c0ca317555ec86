//! One life of the agent's process on a machine: every effect it has on the world is counted here, and here it is killed,
//! loses its power or gets an error, before or after any of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tokio_util::sync::CancellationToken;

use super::SimMachine;
use super::disk::CutMode;
use super::strangers::Deed;

/// What befalls a life at one effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// It is killed and the effect does not take place.
    KillBefore,
    /// The effect takes place, and it is killed before it hears of that.
    KillAfter,
    /// The power fails before the effect.
    PowerBefore(CutMode),
    /// The power fails after the effect, before the agent hears of it.
    PowerAfter(CutMode),
    /// From this effect on no API server and no other member of etcd can be reached for so long.
    CutOff(Duration),
    /// Somebody else is at the machine before the effect.
    Stranger(Deed),
    /// This effect and the next ones, `times` in all, fail. What a failed write had room for is written.
    Fail {
        /// With what.
        errno: Errno,
        /// How many effects.
        times: u64,
    },
}

/// What befalls a life, by the number of the effect, from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LifePlan {
    /// All of it.
    pub blows: BTreeMap<u64, Blow>,
}

impl LifePlan {
    /// Nothing ever happens to it.
    #[must_use]
    pub fn quiet() -> Self {
        Self::default()
    }

    /// One thing happens.
    #[must_use]
    pub fn at(effect: u64, blow: Blow) -> Self {
        Self { blows: BTreeMap::from([(effect, blow)]) }
    }
}

/// One effect that a life had, or tried to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// From 1.
    pub number: u64,
    /// `rename`, `sync`, `StartTransientUnit`, `patch` and so on.
    pub kind: &'static str,
    /// What it was about.
    pub what: String,
}

/// What a life may do now.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// Carry it out, then spend the pass.
    Go(Pass),
    /// Answer with this error; no effect takes place.
    Fail(Errno),
    /// No effect, and nobody to answer to.
    Dead,
}

/// The right to one effect.
#[derive(Debug)]
#[must_use = "spend it once the effect has taken place"]
pub struct Pass {
    life: Life,
    after: Option<Blow>,
}

impl Pass {
    /// The effect has taken place. `false`: the agent is dead and must not hear of it.
    #[must_use]
    pub fn spent(self) -> bool {
        match self.after {
            Some(Blow::KillAfter) => self.life.die(),
            Some(Blow::PowerAfter(mode)) => self.life.machine.power_cut(mode),
            Some(
                Blow::KillBefore
                | Blow::PowerBefore(_)
                | Blow::CutOff(_)
                | Blow::Stranger(_)
                | Blow::Fail { .. },
            )
            | None => {}
        }
        !self.life.is_dead()
    }
}

#[derive(Debug)]
pub(super) struct LifeCore {
    pub(super) number: u64,
    pub(super) dead: CancellationToken,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    plan: LifePlan,
    trace: Vec<Effect>,
    failing: Option<(Errno, u64)>,
}

/// A handle on one life; clones are the same life. The wires to the API and to the bus count their effects with it too.
#[derive(Debug, Clone)]
pub struct Life {
    machine: SimMachine,
    core: Arc<LifeCore>,
}

impl Life {
    pub(super) fn new(machine: SimMachine, number: u64, plan: LifePlan) -> (Self, Arc<LifeCore>) {
        let counted = Mutex::new(Counted { plan, ..Counted::default() });
        let core = Arc::new(LifeCore { number, dead: CancellationToken::new(), counted });
        (Self { machine, core: Arc::clone(&core) }, core)
    }

    /// The machine it lives on.
    #[must_use]
    pub fn machine(&self) -> &SimMachine {
        &self.machine
    }

    /// Lives of one machine are counted from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.core.number
    }

    /// Asks for the right to one effect, which is counted whatever the answer is.
    pub fn effect(&self, kind: &'static str, what: &str) -> Verdict {
        if self.is_dead() {
            return Verdict::Dead;
        }
        self.machine.before_effect();
        match self.count(kind, what) {
            Some(Blow::KillBefore) => {
                self.die();
                Verdict::Dead
            }
            Some(Blow::PowerBefore(mode)) => {
                self.machine.power_cut(mode);
                Verdict::Dead
            }
            Some(Blow::Fail { errno, .. }) => Verdict::Fail(errno),
            Some(Blow::Stranger(deed)) => {
                self.machine.suffers(deed);
                if deed.ends_the_agent() {
                    self.die();
                    return Verdict::Dead;
                }
                Verdict::Go(Pass { life: self.clone(), after: None })
            }
            Some(Blow::CutOff(length)) => {
                self.machine.cut_off(length);
                Verdict::Go(Pass { life: self.clone(), after: None })
            }
            after @ (Some(Blow::KillAfter | Blow::PowerAfter(_)) | None) => {
                Verdict::Go(Pass { life: self.clone(), after })
            }
        }
    }

    fn count(&self, kind: &'static str, what: &str) -> Option<Blow> {
        let mut counted = self.counted();
        let number = counted.trace.len() as u64 + 1;
        counted.trace.push(Effect { number, kind, what: what.to_owned() });
        let blow = counted.plan.blows.get(&number).copied();
        if let Some(Blow::Fail { errno, times }) = blow {
            counted.failing = Some((errno, times));
        }
        if let (Some((errno, left @ 1..)), None | Some(Blow::Fail { .. })) = (counted.failing, blow) {
            counted.failing = Some((errno, left - 1));
            return Some(Blow::Fail { errno, times: left });
        }
        blow.filter(|blow| !matches!(blow, Blow::Fail { .. }))
    }

    /// The effects so far.
    #[must_use]
    pub fn trace(&self) -> Vec<Effect> {
        self.counted().trace.clone()
    }

    /// How many effects it had so far.
    #[must_use]
    pub fn count_so_far(&self) -> u64 {
        self.counted().trace.len() as u64
    }

    /// Kills it: from now on nothing that it does has an effect. Its locks are free, its connections are closed.
    pub fn die(&self) {
        self.core.dead.cancel();
        let number = self.number();
        self.machine.with(|state| {
            state.locks.retain(|_, life| *life != number);
            state.subscribers.retain(|subscriber| subscriber.life != number);
        });
    }

    /// Is it dead?
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.core.dead.is_cancelled()
    }

    /// Ends when it dies; whoever polls the agent's future drops it then.
    pub fn died(&self) -> impl Future<Output = ()> + Send + use<> {
        self.core.dead.clone().cancelled_owned()
    }

    /// Its connection to the machine's service manager, for
    /// [`BusAddress::Given`](crate::host::systemd::BusAddress::Given).
    ///
    /// # Errors
    /// None in practice: a dead life gets a connection too, on which every call fails.
    pub async fn bus(&self) -> zbus::Result<zbus::Connection> {
        super::systemd::connect(self.clone()).await
    }

    /// What production code gets as the machine below it.
    #[must_use]
    pub fn effects(&self) -> Arc<dyn crate::host::effects::Effects> {
        Arc::new(super::effects::LifeEffects::new(self.clone()))
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.core.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
