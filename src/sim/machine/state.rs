//! Everything that a machine is at one moment, and what has to happen outside of its lock. Knows no clients.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::image::MachineSpec;
use super::life::LifeCore;
use super::ports::PortFault;
use super::random::Dice;
use super::rke2::{Cause, Fates, StartRecord};
use super::systemd::{Service, SnapshotFault, Subscriber, Transient, UnitFile};

/// What follows from a change once the machine's lock is free again.
#[derive(Debug)]
pub(super) enum Event {
    /// `tick` after a while, unless the service has moved on since.
    Later { after: Duration, generation: u64, tick: Tick },
    /// A timer runs for so long, unless it is stopped.
    Timer { after: Duration, name: String, timer: u32, cause: Cause },
    /// RKE2 is up and its kubelet reports this version.
    Ready(String),
    /// Its kubelet reports this version again.
    Reports(String),
    /// RKE2 and its kubelet have ended.
    Stopped,
    /// May this start go on?
    AskGuard { uid: String, generation: u64, cause: Cause },
    /// Who runs here at the start with this index?
    AskGuests(usize),
    /// The power is gone; it comes back after a while.
    PowerCut { boot: Duration },
}

/// What time does to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tick {
    /// It has come so far that it notifies systemd, if an API server answers it.
    Ready,
    /// Its kubelet reports the Node's status again, if an API server answers it.
    Report,
    /// It has lost the API server for as long as it bears.
    GivesUp,
    /// Its main process ended with this status.
    Exit(i32),
    /// `RestartSec` is over.
    Again,
    /// Its main process followed the order to stop, or was killed in the end.
    Stopped,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) spec: MachineSpec,
    pub(super) origin: Instant,
    pub(super) disk: Disk,
    /// Counted from 1; zero while the power is off.
    pub(super) boot: u32,
    pub(super) boots: u32,
    pub(super) boot_id: String,
    pub(super) service: Service,
    pub(super) transients: BTreeMap<String, Transient>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) starts: Vec<StartRecord>,
    pub(super) fates: Fates,
    pub(super) ports: BTreeMap<u16, PortFault>,
    pub(super) snapshots: Option<SnapshotFault>,
    /// Nothing below it is executed by systemd's transient units.
    pub(super) noexec: Option<PathBuf>,
    /// What servers have, by its address.
    pub(super) web: BTreeMap<String, Arc<Vec<u8>>>,
    /// Has the control plane's containers come up since this boot? They outlive RKE2.
    pub(super) containers: bool,
    /// Lock files by number, with the life that has it.
    pub(super) locks: BTreeMap<u64, u64>,
    /// Until when no API server and no other member of etcd can be reached, since the rehearsal began.
    pub(super) cut_off_until: Duration,
    /// Cancelled when that begins; the next connections get a new one.
    pub(super) reach: CancellationToken,
    pub(super) lives: Vec<Weak<LifeCore>>,
    pub(super) next_life: u64,
    pub(super) next_pid: u32,
    pub(super) next_job: u32,
    pub(super) dice: Dice,
    pub(super) events: Vec<Event>,
}

impl State {
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// For how long no API server will answer yet; none when one can be reached.
    pub(super) fn is_cut_off_for(&self) -> Option<Duration> {
        self.cut_off_until.checked_sub(self.now()).filter(|left| !left.is_zero())
    }

    /// Drop-ins of RKE2's unit that outlive a boot.
    pub(super) fn drop_ins(&self) -> Vec<PathBuf> {
        let folder = format!("/etc/systemd/system/{}.d", self.spec.role.unit());
        self.disk.read_dir(Path::new(&folder)).unwrap_or_default()
    }

    pub(super) fn is_fenced_on_disk(&self) -> bool {
        self.is_fenced_on(&self.disk)
    }

    /// The same of another state of its disks.
    pub(super) fn is_fenced_on(&self, disk: &Disk) -> bool {
        UnitFile::load(disk, self.spec.role.unit()).is_some_and(|unit| unit.is_fenced())
    }

    pub(super) fn is_on(&self) -> bool {
        self.boot != 0
    }

    pub(super) fn new_pid(&mut self) -> u32 {
        self.next_pid += 7;
        self.next_pid
    }

    pub(super) fn new_job(&mut self) -> u32 {
        self.next_job += 1;
        self.next_job
    }

    /// A version 4 UUID.
    pub(super) fn new_boot(&mut self) {
        self.boots += 1;
        self.boot = self.boots;
        let (high, low) = (self.dice.roll(), self.dice.roll());
        self.boot_id = format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            low >> 52,
            low & 0xffff_ffff_ffff
        );
    }
}
