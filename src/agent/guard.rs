//! The boot guard: systemd asks it before every start of a fenced RKE2 (`ExecStartPre=`). It hashes the live binary, reads the
//! journal of the fence's upgrade, and lets an approved binary start; another one is replaced by the approved one, or nothing
//! starts. Needs neither API nor bus. Writes the live binary's name and mode, and one mark: that the new one has started for good.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::flow::guard::{Ground, Verdict, decide};
use crate::flow::progress::Progress;
use crate::host::fs::{Fs, FsError};
use crate::host::rke2_config::Rke2Config;
use crate::host::root::HostRoot;
use crate::host::swap_file::{self, By, SwapError};
use crate::host::unpack::UnpackError;
use crate::host::{kept_runtime, process};
use crate::journal::{self, Journal, JournalError};

/// What the guard did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stood {
    /// The binary in place may start.
    Starts,
    /// The approved one was put back, and may start.
    PutBack {
        /// Where from, the machine's own view.
        kept: String,
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
    /// It is not there.
    #[error(
        "rke2 is not started: the journal {} of the upgrade that fenced it is gone or empty, so nobody knows which rke2 is approved; \
         put the file back, or, when no VM runs here and the rke2 in place is the right one, remove the fence as `systemctl cat` of \
         the unit says", path.display()
    )]
    NoJournal {
        /// Which file.
        path: PathBuf,
    },
    /// A file cannot be read, or the mark not be written.
    #[error(
        "rke2 is not started: the disk does not let the guard work; mend it, systemd tries again by itself"
    )]
    Disk(#[from] FsError),
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
    /// The old one would not find its runtime.
    #[error(
        "rke2 is not started: the runtime of the old one, which the new one has removed, cannot be put back; mend the disk, or {config}"
    )]
    Runtime {
        /// Where RKE2's settings are.
        config: &'static str,
        /// What failed.
        #[source]
        source: std::io::Error,
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

/// The mark of a run whose new RKE2 was let start, and after which the old one may not: beside its journal.
#[must_use]
pub fn mark_of(state_dir: &Path, uid: &str) -> PathBuf {
    journal::path_of(state_dir, uid).with_file_name("started-for-good")
}

/// Decides by the run whose fence stands, and acts. `state_dir` is our own path.
///
/// # Errors
/// [`Barred`]: nothing may start then; systemd asks again after its pause.
pub fn stand(root: &HostRoot, state_dir: &Path, uid: &str) -> Result<Stood, Barred> {
    let fs = root.fs();
    let path = journal::path_of(state_dir, uid);
    let progress = Journal::peek(fs, &path)?;
    let Some(found) = progress.preflighted() else { return Err(Barred::NoJournal { path }) };
    let live = root.at(&found.live);
    let live_sha256 = fs.sha256_opt(&live)?.unwrap_or_default();
    // A machine whose processes cannot be read may be full of guests.
    let guests: Vec<String> = match process::vm_processes(root) {
        Ok(found) => found.into_iter().map(|one| one.name).collect(),
        Err(error) => vec![format!("(the processes cannot be read: {error})")],
    };
    let mark = mark_of(state_dir, uid);
    let is_marked = fs.read_opt(&mark)?.is_some();
    let verdict = decide(&progress, &Ground { live_sha256: &live_sha256, guests: &guests, is_marked });
    let old = Some(found.live_sha256.as_str());
    let starts = match &verdict {
        Verdict::PutBack { sha256, .. } => Some(sha256.as_str()),
        Verdict::Start => Some(live_sha256.as_str()),
        Verdict::StartForGood | Verdict::Bar => None,
    };
    if starts == old && progress.swap_begun() {
        put_runtime_back(root, &progress)?;
    }
    match verdict {
        Verdict::Start => {
            make_executable(fs, &live)?;
            Ok(Stood::Starts)
        }
        Verdict::StartForGood => {
            make_executable(fs, &live)?;
            fs.write_atomic(&mark, b"", 0o600)?;
            Ok(Stood::Starts)
        }
        Verdict::Bar => Err(Barred::NoJournal { path }),
        Verdict::PutBack { sha256, kept, why } => {
            let (kept_file, barred) = (root.at(&kept), live.with_file_name("rke2.barred"));
            // Its digest is looked at while it is copied: systemd waits.
            if let Err(source) = swap_file::put_back(fs, By::Guard, &live, (&kept_file, &sha256), &barred) {
                let found = if let SwapError::NotKept(UnpackError::WrongDigest { found, .. }) = &source {
                    format!("sha256 {found}")
                } else if matches!(source, SwapError::NothingStaged { .. }) {
                    "nothing".to_owned()
                } else {
                    return Err(Barred::Swap { why, source });
                };
                return Err(Barred::NotKept { why, kept, found });
            }
            make_executable(fs, &live)?;
            Ok(Stood::PutBack { kept, why })
        }
    }
}

/// An approved binary that a `chmod` has spoiled would end as 203/EXEC at every start, with nobody there to mend it.
fn make_executable(fs: &Fs, live: &Path) -> Result<(), FsError> {
    let mode = match fs.effects().stat(live) {
        Ok(found) => found.mode,
        // Where the guard has nothing to say there may be none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FsError::on("read", live)(error)),
    };
    if mode & 0o111 != 0 {
        return Ok(());
    }
    tracing::warn!(path = %live.display(), mode = format_args!("{mode:o}"), "rke2 could not be executed by anybody; it can now");
    fs.effects().set_mode(live, mode & 0o7777 | 0o111).map_err(FsError::on("set mode of", live))
}

/// A new RKE2 that has run removed the old one's runtime.
fn put_runtime_back(root: &HostRoot, progress: &Progress) -> Result<(), Barred> {
    let Some(plan) = progress.plan() else { return Ok(()) };
    let failed = |source| Barred::Runtime { config: "/etc/rancher/rke2/config.yaml", source };
    let config = Rke2Config::read(root).map_err(|error| failed(std::io::Error::other(error)))?;
    kept_runtime::put_back(root, &config, &plan.rke2.from)
        .map(|_| ())
        .map_err(|error| failed(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::guard::Kept;
    use crate::flow::progress::tests::whole_run;
    use crate::flow::record::Record;
    use crate::host::clock::Clock;

    const PREFIX: &str = "/opt/rke2/bin";
    const DATA: &str = "/var/lib/rancher/rke2/data";

    fn put(root: &HostRoot, path: &str, text: &str) {
        let path = root.at(path);
        root.fs().create_dir_sync(path.parent().unwrap()).unwrap();
        root.fs().write_atomic(&path, text.as_bytes(), 0o755).unwrap();
    }

    #[test]
    fn the_old_one_is_put_back_with_the_runtime_that_the_new_one_has_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        let state = root.at("/state");
        let run = whole_run();
        let Record::Opened { plan, .. } = &run[0].record else { panic!("a run begins with its plan") };
        let mut journal = Journal::open(root.fs(), &state, plan, "boot-1", Clock::system()).unwrap();
        let kept = Kept::of("/opt/rke2/bin/rke2", &plan.rke2);
        put(&root, "/opt/rke2/bin/rke2", "somebody else's");
        put(&root, &kept.old, "the old one");
        let old = root.fs().sha256_file(&root.at(&kept.old)).unwrap();
        for entry in &run[1..18] {
            let mut record = entry.record.clone();
            if let Record::Preflighted { live_sha256, .. } = &mut record {
                live_sha256.clone_from(&old);
            }
            journal.append(record).unwrap();
        }
        let runtime = format!("{}-0123456789ab", plan.rke2.from.to_string().replace('+', "-"));
        for file in ["bin/kubelet", "charts/canal.yaml", ".extracted"] {
            put(&root, &format!("{DATA}/.upgrade-agent-keeps-{runtime}/{file}"), "x");
        }
        // Without any data folder as well: there is nothing to put back.
        let none = tempfile::tempdir().unwrap();
        let bare = HostRoot::new(none.path().to_path_buf());
        put_runtime_back(&bare, journal.progress()).unwrap();
        let stood = stand(&root, &state, &plan.upgrade_uid).unwrap();
        assert!(matches!(&stood, Stood::PutBack { kept: from, .. } if *from == kept.old), "{stood:?}");
        assert_eq!(root.fs().sha256_file(&root.at(format!("{PREFIX}/rke2"))).unwrap(), old);
        assert!(root.fs().is_dir(&root.at(format!("{DATA}/{runtime}/bin"))), "it finds its runtime");
        assert_eq!(stand(&root, &state, &plan.upgrade_uid).unwrap(), Stood::Starts);
        let live = root.at(format!("{PREFIX}/rke2"));
        root.fs().effects().set_mode(&live, 0o640).unwrap();
        assert_eq!(stand(&root, &state, &plan.upgrade_uid).unwrap(), Stood::Starts);
        assert_eq!(root.fs().effects().stat(&live).unwrap().mode & 0o777, 0o751, "it can be executed again");
    }

    #[test]
    fn without_its_journal_nothing_starts_and_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        let path = journal::path_of(dir.path(), "uid-1");
        for text in [None, Some("")] {
            if let Some(text) = text {
                root.fs().create_dir_sync(path.parent().unwrap()).unwrap();
                root.fs().write_atomic(&path, text.as_bytes(), 0o600).unwrap();
            }
            let barred = stand(&root, dir.path(), "uid-1").unwrap_err();
            assert!(barred.to_string().contains(&path.display().to_string()), "{barred}");
        }
    }
}
