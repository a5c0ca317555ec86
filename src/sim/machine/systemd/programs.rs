//! Programs that transient units run on the machine. Played are `rke2 etcd-snapshot save`, which asks the running server, and
//! `--version` of whatever else can be executed.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use sha2::{Digest, Sha256};

use crate::host::effects::Opening;
use crate::sim::machine::SimMachine;
use crate::sim::machine::release::version_of;
use crate::sim::machine::state::State;

/// How long etcd takes to write its snapshot.
const SAVING: Duration = Duration::from_secs(2);

/// What is wrong with the snapshots that RKE2 saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotFault {
    /// The program says no.
    Refused,
    /// It says yes, and the file is cut off.
    Torn,
    /// It says yes, and there is no file.
    Missing,
}

/// A program under way, or at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sim::machine) struct Running {
    /// Since the rehearsal began.
    pub(super) until: Duration,
    /// Ends with 0.
    pub(super) well: bool,
}

impl State {
    /// Starts it; what it writes is there at once, and durable when it has ended.
    pub(super) fn run_program(&mut self, argv: &[String]) -> Running {
        let (now, until) = (self.now(), self.now() + SAVING);
        let (Some(program), Some(arguments)) = (argv.first(), argv.get(1..)) else {
            return Running { until, well: false };
        };
        let is_rke2 = self.disk.read(Path::new(program)).is_ok_and(|program| version_of(&program).is_some());
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let well = match words.as_slice() {
            ["etcd-snapshot", "save", "--name", name, "--dir", folder] if is_rke2 => {
                self.service.is_running() && self.save_snapshot(name, folder).is_ok()
            }
            ["--version"] => return Running { until: now, well: self.can_execute(Path::new(program)) },
            _ => false,
        };
        Running { until, well }
    }

    fn can_execute(&self, program: &Path) -> bool {
        let is_executable = self.disk.stat(program, true).is_ok_and(|stat| stat.mode & 0o111 != 0);
        is_executable && !self.noexec.as_ref().is_some_and(|folder| program.starts_with(folder))
    }

    fn save_snapshot(&mut self, name: &str, folder: &str) -> Result<(), Errno> {
        let pages = vec![b'e'; 4096];
        let mut content = [pages.as_slice(), Sha256::digest(&pages).as_slice()].concat();
        match self.snapshots {
            Some(SnapshotFault::Refused) => return Err(Errno::EIO),
            Some(SnapshotFault::Missing) => return Ok(()),
            Some(SnapshotFault::Torn) => content.truncate(1000),
            None => {}
        }
        let folder = Path::new(folder);
        let path = folder.join(format!("{name}-node-{}", self.now().as_secs()));
        let file = self.disk.create(&path, Opening::Append, 0o600)?;
        self.disk.append(file.ino, &content)?;
        self.disk.sync(&path)?;
        self.disk.sync(folder)
    }
}

impl SimMachine {
    /// From now on RKE2's snapshots of etcd are like this; `None` mends it.
    pub fn break_snapshots(&self, fault: Option<SnapshotFault>) {
        self.with(|state| state.snapshots = fault);
    }

    /// Remounts a folder: from now on systemd executes nothing below it; `None` mends it.
    pub fn mount_noexec(&self, folder: Option<&Path>) {
        self.with(|state| state.noexec = folder.map(Path::to_path_buf));
    }
}
