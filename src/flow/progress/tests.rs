//! Tests of the fold.

use jiff::SignedDuration;

use super::*;
use crate::flow::plan::Role;
use crate::flow::plan::tests::plan;
use crate::flow::record::{Entry, Record};
use crate::flow::step::Step;
use crate::flow::vms::{Fate, VmKey};
use crate::flow::vms::{Verdict, VmEntry};

pub(crate) fn vm_entry(name: &str, verdict: Verdict) -> VmEntry {
    VmEntry {
        vm: VmKey::new("default", name),
        vm_uid: Some(format!("vm-{name}")),
        vmi_uid: format!("vmi-{name}"),
        run_strategy: Some("RerunOnFailure".into()),
        devices: vec![],
        grace_seconds: None,
        verdict,
    }
}

/// Numbers the records and dates them one second apart.
pub(crate) fn entries(records: Vec<Record>) -> Vec<Entry> {
    (1u32..)
        .zip(records)
        .map(|(count, record)| Entry {
            seq: u64::from(count),
            boot: "boot-1".into(),
            at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(count)),
            record,
        })
        .collect()
}

pub(crate) fn replay(entries: &[Entry]) -> Progress {
    let mut progress = Progress::default();
    for entry in entries {
        progress.accept(entry).unwrap();
    }
    progress
}

/// One migratable and one passthrough VM, from the first line to the last.
pub(crate) fn whole_run() -> Vec<Entry> {
    let (web, gpu) = (VmKey::new("default", "web"), VmKey::new("default", "gpu"));
    entries(vec![
        Record::Opened { plan: Box::new(plan()), plan_digest: "d".into(), agent: "0.1.0".into() },
        Record::Preflighted {
            role: Role::Server,
            unit: "rke2-server.service".into(),
            live: "/opt/rke2/bin/rke2".into(),
            live_sha256: "old".into(),
        },
        Record::Staged { binary: "/opt/rke2/.stage/bin/rke2".into(), sha256: "new".into() },
        Record::FenceIntent { units: vec!["rke2-server.service".into()] },
        Record::Fenced,
        Record::CordonIntent { was_cordoned: false, was_tainted: false },
        Record::Cordoned,
        Record::LedgerWritten {
            vms: vec![
                vm_entry("web", Verdict::Migrate),
                vm_entry("gpu", Verdict::ShutDown { why: "holds a PCI device".into() }),
            ],
        },
        Record::MigrationIntent { vm: web.clone(), attempt: 1 },
        Record::StopIntent { vm: gpu.clone() },
        Record::VmMigrated { vm: web, to: "node2".into() },
        Record::VmStopped { vm: gpu.clone(), graceful: Some(true) },
        Record::PreDrained,
        Record::Drained { evicted: 2 },
        Record::SwapIntent {
            from_sha256: "old".into(),
            to_sha256: "new".into(),
            previous: "/opt/rke2/bin/rke2.prev".into(),
        },
        Record::Swapped,
        Record::RestartIntent { invocation: "i1".into() },
        Record::Restarted { invocation: "i2".into(), pid: 42 },
        Record::Verified { kubelet_version: "v1.35.6+rke2r1".into() },
        Record::PostDrained,
        Record::RestoreIntent { vm: gpu.clone() },
        Record::VmRestored { vm: gpu, node: "node1".into() },
        Record::Finished { outcome: Outcome::Succeeded },
    ])
}

#[test]
fn the_whole_run_accounts_for_every_vm() {
    let progress = replay(&whole_run());
    assert_eq!(progress.outcome(), Some(&Outcome::Succeeded));
    let counts = progress.ledger().counts();
    assert_eq!(
        (counts.total, counts.migrated, counts.shut_down, counts.restored, counts.owed),
        (2, 1, 1, 1, 0)
    );
    let gpu = progress.ledger().line(&VmKey::new("default", "gpu")).unwrap();
    assert_eq!(gpu.fate, Fate::Restored { node: "node1".into(), graceful: Some(true), away_seconds: 10 });
}

/// What must never be accepted, whatever wrote it.
#[test]
fn dangerous_shortcuts_are_illegal() {
    let run = whole_run();
    let until = |record: &Record| -> Vec<Record> {
        let at = run.iter().position(|entry| entry.record == *record).unwrap();
        run[..at].iter().map(|entry| entry.record.clone()).collect()
    };
    let swap = run[14].record.clone();
    let gpu = VmKey::new("default", "gpu");
    let table: Vec<(&str, Vec<Record>, Record)> = vec![
        ("swap without pre-drain", until(&Record::PreDrained), swap.clone()),
        ("pre-drain with a VM left", until(&run[11].record), Record::PreDrained),
        (
            "swap after a refusal",
            [until(&swap), vec![Record::GateRefused { refusal: "x".into() }]].concat(),
            swap.clone(),
        ),
        ("swapped without intent", until(&swap), Record::Swapped),
        ("swap twice", until(&run[16].record), Record::Swapped),
        ("stop twice", until(&run[10].record), Record::StopIntent { vm: gpu.clone() }),
        (
            "success while a VM is owed",
            until(&run[21].record),
            Record::Finished { outcome: Outcome::Succeeded },
        ),
        ("cancel after the swap", until(&run[16].record), Record::CancelRequested),
        (
            "a VM nobody entered",
            until(&run[9].record),
            Record::StopIntent { vm: VmKey::new("default", "who") },
        ),
        ("second opening", until(&run[1].record), run[0].record.clone()),
        ("no opening", vec![], run[1].record.clone()),
        ("anything after the end", run.iter().map(|entry| entry.record.clone()).collect(), Record::Resumed),
        ("new VM after the swap", until(&run[16].record), run[7].record.clone()),
    ];
    for (what, before, record) in table {
        let mut all = before;
        all.push(record);
        let lines = entries(all);
        let (last, before) = lines.split_last().unwrap();
        let mut progress = replay(before);
        let kept = progress.clone();
        assert!(progress.accept(last).is_err(), "{what} should be illegal");
        assert_eq!(progress, kept, "{what} should change nothing");
    }
}

#[test]
fn the_first_look_at_the_node_is_the_one_that_is_put_back() {
    let mut records: Vec<Record> = whole_run()[..6].iter().map(|entry| entry.record.clone()).collect();
    records.push(Record::CordonIntent { was_cordoned: true, was_tainted: true });
    let before = replay(&entries(records)).cordon_before().unwrap();
    assert!(!before.was_cordoned && !before.was_tainted);
}

#[test]
fn a_hold_lasts_until_the_next_line() {
    let mut records: Vec<Record> = whole_run()[..9].iter().map(|entry| entry.record.clone()).collect();
    records.push(Record::Held { step: Step::PreDrain, reason: "default/db waits".into() });
    assert_eq!(replay(&entries(records.clone())).held().unwrap().step, Step::PreDrain);
    records.push(Record::Resumed);
    assert_eq!(replay(&entries(records)).held(), None);
}
