//! Tests of the journal on a real file.

#![expect(clippy::disallowed_methods, reason = "tests damage files on purpose")]

use super::*;
use crate::flow::plan::Role;
use crate::flow::plan::tests::plan;

fn preflighted() -> Record {
    Record::Preflighted {
        role: Role::Server,
        unit: "rke2-server.service".into(),
        live: "/opt/rke2/bin/rke2".into(),
        live_sha256: "old".into(),
    }
}

#[test]
fn a_reopened_journal_knows_what_was_appended() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system()).unwrap();
    journal.append(preflighted()).unwrap();
    let again = Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-2", Clock::system()).unwrap();
    assert_eq!(again.progress(), journal.progress());
    assert_eq!(again.progress().seq(), 2);
    assert_eq!(upgrades(&Fs::kernel(), dir.path()).unwrap(), vec![plan().upgrade_uid]);
}

#[test]
fn an_illegal_record_never_reaches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system()).unwrap();
    assert!(matches!(journal.append(Record::Swapped), Err(JournalError::Illegal { .. })));
    assert_eq!(
        Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system())
            .unwrap()
            .progress()
            .seq(),
        1
    );
}

fn corrected() -> NodePlan {
    let mut other = plan();
    other.artifacts.sha256 = "b".repeat(64);
    other
}

#[test]
fn a_run_that_has_changed_something_keeps_its_plan() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system()).unwrap();
    journal.append(preflighted()).unwrap();
    journal.append(Record::Staged { binary: "/x".into(), sha256: "new".into() }).unwrap();
    journal.append(Record::FenceIntent { units: vec!["rke2-server.service".into()] }).unwrap();
    let error =
        Journal::open(&Fs::kernel(), dir.path(), &corrected(), "boot-1", Clock::system()).unwrap_err();
    assert!(matches!(error, JournalError::OtherPlan { .. }), "{error}");
}

#[test]
fn a_plan_that_was_refused_can_be_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system()).unwrap();
    journal.append(preflighted()).unwrap();
    let again = Journal::open(&Fs::kernel(), dir.path(), &corrected(), "boot-1", Clock::system()).unwrap();
    assert_eq!(again.progress().seq(), 1);
    assert_eq!(again.progress().plan(), Some(&corrected()));
    let kept = std::fs::read_dir(dir.path().join(&plan().upgrade_uid)).unwrap().count();
    assert_eq!(kept, 2, "the lines of the refused run are kept beside the new journal");
}

#[test]
fn a_journal_moved_to_another_upgrade_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system()).unwrap();
    std::fs::rename(dir.path().join(&plan().upgrade_uid), dir.path().join("another-uid")).unwrap();
    let error =
        Journal::reopen(&Fs::kernel(), dir.path(), "another-uid", "boot-1", Clock::system()).unwrap_err();
    assert!(matches!(error, JournalError::OtherUpgrade { .. }), "{error}");
}

#[test]
fn a_torn_last_line_is_dropped_and_the_journal_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system()).unwrap();
    journal.append(preflighted()).unwrap();
    let path = path_of(dir.path(), &plan().upgrade_uid);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    let mut again = Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system()).unwrap();
    assert_eq!(again.progress().seq(), 1);
    again.append(preflighted()).unwrap();
    assert_eq!(
        Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system())
            .unwrap()
            .progress()
            .seq(),
        2
    );
}

#[test]
fn no_receipt_without_pre_drain() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system()).unwrap();
    assert_eq!(journal.pre_drain_receipt(), None);
}
