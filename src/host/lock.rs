//! One agent per machine: an advisory lock that the kernel gives back when its holder dies, however it dies.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::effects::Lock;
use crate::host::fs::Fs;

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
    _lock: Box<dyn Lock>,
}

impl MachineLock {
    /// Takes the lock at `path` or says at once who has it.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(fs: &Fs, path: &Path) -> Result<Self, LockError> {
        let pid = std::process::id().to_string();
        match fs.effects().lock(path, &pid) {
            Ok(Ok(lock)) => Ok(Self { _lock: lock }),
            Ok(Err(holder)) => {
                let holder = if holder.is_empty() { "unknown".to_owned() } else { holder };
                Err(LockError::Held { path: path.to_path_buf(), holder })
            }
            Err(source) => Err(LockError::Io { path: path.to_path_buf(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_one_in_and_names_it_to_the_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let first = MachineLock::acquire(&Fs::kernel(), &path).unwrap();
        let refused = MachineLock::acquire(&Fs::kernel(), &path).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        // A child that a test beside this one has just begun may hold it for a moment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
        while let Err(error) = MachineLock::acquire(&Fs::kernel(), &path) {
            assert!(std::time::Instant::now() < deadline, "{error}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    #[test]
    fn says_when_the_directory_is_missing() {
        let missing = Path::new("/proc/none/agent.lock");
        assert!(matches!(MachineLock::acquire(&Fs::kernel(), missing), Err(LockError::Io { .. })));
    }
}
