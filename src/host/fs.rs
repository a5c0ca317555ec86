//! Durable file operations: what a function here has returned `Ok` for survives a power cut. Owns no paths and no
//! formats. All functions block; async callers go through [`Fs::blocking`].

pub(in crate::host) mod disk;
mod sha256;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use disk::FsKind;
pub(in crate::host) use sha256::digest;
pub use sha256::hex;

use crate::host::effects::{Effects, FileKind, Opening};
use crate::host::kernel::{self, Kernel};
use crate::mutation::{self, Mutation};

/// A file operation that did not work, with its object. The cause is the source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}{}", path.display(), cure(source, *is_named))]
pub struct FsError {
    /// The verb, as in "cannot write".
    pub action: &'static str,
    /// The object.
    pub path: PathBuf,
    /// Somebody named it on the command line; it is none of the machine's own.
    pub is_named: bool,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// Names the verb and object of an I/O error; made for `map_err`.
    pub fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { action, path, is_named: false, source }
    }

    /// The same of a file that somebody named: it need not be root's to be read.
    #[must_use]
    pub fn named(self) -> Self {
        Self { is_named: true, ..self }
    }
}

fn cure(source: &io::Error, is_named: bool) -> &'static str {
    // A catch-all is right here: ErrorKind is non-exhaustive and most kinds have no cure of their own.
    if source.kind() == io::ErrorKind::StorageFull {
        "; free space on that file system and try again"
    } else if source.kind() == io::ErrorKind::ReadOnlyFilesystem {
        "; mount that file system writable"
    } else if source.kind() == io::ErrorKind::PermissionDenied && is_named {
        "; make it, and the folders above it, readable for this user"
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        "; run as root of the machine"
    } else {
        ""
    }
}

/// The files of one machine: this one's, or those of a machine in memory.
#[derive(Clone)]
pub struct Fs {
    effects: Arc<dyn Effects>,
}

impl fmt::Debug for Fs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.effects.fmt(formatter)
    }
}

impl Fs {
    /// The files of the machine that this process runs on.
    #[must_use]
    pub fn kernel() -> Self {
        Self::new(Arc::new(Kernel::default()))
    }

    /// The files of another machine.
    #[must_use]
    pub fn new(effects: Arc<dyn Effects>) -> Self {
        Self { effects }
    }

    /// The raw operations under it.
    #[must_use]
    pub fn effects(&self) -> &dyn Effects {
        &*self.effects
    }

    /// Runs a closure that may wait for a disk away from the async threads; one that cannot wait, where it is.
    ///
    /// # Errors
    /// The closure's own error; an I/O error when the closure died.
    pub async fn blocking<T, E>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<io::Error> + Send + 'static,
    {
        if !self.effects.may_block() {
            return work(self);
        }
        let fs = self.clone();
        tokio::task::spawn_blocking(move || work(&fs)).await.map_err(io::Error::other)?
    }

    /// What somebody at a shell has named, a pipe (`/dev/stdin`, `<(…)`) too: `most` bytes of it, and one more where it is longer.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn read_named(path: &Path, most: u64) -> Result<Vec<u8>, FsError> {
        kernel::read_named(path, most).map_err(|error| FsError::on("read", path)(error).named())
    }

    /// The file's bytes, or `None` when there is no such file.
    ///
    /// # Errors
    /// Anything but "not found".
    pub fn read_opt(&self, path: &Path) -> Result<Option<Vec<u8>>, FsError> {
        match self.effects.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            // A path that leads through a file names nothing either.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(FsError::on("read", path)(error)),
        }
    }

    /// Bytes of a file.
    ///
    /// # Errors
    /// It is not there or cannot be looked at.
    pub fn length(&self, path: &Path) -> Result<u64, FsError> {
        self.effects.stat(path).map(|found| found.len).map_err(FsError::on("read", path))
    }

    /// Is it a directory? What cannot be looked at is none.
    #[must_use]
    pub fn is_dir(&self, path: &Path) -> bool {
        self.effects.stat(path).is_ok_and(|found| found.kind == FileKind::Dir)
    }

    /// Replaces the file as a whole: a reader, or the next boot, sees the old bytes or the new ones. `mode` is set exactly.
    ///
    /// # Errors
    /// The old file is untouched and the temporary one is gone, unless only the last step (directory sync) failed.
    pub fn write_atomic(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
        let temp = beside(path, "new");
        let written = (|| {
            self.remove_if_there(&temp)?;
            let mut file = self.effects.create(&temp, Opening::New, mode)?;
            file.write_all(bytes)?;
            // The mode given to open is narrowed by the umask.
            file.set_mode(mode)?;
            file.sync()?;
            self.effects.rename(&temp, path)
        })();
        if let Err(error) = written {
            if let Err(left) = self.remove_if_there(&temp) {
                tracing::debug!(error = %left, path = %temp.display(), "left a temporary file, the next write removes it");
            }
            return Err(FsError::on("write", path)(error));
        }
        self.sync_dir(parent(path))
    }

    /// Appends `bytes` and syncs them; creates the file (mode 0600, durably) when there is none. Returns the new length.
    ///
    /// # Errors
    /// The file has been cut back to its previous length, so that no half line stays; when even that failed, a torn tail
    /// may remain and the error is still the first one.
    pub fn append_sync(&self, path: &Path, bytes: &[u8]) -> Result<u64, FsError> {
        let fail = |error| FsError::on("append to", path)(error);
        let mut file = self.effects.create(path, Opening::Append, 0o600).map_err(fail)?;
        let before = file.length().map_err(fail)?;
        let sync = !mutation::is_on(Mutation::SkipSync);
        if let Err(error) = file.write_all(bytes).and_then(|()| if sync { file.sync() } else { Ok(()) }) {
            if let Err(torn) = file.set_length(before).and_then(|()| file.sync()) {
                tracing::warn!(error = %torn, path = %path.display(), "could not cut off a half-written line");
            }
            return Err(fail(error));
        }
        if before == 0 && !mutation::is_on(Mutation::SkipDirectorySync) {
            self.sync_dir(parent(path))?;
        }
        Ok(before + bytes.len() as u64)
    }

    /// Makes a file and its name durable, whoever wrote it: a process that was killed between a write and its sync leaves
    /// what its successor can read, and what a power cut can still take back.
    ///
    /// # Errors
    /// There is no such file, or it cannot be synced.
    pub fn settle(&self, path: &Path) -> Result<(), FsError> {
        self.effects.sync(path).map_err(FsError::on("sync", path))?;
        self.sync_dir(parent(path))
    }

    /// `mkdir -p`, each new directory (mode 0700) made durable by syncing the one above it; so is the last one that is there,
    /// which may be what a killed process left.
    ///
    /// # Errors
    /// The first directory that could not be made; a non-directory in the way is one.
    pub fn create_dir_sync(&self, path: &Path) -> Result<(), FsError> {
        let fail = |error| FsError::on("create directory", path)(error);
        match self.effects.stat(path) {
            Ok(found) if found.kind == FileKind::Dir => return self.sync_dir(parent(path)),
            Ok(_) => return Err(fail(io::ErrorKind::NotADirectory.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        let above = parent(path);
        if above != path {
            self.create_dir_sync(above)?;
        }
        match self.effects.create_dir(path) {
            Ok(()) => self.effects.set_mode(path, 0o700).map_err(FsError::on("set mode of", path))?,
            // Someone else was faster; the sync below makes it durable all the same.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.is_dir(path) => {}
            Err(error) => return Err(fail(error)),
        }
        self.sync_dir(above)
    }

    /// Removes a folder and all that is in it, durably; none there is fine.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove_tree(&self, dir: &Path) -> Result<(), FsError> {
        match self.effects.remove_dir_all(dir) {
            Ok(()) => self.sync_dir(parent(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FsError::on("remove", dir)(error)),
        }
    }

    /// Removes the file durably; `false` when there was none. Then, too, its absence is made durable: a killed process may
    /// have removed it, and a power cut would bring it back.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove_opt(&self, path: &Path) -> Result<bool, FsError> {
        let removed = self.remove_if_there(path).map_err(FsError::on("remove", path))?;
        if removed || self.is_dir(parent(path)) {
            self.sync_dir(parent(path))?;
        }
        Ok(removed)
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The directory cannot be opened or synced.
    pub fn sync_dir(&self, path: &Path) -> Result<(), FsError> {
        self.effects.sync(path).map_err(FsError::on("sync directory", path))
    }

    /// The names in a directory, sorted; empty when it does not exist.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn list_dir(&self, path: &Path) -> Result<Vec<PathBuf>, FsError> {
        match self.effects.read_dir(path) {
            Ok(mut found) => {
                found.sort();
                Ok(found)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(FsError::on("list", path)(error)),
        }
    }

    /// Bytes that root may still write to the file system of `path`.
    ///
    /// # Errors
    /// `path` does not exist or cannot be looked at.
    pub fn free_bytes(&self, path: &Path) -> Result<u64, FsError> {
        self.effects.free_bytes(path).map_err(FsError::on("look at the file system of", path))
    }

    /// What kind of file system `path` is on.
    ///
    /// # Errors
    /// `path` does not exist or cannot be looked at.
    pub fn filesystem(&self, path: &Path) -> Result<FsKind, FsError> {
        self.effects.file_system(path).map_err(FsError::on("look at the file system of", path))
    }

    /// Removes without a sync; `false` when there was nothing.
    pub(in crate::host) fn remove_if_there(&self, path: &Path) -> io::Result<bool> {
        match self.effects.remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The directory a name is in; a bare name is in the current one.
pub(in crate::host) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => path,
    }
}

/// A hidden name in the same directory, the same at each try so that a crash leaves one at most.
pub(in crate::host) fn beside(path: &Path, purpose: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!(".{name}.{purpose}"))
}

#[cfg(test)]
mod tests;
