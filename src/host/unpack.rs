//! Stages a release: hashes, decompresses and unpacks a tarball in one pass over the source, into a directory that gets
//! its real name only when the digest was the expected one. Fetches nothing, makes nothing live.

mod archive;
mod hashed;

use std::io;
use std::path::{Path, PathBuf};

use crate::host::effects::{FileKind, OpenFile, Opening};
use crate::host::fs::{Fs, FsError, parent};
use archive::unpack;
use hashed::hashed;

pub(in crate::host) use archive::copy_all;
pub(in crate::host) use hashed::in_passing;

/// What a release may unpack to, unless the caller knows better.
pub const DEFAULT_LIMIT: u64 = 2 << 30;
/// What was staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Where it is.
    pub dir: PathBuf,
    /// The files, relative to `dir`, in the archive's order.
    pub files: Vec<PathBuf>,
    /// The bytes of all files together.
    pub bytes: u64,
}

/// Why nothing was staged. There is no partial directory left in any case.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The source is not what the plan orders.
    #[error("{} has sha256 {found}, the plan orders {expected}; fetch it again or correct the plan", path.display())]
    WrongDigest {
        /// The source.
        path: PathBuf,
        /// What the plan says.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An entry that could write, or point, outside of the staging directory.
    #[error("the archive's entry {entry:?} {why}; use an artifact of the release")]
    Unsafe {
        /// The entry's name.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Unpacks to more than allowed.
    #[error("{} unpacks to more than {limit} bytes, or to more files than they could hold; use an artifact of the release", path.display())]
    TooBig {
        /// The source.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// The archive is damaged, or a file could not be read or written.
    #[error("cannot stage the artifact")]
    Io(#[from] FsError),
}

/// Verifies and unpacks `source` (tar, plain or gzip or zstd) to `dest_dir`, replacing what was staged there. Plain files
/// and directories only; the executable bit is kept, owners are not. All of it is on disk when this returns.
///
/// # Errors
/// See [`UnpackError`].
pub fn stage_tarball(
    fs: &Fs,
    source: &Path,
    expected_sha256: &str,
    dest_dir: &Path,
    limit: u64,
) -> Result<Unpacked, UnpackError> {
    let partial = partial_of(dest_dir);
    clear(fs, &partial)?;
    fs.create_dir_sync(&partial)?;
    let staged = unpack_verified(fs, source, expected_sha256, &partial, limit).and_then(|unpacked| {
        clear(fs, dest_dir)?;
        fs.effects().rename(&partial, dest_dir).map_err(FsError::on("rename to", dest_dir))?;
        fs.sync_dir(parent(dest_dir))?;
        Ok(Unpacked { dir: dest_dir.to_path_buf(), ..unpacked })
    });
    if staged.is_err() {
        clear(fs, &partial)?;
    }
    staged
}

/// Verifies and copies a bare binary to the file `dest`, mode 0755, in one pass; a directory as `source` stands for its
/// `bin/rke2` or `rke2`. Returns the number of bytes.
///
/// # Errors
/// See [`UnpackError`]; `dest` is untouched then.
pub fn stage_binary(fs: &Fs, source: &Path, expected_sha256: &str, dest: &Path) -> Result<u64, UnpackError> {
    let effects = fs.effects();
    let is_file = |path: &Path| effects.stat(path).is_ok_and(|found| found.kind == FileKind::File);
    let source = [source.join("bin/rke2"), source.join("rke2")]
        .into_iter()
        .find(|inside| is_file(inside))
        .unwrap_or_else(|| source.to_path_buf());
    let partial = partial_of(dest);
    fs.create_dir_sync(parent(dest))?;
    fs.remove_if_there(&partial).map_err(FsError::on("remove", &partial))?;
    let copied = (|| {
        let input = open(fs, &source)?;
        let (bytes, found) = hashed(input, effects.may_block(), |mut reader| {
            let mut file = new_file(fs, &partial, 0o755)?;
            let bytes = io::copy(&mut reader, &mut file)?;
            file.sync()?;
            Ok::<_, io::Error>(bytes)
        });
        let bytes = bytes.map_err(FsError::on("copy to", &partial))?;
        check(&source, expected_sha256, found.map_err(FsError::on("read", &source))?)?;
        effects.rename(&partial, dest).map_err(FsError::on("rename to", dest))?;
        fs.sync_dir(parent(dest))?;
        Ok(bytes)
    })();
    if copied.is_err() {
        fs.remove_if_there(&partial).map_err(FsError::on("remove", &partial))?;
    }
    copied
}

fn unpack_verified(
    fs: &Fs,
    source: &Path,
    expected: &str,
    dir: &Path,
    limit: u64,
) -> Result<Unpacked, UnpackError> {
    let input = open(fs, source)?;
    let (unpacked, found) =
        hashed(input, fs.effects().may_block(), |reader| unpack(fs, source, reader, dir, limit));
    // The digest first: a wrong file explains whatever else went wrong with it.
    check(source, expected, found.map_err(FsError::on("read", source))?)?;
    unpacked
}

/// A pipe or a device is no artifact: nobody knows when one ends.
fn open(fs: &Fs, source: &Path) -> Result<Box<dyn io::Read + Send>, FsError> {
    let found = fs.effects().stat(source).map_err(FsError::on("look at", source))?;
    if found.kind != FileKind::File {
        return Err(FsError::on("read", source)(io::Error::other("it is no plain file")));
    }
    fs.effects().open(source).map_err(FsError::on("open", source))
}

fn check(path: &Path, expected: &str, found: String) -> Result<(), UnpackError> {
    if found.eq_ignore_ascii_case(expected.trim()) {
        return Ok(());
    }
    Err(UnpackError::WrongDigest { path: path.to_path_buf(), expected: expected.to_owned(), found })
}

/// Where an unfinished [`stage_tarball`] or [`stage_binary`] writes.
pub(super) fn partial_of(dest: &Path) -> PathBuf {
    let mut name = dest.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

fn clear(fs: &Fs, dir: &Path) -> Result<(), FsError> {
    match fs.effects().remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FsError::on("remove", dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn new_file(fs: &Fs, path: &Path, mode: u32) -> io::Result<Box<dyn OpenFile>> {
    let mut file = fs.effects().create(path, Opening::New, mode)?;
    file.set_mode(mode)?;
    Ok(file)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests look past the door they test")]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entry(archive: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, mode: u32, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        // Past the checks of the builder, which would not let bad names through.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_cksum();
        archive.append(&header, data).unwrap();
    }

    fn release() -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, "./bin/", tar::EntryType::Directory, 0o755, b"");
        entry(&mut archive, "./bin/rke2", tar::EntryType::Regular, 0o4755, &vec![7; 3 << 20]);
        entry(&mut archive, "share/notes.txt", tar::EntryType::Regular, 0o600, b"notes");
        archive.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn stage(bytes: &[u8], limit: u64) -> (tempfile::TempDir, Result<Unpacked, UnpackError>) {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::write(&source, bytes).unwrap();
        let digest = Fs::kernel().sha256_file(&source).unwrap();
        let staged = stage_tarball(&Fs::kernel(), &source, &digest, &dir.path().join("stage/v1"), limit);
        (dir, staged)
    }

    #[test]
    fn unpacks_plain_gzip_and_zstd_with_only_the_executable_bit() {
        let zstd = zstd::encode_all(&release()[..], 1).unwrap();
        for source in [release(), gzip(&release()), zstd] {
            let (dir, staged) = stage(&source, DEFAULT_LIMIT);
            let staged = staged.unwrap();
            assert_eq!(staged.files, [Path::new("bin/rke2"), Path::new("share/notes.txt")]);
            assert_eq!(staged.bytes, (3 << 20) + 5);
            let binary = staged.dir.join("bin/rke2");
            assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o7777, 0o755);
            assert_eq!(fs::read(binary).unwrap(), vec![7; 3 << 20]);
            assert_eq!(Fs::kernel().list_dir(&dir.path().join("stage")).unwrap(), [staged.dir]);
        }
    }

    #[test]
    fn staging_again_replaces_what_was_there() {
        let (dir, staged) = stage(&gzip(&release()), DEFAULT_LIMIT);
        let dest = staged.unwrap().dir;
        fs::write(dest.join("stale"), "x").unwrap();
        let source = dir.path().join("source");
        stage_tarball(
            &Fs::kernel(),
            &source,
            &Fs::kernel().sha256_file(&source).unwrap(),
            &dest,
            DEFAULT_LIMIT,
        )
        .unwrap();
        assert!(!dest.join("stale").exists());
    }

    #[test]
    fn a_wrong_digest_or_a_torn_archive_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let dest = dir.path().join("stage/v1");
        fs::write(&source, gzip(&release())).unwrap();
        let error = stage_tarball(&Fs::kernel(), &source, &"0".repeat(64), &dest, DEFAULT_LIMIT).unwrap_err();
        assert!(
            matches!(&error, UnpackError::WrongDigest { found, .. } if *found == Fs::kernel().sha256_file(&source).unwrap())
        );
        let torn = gzip(&release());
        let (torn_dir, staged) = stage(&torn[..torn.len() / 2], DEFAULT_LIMIT);
        assert!(matches!(staged, Err(UnpackError::Io(_))));
        assert!(Fs::kernel().list_dir(&dir.path().join("stage")).unwrap().is_empty());
        assert!(Fs::kernel().list_dir(&torn_dir.path().join("stage")).unwrap().is_empty());
    }

    #[test]
    fn refuses_entries_that_could_leave_the_directory() {
        let regular = tar::EntryType::Regular;
        for (name, kind) in [
            ("/etc/passwd", regular),
            ("bin/../../up", regular),
            ("bin/link", tar::EntryType::Symlink),
            ("bin/hard", tar::EntryType::Link),
            ("dev/null", tar::EntryType::Char),
            ("pipe", tar::EntryType::Fifo),
            ("bin/rke2", regular),
        ] {
            let mut archive = tar::Builder::new(Vec::new());
            entry(&mut archive, "bin/rke2", regular, 0o755, b"x");
            entry(&mut archive, name, kind, 0o755, b"");
            let (dir, staged) = stage(&archive.into_inner().unwrap(), DEFAULT_LIMIT);
            assert!(matches!(&staged, Err(UnpackError::Unsafe { .. })), "{name}: {staged:?}");
            assert!(Fs::kernel().list_dir(&dir.path().join("stage")).unwrap().is_empty());
        }
    }

    #[test]
    fn refuses_what_would_fill_the_disk() {
        let (_dir, staged) = stage(&gzip(&release()), 1 << 20);
        assert!(matches!(staged, Err(UnpackError::TooBig { .. })));
    }

    #[test]
    fn stages_a_bare_binary_and_one_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let release = dir.path().join("release/bin");
        fs::create_dir_all(&release).unwrap();
        fs::write(release.join("rke2"), "binary").unwrap();
        let digest = Fs::kernel().sha256_file(&release.join("rke2")).unwrap();
        let dest = dir.path().join("stage/rke2");
        for source in [release.join("rke2"), dir.path().join("release")] {
            assert_eq!(stage_binary(&Fs::kernel(), &source, &digest, &dest).unwrap(), 6);
            assert_eq!(fs::metadata(&dest).unwrap().permissions().mode() & 0o7777, 0o755);
        }
        let wrong = stage_binary(&Fs::kernel(), &release, &"0".repeat(64), &dest);
        assert!(wrong.is_err());
        assert_eq!(Fs::kernel().list_dir(&dir.path().join("stage")).unwrap(), [dest]);
    }
}
