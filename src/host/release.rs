//! Brings a plan's release to this machine and unpacks it: from the disk, a server, a registry or an archive of images. What
//! it is must be what the plan orders, and what a file of sums says besides. Makes nothing live.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use crate::flow::artifacts::Artifacts;
use crate::flow::place::Place;
use crate::flow::plan_error::PlanError;
use crate::flow::sums::{self, SumsError};
use crate::host::fetch::{FetchError, Wanted, fetch};
use crate::host::fs::{Fs, FsError, parent};
use crate::host::oci::{self, OciError};
use crate::host::root::HostRoot;
use crate::host::unpack::{self, UnpackError};

/// No release of RKE2 unpacks to more (reference `rke2-and-rancher.md` §1.4: 140 MB), and preflight has seen that there is
/// room for so much; a bomb does.
const UNPACKED_LIMIT: u64 = 500 << 20;
/// No tarball of RKE2 is so large.
pub const FETCHED_LIMIT: u64 = 500 << 20;
/// No file of sums is longer.
const SUMS_LIMIT: u64 = 1 << 20;
/// How the file of sums is called in a release, but for the architecture.
const SUMS: &str = "sha256sum";

/// Why there is no release. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The plan's own fault.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The image has none.
    #[error(transparent)]
    Image(#[from] OciError),
    /// The file of sums does not bear the plan out.
    #[error(transparent)]
    Sums(#[from] SumsError),
    /// It is not what the plan orders, or not safe.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// It is no release.
    #[error("{} {why}", path.display())]
    Unfit {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it, and the cure.
        why: String,
    },
    /// The disk.
    #[error(transparent)]
    Io(#[from] FsError),
}

/// How the architecture of this machine is called in the names of a release.
#[must_use]
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Stages the release in the folder `dest` of the machine; gives its binary's path inside. What has to be fetched comes to a
/// folder beside `dest` that is gone afterwards, and that a killed agent's successor goes on with.
///
/// # Errors
/// See [`ReleaseError`]; the disk is as it was before.
pub async fn stage(
    root: &HostRoot,
    artifacts: &Artifacts,
    dest: &Path,
    deadline: Instant,
) -> Result<PathBuf, ReleaseError> {
    let fs = root.fs();
    let dest = root.at(dest);
    let folder = fetched(&dest);
    let staged = fetch_and_unpack(root, artifacts, &folder, &dest, deadline).await;
    let is_staged = staged.is_ok();
    let tidied = fs.blocking(move |fs| {
        fs.remove_tree(&folder)?;
        if !is_staged {
            remove_if_empty(fs, parent(&dest))?;
        }
        Ok::<_, ReleaseError>(())
    });
    let tidied = tidied.await;
    // Why it failed says more than what could not be tidied up.
    staged.and_then(|binary| tidied.map(|()| binary))
}

/// Removes what is staged in the folder `dest` of the machine, what was fetched for it, and the folder of all that is staged where
/// nothing else is.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove(root: &HostRoot, dest: &Path) -> Result<(), FsError> {
    let fs = root.fs();
    for folder in folders(dest) {
        fs.remove_tree(&root.at(folder))?;
    }
    remove_if_empty(fs, parent(&root.at(dest)))
}

/// What a release staged in `dest` lies in, until it is removed.
#[must_use]
pub fn folders(dest: &Path) -> [PathBuf; 2] {
    [dest.to_path_buf(), fetched(dest)]
}

/// Where what has to be fetched for `dest` comes to.
fn fetched(dest: &Path) -> PathBuf {
    let mut folder = dest.as_os_str().to_owned();
    folder.push(".fetched");
    PathBuf::from(folder)
}

fn remove_if_empty(fs: &Fs, folder: &Path) -> Result<(), FsError> {
    if fs.is_dir(folder) && fs.list_dir(folder)?.is_empty() { fs.remove_tree(folder) } else { Ok(()) }
}

impl From<std::io::Error> for ReleaseError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(FsError::on("stage", Path::new("the release"))(error))
    }
}

/// What is there to be unpacked.
struct Brought {
    /// A tarball, a binary, or the folder of one.
    source: PathBuf,
    /// A file of sums that comes with it: its name and content.
    sums: Option<(String, String)>,
}

async fn fetch_and_unpack(
    root: &HostRoot,
    artifacts: &Artifacts,
    folder: &Path,
    dest: &Path,
    deadline: Instant,
) -> Result<PathBuf, ReleaseError> {
    let fs = root.fs();
    let named = named_sums(root, artifacts, folder, deadline).await?;
    let brought = match artifacts.place()? {
        Place::Disk(path) => {
            let given = resolve(root, &path)?;
            let source = release_in(fs, &given)?.unwrap_or_else(|| binary_in(fs, &given));
            let beside = parent(&source).join(format!("{SUMS}-{}.txt", arch()));
            let sums = if fs.effects().stat(&beside).is_ok() { Some(read_sums(fs, &beside)?) } else { None };
            Brought { source, sums }
        }
        Place::Server { url, name } => {
            let file = folder.join(&name);
            // What cannot be right is not fetched.
            agree(named.as_ref(), &name, artifacts)?;
            let bytes =
                fetch(fs, &Wanted::new(&url, &artifacts.sha256, FETCHED_LIMIT), &file, deadline).await?;
            tracing::debug!(url, bytes, "fetched the release");
            Brought { source: file, sums: None }
        }
        Place::Registry(reference) => {
            fs.create_dir_sync(folder)?;
            let found = oci::pull(fs, &reference, arch(), folder, deadline).await?;
            Brought { source: found.tarball, sums: found.sums }
        }
        Place::Archive { path, image } => {
            let (given, into) = (resolve(root, &path)?, folder.to_path_buf());
            fs.create_dir_sync(folder)?;
            let take = move |fs: &Fs| {
                let found = oci::take_from_archive(fs, &given, image.as_deref(), arch(), &into)?;
                Ok::<_, ReleaseError>(Brought { source: found.tarball, sums: found.sums })
            };
            fs.blocking(take).await?
        }
    };
    let name = brought.source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    agree(named.as_ref(), &name, artifacts)?;
    agree(brought.sums.as_ref(), &name, artifacts)?;
    let (expected, dest) = (artifacts.sha256.clone(), dest.to_path_buf());
    fs.blocking(move |fs| unpack_source(fs, &brought.source, &expected, &dest)).await
}

fn agree(sums: Option<&(String, String)>, name: &str, artifacts: &Artifacts) -> Result<(), ReleaseError> {
    let Some((file, text)) = sums else { return Ok(()) };
    Ok(sums::agree(file, text, name, &artifacts.sha256)?)
}

/// The file of sums that the plan names: its own name there, and content.
async fn named_sums(
    root: &HostRoot,
    artifacts: &Artifacts,
    folder: &Path,
    deadline: Instant,
) -> Result<Option<(String, String)>, ReleaseError> {
    let fs = root.fs();
    match artifacts.sums_place()? {
        Some(Place::Disk(path)) => Ok(Some(read_sums(fs, &resolve(root, &path)?)?)),
        Some(Place::Server { url, .. }) => {
            let file = folder.join("sums");
            let wanted = Wanted { url: &url, headers: &[], sha256: None, limit: SUMS_LIMIT, spare: 0 };
            fetch(fs, &wanted, &file, deadline).await?;
            let (_, text) = read_sums(fs, &file)?;
            Ok(Some((url, text)))
        }
        Some(Place::Registry(_) | Place::Archive { .. }) | None => Ok(None),
    }
}

fn read_sums(fs: &Fs, file: &Path) -> Result<(String, String), ReleaseError> {
    let mut text = String::new();
    let input = fs.effects().open(file).map_err(FsError::on("open", file))?;
    input.take(SUMS_LIMIT + 1).read_to_string(&mut text).map_err(FsError::on("read", file))?;
    if text.len() as u64 > SUMS_LIMIT {
        let why = format!("has more than {SUMS_LIMIT} bytes; give the release's {SUMS} file");
        return Err(ReleaseError::Unfit { path: file.to_path_buf(), why });
    }
    Ok((file.display().to_string(), text))
}

fn resolve(root: &HostRoot, path: &str) -> Result<PathBuf, ReleaseError> {
    root.resolve(path).map_err(|error| {
        let why = format!("cannot be read ({error}); put the release there, or correct the plan");
        ReleaseError::Unfit { path: PathBuf::from(path), why }
    })
}

/// The staged binary's path inside `dest`.
fn unpack_source(fs: &Fs, source: &Path, expected: &str, dest: &Path) -> Result<PathBuf, ReleaseError> {
    let binary = PathBuf::from("bin/rke2");
    if fs.is_dir(source) || !is_archive(source) {
        let staged = unpack::stage_binary(fs, source, expected, &dest.join(&binary));
        if staged.is_err() && fs.list_dir(&dest.join("bin"))?.is_empty() {
            fs.remove_tree(dest)?;
        }
        staged?;
        return Ok(binary);
    }
    let unpacked = unpack::stage_tarball(fs, source, expected, dest, UNPACKED_LIMIT)?;
    if unpacked.files.contains(&binary) {
        return Ok(binary);
    }
    fs.remove_tree(dest)?;
    let why = "has no bin/rke2 in it; give a release tarball of RKE2".to_owned();
    Err(ReleaseError::Unfit { path: source.to_path_buf(), why })
}

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    [".tar.gz", ".tgz", ".tar.zst", ".tar"].iter().any(|ending| name.ends_with(ending))
}

/// The one release tarball in a folder, or the file itself; none when the folder has none.
fn release_in(fs: &Fs, source: &Path) -> Result<Option<PathBuf>, ReleaseError> {
    if !fs.is_dir(source) {
        return Ok(Some(source.to_path_buf()));
    }
    let mut tarballs: Vec<PathBuf> = fs
        .list_dir(source)?
        .into_iter()
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("rke2.linux-") && is_archive(path)
        })
        .collect();
    match tarballs.len() {
        0 | 1 => Ok(tarballs.pop()),
        count => {
            let why = format!("holds {count} release tarballs; name one of them in artifacts.source");
            Err(ReleaseError::Unfit { path: source.to_path_buf(), why })
        }
    }
}

/// The bare binary in a folder; the folder itself where there is none, for the error to name.
fn binary_in(fs: &Fs, folder: &Path) -> PathBuf {
    let inside = [folder.join("bin/rke2"), folder.join("rke2")];
    inside.into_iter().find(|path| fs.effects().stat(path).is_ok()).unwrap_or_else(|| folder.to_path_buf())
}
