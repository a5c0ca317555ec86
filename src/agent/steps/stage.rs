//! Stage: the release, verified against the plan's digest, unpacked on the same mount as the live binary; and all that it needs to
//! start. What is refused does not stay.

use std::path::{Path, PathBuf};

use tokio::time::Instant;

use crate::agent::observe::sha256_of;
use crate::agent::room;
use crate::agent::run::Run;
use crate::agent::runtime_images;
use crate::agent::step_error::{StepError, chain};
use crate::flow::plan::Role;
use crate::flow::record::Record;
use crate::flow::step::Step;
use crate::flow::version::Rke2Version;
use crate::host::{Host, command, images, release};

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

/// Brings the release beside the live binary and the archives of images to where RKE2 imports them; checks its version
/// and that it will find its runtime, records it.
///
/// # Errors
/// Refuses an artifact that is absent, has another digest, is unsafe, is another version, or has no runtime image to start with.
pub async fn stage_binary(run: &mut Run) -> Result<(), StepError> {
    let Some(found) = run.journal.progress().preflighted().cloned() else {
        return Err(StepError::operator("staging was asked for before preflight; run the whole upgrade"));
    };
    // Hours may lie between preflight and this step.
    if let Err(shortages) = room::look(&run.host, &run.plan, &found.live).await? {
        let short: Vec<String> = shortages.iter().map(ToString::to_string).collect();
        return Err(StepError::refuse(format!("{}; {}", short.join("; "), room::CURE)));
    }
    let dest = folder(&found.live, &run.plan.rke2.to);
    // Some time is left to unpack it in.
    let deadline = Instant::now() + Step::Stage.deadline(&run.plan) / 2;
    let binary = tokio::select! {
        biased;
        // What was fetched stays, and the next start goes on from there.
        () = run.shutdown.cancelled() => return Err(StepError::interrupted()),
        binary = Box::pin(release::stage(&run.host.root, &run.plan.artifacts, &dest, deadline)) => binary,
    };
    let binary = dest.join(binary.map_err(|error| StepError::refuse(chain(&error)))?);
    let completed = tokio::select! {
        biased;
        () = run.shutdown.cancelled() => return Err(StepError::interrupted()),
        completed = Box::pin(complete(run, found.role, &binary, deadline)) => completed,
    };
    let sha256 = match completed {
        Ok(sha256) => sha256,
        Err(refused) => {
            if let Err(error) = remove(run, dest).await {
                // Why it was refused says more; the end of the run removes it, too.
                tracing::warn!(error = chain(&error), "what was staged is left");
            }
            return Err(refused);
        }
    };
    Ok(run.record(Record::Staged { binary: binary.display().to_string(), sha256 })?)
}

/// The folder that the release `to` is staged in, beside the live binary; the machine's own path.
#[must_use]
pub fn folder(live: &str, to: &Rke2Version) -> PathBuf {
    let prefix = Path::new(live).parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    prefix.join(".stage").join(to.to_string())
}

async fn remove(run: &Run, dest: PathBuf) -> Result<(), StepError> {
    let root = run.host.root.clone();
    run.host.root.fs().blocking(move |_| release::remove(&root, &dest).map_err(StepError::from)).await
}

/// Is it what the plan orders, and will it start on this machine? Its sha256. The images come only now: where the release is refused,
/// none of its images is where RKE2 imports them.
async fn complete(run: &Run, role: Role, binary: &Path, deadline: Instant) -> Result<String, StepError> {
    check_version(run, binary).await?;
    let (root, artifacts) = (&run.host.root, &run.plan.artifacts);
    let staged = images::stage(root, &artifacts.images, &run.plan.rke2.to, deadline).await;
    let staged = staged.map_err(|error| StepError::refuse(chain(&error)))?;
    tracing::debug!(?staged, "the archives of images are in place");
    if let Err(refused) = runtime_images::settle(&run.host, &run.plan, role).await {
        if let Err(error) = images::take_back(root, staged).await {
            tracing::warn!(error = chain(&error), "archives of images are left");
        }
        return Err(refused);
    }
    sha256_of(&run.host, run.host.root.at(binary)).await
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
