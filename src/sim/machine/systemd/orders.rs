//! Orders to the manager, by whoever gives them: refused where a drop-in says so, carried out otherwise. Dependencies of
//! transient units go past those refusals, as they do in systemd.

use std::time::Duration;

use super::programs::Running;
use super::service::Phase;
use super::unit_file::UnitFile;
use crate::sim::machine::rke2::Cause;
use crate::sim::machine::state::{Event, State};

/// A unit that `StartTransientUnit` made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sim::machine) struct Transient {
    /// It conflicts with RKE2's unit.
    pub(super) conflicts: bool,
    /// It stays `active (exited)` until it is stopped.
    pub(super) remains: bool,
    /// It waits for RKE2 to stop.
    pub(super) waits: bool,
    /// It is more than its dependencies.
    pub(super) runs: Option<Running>,
    /// It is a timer, whose service wants RKE2's unit: the number of this one.
    pub(super) timer: Option<u32>,
}

/// Why the manager does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sim::machine) enum Refusal {
    /// `RefuseManualStart=` or `RefuseManualStop=`.
    OnlyByDependency(String),
    /// Not loaded, or no file.
    NoSuchUnit(String),
    /// A unit of that name is there.
    UnitExists(String),
}

/// What is ordered by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sim::machine) enum Order {
    Start,
    Stop,
    Restart,
}

impl State {
    /// An order by name, of a life of the agent or of somebody else. Returns the job.
    pub(in crate::sim::machine) fn order(
        &mut self,
        order: Order,
        name: &str,
        cause: Cause,
    ) -> Result<u32, Refusal> {
        if self.transients.contains_key(name) {
            if matches!(order, Order::Stop | Order::Restart) {
                self.transients.remove(name);
            }
            return Ok(self.new_job());
        }
        let Some(unit) = self.service.unit.as_ref().filter(|_| name == self.service.name) else {
            let why = match order {
                Order::Stop => format!("Unit {name} not loaded."),
                Order::Start | Order::Restart => format!("Unit {name} not found."),
            };
            return Err(Refusal::NoSuchUnit(why));
        };
        let refused = match order {
            Order::Start => unit.refuse_start,
            Order::Stop => unit.refuse_stop,
            Order::Restart => unit.refuse_start || unit.refuse_stop,
        };
        if refused {
            return Err(Refusal::OnlyByDependency(format!(
                "Operation refused, unit {name} may be requested by dependency only (it is configured to refuse \
                 manual start/stop)."
            )));
        }
        match order {
            Order::Start => self.begin_start(cause),
            Order::Stop => self.begin_stop(),
            Order::Restart => {
                self.begin_stop();
                self.begin_start(cause);
            }
        }
        Ok(self.new_job())
    }

    /// Starts a unit that was made for its dependencies, or for the program in `argv`.
    pub(super) fn start_transient(
        &mut self,
        name: &str,
        transient: Transient,
        wants: bool,
        argv: &[String],
        cause: Cause,
    ) -> Result<u32, Refusal> {
        if self.transients.contains_key(name) {
            return Err(Refusal::UnitExists(format!(
                "Unit {name} was already loaded or has a fragment file."
            )));
        }
        let runs = (!argv.is_empty()).then(|| self.run_program(argv));
        let transient = Transient { runs, ..transient };
        if transient.conflicts {
            self.begin_stop();
        }
        if wants {
            self.begin_start(cause);
        }
        let is_early = transient.conflicts && self.service.phase == Phase::Stopping;
        // One that neither waits nor remains has run and is collected by now.
        if is_early || transient.remains {
            self.transients.insert(name.to_owned(), Transient { waits: is_early, ..transient });
        }
        Ok(self.new_job())
    }

    /// Starts a timer, after which a service that wants RKE2's unit is started.
    pub(super) fn start_timer(&mut self, name: &str, after: Duration, cause: Cause) -> Result<u32, Refusal> {
        let timer = self.new_job();
        let unit =
            Transient { conflicts: false, remains: true, waits: false, runs: None, timer: Some(timer) };
        let started = self.start_transient(name, unit, false, &[], cause.clone())?;
        self.events.push(Event::Timer { after, name: name.to_owned(), timer, cause });
        Ok(started)
    }

    /// The time of a timer is over, unless it was stopped.
    pub(in crate::sim::machine) fn elapse(&mut self, name: &str, timer: u32, cause: Cause) {
        if self.transients.get(name).is_some_and(|unit| unit.timer == Some(timer)) {
            self.transients.remove(name);
            self.begin_start(cause);
        }
    }

    pub(super) fn after_stop(&mut self) {
        self.transients.retain(|_, transient| {
            let ran = std::mem::take(&mut transient.waits);
            !ran || transient.remains
        });
    }

    fn begin_start(&mut self, cause: Cause) {
        // Conflicts= works in both directions.
        self.transients.retain(|_, transient| !transient.conflicts);
        match self.service.phase {
            Phase::Starting | Phase::Running => {}
            Phase::Dead | Phase::Failed | Phase::AutoRestart => self.spawn(cause),
            Phase::Stopping => self.service.start_next = Some(cause),
        }
    }

    pub(super) fn reset_failed(&mut self, name: &str) -> Result<(), Refusal> {
        if self.transients.contains_key(name) {
            return Ok(());
        }
        if name != self.service.name {
            return Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded.")));
        }
        self.service.n_restarts = 0;
        if self.service.phase == Phase::Failed {
            self.service.result = "success";
            self.enter(Phase::Dead);
        }
        Ok(())
    }

    /// `daemon-reload`: from now on the files count as they are on disk.
    pub(in crate::sim::machine) fn reload(&mut self) {
        let fresh = UnitFile::load(&self.disk, &self.service.name);
        // What runs keeps running when its file is gone; systemd just no longer knows how to start it.
        self.service.unit = fresh;
        self.service.stale = None;
        self.announce();
    }
}
