//! The boot guard: systemd asks it before every start of a fenced RKE2 (`ExecStartPre=`). It hashes the live binary, reads the
//! journals on disk, and lets an approved binary start; another one is replaced by the kept old one, or nothing starts. Needs
//! neither API nor bus. Writes nothing but the live binary's name.

use std::path::Path;

use thiserror::Error;

use crate::flow::guard::{Verdict, decide};
use crate::flow::progress::Progress;
use crate::host::fs::{Fs, FsError};
use crate::host::process;
use crate::host::root::HostRoot;
use crate::host::swap_file::{self, SwapError};
use crate::journal::{self, Journal, JournalError};

/// What the guard did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stood {
    /// The binary in place may start.
    Starts,
    /// The old one was put back, and may start.
    PutBack {
        /// Why.
        why: String,
    },
}

/// Why nothing may start.
#[derive(Debug, Error)]
pub enum Barred {
    /// What the upgrade has done cannot be told.
    #[error(
        "rke2 is not started: the journal of the upgrade cannot be read; mend the disk, systemd tries again by itself"
    )]
    Journal(#[from] JournalError),
    /// A file cannot be read.
    #[error("rke2 is not started: a file cannot be read; mend the disk, systemd tries again by itself")]
    Read(#[from] FsError),
    /// The approved binary is not where it was kept.
    #[error("rke2 is not started: {why}, and {kept} does not hold the approved one ({found}); put it there")]
    NotKept {
        /// Why the live one must not start.
        why: String,
        /// Where it should be.
        kept: String,
        /// What is there.
        found: String,
    },
    /// It could not be put back.
    #[error("rke2 is not started: {why}, and the kept one cannot be put back")]
    Swap {
        /// Why the live one must not start.
        why: String,
        /// What failed.
        #[source]
        source: SwapError,
    },
}

/// Where a run keeps its old binary, the machine's own view: beside the live one.
#[must_use]
pub fn kept_path(live: &str, from: &str) -> String {
    Path::new(live).with_file_name(format!("rke2.prev-{from}")).display().to_string()
}

/// Decides by every unfinished run of the machine, and acts. `state_dir` is our own path.
///
/// # Errors
/// [`Barred`]: nothing may start then; systemd asks again after its pause.
pub fn stand(root: &HostRoot, state_dir: &Path) -> Result<Stood, Barred> {
    let fs = root.fs();
    let mut stood = Stood::Starts;
    for uid in journal::upgrades(fs, state_dir)? {
        let progress = Journal::peek(fs, &journal::path_of(state_dir, &uid))?;
        if progress.outcome().is_none()
            && let Some(done) = stand_for(root, &progress)?
        {
            stood = done;
        }
    }
    Ok(stood)
}

fn stand_for(root: &HostRoot, progress: &Progress) -> Result<Option<Stood>, Barred> {
    let (Some(found), Some(plan)) = (progress.preflighted(), progress.plan()) else { return Ok(None) };
    let fs = root.fs();
    let live = root.at(&found.live);
    let live_sha256 = digest(fs, &live)?;
    // A machine whose processes cannot be read may be full of guests.
    let guests = match process::vm_processes(root) {
        Ok(found) => found.into_iter().map(|one| one.name).collect(),
        Err(error) => vec![format!("(the processes cannot be read: {error})")],
    };
    let kept = kept_path(&found.live, &plan.rke2.from.to_string());
    match decide(progress, &live_sha256, &kept, &guests) {
        Verdict::Start => Ok(None),
        Verdict::PutBack { sha256, kept, why } => {
            let kept_file = root.at(&kept);
            let there = digest(fs, &kept_file)?;
            if there != sha256 {
                let found = if there.is_empty() { "nothing".to_owned() } else { format!("sha256 {there}") };
                return Err(Barred::NotKept { why, kept, found });
            }
            let barred = live.with_file_name("rke2.barred");
            swap_file::put_back(fs, &live, &kept_file, &barred)
                .map_err(|source| Barred::Swap { why: why.clone(), source })?;
            Ok(Some(Stood::PutBack { why }))
        }
    }
}

/// sha256 of a file; empty when there is none.
fn digest(fs: &Fs, path: &Path) -> Result<String, FsError> {
    match fs.sha256_file(path) {
        Ok(sha256) => Ok(sha256),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}
