//! The durable truth of one upgrade: append with fsync, replay at start, receipts.
//!
//! Owns `<state dir>/<upgrade uid>/journal.jsonl`. Append comes before publish, always: a line is on disk before anybody
//! hears of it. Never repairs a journal that it does not understand. Called by the agent's driver and the command line.

pub mod codec;
pub mod receipt;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::flow::plan::NodePlan;
use crate::flow::progress::{IllegalRecord, Progress};
use crate::flow::record::{Entry, Record};
use crate::host::clock::Clock;
use crate::host::fs::{self, Fs, FsError};
use crate::journal::codec::CodecError;
use crate::journal::receipt::PreDrainReceipt;

/// File name of a journal inside its upgrade's folder.
pub const FILE: &str = "journal.jsonl";

/// Why a journal could not be read or written.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The disk said no.
    #[error("journal {path} could not be {what}; free space or mend the disk, then resume")]
    Io {
        /// Which file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// The system's word.
        #[source]
        source: FsError,
    },
    /// A line is damaged.
    #[error("journal {path} is damaged; keep the file and ask for help, the node must be looked at by hand")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where and how.
        #[source]
        source: CodecError,
    },
    /// The lines contradict each other.
    #[error("journal {path} contradicts itself")]
    Illegal {
        /// Which file.
        path: PathBuf,
        /// Which line.
        #[source]
        source: IllegalRecord,
    },
    /// The journal belongs to another plan.
    #[error(
        "journal {path} was opened with another plan (digest {found}, this plan is {given}); \
         finish or cancel that run, or give the same plan"
    )]
    OtherPlan {
        /// Which file.
        path: PathBuf,
        /// Digest inside.
        found: String,
        /// Digest of the plan given.
        given: String,
    },
    /// The first line belongs to another upgrade than the folder says.
    #[error(
        "journal {path} belongs to upgrade {found}, not to {given}; a journal must not be moved between upgrades"
    )]
    OtherUpgrade {
        /// Which file.
        path: PathBuf,
        /// uid inside.
        found: String,
        /// uid expected.
        given: String,
    },
    /// No line yet.
    #[error("there is no journal at {path}; start a run first")]
    Absent {
        /// Which file.
        path: PathBuf,
    },
}

/// An open journal and everything that it says.
#[derive(Debug)]
pub struct Journal {
    fs: Fs,
    path: PathBuf,
    boot: String,
    clock: Clock,
    progress: Progress,
    entries: Vec<Entry>,
}

/// The digest that a journal is opened with: sha256 over the plan's JSON.
#[must_use]
pub fn plan_digest(plan: &NodePlan) -> String {
    // A plan is made of strings, numbers and enums: it always becomes JSON; Debug is as stable within one version.
    let text = serde_json::to_string(plan).unwrap_or_else(|_| format!("{plan:?}"));
    fs::hex(&Sha256::digest(text.as_bytes()))
}

/// The journal's path for one upgrade.
#[must_use]
pub fn path_of(state_dir: &Path, upgrade_uid: &str) -> PathBuf {
    state_dir.join(upgrade_uid).join(FILE)
}

impl Journal {
    /// Opens the journal of a plan, and begins it when it is not there yet.
    ///
    /// # Errors
    /// [`JournalError`]; a journal of another plan or another upgrade is refused.
    pub fn open(
        fs: &Fs,
        state_dir: &Path,
        plan: &NodePlan,
        boot: &str,
        clock: Clock,
    ) -> Result<Self, JournalError> {
        let path = path_of(state_dir, &plan.upgrade_uid);
        let given = plan_digest(plan);
        let journal = Self::reopen(fs, state_dir, &plan.upgrade_uid, boot, clock);
        let journal = match journal {
            Ok(journal) => journal,
            Err(JournalError::Absent { .. }) => return Self::begin(fs, path, plan, given, boot, clock),
            Err(error) => return Err(error),
        };
        match journal.progress.plan_digest() {
            // It was refused before it changed anything: the corrected plan begins anew, the old lines are kept.
            Some(found) if found != given && journal.progress.is_untouched() => {
                journal.set_aside()?;
                Self::begin(fs, path, plan, given, boot, clock)
            }
            Some(found) if found != given => {
                let found = found.to_owned();
                Err(JournalError::OtherPlan { path, found, given })
            }
            Some(_) | None => Ok(journal),
        }
    }

    fn begin(
        fs: &Fs,
        path: PathBuf,
        plan: &NodePlan,
        plan_digest: String,
        boot: &str,
        clock: Clock,
    ) -> Result<Self, JournalError> {
        if let Some(folder) = path.parent() {
            fs.create_dir_sync(folder).map_err(|source| JournalError::Io {
                path: path.clone(),
                what: "written",
                source,
            })?;
        }
        let (progress, entries) = (Progress::default(), Vec::new());
        let mut journal = Self { fs: fs.clone(), path, boot: boot.to_owned(), clock, progress, entries };
        let agent = env!("CARGO_PKG_VERSION").to_owned();
        journal.append(Record::Opened { plan: Box::new(plan.clone()), plan_digest, agent })?;
        Ok(journal)
    }

    /// Keeps the lines under another name, so that the path is free.
    fn set_aside(&self) -> Result<(), JournalError> {
        let written = |source| JournalError::Io { path: self.path.clone(), what: "written", source };
        let kept =
            self.path.with_file_name(format!("journal-set-aside-{}.jsonl", self.now().as_millisecond()));
        let text: String = self.entries.iter().map(codec::encode).collect();
        self.fs.write_atomic(&kept, text.as_bytes(), 0o600).map_err(written)?;
        self.fs.remove_opt(&self.path).map_err(written)?;
        Ok(())
    }

    /// Opens a journal that must be there already; its plan comes from its first line.
    ///
    /// # Errors
    /// [`JournalError`]; [`JournalError::Absent`] when there is none.
    pub fn reopen(
        fs: &Fs,
        state_dir: &Path,
        upgrade_uid: &str,
        boot: &str,
        clock: Clock,
    ) -> Result<Self, JournalError> {
        let path = path_of(state_dir, upgrade_uid);
        let journal = Self::read(fs, &path, boot, clock)?;
        match journal.progress.plan() {
            None => Err(JournalError::Absent { path }),
            Some(plan) if plan.upgrade_uid != upgrade_uid => Err(JournalError::OtherUpgrade {
                path,
                found: plan.upgrade_uid.clone(),
                given: upgrade_uid.to_owned(),
            }),
            Some(_) => Ok(journal),
        }
    }

    /// What a journal says, for looking only: nothing is mended or written, so that another process may be writing it.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn peek(fs: &Fs, path: &Path) -> Result<Progress, JournalError> {
        let source = |source| JournalError::Io { path: path.to_owned(), what: "read", source };
        let bytes = fs.read_opt(path).map_err(source)?.unwrap_or_default();
        let decoded = codec::decode(&bytes)
            .map_err(|source| JournalError::Damaged { path: path.to_owned(), source })?;
        fold(path, &decoded.entries)
    }

    fn read(fs: &Fs, path: &Path, boot: &str, clock: Clock) -> Result<Self, JournalError> {
        let io = |what, source| JournalError::Io { path: path.to_owned(), what, source };
        let bytes = fs.read_opt(path).map_err(|source| io("read", source))?.unwrap_or_default();
        let decoded = codec::decode(&bytes)
            .map_err(|source| JournalError::Damaged { path: path.to_owned(), source })?;
        // Lines that another process wrote and did not live to sync would be acted on, and could still be lost.
        if !bytes.is_empty() {
            fs.settle(path).map_err(|source| io("written", source))?;
        }
        if decoded.torn {
            // The last line never was durable, so nobody has acted on it; without it the file can be appended to again.
            tracing::warn!(path = %path.display(), "the journal's last line was torn by a crash and is dropped");
            fs.write_atomic(path, bytes.get(..decoded.sound_bytes).unwrap_or_default(), 0o600)
                .map_err(|source| io("written", source))?;
        }
        let progress = fold(path, &decoded.entries)?;
        let (fs, path, boot) = (fs.clone(), path.to_owned(), boot.to_owned());
        Ok(Self { fs, path, boot, clock, progress, entries: decoded.entries })
    }

    /// Makes a record durable. When this returns, it is on disk.
    ///
    /// # Errors
    /// [`JournalError`]; nothing has been written then, and the caller must stop.
    pub fn append(&mut self, record: Record) -> Result<&Entry, JournalError> {
        let entry =
            Entry { seq: self.progress.seq() + 1, boot: self.boot.clone(), at: self.clock.now(), record };
        let illegal = |source| JournalError::Illegal { path: self.path.clone(), source };
        self.progress.check(&entry).map_err(illegal)?;
        let line = codec::encode(&entry);
        self.fs.append_sync(&self.path, line.as_bytes()).map_err(|source| JournalError::Io {
            path: self.path.clone(),
            what: "written",
            source,
        })?;
        // Durable first: nothing may be believed that a power cut could take back.
        self.progress.accept(&entry).map_err(illegal)?;
        self.entries.push(entry);
        // Just pushed: `last` is there.
        self.entries.last().ok_or_else(|| JournalError::Absent { path: self.path.clone() })
    }

    /// Everything that the lines say.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// All lines.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The folder that holds the folders of all upgrades.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        self.path.parent().and_then(Path::parent).unwrap_or(&self.path)
    }

    /// The journal's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The machine's boot id as it was when the journal was opened.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Proof that pre-drain of this upgrade is durably recorded; none when it is not, or was voided.
    #[must_use]
    pub fn pre_drain_receipt(&self) -> Option<PreDrainReceipt> {
        PreDrainReceipt::mint(&self.progress)
    }
}

fn fold(path: &Path, entries: &[Entry]) -> Result<Progress, JournalError> {
    let mut progress = Progress::default();
    for entry in entries {
        progress.accept(entry).map_err(|source| JournalError::Illegal { path: path.to_owned(), source })?;
    }
    Ok(progress)
}

/// uids of all upgrades that have a journal here, in no order.
///
/// # Errors
/// The system's error when the folder is there and cannot be listed.
pub fn upgrades(fs: &Fs, state_dir: &Path) -> Result<Vec<String>, FsError> {
    let mut found = Vec::new();
    for folder in fs.list_dir(state_dir)? {
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if fs.read_opt(&path_of(state_dir, name))?.is_some() {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

/// All runs that have a journal here, as far as they are durable, in no order; and why others cannot be told of: one torn journal
/// says nothing of the rest.
///
/// # Errors
/// As [`upgrades`].
pub fn runs(fs: &Fs, state_dir: &Path) -> Result<(Vec<Progress>, Vec<JournalError>), FsError> {
    let (mut runs, mut unreadable) = (Vec::new(), Vec::new());
    for uid in upgrades(fs, state_dir)? {
        match Journal::peek(fs, &path_of(state_dir, &uid)) {
            Ok(run) => runs.push(run),
            Err(error) => unreadable.push(error),
        }
    }
    Ok((runs, unreadable))
}

#[cfg(test)]
mod tests;
