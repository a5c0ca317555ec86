//! From a tar stream to files: plain files and directories, nothing that could write or point elsewhere.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use crate::host::fs::{Fs, FsError, parent};
use crate::host::tar_stream::{Entry, Kind, WalkError, plain, walk};
use crate::host::unpack::{UnpackError, Unpacked, new_file};

/// Room for unpacked bytes; less for a small archive.
const BUFFER: u64 = 1 << 20;
const SMALL_BUFFER: u64 = 1 << 14;

/// Unpacks into `dir`, which exists and is empty, and syncs all of it.
pub(super) fn unpack(
    fs: &Fs,
    source: &Path,
    reader: &mut dyn Read,
    dir: &Path,
    limit: u64,
) -> Result<Unpacked, UnpackError> {
    let damaged = |error| UnpackError::Io(FsError::on("unpack", source)(error));
    let packed = fs.length(source)?;
    let buffer = usize::try_from(packed.clamp(SMALL_BUFFER, BUFFER)).unwrap_or(1 << 14);
    let mut into = Into { fs, dir, made: vec![dir.to_path_buf()], files: Vec::new(), bytes: 0, buffer };
    let mut reader = plain(reader).map_err(damaged)?;
    walk(&mut *reader, limit, buffer, |entry, content| into.put(entry, content)).map_err(
        |error| match error {
            WalkError::TooBig => UnpackError::TooBig { path: source.to_path_buf(), limit },
            WalkError::Damaged(error) => damaged(error),
            WalkError::Ended(error) => error,
        },
    )?;
    for made in into.made.iter().rev() {
        fs.sync_dir(made)?;
    }
    Ok(Unpacked { dir: dir.to_path_buf(), files: into.files, bytes: into.bytes })
}

/// What has been unpacked so far.
struct Into<'a> {
    fs: &'a Fs,
    dir: &'a Path,
    made: Vec<PathBuf>,
    files: Vec<PathBuf>,
    bytes: u64,
    buffer: usize,
}

impl Into<'_> {
    fn put(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), UnpackError> {
        let relative = safe_path(&entry.name)?;
        let target = self.dir.join(&relative);
        let refused = |why| UnpackError::Unsafe { entry: entry.name.display().to_string(), why };
        match entry.kind {
            Kind::Directory => self.make_dirs(&relative)?,
            Kind::Other => return Err(refused("is neither a plain file nor a directory")),
            Kind::File { executable } => {
                self.make_dirs(parent(&relative))?;
                let mut file = match new_file(self.fs, &target, if executable { 0o755 } else { 0o644 }) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        return Err(refused("is there twice"));
                    }
                    opened => opened.map_err(FsError::on("create", &target))?,
                };
                self.bytes +=
                    copy_all(content, &mut *file, self.buffer).map_err(FsError::on("write", &target))?;
                file.sync().map_err(FsError::on("sync", &target))?;
                self.files.push(relative);
            }
        }
        Ok(())
    }

    /// `mkdir -p` below the directory, remembering what is new for the sync at the end.
    fn make_dirs(&mut self, relative: &Path) -> Result<(), FsError> {
        let mut at = self.dir.to_path_buf();
        for part in relative.components().filter(|part| matches!(part, Component::Normal(_))) {
            at.push(part);
            match self.fs.effects().create_dir(&at) {
                Ok(()) => self.made.push(at.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.fs.is_dir(&at) => {}
                Err(error) => return Err(FsError::on("create directory", &at)(error)),
            }
        }
        Ok(())
    }
}

/// The entry's name without `.` components; refuses every name that could leave the directory.
fn safe_path(name: &Path) -> Result<PathBuf, UnpackError> {
    let mut relative = PathBuf::new();
    for component in name.components() {
        let why = match component {
            Component::Normal(part) => {
                relative.push(part);
                continue;
            }
            Component::CurDir => continue,
            Component::ParentDir => "climbs out with ..",
            Component::RootDir | Component::Prefix(_) => "is absolute",
        };
        return Err(UnpackError::Unsafe { entry: name.display().to_string(), why });
    }
    Ok(relative)
}

/// All of `from` to `to`, in pieces of at most `piece` bytes.
pub(in crate::host) fn copy_all(
    from: &mut (impl Read + ?Sized),
    to: &mut (impl Write + ?Sized),
    piece: usize,
) -> io::Result<u64> {
    let mut buffer = vec![0; piece.min(256 * 1024)];
    let mut total = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(buffer.get(..count).unwrap_or_default())?;
        total += count as u64;
    }
}
