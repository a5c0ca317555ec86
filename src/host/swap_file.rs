//! Makes a staged file live in one `rename(2)` and keeps the old one beside it. Does not decide whether it may: the
//! caller holds the permit. At every instant, and after a power cut at any instant, the live path is one whole binary.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::effects::{FileKind, Opening, Stat};
use crate::host::fs::{Fs, FsError, beside, parent};
use crate::host::unpack::{self, UnpackError};
use crate::mutation::{self, Mutation};
use crate::telemetry::chain;

/// Why nothing was swapped. In all cases but [`SwapError::NotDurable`] the live file is the old one.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// There is no staged file: never staged, or already swapped before a crash.
    #[error("nothing is staged at {}; compare the live file's digest, it may be swapped already", staged.display())]
    NothingStaged {
        /// Where it should be.
        staged: PathBuf,
    },
    /// A symlink, directory or device where a plain file must be.
    #[error("{} is not a plain file; point the plan at the file itself", path.display())]
    NotAFile {
        /// What is in the way.
        path: PathBuf,
    },
    /// `rename` and `link` only work within one mount.
    #[error("{} and {} are on different mounts; stage inside the install prefix of the live file", live.display(), other.display())]
    OtherMount {
        /// The live file.
        live: PathBuf,
        /// The one elsewhere.
        other: PathBuf,
    },
    /// The copy could not be made: no room, or another file than expected.
    #[error("could not keep a copy of the binary, nothing was changed")]
    NotKept(#[from] UnpackError),
    /// A step before the rename, or the rename itself, failed.
    #[error("could not swap, the old file is still live")]
    StillOld(#[source] FsError),
    /// The new file is live, but the directory could not be synced.
    #[error("the new file is live at {} but not yet durable; check the disk, then swap again", live.display())]
    NotDurable {
        /// The live file.
        live: PathBuf,
        /// The failed sync.
        #[source]
        source: FsError,
    },
}

/// Replaces `live` by `staged`, and leaves the old content at `previous`, unless something is kept there already.
///
/// Guarantees: owner, mode and `SELinux` label of the live file are kept; a process that runs the old file keeps running it; a second
/// call after a crash before the rename does the same again, one after it answers [`SwapError::NothingStaged`] and
/// touches nothing (`previous` above all).
///
/// # Errors
/// See [`SwapError`].
pub fn swap(fs: &Fs, live: &Path, staged: &Path, previous: &Path) -> Result<(), SwapError> {
    let old = plain_file(fs, live)?.ok_or_else(|| missing(live))?;
    // Before anything else: after a finished swap, linking live to previous would lose the old file for good.
    let new =
        plain_file(fs, staged)?.ok_or_else(|| SwapError::NothingStaged { staged: staged.to_path_buf() })?;
    let keep = fs.effects().stat(parent(previous)).map_err(still_old("look at", parent(previous)))?;
    for (other, device) in [(staged, new.device), (previous, keep.device)] {
        if device != old.device {
            return Err(SwapError::OtherMount { live: live.to_path_buf(), other: other.to_path_buf() });
        }
    }
    dress_like(fs, live, staged, old, new)?;
    unlock(fs, live)?;
    // What [`keep`] has put there was looked at; what is live by now may be somebody else's since.
    if plain_file(fs, previous)?.is_none() {
        keep_previous(fs, live, previous)?;
    }
    if mutation::is_on(Mutation::CopyOverLive) {
        return copy_over(fs, live, staged);
    }
    fs.effects().rename(staged, live).map_err(across(live, staged, "rename"))?;
    let not_durable = |source| SwapError::NotDurable { live: live.to_path_buf(), source };
    fs.sync_dir(parent(live)).map_err(not_durable)?;
    if parent(staged) != parent(live) {
        fs.sync_dir(parent(staged)).map_err(not_durable)?;
    }
    Ok(())
}

/// Keeps a copy of `source`, of that digest, as `kept`, durably, in the owner, mode and label of the live file. A copy, because who
/// writes into the live file would change a second name of it as well.
///
/// # Errors
/// See [`SwapError`]; [`SwapError::NotKept`] when there is no room, or `source` is another file by now. The live file is untouched.
pub fn keep(fs: &Fs, live: &Path, source: &Path, sha256: &str, kept: &Path) -> Result<(), SwapError> {
    let old = plain_file(fs, live)?.ok_or_else(|| missing(live))?;
    plain_file(fs, kept)?;
    unlock(fs, kept)?;
    unpack::stage_binary(fs, source, sha256, kept)?;
    let copy = plain_file(fs, kept)?.ok_or_else(|| missing(kept))?;
    dress_like(fs, live, kept, old, copy)
}

/// Removes a kept copy, and what is left of one that was not finished; none is fine.
///
/// # Errors
/// The disk's.
pub fn discard(fs: &Fs, kept: &Path) -> Result<(), SwapError> {
    unlock(fs, kept)?;
    for path in [kept, &unpack::partial_of(kept)] {
        fs.remove_if_there(path).map_err(still_old("remove", path))?;
    }
    fs.sync_dir(parent(kept)).map_err(SwapError::StillOld)
}

/// Removes what calls that were cut off have left beside a file that they were about; none is fine.
///
/// # Errors
/// The disk's.
pub fn sweep(fs: &Fs, path: &Path) -> Result<(), SwapError> {
    let copies = [By::Agent, By::Guard].map(|by| by.copy_of(path)).into_iter();
    let left = copies.flat_map(|copy| [unpack::partial_of(&copy), copy]);
    for left in left.chain([beside(path, "link")]) {
        fs.remove_if_there(&left).map_err(still_old("remove", &left))?;
    }
    Ok(())
}

/// Makes the live file one that nobody can replace, change or remove, root included, until [`unlock`]. It keeps its other names.
///
/// # Errors
/// The file system has no such flag, or does not let us; nothing changes then.
pub fn lock(fs: &Fs, live: &Path) -> Result<(), FsError> {
    fs.effects().set_immutable(live, true).map_err(FsError::on("make immutable", live))
}

/// Takes that flag off, if it is on; no file is fine.
///
/// # Errors
/// It cannot be taken off, or not be seen.
pub fn unlock(fs: &Fs, path: &Path) -> Result<(), SwapError> {
    match fs.effects().is_immutable(path) {
        Ok(false) => Ok(()),
        Ok(true) => {
            fs.effects().set_immutable(path, false).map_err(still_old("take the immutable flag off", path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(still_old("look at the flags of", path)(error)),
    }
}

/// Who puts a binary back. The boot guard asks nobody whether the agent is at it as well: each has a name of its own for what it has
/// not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The agent, or whoever rolls back by hand.
    Agent,
    /// systemd, before a start.
    Guard,
}

impl By {
    fn copy_of(self, live: &Path) -> PathBuf {
        beside(live, if self == Self::Guard { "guarded" } else { "back" })
    }
}

/// Makes a copy of the file `kept`, of that digest, live in one rename; what was live before, if anything was, gets the name
/// `replaced`; a link that was live is gone, and what it points at stays. May be called again after a crash half-way. Where no
/// copy can be made the live path becomes a second name of `kept`: a full disk must not keep RKE2 from starting.
///
/// # Errors
/// See [`SwapError`]; the live path is then what it was, or the kept file.
pub fn put_back(
    fs: &Fs,
    by: By,
    live: &Path,
    (kept, sha256): (&Path, &str),
    replaced: &Path,
) -> Result<(), SwapError> {
    let dress =
        plain_file(fs, kept)?.ok_or_else(|| SwapError::NothingStaged { staged: kept.to_path_buf() })?;
    unlock(fs, kept)?;
    match plain_file(fs, live) {
        Ok(Some(_)) => {
            unlock(fs, live)?;
            if let Err(error) = keep_replaced(fs, live, replaced) {
                let error = chain(&error);
                tracing::warn!(error, "what lay at the live path is not kept");
            }
        }
        // Nothing can be renamed over a folder.
        Err(SwapError::NotAFile { .. }) if is_folder(fs, live) => {
            let free = free_name(fs, replaced)?;
            fs.effects().rename(live, &free).map_err(still_old("move away", live))?;
        }
        Ok(None) | Err(SwapError::NotAFile { .. }) => {}
        Err(error) => return Err(error),
    }
    let temp = by.copy_of(live);
    match copy(fs, (kept, dress), sha256, &temp) {
        Ok(()) => {}
        Err(error @ SwapError::NotKept(UnpackError::WrongDigest { .. })) => return Err(error),
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(error, "no copy of the kept binary can be made; it gets a second name");
            second_name(fs, live, (kept, sha256), &temp)?;
        }
    }
    fs.effects().rename(&temp, live).map_err(across(live, kept, "rename"))?;
    // rename(2) does nothing when both names are the same file already.
    fs.remove_if_there(&temp).map_err(still_old("remove", &temp))?;
    let not_durable = |source| SwapError::NotDurable { live: live.to_path_buf(), source };
    fs.sync_dir(parent(live)).map_err(not_durable)
}

fn copy(fs: &Fs, (kept, dress): (&Path, Stat), sha256: &str, temp: &Path) -> Result<(), SwapError> {
    fs.remove_if_there(temp).map_err(still_old("remove", temp))?;
    unpack::stage_binary(fs, kept, sha256, temp)?;
    let copy = plain_file(fs, temp)?.ok_or_else(|| missing(temp))?;
    dress_like(fs, kept, temp, dress, copy)
}

fn second_name(fs: &Fs, live: &Path, (kept, sha256): (&Path, &str), temp: &Path) -> Result<(), SwapError> {
    let found = fs.sha256_file(kept).map_err(UnpackError::Io)?;
    if found != sha256 {
        let (path, expected) = (kept.to_path_buf(), sha256.to_owned());
        return Err(UnpackError::WrongDigest { path, expected, found }.into());
    }
    fs.remove_if_there(temp).map_err(still_old("remove", temp))?;
    fs.effects().hard_link(kept, temp).map_err(across(live, kept, "link"))
}

/// A folder takes no other's place: the first of a few names that nobody has.
fn free_name(fs: &Fs, path: &Path) -> Result<PathBuf, SwapError> {
    let name = |number: u32| match number {
        1 => path.to_path_buf(),
        _ => PathBuf::from(format!("{}.{number}", path.display())),
    };
    let is_free = |path: &PathBuf| {
        let found = fs.effects().stat_link(path);
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    (1..=99).map(name).find(is_free).ok_or_else(|| SwapError::NotAFile { path: path.to_path_buf() })
}

/// What `tar` and `cp` do, and what must never happen to a live binary.
fn copy_over(fs: &Fs, live: &Path, staged: &Path) -> Result<(), SwapError> {
    let copied = (|| {
        let bytes = fs.effects().read(staged)?;
        fs.effects().remove_file(live)?;
        let mut file = fs.effects().create(live, Opening::New, 0o755)?;
        file.write_all(&bytes)?;
        file.sync()
    })();
    copied.map_err(still_old("copy over", live))
}

/// Owner, mode and `SELinux` label of the live file, on disk before the name changes. Where systemd runs under `SELinux`, a program of
/// another label is not let out of its domain, or not executed at all.
fn dress_like(fs: &Fs, live: &Path, staged: &Path, old: Stat, new: Stat) -> Result<(), SwapError> {
    let effects = fs.effects();
    let label = effects.label(live).map_err(still_old("read the SELinux label of", live))?;
    if let Some(label) = label {
        let worn = effects.label(staged).map_err(still_old("read the SELinux label of", staged))?;
        if worn.as_ref() != Some(&label) {
            effects.set_label(staged, &label).map_err(still_old("set the SELinux label of", staged))?;
        }
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        effects.set_owner(staged, old.uid, old.gid).map_err(still_old("change the owner of", staged))?;
    }
    if old.mode != new.mode {
        effects.set_mode(staged, old.mode).map_err(still_old("change the mode of", staged))?;
    }
    effects.sync(staged).map_err(still_old("sync", staged))
}

/// A second name for the old file. Link and rename, because `link(2)` alone cannot replace an older `previous`.
fn keep_previous(fs: &Fs, live: &Path, previous: &Path) -> Result<(), SwapError> {
    let temp = beside(previous, "link");
    fs.remove_if_there(&temp).map_err(still_old("remove", &temp))?;
    fs.effects().hard_link(live, &temp).map_err(across(live, previous, "link"))?;
    fs.effects().rename(&temp, previous).map_err(across(live, previous, "rename"))?;
    // rename(2) does nothing at all when both names are the same file already, so the temporary one may be left.
    fs.remove_if_there(&temp).map_err(still_old("remove", &temp))?;
    fs.sync_dir(parent(previous)).map_err(SwapError::StillOld)
}

/// Whose it was is good to know, and no reason to leave it where it is.
fn keep_replaced(fs: &Fs, live: &Path, replaced: &Path) -> Result<(), SwapError> {
    plain_file(fs, replaced)?;
    unlock(fs, replaced)?;
    keep_previous(fs, live, replaced)
}

fn plain_file(fs: &Fs, path: &Path) -> Result<Option<Stat>, SwapError> {
    match fs.effects().stat_link(path) {
        Ok(found) if found.kind == FileKind::File => Ok(Some(found)),
        Ok(_) => Err(SwapError::NotAFile { path: path.to_path_buf() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(still_old("look at", path)(error)),
    }
}

fn is_folder(fs: &Fs, path: &Path) -> bool {
    fs.effects().stat_link(path).is_ok_and(|found| found.kind == FileKind::Dir)
}

fn missing(live: &Path) -> SwapError {
    SwapError::StillOld(FsError::on("find the live file", live)(io::ErrorKind::NotFound.into()))
}

fn still_old(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SwapError {
    let path = path.to_path_buf();
    move |error| SwapError::StillOld(FsError::on(action, &path)(error))
}

/// Two bind mounts of one device share `st_dev`, so EXDEV can still come from the call itself.
fn across(live: &Path, other: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SwapError {
    let (live, other) = (live.to_path_buf(), other.to_path_buf());
    move |error| {
        if error.kind() == io::ErrorKind::CrossesDevices {
            SwapError::OtherMount { live, other }
        } else {
            SwapError::StillOld(FsError::on(action, &other)(error))
        }
    }
}

#[cfg(test)]
#[path = "swap_file_tests.rs"]
mod tests;
