//! Archives of images that RKE2 is to import when it starts: each is brought to a folder that RKE2 does not look into, checked,
//! and renamed into the one that it does, under a name with its version. Those of other versions stay: the way back needs them.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use crate::flow::artifacts::ImageArchive;
use crate::flow::place::Place;
use crate::flow::plan_error::PlanError;
use crate::flow::room::BESIDE_ARCHIVES;
use crate::flow::version::Rke2Version;
use crate::host::effects::{FileKind, Opening};
use crate::host::fetch::{FetchError, Wanted, fetch};
use crate::host::fs::{Fs, FsError, parent};
use crate::host::rke2_config::{Rke2Config, Rke2ConfigError};
use crate::host::root::HostRoot;
use crate::host::tar_stream::plain;
use crate::host::unpack::{copy_all, in_passing};

/// More than all of RKE2's images, not packed (reference `rke2-and-rancher.md` §1.4).
const LIMIT: u64 = 8 << 30;
/// Copied at once.
const PIECE: usize = 256 << 10;

/// Why an archive is not in place. None that is half-written is where RKE2 would find it, in any case.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// The plan's own fault.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is not what the plan orders.
    #[error("{} has sha256 {found}, the plan orders {expected}; put the right archive there or correct the plan", path.display())]
    WrongDigest {
        /// The archive.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What the plan says.
        expected: String,
    },
    /// RKE2 could not import it.
    #[error("{name} is no archive that RKE2 can import ({why}); use one of the release")]
    Unfit {
        /// The archive's name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The disk would be full.
    #[error("{} has {bytes} bytes, {free} are free in {}, {BESIDE_ARCHIVES} must stay free; make room", path.display(), folder.display())]
    NoRoom {
        /// The archive.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// What there is.
        free: u64,
        /// Where.
        folder: PathBuf,
    },
    /// RKE2's configuration cannot be read, so nobody knows where its data is.
    #[error(transparent)]
    Config(#[from] Rke2ConfigError),
    /// The disk.
    #[error(transparent)]
    Io(#[from] FsError),
}

impl From<io::Error> for ImagesError {
    fn from(error: io::Error) -> Self {
        Self::Io(FsError::on("stage", Path::new("the images"))(error))
    }
}

/// What was brought; as this process sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Staged {
    /// Where the archives are.
    pub files: Vec<PathBuf>,
    /// Those of them that were not there before.
    pub new: Vec<PathBuf>,
}

/// Brings the archives into place. One that is there already, with the plan's digest, is left as it is.
///
/// # Errors
/// See [`ImagesError`]; of what was brought before that nothing stays.
pub async fn stage(
    root: &HostRoot,
    archives: &[ImageArchive],
    version: &Rke2Version,
    deadline: Instant,
) -> Result<Staged, ImagesError> {
    let mut staged = Staged::default();
    if archives.is_empty() {
        return Ok(staged);
    }
    let fs = root.fs();
    let folder = Rke2Config::read(root)?.images(root)?;
    let aside = aside(&folder);
    let brought = stage_all(root, archives, version, (&folder, &aside), deadline, &mut staged).await;
    let tidied = fs.blocking(move |fs| fs.remove_tree(&aside).map_err(ImagesError::from)).await;
    match brought.and(tidied) {
        Ok(()) => Ok(staged),
        Err(error) => {
            if let Err(left) = take_back(root, staged).await {
                // Why it was refused says more.
                tracing::warn!(error = &left as &dyn std::error::Error, "archives of images are left");
            }
            Err(error)
        }
    }
}

/// Removes what was not there before.
///
/// # Errors
/// It cannot be removed.
pub async fn take_back(root: &HostRoot, staged: Staged) -> Result<(), ImagesError> {
    let remove = move |fs: &Fs| staged.new.iter().try_for_each(|file| fs.remove_opt(file).map(drop));
    root.fs().blocking(move |fs| remove(fs).map_err(ImagesError::from)).await
}

/// Removes what a killed agent had not brought whole. Archives in place stay: the next attempt needs them, and they harm nobody.
///
/// # Errors
/// It is there and cannot be removed.
pub fn tidy(root: &HostRoot, config: &Rke2Config) -> Result<(), FsError> {
    root.fs().remove_tree(&aside(&config.images(root)?))
}

/// On the same mount, and nothing that RKE2 watches.
fn aside(folder: &Path) -> PathBuf {
    parent(folder).join(".upgrade-agent-images")
}

async fn stage_all(
    root: &HostRoot,
    archives: &[ImageArchive],
    version: &Rke2Version,
    (folder, aside): (&Path, &Path),
    deadline: Instant,
    staged: &mut Staged,
) -> Result<(), ImagesError> {
    let fs = root.fs();
    for (number, archive) in archives.iter().enumerate() {
        let name = archive.staged_name(version);
        let (target, partial) = (folder.join(&name), aside.join(&name));
        staged.files.push(target.clone());
        let (there, expected) = (target.clone(), archive.sha256.clone());
        if fs.blocking(move |fs| is_in_place(fs, &there, &expected)).await? {
            continue;
        }
        let expected = archive.sha256.clone();
        match archive.place(number)? {
            Place::Disk(path) => {
                let source = root.resolve(&path).map_err(FsError::on("follow", Path::new(&path)))?;
                let into = partial.clone();
                fs.blocking(move |fs| copy(fs, &source, &expected, &into)).await?;
            }
            Place::Server { url, .. } => {
                let wanted = Wanted { spare: BESIDE_ARCHIVES, ..Wanted::new(&url, &expected, LIMIT) };
                let bytes = fetch(fs, &wanted, &partial, deadline).await?;
                tracing::debug!(url, bytes, "fetched an archive of images");
            }
            Place::Registry(_) | Place::Archive { .. } => continue,
        }
        let (new, replaced) = (target.clone(), fs.effects().stat_link(&target).is_ok());
        fs.blocking(move |fs| {
            check_head(fs, &partial, &name)?;
            let on = |action| FsError::on(action, &target);
            fs.effects().set_mode(&partial, 0o644).map_err(on("set mode of"))?;
            fs.settle(&partial)?;
            fs.create_dir_sync(parent(&target))?;
            fs.effects().rename(&partial, &target).map_err(on("rename to"))?;
            Ok::<_, ImagesError>(fs.sync_dir(parent(&target))?)
        })
        .await?;
        if !replaced {
            staged.new.push(new);
        }
    }
    Ok(())
}

/// Also makes it durable: whoever renamed it may have been killed before that.
fn is_in_place(fs: &Fs, target: &Path, expected: &str) -> Result<bool, ImagesError> {
    match fs.effects().stat_link(target) {
        Ok(found) if found.kind == FileKind::File => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(FsError::on("read", target)(error).into()),
    }
    if !fs.sha256_file(target)?.eq_ignore_ascii_case(expected) {
        return Ok(false);
    }
    fs.settle(target)?;
    Ok(true)
}

/// Copies and hashes in one reading.
fn copy(fs: &Fs, source: &Path, expected: &str, dest: &Path) -> Result<(), ImagesError> {
    let on = |action| FsError::on(action, dest);
    let bytes = fs.length(source)?;
    fs.create_dir_sync(parent(dest))?;
    let free = fs.free_bytes(parent(dest))?;
    if bytes.saturating_add(BESIDE_ARCHIVES) > free {
        let folder = parent(dest).to_path_buf();
        return Err(ImagesError::NoRoom { path: source.to_path_buf(), bytes, free, folder });
    }
    let input = fs.effects().open(source).map_err(FsError::on("open", source))?;
    fs.remove_if_there(dest).map_err(on("remove"))?;
    let mut file = fs.effects().create(dest, Opening::New, 0o600).map_err(on("create"))?;
    let (copied, found) = in_passing(input, |reader| copy_all(reader, &mut *file, PIECE));
    copied.map_err(on("copy to"))?;
    let found = found.map_err(FsError::on("read", source))?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(ImagesError::WrongDigest { path: source.to_path_buf(), found, expected: expected.to_owned() })
}

/// RKE2 refuses windows above 32 MiB, and finds that out when the node has no other version any more.
fn check_head(fs: &Fs, file: &Path, name: &str) -> Result<(), ImagesError> {
    if [".tar.lz4", ".tar.bz2", ".tbz"].iter().any(|ending| name.ends_with(ending)) {
        return Ok(());
    }
    let unfit = |why: String| ImagesError::Unfit { name: name.to_owned(), why };
    let mut input = fs.effects().open(file).map_err(FsError::on("open", file))?;
    let mut head = [0; 512];
    let read = plain(&mut *input).and_then(|mut content| content.read_exact(&mut head));
    read.map_err(|error| unfit(error.to_string()))?;
    match tar::Header::from_byte_slice(&head).cksum() {
        Ok(_) if head.iter().any(|byte| *byte != 0) => Ok(()),
        Ok(_) => Err(unfit("it is empty".to_owned())),
        Err(error) => Err(unfit(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
