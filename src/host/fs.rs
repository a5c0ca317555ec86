//! Durable file operations: what a function here has returned `Ok` for survives a power cut. Owns no paths and no
//! formats. All functions block; async callers go through [`blocking`].

#![expect(clippy::disallowed_methods, reason = "the only door to the machine")]

mod disk;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use disk::{FsKind, filesystem, free_bytes};

/// A file operation that did not work, with its object. The cause is the source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}{}", path.display(), cure(source))]
pub struct FsError {
    /// The verb, as in "cannot write".
    pub action: &'static str,
    /// The object.
    pub path: PathBuf,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// Names the verb and object of an I/O error; made for `map_err`.
    pub fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { action, path, source }
    }
}

fn cure(source: &io::Error) -> &'static str {
    // A catch-all is right here: ErrorKind is non-exhaustive and most kinds have no cure of their own.
    if source.kind() == io::ErrorKind::StorageFull {
        "; free space on that file system and try again"
    } else if source.kind() == io::ErrorKind::ReadOnlyFilesystem {
        "; mount that file system writable"
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        "; run as root of the machine"
    } else {
        ""
    }
}

/// Runs a blocking closure away from the async threads.
///
/// # Errors
/// The closure's own error; an I/O error when the closure died.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<io::Error> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The file's bytes, or `None` when there is no such file.
///
/// # Errors
/// Anything but "not found".
pub fn read_opt(path: &Path) -> Result<Option<Vec<u8>>, FsError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        // A path that leads through a file names nothing either.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(FsError::on("read", path)(error)),
    }
}

/// Is it a directory? What cannot be looked at is none.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

/// Replaces the file as a whole: a reader, or the next boot, sees the old bytes or the new ones. `mode` is set exactly.
///
/// # Errors
/// The old file is untouched and the temporary one is gone, unless only the last step (directory sync) failed.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    let temp = beside(path, "new");
    let written = (|| {
        remove_if_there(&temp)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp)?;
        file.write_all(bytes)?;
        // The mode given to open is narrowed by the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temp, path)
    })();
    if let Err(error) = written {
        if let Err(left) = remove_if_there(&temp) {
            tracing::debug!(error = %left, path = %temp.display(), "left a temporary file, the next write removes it");
        }
        return Err(FsError::on("write", path)(error));
    }
    sync_dir(parent(path))
}

/// Appends `bytes` and syncs them; creates the file (mode 0600, durably) when there is none. Returns the new length.
///
/// # Errors
/// The file has been cut back to its previous length, so that no half line stays; when even that failed, a torn tail
/// may remain and the error is still the first one.
pub fn append_sync(path: &Path, bytes: &[u8]) -> Result<u64, FsError> {
    let fail = |error| FsError::on("append to", path)(error);
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(fail)?;
    let before = file.metadata().map_err(fail)?.len();
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_data()) {
        if let Err(torn) = file.set_len(before).and_then(|()| file.sync_data()) {
            tracing::warn!(error = %torn, path = %path.display(), "could not cut off a half-written line");
        }
        return Err(fail(error));
    }
    if before == 0 {
        sync_dir(parent(path))?;
    }
    Ok(before + bytes.len() as u64)
}

/// `mkdir -p`, each new directory (mode 0700) made durable by syncing the one above it.
///
/// # Errors
/// The first directory that could not be made; a non-directory in the way is one.
pub fn create_dir_sync(path: &Path) -> Result<(), FsError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => {
            return Err(FsError::on("create directory", path)(io::ErrorKind::NotADirectory.into()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(FsError::on("create directory", path)(error)),
    }
    let above = parent(path);
    if above != path {
        create_dir_sync(above)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(path, private).map_err(FsError::on("set mode of", path))?;
        }
        // Someone else was faster; the sync below makes it durable all the same.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(FsError::on("create directory", path)(error)),
    }
    sync_dir(above)
}

/// SHA-256 of the content in lower-case hex, read in pieces.
///
/// # Errors
/// The file cannot be opened or read.
pub fn sha256_file(path: &Path) -> Result<String, FsError> {
    let mut file = File::open(path).map_err(FsError::on("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FsError::on("read", path)(error)),
        }
    }
}

/// Removes the file durably; `false` when there was none.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove_opt(path: &Path) -> Result<bool, FsError> {
    let removed = remove_if_there(path).map_err(FsError::on("remove", path))?;
    if removed {
        sync_dir(parent(path))?;
    }
    Ok(removed)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The directory cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), FsError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(FsError::on("sync directory", path))
}

/// The names in a directory, sorted; empty when it does not exist.
///
/// # Errors
/// It exists and cannot be read.
pub fn list_dir(path: &Path) -> Result<Vec<PathBuf>, FsError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FsError::on("list", path)(error)),
    };
    let mut found = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(FsError::on("list", path))?;
    found.sort();
    Ok(found)
}

/// Lower-case hex of some bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
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

/// Removes without a sync; `false` when there was nothing.
pub(in crate::host) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_whole_files_with_the_asked_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan");
        assert_eq!(read_opt(&path).unwrap(), None);
        write_atomic(&path, b"one", 0o640).unwrap();
        write_atomic(&path, b"two", 0o644).unwrap();
        assert_eq!(read_opt(&path).unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(list_dir(dir.path()).unwrap(), std::slice::from_ref(&path));
        assert!(remove_opt(&path).unwrap());
        assert!(!remove_opt(&path).unwrap());
    }

    #[test]
    fn a_failed_write_keeps_the_target_and_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("busy");
        fs::create_dir_all(path.join("child")).unwrap();
        let error = write_atomic(&path, b"x", 0o600).unwrap_err();
        assert!(error.to_string().contains("busy"), "{error}");
        assert_eq!(list_dir(dir.path()).unwrap(), [path]);
    }

    #[test]
    fn appends_grow_the_file_and_a_full_disk_leaves_no_half_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        assert_eq!(append_sync(&path, b"one\n").unwrap(), 4);
        assert_eq!(append_sync(&path, b"two\n").unwrap(), 8);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        let error = append_sync(Path::new("/dev/full"), b"three\n").unwrap_err();
        assert!(error.to_string().contains("free space"), "{error}");
    }

    #[test]
    fn makes_directories_all_the_way_and_refuses_a_file_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_sync(&deep).unwrap();
        create_dir_sync(&deep).unwrap();
        write_atomic(&deep.join("file"), b"", 0o600).unwrap();
        assert_eq!(
            create_dir_sync(&deep.join("file/d")).unwrap_err().source.kind(),
            io::ErrorKind::NotADirectory
        );
    }

    #[test]
    fn hashes_like_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        write_atomic(&path, b"abc", 0o600).unwrap();
        assert_eq!(
            sha256_file(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(free_bytes(dir.path()).unwrap() > 0);
        assert!(matches!(filesystem(Path::new("/proc")).unwrap(), FsKind::Other(_)));
        assert_eq!(filesystem(Path::new("/dev/shm")).unwrap(), FsKind::Tmpfs);
    }
}
