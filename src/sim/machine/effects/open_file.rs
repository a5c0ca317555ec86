//! Files that a life has open, and locks that it holds.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use nix::errno::Errno;

use super::{change, dead};
use crate::host::effects::{Lock, OpenFile, Opening};
use crate::sim::machine::life::{Life, Verdict};

/// A file open for writing.
pub(super) struct SimFile {
    life: Life,
    path: String,
    ino: u64,
    /// A write was cut short; the rest of it gets this.
    cut_short: Option<Errno>,
}

impl SimFile {
    pub(super) fn new(life: Life, path: &Path, ino: u64) -> Self {
        Self { life, path: path.display().to_string(), ino, cut_short: None }
    }
}

impl Write for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(errno) = self.cut_short.take() {
            return Err(if self.life.is_dead() { dead() } else { errno.into() });
        }
        match self.life.effect("write", &self.path) {
            Verdict::Dead => Err(dead()),
            // A full disk takes what fits, and says so only to the next write.
            Verdict::Fail(errno @ Errno::ENOSPC) if bytes.len() > 1 => {
                let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
                self.cut_short = Some(errno);
                Ok(self.life.machine().change_disk(|disk| disk.append(self.ino, half))?)
            }
            Verdict::Fail(errno) => Err(errno.into()),
            Verdict::Go(pass) => {
                let written = self.life.machine().change_disk(|disk| disk.append(self.ino, bytes));
                if pass.spent() { Ok(written?) } else { Err(dead()) }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OpenFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        if self.life.is_dead() {
            return Err(dead());
        }
        Ok(self.life.machine().look(|state| state.disk.length(self.ino))?)
    }

    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        change(&self.life, "truncate", &self.path, |disk| disk.set_length(self.ino, bytes))
    }

    fn set_mode(&mut self, mode: u32) -> io::Result<()> {
        change(&self.life, "chmod", &self.path, |disk| disk.set_mode_of(self.ino, mode))
    }

    fn sync(&mut self) -> io::Result<()> {
        change(&self.life, "sync", &self.path, |disk| disk.sync_ino(self.ino))
    }
}

/// A lock that a life holds.
pub(super) struct SimLock {
    life: Life,
    ino: u64,
}

impl fmt::Debug for SimLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SimLock").field("life", &self.life.number()).finish_non_exhaustive()
    }
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let (ino, number) = (self.ino, self.life.number());
        self.life.machine().with(|state| {
            if state.locks.get(&ino) == Some(&number) {
                state.locks.remove(&ino);
            }
        });
    }
}

impl SimLock {
    pub(super) fn take(life: &Life, path: &Path, holder: &str) -> io::Result<Result<Box<dyn Lock>, String>> {
        let number = life.number();
        let work = || {
            life.machine().with(|state| {
                let ino = state.disk.create(path, Opening::Append, 0o600)?.ino;
                if state.locks.contains_key(&ino) {
                    let text = state.disk.read(path)?;
                    return Ok(Err(String::from_utf8_lossy(&text).trim().to_owned()));
                }
                state.locks.insert(ino, number);
                state.disk.set_length(ino, 0)?;
                state.disk.append(ino, format!("{holder}\n").as_bytes())?;
                Ok::<_, Errno>(Ok(ino))
            })
        };
        match life.effect("lock", &path.to_string_lossy()) {
            Verdict::Dead => Err(dead()),
            Verdict::Fail(errno) => Err(errno.into()),
            Verdict::Go(pass) => {
                let taken = work();
                if !pass.spent() {
                    // Killed right after it got the lock; its death has given it back.
                    return Err(dead());
                }
                Ok(taken?.map(|ino| {
                    let lock: Box<dyn Lock> = Box::new(Self { life: life.clone(), ino });
                    lock
                }))
            }
        }
    }
}
