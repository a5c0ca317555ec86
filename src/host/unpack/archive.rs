//! From a tar stream to files: plain files and directories, nothing that could write or point elsewhere.

use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use crate::host::fs::{Fs, FsError, parent};
use crate::host::unpack::{UnpackError, Unpacked, new_file};

/// An entry costs at least this much of the limit, so that a million empty files are too big as well.
const ENTRY_COST: u64 = 512;
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
    let mut magic = [0; 4];
    let head = {
        let mut head = Vec::new();
        reader.take(4).read_to_end(&mut head).map_err(damaged)?;
        for (to, from) in magic.iter_mut().zip(&head) {
            *to = *from;
        }
        head
    };
    let whole = io::Cursor::new(head).chain(reader);
    let plain: Box<dyn Read + '_> = match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole).map_err(damaged)?),
        _ => Box::new(whole),
    };
    let packed = fs.length(source)?;
    let buffer = usize::try_from(packed.clamp(SMALL_BUFFER, BUFFER)).unwrap_or(1 << 14);
    let mut archive = tar::Archive::new(BufReader::with_capacity(buffer, plain));
    let mut unpacked = Unpacked { dir: dir.to_path_buf(), files: Vec::new(), bytes: 0 };
    let mut dirs = vec![dir.to_path_buf()];
    let mut cost = 0_u64;
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        if kind == tar::EntryType::XGlobalHeader {
            continue;
        }
        cost = cost.saturating_add(entry.size()).saturating_add(ENTRY_COST);
        if cost > limit {
            return Err(UnpackError::TooBig { path: source.to_path_buf(), limit });
        }
        let name = entry.path().map_err(damaged)?.into_owned();
        let relative = safe_path(&name)?;
        let target = dir.join(&relative);
        let unsafe_entry = |why| UnpackError::Unsafe { entry: name.display().to_string(), why };
        if kind == tar::EntryType::Directory {
            make_dirs(fs, dir, &relative, &mut dirs)?;
        } else if kind == tar::EntryType::Regular {
            make_dirs(fs, dir, parent(&relative), &mut dirs)?;
            let executable = entry.header().mode().map_err(damaged)? & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            let mut file = match new_file(fs, &target, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(unsafe_entry("is there twice"));
                }
                opened => opened.map_err(FsError::on("create", &target))?,
            };
            unpacked.bytes += copy_all(&mut entry, &mut *file).map_err(FsError::on("write", &target))?;
            file.sync().map_err(FsError::on("sync", &target))?;
            unpacked.files.push(relative);
        } else {
            return Err(unsafe_entry("is neither a plain file nor a directory"));
        }
    }
    for made in dirs.iter().rev() {
        fs.sync_dir(made)?;
    }
    Ok(unpacked)
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

/// `mkdir -p` below `dir`, remembering what is new for the sync at the end.
fn make_dirs(fs: &Fs, dir: &Path, relative: &Path, made: &mut Vec<PathBuf>) -> Result<(), FsError> {
    let mut at = dir.to_path_buf();
    for part in relative.components().filter(|part| matches!(part, Component::Normal(_))) {
        at.push(part);
        match fs.effects().create_dir(&at) {
            Ok(()) => made.push(at.clone()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs.is_dir(&at) => {}
            Err(error) => return Err(FsError::on("create directory", &at)(error)),
        }
    }
    Ok(())
}

fn copy_all(from: &mut impl Read, to: &mut (impl Write + ?Sized)) -> io::Result<u64> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(total);
        }
        to.write_all(buffer.get(..count).unwrap_or_default())?;
        total += count as u64;
    }
}
