//! Measures what an upgrade will need of this machine's disks, and what is free, as `flow::room` takes it. Decides nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::step_error::StepError;
use crate::agent::steps::stage;
use crate::flow::place::Place;
use crate::flow::plan::NodePlan;
use crate::flow::plan_error::PlanError;
use crate::flow::room::{Facts, Shortage, Spot, Volume, fits, needs};
use crate::host::Host;
use crate::host::effects::FileKind;
use crate::host::fs::{Fs, FsError};
use crate::host::release::{self, FETCHED_LIMIT};
use crate::host::rke2_config::Rke2Config;
use crate::host::root::HostRoot;
use crate::host::runtime;

/// What to do about a disk that is too small.
pub const CURE: &str = "free space there: old image archives, data folders and binaries (`rke2.prev-*`, `rke2.bad-*`) of past versions, and logs first";
/// A server that says no length by then is asked again when the release is fetched.
const HEADERS: Duration = Duration::from_secs(20);

/// Is there room for this upgrade? What is needed and free in one line, or every file system that is too small.
///
/// # Errors
/// The artifact is not there, or a disk could not be measured.
pub async fn look(
    host: &Host,
    plan: &NodePlan,
    live: &str,
) -> Result<Result<String, Vec<Shortage>>, StepError> {
    let (artifact, is_fetched) = artifact(host, plan).await?;
    let archives = archives(host, plan).await?;
    let (root, live, version) = (host.root.clone(), PathBuf::from(live), plan.rke2.to.clone());
    let measure = move |fs: &Fs| -> Result<_, StepError> {
        let config = Rke2Config::read(&root).map_err(|error| StepError::refuse(error.to_string()))?;
        let folders = runtime::folders(&root, &config, &version)?;
        let prefix = live.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let facts = Facts {
            artifact,
            is_fetched,
            live: fs.length(&root.at(&live))?,
            has_runtime: folders.iter().any(|(_, folder)| folder.is_whole(&version)),
            archives,
            etcd: etcd_database(&root, &config)?,
            staged: staged(fs, &root, &stage::folder(&live.to_string_lossy(), &version))?,
        };
        let spots = [(Spot::Prefix, prefix), (Spot::Data, &config.data_dir), (Spot::Run, Path::new("/run"))];
        let mut volumes = BTreeMap::new();
        for (spot, path) in spots {
            volumes.insert(spot, volume(&root, path)?);
        }
        Ok(fits(&needs(&facts), &volumes))
    };
    host.root.fs().blocking(measure).await
}

/// What an earlier try has left, which the next one replaces. What lies there of another version stays beside it.
fn staged(fs: &Fs, root: &HostRoot, dest: &Path) -> Result<u64, FsError> {
    release::folders(dest).iter().try_fold(0, |sum, folder| Ok(sum + bytes_below(fs, &root.at(folder))?))
}

/// The release's length, and whether it is fetched. A server that does not tell may send as much as is ever taken.
async fn artifact(host: &Host, plan: &NodePlan) -> Result<(u64, bool), StepError> {
    let refuse = |error: PlanError| StepError::refuse(error.to_string());
    let source = &match plan.artifacts.place().map_err(refuse)? {
        Place::Disk(path) => path,
        Place::Server { url, .. } => {
            return Ok((announced(host, &url, FETCHED_LIMIT).await.unwrap_or(FETCHED_LIMIT), true));
        }
        // The tarball is taken out of the image, and lies on the disk as well then.
        Place::Registry(_) | Place::Archive { .. } => return Ok((FETCHED_LIMIT, true)),
    };
    let gone = |error: &dyn std::error::Error| {
        StepError::refuse(format!(
            "artifact {source} cannot be read: {error}; put the release there, or correct the plan"
        ))
    };
    let path = host.root.resolve(source).map_err(|error| gone(&error))?;
    let length = move |fs: &Fs| -> Result<u64, FsError> {
        if !fs.is_dir(&path) {
            return fs.length(&path);
        }
        let is_release = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rke2.linux-"))
        };
        let files = fs.list_dir(&path)?.into_iter().filter(is_release);
        files.map(|file| fs.length(&file)).sum()
    };
    let found = host.root.fs().blocking(move |fs| length(fs).map_err(StepError::from)).await;
    found.map(|bytes| (bytes, false)).map_err(|error| gone(&error))
}

/// The image archives of the plan that have to be brought, as far as their lengths are known before they come; staging stops where the
/// rest does not fit. One of the same length that is in place is taken for the same: staging looks at its digest.
async fn archives(host: &Host, plan: &NodePlan) -> Result<u64, StepError> {
    if plan.artifacts.images.is_empty() {
        return Ok(0);
    }
    let config = Rke2Config::read(&host.root).map_err(|error| StepError::refuse(error.to_string()))?;
    let folder = config.images(&host.root)?;
    let mut sum = 0;
    for (number, image) in plan.artifacts.images.iter().enumerate() {
        let place = image.place(number).map_err(|error| StepError::refuse(error.to_string()))?;
        let bytes = match place {
            Place::Disk(path) => {
                let file = host.root.resolve(&path).map_err(FsError::on("follow", Path::new(&path)))?;
                host.root.fs().blocking(move |fs| fs.length(&file).map_err(StepError::from)).await?
            }
            Place::Server { url, .. } => announced(host, &url, u64::MAX).await.unwrap_or(0),
            Place::Registry(_) | Place::Archive { .. } => 0,
        };
        let in_place = folder.join(image.staged_name(&plan.rke2.to));
        let there = host.root.fs().blocking(move |fs| Ok::<_, StepError>(fs.length(&in_place).ok())).await?;
        sum += if there == Some(bytes) { 0 } else { bytes };
    }
    Ok(sum)
}

/// What the server says of the length; none when it does not, sends us elsewhere, or says more than can be.
async fn announced(host: &Host, url: &str, limit: u64) -> Option<u64> {
    let asks = [("accept-encoding", "identity".to_owned())];
    let answer = tokio::time::timeout(HEADERS, host.root.fs().effects().http_open(url, &asks)).await;
    let answer = answer.ok()?.ok().filter(|answer| answer.status == 200)?;
    let length = answer.headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?;
    length.parse().ok().filter(|length| *length <= limit)
}

/// How large etcd's database is; nothing on a machine without one.
fn etcd_database(root: &HostRoot, config: &Rke2Config) -> Result<u64, FsError> {
    let Some(folder) = config.etcd(root)? else { return Ok(0) };
    match root.fs().length(&folder.join("member/snap/db")) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(0),
        length => length,
    }
}

/// What lies in a folder and below it; nothing where there is none.
fn bytes_below(fs: &Fs, folder: &Path) -> Result<u64, FsError> {
    let mut sum = 0;
    for path in fs.list_dir(folder)? {
        let found = fs.effects().stat_link(&path).map_err(FsError::on("look at", &path))?;
        sum += if found.kind == FileKind::Dir { bytes_below(fs, &path)? } else { found.len };
    }
    Ok(sum)
}

/// The file system that a path of the machine is on, or will be: its nearest parent says which.
fn volume(root: &HostRoot, path: &Path) -> Result<Volume, StepError> {
    let fs = root.fs();
    let full = root.resolve(path).map_err(FsError::on("find", path))?;
    let there = full.ancestors().find(|above| fs.effects().stat(above).is_ok()).unwrap_or(&full);
    let stat = fs.effects().stat(there).map_err(FsError::on("look at", there))?;
    let free_files =
        fs.effects().mount(there).map_err(FsError::on("look at the file system of", there))?.free_files;
    let (path, free) = (path.display().to_string(), fs.free_bytes(there)?);
    Ok(Volume { path, device: stat.device, free, free_files })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests look past the door they test")]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_next_try_replaces_is_taken_off_its_need() {
        let dir = tempfile::tempdir().unwrap();
        let stage = dir.path().join("opt/rke2/.stage");
        for (folder, bytes) in
            [("v1.35.6+rke2r1/bin", 10), ("v1.35.6+rke2r1.fetched", 200), ("v1.35.5+rke2r1/bin", 3000)]
        {
            std::fs::create_dir_all(stage.join(folder)).unwrap();
            std::fs::write(stage.join(folder).join("file"), vec![0; bytes]).unwrap();
        }
        let root = HostRoot::new(dir.path().to_path_buf());
        let of = |version: &str| {
            let dest = stage::folder("/opt/rke2/bin/rke2", &version.parse().unwrap());
            staged(root.fs(), &root, &dest).unwrap()
        };
        assert_eq!(of("v1.35.6+rke2r1"), 210);
        assert_eq!(of("v1.34.2+rke2r1"), 0, "nothing of it is there");
    }
}
