//! Tests of the evacuation's choice.

use super::*;
use crate::flow::progress::tests::{entries, replay, vm_entry, whole_run};
use crate::flow::record::Record;

const UID: &str = "6f1c9a3e-0001";

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn vm() -> VmKey {
    VmKey::new("default", "db")
}

/// A ledger of one VM after these records; the n-th record is dated 8 + n seconds.
fn ledger(verdict: Verdict, after: Vec<Record>) -> VmLedger {
    let mut records: Vec<Record> = whole_run()[..7].iter().map(|entry| entry.record.clone()).collect();
    records.push(Record::LedgerWritten { vms: vec![vm_entry("db", verdict)] });
    records.extend(after);
    replay(&entries(records)).ledger().clone()
}

fn seen(ended: Option<bool>, migrations: &[(u32, MigrationState)]) -> Seen {
    let migrations = migrations
        .iter()
        .map(|(attempt, state)| SeenMigration {
            name: migration_name(UID, "db", *attempt),
            state: state.clone(),
        })
        .collect();
    Seen {
        vmis: [(vm(), SeenVmi { uid: "vmi-db".into(), ended })].into(),
        migrations: [(vm(), migrations)].into(),
    }
}

fn failed() -> MigrationState {
    MigrationState::Failed { reason: "target unschedulable".into() }
}

#[expect(clippy::too_many_lines, reason = "one table")]
#[test]
fn one_vm_at_a_time() {
    let usual = Evacuation::default();
    let stop_after =
        Evacuation { on_migration_failure: MigrationFailure::ShutdownAndRestore, ..usual.clone() };
    let force = Evacuation { on_shutdown_timeout: ShutdownTimeout::ForceOff, ..usual.clone() };
    let shut = || Verdict::ShutDown { why: "device".into() };
    let asked = |attempt| Record::MigrationIntent { vm: vm(), attempt };
    let stop = || Record::StopIntent { vm: vm() };
    let migrate = |attempt| format!("{:?}", VmAction::Migrate { vm: vm(), attempt });
    let stops = || format!("{:?}", VmAction::Stop { vm: vm() });
    let cut = || format!("{:?}", VmAction::ForceOff { vm: vm() });
    let gone = || format!("{:?}", VmAction::RecordGone { vm: vm() });
    let three = || vec![asked(1), asked(2), asked(3)];
    let table: Vec<(&str, VmLedger, Seen, &Evacuation, i64, String)> = vec![
        ("migratable", ledger(Verdict::Migrate, vec![]), seen(None, &[]), &usual, 9, migrate(1)),
        ("device", ledger(shut(), vec![]), seen(None, &[]), &usual, 9, stops()),
        ("gone", ledger(Verdict::Migrate, vec![asked(1)]), Seen::default(), &usual, 20, gone()),
        ("stopped", ledger(shut(), vec![stop()]), Seen::default(), &usual, 20, gone()),
        ("request lost", ledger(Verdict::Migrate, vec![asked(1)]), seen(None, &[]), &usual, 60, migrate(1)),
        (
            "migrating",
            ledger(Verdict::Migrate, vec![asked(1)]),
            seen(None, &[(1, MigrationState::Unfinished)]),
            &usual,
            60,
            "wait: is being live-migrated".into(),
        ),
        (
            "failed once, back-off",
            ledger(Verdict::Migrate, vec![asked(1)]),
            seen(None, &[(1, failed())]),
            &usual,
            20,
            "wait: waits to be migrated again".into(),
        ),
        (
            "failed once, again",
            ledger(Verdict::Migrate, vec![asked(1)]),
            seen(None, &[(1, failed())]),
            &usual,
            30,
            migrate(2),
        ),
        (
            "failed last month only",
            ledger(Verdict::Migrate, vec![]),
            seen(None, &[(7, failed())]),
            &usual,
            9,
            migrate(1),
        ),
        (
            "failed for good",
            ledger(Verdict::Migrate, three()),
            seen(None, &[(3, failed())]),
            &usual,
            99,
            "hold: could not be live-migrated".into(),
        ),
        (
            "failed for good, policy",
            ledger(Verdict::Migrate, three()),
            seen(None, &[(3, failed())]),
            &stop_after,
            99,
            stops(),
        ),
        (
            "takes too long",
            ledger(Verdict::Migrate, vec![asked(1)]),
            seen(None, &[(1, MigrationState::Unfinished)]),
            &usual,
            9 + 1800,
            "hold: could not be live-migrated".into(),
        ),
        (
            "shutting down",
            ledger(shut(), vec![stop()]),
            seen(None, &[]),
            &usual,
            100,
            "wait: is shutting down".into(),
        ),
        (
            "shut down, pod left",
            ledger(shut(), vec![stop()]),
            seen(Some(true), &[]),
            &usual,
            100,
            "wait: is shutting down".into(),
        ),
        (
            "ignores ACPI",
            ledger(shut(), vec![stop()]),
            seen(None, &[]),
            &usual,
            400,
            "hold: did not shut down in time".into(),
        ),
        ("ignores ACPI, policy", ledger(shut(), vec![stop()]), seen(None, &[]), &force, 400, cut()),
        (
            "cut once only",
            ledger(shut(), vec![stop(), Record::ForceOffIntent { vm: vm() }]),
            seen(None, &[]),
            &force,
            600,
            "hold: did not shut down in time".into(),
        ),
        (
            "excluded",
            ledger(Verdict::Hold { why: "the plan".into() }, vec![]),
            seen(None, &[]),
            &usual,
            9,
            "hold: holds the node".into(),
        ),
        (
            "leaving",
            ledger(Verdict::Leaving, vec![]),
            seen(None, &[]),
            &usual,
            9,
            "wait: is being stopped".into(),
        ),
    ];
    for (what, ledger, seen, policy, now, expected) in table {
        let decision = decide(&ledger, &seen, policy, UID, at(8), at(now));
        let mut said: Vec<String> = decision.actions.iter().map(|action| format!("{action:?}")).collect();
        said.extend(decision.blockers.iter().map(|blocker| format!("wait: {}", blocker.what)));
        said.extend(decision.holds.iter().map(|hold| format!("hold: {hold}")));
        assert_eq!(said.len(), 1, "{what}: {said:?}");
        let plain = said[0].replace("VM default/db ", "");
        assert!(plain.starts_with(&expected), "{what}: {plain} is not {expected}");
        if !decision.blockers.is_empty() {
            assert!(decision.look_again.is_some(), "{what}: a wait needs an end");
        }
    }
}

#[test]
fn migration_names_fit_kubernetes() {
    let name = migration_name(UID, &format!("{}-x", "v".repeat(39)), 2);
    assert_eq!(name, format!("upgrade-6f1c9a3e-{}-2", "v".repeat(39)));
    assert!(name.len() <= 63);
}
