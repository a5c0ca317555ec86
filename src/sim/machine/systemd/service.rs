//! RKE2's unit (`Type=notify`, `Restart=always`, `RestartSec=5s`, no start timeout) over time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::unit_file::UnitFile;
use crate::sim::machine::release::{sha256, version_of};
use crate::sim::machine::rke2::{Cause, Fate, StartRecord};
use crate::sim::machine::state::{Event, State, Tick};

const RESTART_SEC: Duration = Duration::from_secs(5);
/// A crash at the start takes this long.
const CRASH: Duration = Duration::from_secs(2);
/// So long RKE2 bears it that no API server answers, at its start and later; then it ends by itself (reference
/// `rke2-and-rancher.md` §2.4, §9.2).
const BEARS: Duration = Duration::from_mins(15);
/// `TimeoutStopSec=` is systemd's default.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);
/// A kubelet whose Node's status does not change reports it this often (`nodeStatusReportFrequency`).
const REPORTS: Duration = Duration::from_mins(5);
const EXIT_EXEC: i32 = 203;
/// `SIGKILL`, as `ExecMainStatus=` shows it.
const KILLED: i32 = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::sim::machine) enum Phase {
    #[default]
    Dead,
    Failed,
    Starting,
    Running,
    AutoRestart,
    Stopping,
}

/// The unit and the process behind it.
#[derive(Debug, Default)]
pub(in crate::sim::machine) struct Service {
    pub(super) name: String,
    /// None when there is no unit file.
    pub(super) unit: Option<UnitFile>,
    /// Are its files newer than what is loaded? As of which change of the disk.
    pub(super) stale: Option<(u64, bool)>,
    pub(super) phase: Phase,
    pub(in crate::sim::machine) main_pid: u32,
    /// What the main process runs, and the path it was started from.
    pub(in crate::sim::machine) exe: Option<(Arc<Vec<u8>>, String)>,
    pub(super) result: &'static str,
    pub(super) status: i32,
    pub(super) n_restarts: u32,
    pub(super) invocation: Vec<u8>,
    pub(super) job: u32,
    /// Counts the phases, so that a timer of an old one does nothing.
    pub(super) generation: u64,
    /// A start that waits for the end of a stop.
    pub(super) start_next: Option<Cause>,
    /// The next stop ends with `SIGKILL` after `TimeoutStopSec`.
    pub(in crate::sim::machine) ignores_stop: bool,
    fate: Fate,
    /// The version that its kubelet reports.
    reported: String,
    /// When it was executed, since the rehearsal began.
    executed: Duration,
}

impl Service {
    pub(in crate::sim::machine) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), result: "success", ..Self::default() }
    }

    /// Does systemd refuse orders to it?
    pub(in crate::sim::machine) fn is_fenced(&self) -> bool {
        self.unit.as_ref().is_some_and(UnitFile::is_fenced)
    }

    /// The same unit, of which nothing is loaded and nothing runs; timers of its past do nothing.
    pub(in crate::sim::machine) fn unloaded(&self) -> Self {
        Self { generation: self.generation + 1, ..Self::new(&self.name) }
    }

    pub(in crate::sim::machine) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(in crate::sim::machine) fn is_coming_up(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::AutoRestart)
    }
}

impl State {
    /// It has been running for long when the rehearsal begins.
    pub(in crate::sim::machine) fn find_running(&mut self) {
        self.service.unit = UnitFile::load(&self.disk, &self.service.name);
        let program =
            self.service.unit.as_ref().map(|unit| unit.start.program().to_owned()).unwrap_or_default();
        if let Ok(content) = self.disk.read(Path::new(&program)) {
            self.service.exe = Some((content, program));
            self.service.main_pid = self.new_pid();
            self.new_invocation();
            self.enter(Phase::Running);
            self.containers = true;
        }
    }

    /// At boot: the units as they are on disk, and RKE2 if it is enabled.
    pub(in crate::sim::machine) fn start_units(&mut self) {
        let name = self.service.name.clone();
        self.service = self.service.unloaded();
        self.service.unit = UnitFile::load(&self.disk, &name);
        if self.service.unit.is_some() && UnitFile::is_enabled(&self.disk, &name) {
            self.spawn(Cause::Boot);
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.service.phase = phase;
        self.service.generation += 1;
        self.announce();
    }

    /// Have the unit's files changed since they were loaded? Clients ask often, the files change seldom.
    pub(super) fn needs_reload(&mut self) -> bool {
        let changes = self.disk.changes();
        if let Some((then, stale)) = self.service.stale
            && then == changes
        {
            return stale;
        }
        let stale = UnitFile::load(&self.disk, &self.service.name) != self.service.unit;
        self.service.stale = Some((changes, stale));
        stale
    }

    fn later(&mut self, after: Duration, tick: Tick) {
        let generation = self.service.generation;
        self.events.push(Event::Later { after, generation, tick });
    }

    fn new_invocation(&mut self) {
        let (high, low) = (self.dice.roll(), self.dice.roll());
        self.service.invocation = [high.to_be_bytes(), low.to_be_bytes()].concat();
    }

    /// Executes whatever is at the live path.
    pub(super) fn spawn(&mut self, cause: Cause) {
        let unit = self.service.unit.clone().unwrap_or_default();
        self.service.n_restarts = if cause == Cause::AutoRestart { self.service.n_restarts + 1 } else { 0 };
        self.service.job = self.new_job();
        self.service.start_next = None;
        self.new_invocation();
        if let Some(uid) = unit.guard_of().map(str::to_owned) {
            self.enter(Phase::Starting);
            let generation = self.service.generation;
            return self.events.push(Event::AskGuard { uid, generation, cause });
        }
        self.execute(&unit, cause);
    }

    /// What the guard said of a start.
    pub(in crate::sim::machine) fn guarded(&mut self, generation: u64, cause: Cause, lets: bool) {
        if generation != self.service.generation || !self.is_on() {
            return;
        }
        if lets {
            let unit = self.service.unit.clone().unwrap_or_default();
            self.execute(&unit, cause);
        } else {
            self.exit(1);
        }
    }

    fn execute(&mut self, unit: &UnitFile, cause: Cause) {
        let path = Path::new(unit.start.program());
        let content = self.disk.read(path).unwrap_or_default();
        let executable = self.disk.stat(path, true).is_ok_and(|stat| stat.mode & 0o111 != 0);
        let version = version_of(&content).filter(|_| executable);
        self.record_start(sha256(&content), version.clone(), cause);
        let fate = match &version {
            Some(version) => self.fates.of(version),
            None => Fate::CannotExecute,
        };
        self.service.fate = fate.clone();
        self.service.executed = self.now();
        self.service.main_pid = self.new_pid();
        self.service.exe = Some((content, unit.start.program().to_owned()));
        self.enter(Phase::Starting);
        match fate {
            Fate::CannotExecute => self.exit(EXIT_EXEC),
            Fate::Crashes => self.later(CRASH, Tick::Exit(1)),
            Fate::Hangs => {}
            Fate::ComesUpAfter(time) => self.later(time, Tick::Ready),
            Fate::ComesUp | Fate::Reports(_) | Fate::DiesAfter(_) => self.later(self.spec.start, Tick::Ready),
        }
    }

    fn record_start(&mut self, sha256: String, version: Option<String>, cause: Cause) {
        let (at, boot) = (self.now(), self.boot);
        self.events.push(Event::AskGuests(self.starts.len()));
        self.starts.push(StartRecord { at, boot, sha256, version, cause, guests: Vec::new() });
    }

    /// Orders it to end; a stop of what is at rest does nothing.
    pub(super) fn begin_stop(&mut self) {
        self.service.start_next = None;
        match self.service.phase {
            Phase::Dead | Phase::Failed | Phase::Stopping => {}
            Phase::AutoRestart => {
                self.service.job = 0;
                self.enter(Phase::Dead);
            }
            Phase::Starting | Phase::Running => {
                self.service.job = self.new_job();
                self.enter(Phase::Stopping);
                let time = if self.service.ignores_stop { STOP_TIMEOUT } else { self.spec.stop };
                self.later(time, Tick::Stopped);
            }
        }
    }

    /// The main process ends by itself.
    pub(in crate::sim::machine) fn exit(&mut self, status: i32) {
        self.process_gone();
        (self.service.status, self.service.result) = (status, "exit-code");
        self.service.job = 0;
        self.enter(Phase::AutoRestart);
        self.later(RESTART_SEC, Tick::Again);
    }

    fn process_gone(&mut self) {
        self.service.main_pid = 0;
        self.service.exe = None;
        // The kubelet dies with it.
        self.events.push(Event::Stopped);
    }

    pub(in crate::sim::machine) fn cut_off(&mut self, length: Duration) {
        self.cut_off_until = self.cut_off_until.max(self.now() + length);
        std::mem::take(&mut self.reach).cancel();
        if self.service.is_running() {
            self.later(BEARS, Tick::GivesUp);
        }
    }

    /// It waits for an API server before it says that it is ready, and not for ever.
    fn wait_for_api(&mut self, left: Duration) {
        match (self.service.executed + BEARS).checked_sub(self.now()).filter(|bears| !bears.is_zero()) {
            Some(bears) => self.later(bears.min(left), Tick::Ready),
            None => self.exit(1),
        }
    }

    fn ready(&mut self) {
        let running = self.service.exe.as_ref().and_then(|(content, _)| version_of(content));
        let (mut reported, mut dies) = (running.unwrap_or_default(), None);
        match &self.service.fate {
            Fate::Reports(version) => reported.clone_from(version),
            Fate::DiesAfter(time) => dies = Some(*time),
            Fate::ComesUp | Fate::Crashes | Fate::CannotExecute | Fate::Hangs | Fate::ComesUpAfter(_) => {}
        }
        (self.service.job, self.service.result, self.service.status) = (0, "success", 0);
        self.containers = true;
        self.enter(Phase::Running);
        self.service.reported.clone_from(&reported);
        self.events.push(Event::Ready(reported));
        self.later(REPORTS, Tick::Report);
        if let Some(time) = dies {
            self.later(time, Tick::Exit(1));
        }
    }

    /// As its last report said, once an API server can be reached.
    fn report(&mut self) {
        if let Some(left) = self.is_cut_off_for() {
            return self.later(left, Tick::Report);
        }
        self.events.push(Event::Reports(self.service.reported.clone()));
        self.later(REPORTS, Tick::Report);
    }

    /// What time does; `generation` is that of the moment when the timer was set.
    pub(in crate::sim::machine) fn tick(&mut self, generation: u64, tick: Tick) {
        if generation != self.service.generation || !self.is_on() {
            return;
        }
        match tick {
            Tick::Ready => match self.is_cut_off_for() {
                None => self.ready(),
                Some(left) => self.wait_for_api(left),
            },
            Tick::Report => self.report(),
            Tick::GivesUp if self.is_cut_off_for().is_some() => self.exit(1),
            Tick::GivesUp => {}
            Tick::Exit(status) => self.exit(status),
            Tick::Again => self.spawn(Cause::AutoRestart),
            Tick::Stopped => self.stopped(),
        }
    }

    fn stopped(&mut self) {
        self.process_gone();
        self.service.job = 0;
        let killed = std::mem::take(&mut self.service.ignores_stop);
        (self.service.status, self.service.result) =
            if killed { (KILLED, "timeout") } else { (0, "success") };
        let next = self.service.start_next.take();
        self.enter(if killed { Phase::Failed } else { Phase::Dead });
        self.after_stop();
        if let Some(cause) = next {
            self.spawn(cause);
        }
    }
}
