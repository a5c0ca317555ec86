//! Tests of the fold.

use jiff::SignedDuration;

use super::*;
use crate::flow::plan::Role;
use crate::flow::plan::tests::plan;
use crate::flow::record::{Entry, Record};
use crate::flow::step::Step;
use crate::flow::vms::{AsLeft, Fate, Verdict, VmEntry, VmKey};

pub(crate) fn vm_entry(name: &str, verdict: Verdict) -> VmEntry {
    VmEntry {
        vm: VmKey::new("default", name),
        vm_uid: Some(format!("vm-{name}")),
        vmi_uid: format!("vmi-{name}"),
        run_strategy: Some("RerunOnFailure".into()),
        devices: vec![],
        hugepages: None,
        dedicated_cpus: false,
        grace_seconds: None,
        shutdown_order: 0,
        left_off: false,
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
        Record::InstallerHoldIntent { was_active: true },
        Record::Fenced,
        Record::CordonIntent { was_cordoned: false, was_tainted: false },
        Record::Cordoned,
        Record::LedgerWritten {
            vms: vec![
                vm_entry("web", Verdict::Migrate),
                vm_entry("gpu", Verdict::ShutDown { why: "holds a PCI device".into() }),
            ],
        },
        Record::MigrationIntent { vm: web.clone(), attempt: 1, to: None },
        Record::StopIntent { vm: gpu.clone() },
        Record::VmMigrated { vm: web, to: "node2".into() },
        Record::VmStopped { vm: gpu.clone(), graceful: Some(true) },
        Record::PreDrained,
        Record::Drained { evicted: 2 },
        Record::SnapshotTaken { file: "/var/lib/rancher/rke2/server/db/snapshots/pre".into(), bytes: 4096 },
        Record::SwapIntent {
            from_sha256: "old".into(),
            to_sha256: "new".into(),
            previous: "/opt/rke2/bin/rke2.prev".into(),
            is_only_server: false,
        },
        Record::Swapped,
        Record::RestartIntent { invocation: "i1".into() },
        Record::Restarted { invocation: "i2".into(), pid: 42 },
        Record::Verified { kubelet_version: "v1.35.6+rke2r1".into() },
        Record::PostDrained,
        Record::RestoreIntent { vm: gpu.clone() },
        Record::VmRestored { vm: gpu, node: "node1".into() },
        Record::InstallerReleased,
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
    assert_eq!(gpu.fate, Fate::Restored { node: "node1".into(), graceful: Some(true), away_seconds: 11 });
}

/// What must never be accepted, whatever wrote it.
#[test]
fn dangerous_shortcuts_are_illegal() {
    let run = whole_run();
    let until = |record: &Record| -> Vec<Record> {
        let at = run.iter().position(|entry| entry.record == *record).unwrap();
        run[..at].iter().map(|entry| entry.record.clone()).collect()
    };
    let swap = run[16].record.clone();
    let gpu = VmKey::new("default", "gpu");
    let table: Vec<(&str, Vec<Record>, Record)> = vec![
        ("swap without pre-drain", until(&Record::PreDrained), swap.clone()),
        ("pre-drain with a VM left", until(&run[12].record), Record::PreDrained),
        (
            "swap after a refusal",
            [until(&swap), vec![Record::GateRefused { refusal: "x".into() }]].concat(),
            swap.clone(),
        ),
        ("swapped without intent", until(&swap), Record::Swapped),
        ("swap twice", until(&run[18].record), Record::Swapped),
        ("stop after the end", until(&run[13].record), Record::StopIntent { vm: gpu.clone() }),
        (
            "success while a VM is owed",
            until(&run[23].record),
            Record::Finished { outcome: Outcome::Succeeded },
        ),
        ("cancel after the swap", until(&run[18].record), Record::CancelRequested),
        (
            "a VM nobody entered",
            until(&run[10].record),
            Record::StopIntent { vm: VmKey::new("default", "who") },
        ),
        ("second opening", until(&run[1].record), run[0].record.clone()),
        ("no opening", vec![], run[1].record.clone()),
        ("anything after the end", run.iter().map(|entry| entry.record.clone()).collect(), Record::Resumed),
        ("back without a swap", until(&swap), Record::RollbackIntent { why: "x".into() }),
        (
            "success after going back",
            [
                until(&run[19].record),
                vec![
                    Record::RollbackIntent { why: "x".into() },
                    Record::RolledBack,
                    run[18].record.clone(),
                    run[18].record.clone(),
                ],
                run[19..23].iter().map(|entry| entry.record.clone()).collect(),
            ]
            .concat(),
            Record::Finished { outcome: Outcome::Succeeded },
        ),
        (
            "a restart before the old binary is back",
            [until(&run[18].record), vec![Record::RollbackIntent { why: "x".into() }]].concat(),
            run[18].record.clone(),
        ),
        ("new VM after the swap", until(&run[18].record), run[8].record.clone()),
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
    let mut records: Vec<Record> = whole_run()[..7].iter().map(|entry| entry.record.clone()).collect();
    records.push(Record::CordonIntent { was_cordoned: true, was_tainted: true });
    let before = replay(&entries(records)).cordon_before().unwrap();
    assert!(!before.was_cordoned && !before.was_tainted);
}

#[test]
fn the_server_of_an_upgrades_images_is_owed_nothing_once_it_is_off() {
    let repo = VmKey::new("default", "gpu");
    let mut lines: Vec<Record> = whole_run().into_iter().map(|entry| entry.record).collect();
    for record in &mut lines {
        if let Record::LedgerWritten { vms } = record {
            for vm in vms.iter_mut().filter(|vm| vm.vm == repo) {
                vm.left_off = true;
            }
        }
    }
    let stopped = lines.iter().position(|line| matches!(line, Record::VmStopped { .. })).unwrap();
    lines.truncate(stopped + 1);
    let progress = replay(&entries(lines));
    assert!(progress.ledger().owed().next().is_none());
    assert!(!progress.ledger().stopped_names().contains(&repo.to_string()), "Harvester would start it");
}

#[test]
fn a_hold_lasts_until_the_next_line() {
    let mut records: Vec<Record> = whole_run()[..9].iter().map(|entry| entry.record.clone()).collect();
    records.push(Record::Held { step: Step::PreDrain, reason: "default/db waits".into() });
    assert_eq!(replay(&entries(records.clone())).held().unwrap().step, Step::PreDrain);
    records.push(Record::Resumed);
    assert_eq!(replay(&entries(records)).held(), None);
}

fn as_left() -> AsLeft {
    AsLeft { marked: true, generation: 2, run_strategy: Some("Manual".into()), spec: "digest".into() }
}

#[test]
fn who_was_off_already_is_owed_a_start_until_the_swap_begins() {
    let run: Vec<Record> = whole_run().into_iter().map(|entry| entry.record).collect();
    let adopted = |name: &str| Record::VmAdopted { vm: Box::new(vm_entry(name, Verdict::Leaving)) };
    let mut lines = run[..13].to_vec();
    lines.extend([
        adopted("listed"),
        Record::VmAsLeft { vm: VmKey::new("default", "listed"), as_left: as_left() },
    ]);
    let progress = replay(&entries(lines.clone()));
    let line = progress.ledger().line(&VmKey::new("default", "listed")).unwrap();
    assert!(line.fate.is_owed() && line.as_left == Some(as_left()));
    let next = |record: Record, before: &[Record]| {
        let lines = entries([before, std::slice::from_ref(&record)].concat());
        let (last, before) = lines.split_last().unwrap();
        replay(before).accept(last).is_ok()
    };
    assert!(!next(adopted("listed"), &lines), "twice");
    assert!(!next(adopted("gpu"), &lines), "one that we have shut down ourselves");
    assert!(!next(adopted("late"), &run[..17]), "after the swap");
    assert!(
        !next(Record::VmAsLeft { vm: VmKey::new("default", "web"), as_left: as_left() }, &lines),
        "it runs"
    );
}

/// The records of a whole run, and those that trouble brings.
fn pool() -> Vec<Record> {
    let (web, gpu) = (VmKey::new("default", "web"), VmKey::new("default", "gpu"));
    let mut pool: Vec<Record> = whole_run().into_iter().map(|entry| entry.record).collect();
    pool.extend([
        Record::GateRefused { refusal: "a VM came back".into() },
        Record::SwapAbsent,
        Record::TargetAwaited { vm: web.clone(), why: "node2 is cordoned".into() },
        Record::AbortIntent {
            vm: web.clone(),
            migration: "m".into(),
            uid: None,
            ours: true,
            why: "slow".into(),
        },
        Record::MigrationIntent { vm: web.clone(), attempt: 2, to: Some("node3".into()) },
        Record::StopIntent { vm: web.clone() },
        Record::VmStopped { vm: web.clone(), graceful: Some(true) },
        Record::ForceOffIntent { vm: gpu.clone() },
        Record::VmLeft { vm: web, reason: "stopped by its user".into() },
        Record::VmStruck { vm: gpu.clone(), reason: "deleted".into() },
        Record::VmAsLeft { vm: gpu, as_left: as_left() },
        Record::VmAdopted {
            vm: Box::new(vm_entry("listed", Verdict::ShutDown { why: "Harvester's list names it".into() })),
        },
        Record::Held { step: Step::PreDrain, reason: "waits".into() },
        Record::Resumed,
        Record::CancelRequested,
        Record::Finished { outcome: Outcome::Cancelled },
    ]);
    pool
}

proptest::proptest! {
    /// Whatever lines arrive in whatever order: what is accepted keeps the promises, and there is always one next step.
    #[test]
    fn no_order_of_records_breaks_a_promise(picks in proptest::collection::vec(0usize..37, 0..120)) {
        use crate::flow::next::{Next, next};
        let pool = pool();
        let mut progress = Progress::default();
        let mut accepted: Vec<Record> = Vec::new();
        // Orderly prefixes reach deep states; the picks then disturb them.
        let start = picks.first().copied().unwrap_or(0) % whole_run().len();
        let orderly = whole_run().into_iter().take(start).map(|entry| entry.record);
        let disturbed = picks.iter().filter_map(|pick| pool.get(*pick).cloned());
        for record in orderly.chain(disturbed) {
            let seq = progress.seq() + 1;
            let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::try_from(seq).unwrap());
            if progress.accept(&Entry { seq, boot: "b".into(), at, record: record.clone() }).is_ok() {
                accepted.push(record);
            }
            if progress.plan().is_none() {
                continue;
            }
            match next(&progress) {
                Next::Step(Step::Swap) => assert!(progress.pre_drained() && progress.drained() && progress.fenced()),
                Next::Step(Step::Finish) | Next::Ended(_) => assert_eq!(progress.ledger().owed().count(), 0),
                Next::Step(_) => {}
            }
            let swaps = accepted.iter().filter(|record| **record == Record::Swapped).count();
            assert!(swaps <= 1, "one swap");
            if progress.swap_begun() {
                let drained = accepted.iter().position(|record| *record == Record::PreDrained);
                let swap = accepted.iter().position(|record| matches!(record, Record::SwapIntent { .. }));
                assert!(drained < swap, "pre-drain before the swap");
                assert_eq!(progress.ledger().on_node().count(), 0, "nobody is on the node");
            }
        }
    }
}
