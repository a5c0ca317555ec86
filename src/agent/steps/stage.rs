//! Stage: the release, verified against the plan's digest, unpacked on the same mount as the live binary.

use std::path::{Path, PathBuf};

use tokio::time::Instant;

use crate::agent::observe::sha256_of;
use crate::agent::room;
use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::flow::plan::Place;
use crate::flow::record::Record;
use crate::flow::step::Step;
use crate::flow::version::Rke2Version;
use crate::host::fs::{Fs, FsError};
use crate::host::{Host, command, fetch, unpack};

/// No release of RKE2 unpacks to more; a bomb does.
const UNPACKED_LIMIT: u64 = 2 << 30;
/// No tarball of RKE2 is so large.
pub const FETCHED_LIMIT: u64 = 1 << 30;

/// A binary whose digest was checked on the target file system in this process.
///
/// ```compile_fail,E0451
/// use upgrade_agent::agent::steps::stage::StagedBinary;
/// let forged = StagedBinary { path: "/tmp/x".into(), sha256: String::new() };
/// ```
#[derive(Debug)]
pub struct StagedBinary {
    path: PathBuf,
    sha256: String,
}

impl StagedBinary {
    /// Where it lies, seen from this process.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its sha256.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// Hashes the staged file again: a record alone is no proof of what the disk holds now.
///
/// # Errors
/// Needs an operator when the file is not the one that was staged.
pub async fn check_staged(host: &Host, binary: &str, sha256: &str) -> Result<StagedBinary, StepError> {
    let path = host.root.at(binary);
    let found = sha256_of(host, path.clone()).await?;
    if found == sha256 {
        Ok(StagedBinary { path, sha256: found })
    } else {
        let what =
            format!("staged binary {binary} has sha256 {found}, {sha256} was staged; cancel and start again");
        Err(StepError::operator(what))
    }
}

/// Unpacks the release beside the live binary, checks its version, records it.
///
/// # Errors
/// Refuses an artifact that is absent, has another digest, is unsafe, or is another version.
pub async fn stage_binary(run: &mut Run) -> Result<(), StepError> {
    let Some(found) = run.journal.progress().preflighted().cloned() else {
        return Err(StepError::operator("staging was asked for before preflight; run the whole upgrade"));
    };
    // Hours may lie between preflight and this step.
    if let Err(shortages) = room::look(&run.host, &run.plan, &found.live).await? {
        let short: Vec<String> = shortages.iter().map(ToString::to_string).collect();
        return Err(StepError::refuse(format!("{}; {}", short.join("; "), room::CURE)));
    }
    let prefix = Path::new(&found.live).parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let dest = prefix.join(".stage").join(run.plan.rke2.to.to_string());
    let fetched = fetched(run, &dest).await?;
    let source = match &fetched {
        Some(file) => file.clone(),
        None => source_path(run)?,
    };
    let (expected, outside) = (run.plan.artifacts.sha256.to_ascii_lowercase(), run.host.root.at(&dest));
    let fs = run.host.root.fs();
    let unpacked = fs.blocking(move |fs| unpack_source(fs, &source, &expected, &outside)).await;
    if let Some(file) = fetched {
        // What it was fetched for is done, or it is not what was wanted.
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let remove = move |fs: &Fs| {
            let removed = fs.effects().remove_dir_all(&folder);
            removed.map_err(|source| StepError::from(FsError::on("remove", &folder)(source)))
        };
        fs.blocking(remove).await?;
    }
    let binary = unpacked?;
    let binary = dest.join(binary);
    check_version(run, &binary).await?;
    let sha256 = sha256_of(&run.host, run.host.root.at(&binary)).await?;
    Ok(run.record(Record::Staged { binary: binary.display().to_string(), sha256 })?)
}

/// The release from its server, beside where it will be unpacked; none when the plan names a file of the machine.
async fn fetched(run: &Run, dest: &Path) -> Result<Option<PathBuf>, StepError> {
    let Some(Place::Server { url, name }) = run.plan.artifacts.place() else { return Ok(None) };
    let folder = dest.with_file_name(format!("{}.fetched", run.plan.rke2.to));
    let file = run.host.root.at(folder.join(name));
    // Some time is left to unpack it in.
    let deadline = Instant::now() + Step::Stage.deadline(&run.plan) / 2;
    match fetch::fetch(run.host.root.fs(), url, &file, FETCHED_LIMIT, deadline).await {
        Ok(bytes) => {
            tracing::debug!(url, bytes, "fetched the release");
            Ok(Some(file))
        }
        Err(error) => Err(StepError::refuse(chain(&error))),
    }
}

fn source_path(run: &Run) -> Result<PathBuf, StepError> {
    let named = match run.plan.artifacts.place() {
        Some(Place::Disk(path)) => path,
        Some(Place::Server { url, .. }) => url,
        None => "",
    };
    run.host.root.resolve(named).map_err(|error| {
        StepError::refuse(format!(
            "artifact {named} cannot be read: {error}; put the release there, or correct the plan"
        ))
    })
}

/// The staged binary's path inside `dest`.
fn unpack_source(fs: &Fs, source: &Path, expected: &str, dest: &Path) -> Result<PathBuf, StepError> {
    let refuse = |error: unpack::UnpackError| StepError::refuse(chain(&error));
    let tarball = match release_in(fs, source)? {
        Some(tarball) => tarball,
        None if fs.is_dir(source) || !is_archive(source) => {
            unpack::stage_binary(fs, source, expected, &dest.join("bin/rke2")).map_err(refuse)?;
            return Ok(PathBuf::from("bin/rke2"));
        }
        None => source.to_path_buf(),
    };
    let unpacked = unpack::stage_tarball(fs, &tarball, expected, dest, UNPACKED_LIMIT).map_err(refuse)?;
    if unpacked.files.iter().any(|file| file == Path::new("bin/rke2")) {
        Ok(PathBuf::from("bin/rke2"))
    } else {
        Err(StepError::refuse(format!(
            "{} has no bin/rke2 in it; give a release tarball of RKE2",
            tarball.display()
        )))
    }
}

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    [".tar.gz", ".tgz", ".tar.zst", ".tar"].iter().any(|ending| name.ends_with(ending))
}

/// The one release tarball in a folder; none when `source` is no folder or has none.
fn release_in(fs: &Fs, source: &Path) -> Result<Option<PathBuf>, StepError> {
    if !fs.is_dir(source) {
        return Ok(None);
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
        0 => Ok(None),
        1 => Ok(tarballs.pop()),
        count => Err(StepError::refuse(format!(
            "{} holds {count} release tarballs; name one of them in artifacts.source",
            source.display()
        ))),
    }
}

async fn check_version(run: &Run, binary: &Path) -> Result<(), StepError> {
    let text = command::rke2_version(&run.host.root, binary)
        .await
        .map_err(|error| StepError::refuse(format!("the staged rke2 does not run: {}", chain(&error))))?;
    let wanted = &run.plan.rke2.to;
    match text.parse::<Rke2Version>() {
        Ok(found) if found == *wanted => Ok(()),
        Ok(found) => Err(StepError::refuse(format!(
            "the artifact holds rke2 {found}, the plan orders {wanted}; give the right tarball"
        ))),
        Err(error) => Err(StepError::refuse(format!("the staged rke2 says: {error}"))),
    }
}
