//! One agent per machine: an advisory lock that the kernel gives back when its holder dies, however it dies.

#![expect(clippy::disallowed_methods, reason = "the only door to the machine")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent is at work on this machine.
    #[error("{} is held by pid {holder}; wait for that agent or stop it, then try again", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The pid its holder wrote, or `unknown`.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}; its directory must exist and be writable for root", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Held as long as it lives; dropping it lets the next agent in. The file stays, it is never removed, because removing a
/// locked file would let two agents lock two files of the same name.
#[derive(Debug)]
pub struct MachineLock {
    _file: Flock<File>,
}

impl MachineLock {
    /// Takes the lock at `path` or says at once who has it.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let fail = |source| LockError::Io { path: path.to_path_buf(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(fail)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                write_pid(&mut held).map_err(fail)?;
                Ok(Self { _file: held })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                Err(LockError::Held { path: path.to_path_buf(), holder: read_pid(&mut file) })
            }
            Err((_, errno)) => Err(fail(errno.into())),
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_one_in_and_names_it_to_the_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let first = MachineLock::acquire(&path).unwrap();
        let refused = MachineLock::acquire(&path).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        MachineLock::acquire(&path).unwrap();
    }

    #[test]
    fn says_when_the_directory_is_missing() {
        let missing = Path::new("/proc/none/agent.lock");
        assert!(matches!(MachineLock::acquire(missing), Err(LockError::Io { .. })));
    }
}
