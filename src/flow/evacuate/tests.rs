//! Tests of the evacuation's choice.

use super::*;
use crate::flow::plan::{MigrationFailure, ShutdownTimeout};
use crate::flow::progress::tests::{entries, replay, vm_entry, whole_run};
use crate::flow::record::Record;
use crate::flow::vms::VmEntry;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

pub(super) fn vm() -> VmKey {
    VmKey::new("default", "db")
}

/// A ledger of one VM after these records; the n-th record is dated 8 + n seconds.
pub(super) fn ledger(verdict: Verdict, after: Vec<Record>) -> VmLedger {
    let mut records: Vec<Record> = whole_run()[..7].iter().map(|entry| entry.record.clone()).collect();
    records.push(Record::LedgerWritten { vms: vec![vm_entry("db", verdict)] });
    records.extend(after);
    replay(&entries(records)).ledger().clone()
}

/// The ledger written by `ledger` has 8 lines, so the first attempt's id is 9.
pub(super) fn id(attempt: u32) -> u64 {
    8 + u64::from(attempt)
}

fn seen_with(ended: Option<bool>, deleting: bool, migrations: Vec<SeenMigration>) -> Seen {
    Seen {
        vmis: [(vm(), SeenVmi { uid: "vmi-db".into(), deleting: deleting.then(|| at(10)), ended })].into(),
        listed: true,
        migrations: [(vm(), migrations)].into(),
        looked: Some(at(8)),
        nodes_read: 2,
        targets: [(vm(), Target::Open { other: None })].into(),
        ..Seen::default()
    }
}

/// A migration as it was first seen at second 10.
pub(super) fn migration(name: &str, id: Option<u64>, state: MigrationState) -> SeenMigration {
    let (name, uid) = (name.to_owned(), format!("uid-{name}"));
    SeenMigration {
        name,
        uid,
        id,
        state,
        since: at(10),
        preparing: None,
        running: false,
        deleting: false,
        target: None,
    }
}

pub(super) fn seen(ended: Option<bool>, migrations: &[(u32, MigrationState)]) -> Seen {
    let ours = migrations
        .iter()
        .map(|(attempt, state)| migration(&format!("upgrade-{attempt}"), Some(id(*attempt)), state.clone()));
    seen_with(ended, false, ours.collect())
}

/// The same with the instance on its way out.
fn going(ended: Option<bool>) -> Seen {
    seen_with(ended, true, vec![])
}

fn somebody_elses(ours: &[(u32, MigrationState)]) -> Seen {
    let mut seen = seen(None, ours);
    let other = migration("kubevirt-evacuation-x", None, MigrationState::Unfinished);
    seen.migrations.entry(vm()).or_default().push(other);
    seen
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
    let asked = |attempt| Record::MigrationIntent { vm: vm(), attempt, to: None };
    let stop = || Record::StopIntent { vm: vm() };
    let migrate = |attempt| format!("{:?}", VmAction::Migrate { vm: vm(), attempt, to: None });
    let stops = || format!("{:?}", VmAction::Stop { vm: vm() });
    let cut = || format!("{:?}", VmAction::ForceOff { vm: vm() });
    let abort = |name: &str, ours, why: &str| VmAction::Abort {
        vm: vm(),
        migration: name.into(),
        uid: format!("uid-{name}"),
        ours,
        why: why.into(),
    };
    let gone = || format!("{:?}", VmAction::RecordGone { vm: vm() });
    let three = || vec![asked(1), asked(2), asked(3)];
    let again = || format!("{:?}", VmAction::AskAgain { vm: vm() });
    let many = || std::iter::repeat_with(stop).take(30).collect::<Vec<_>>();
    let table: Vec<(&str, VmLedger, Seen, &Evacuation, i64, String)> = vec![
        ("stop not heard", ledger(shut(), vec![stop()]), seen(None, &[]), &usual, 30, again()),
        ("stop not heard, no power cut", ledger(shut(), vec![stop()]), seen(None, &[]), &force, 300, again()),
        (
            "stop heard, and nobody acts upon it",
            ledger(shut(), vec![stop()]),
            seen(None, &[]),
            &force,
            700,
            "hold: was told to shut down once and KubeVirt does not begin".into(),
        ),
        (
            "stop never heard",
            ledger(shut(), many()),
            seen(None, &[]),
            &force,
            900,
            "hold: was told to shut".into(),
        ),
        (
            "somebody else moves it",
            ledger(Verdict::Migrate, vec![]),
            somebody_elses(&[]),
            &usual,
            9,
            "wait: is being live-migrated by kubevirt-evacuation-x".into(),
        ),
        (
            "ours refused, somebody else moves it",
            ledger(Verdict::Migrate, vec![asked(1)]),
            somebody_elses(&[]),
            &usual,
            60,
            "wait: is being live-migrated by".into(),
        ),
        (
            "ours failed, somebody else moves it",
            ledger(Verdict::Migrate, vec![asked(1)]),
            somebody_elses(&[(1, failed())]),
            &usual,
            60,
            "wait: is being live-migrated by".into(),
        ),
        (
            "never accepted",
            ledger(Verdict::Migrate, vec![asked(1)]),
            seen(None, &[]),
            &usual,
            9 + 1800,
            "hold: could not be live-migrated".into(),
        ),
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
            format!("{:?}", abort("upgrade-1", true, "it takes longer than evacuation.migrationSeconds")),
        ),
        (
            "shutting down",
            ledger(shut(), vec![stop()]),
            going(None),
            &usual,
            100,
            "wait: is shutting down".into(),
        ),
        (
            "shut down, pod left",
            ledger(shut(), vec![stop()]),
            going(Some(true)),
            &usual,
            100,
            "wait: is off; KubeVirt is clearing up".into(),
        ),
        (
            "ended by somebody, its object stays",
            ledger(Verdict::Migrate, vec![]),
            seen(Some(false), &[]),
            &usual,
            100,
            "wait: is being stopped by somebody else".into(),
        ),
        (
            "ended by somebody, its object stays for good",
            ledger(Verdict::Migrate, vec![]),
            seen(Some(false), &[]),
            &usual,
            2000,
            gone(),
        ),
        (
            "ignores ACPI",
            ledger(shut(), vec![stop()]),
            going(None),
            &usual,
            400,
            "hold: did not shut down in time".into(),
        ),
        ("ignores ACPI, policy", ledger(shut(), vec![stop()]), going(None), &force, 400, cut()),
        (
            "cut once only",
            ledger(shut(), vec![stop(), Record::ForceOffIntent { vm: vm() }]),
            going(None),
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
    for (what, ledger, mut seen, policy, now, expected) in table {
        seen.looked = Some(at(now));
        let decision = decide(&ledger, &seen, policy, at(8), at(now));
        let mut said: Vec<String> = decision.actions.iter().map(|action| format!("{action:?}")).collect();
        if said.is_empty() {
            said.extend(decision.blockers.iter().map(|blocker| format!("wait: {}", blocker.what)));
        }
        said.extend(decision.holds.iter().map(|hold| format!("hold: {}", hold.what)));
        assert_eq!(said.len(), 1, "{what}: {said:?}");
        let plain = said[0].replace("VM default/db ", "");
        assert!(plain.starts_with(&expected), "{what}: {plain} is not {expected}");
        if !decision.blockers.is_empty() {
            assert!(decision.look_again.is_some(), "{what}: a wait needs an end");
        }
    }
}

#[test]
fn only_a_few_migrations_are_asked_for_at_once() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut records: Vec<Record> = whole_run()[..7].iter().map(|entry| entry.record.clone()).collect();
    let vms = names.iter().map(|name| vm_entry(name, Verdict::Migrate)).collect();
    records.push(Record::LedgerWritten { vms });
    let ledger = replay(&entries(records)).ledger().clone();
    let here =
        |name: &&str| (VmKey::new("default", name), SeenVmi { uid: "u".into(), deleting: None, ended: None });
    let open = |name: &&str| (VmKey::new("default", name), Target::Open { other: None });
    let seen = Seen {
        vmis: names.iter().map(here).collect(),
        targets: names.iter().map(open).collect(),
        ..seen(None, &[])
    };
    let decision = decide(&ledger, &seen, &Evacuation::default(), at(8), at(9));
    assert_eq!(decision.actions.len(), 4);
}

#[test]
fn a_turn_is_waited_for_only_as_long_as_something_moves() {
    let off = || Verdict::ShutDown { why: "it holds a device".into() };
    let mut ledger = ledger(off(), vec![Record::StopIntent { vm: vm() }]);
    ledger.enter(VmEntry { shutdown_order: 10, ..vm_entry("later", off()) });
    let mut seen = going(None);
    let later = VmKey::new("default", "later");
    seen.vmis.insert(later, SeenVmi { uid: "vmi-later".into(), deleting: None, ended: None });
    let policy = Evacuation::default();
    let early = decide(&ledger, &seen, &policy, at(0), at(20));
    assert!(early.actions.is_empty() && early.holds.is_empty());
    let waits = early.blockers.iter().find(|blocker| blocker.what.contains("VM default/later")).unwrap();
    assert!(waits.what.contains("after VM default/db"), "{}", waits.what);
    // The first one does not go off: an operator is asked, and nobody waits in silence beside that.
    let late = decide(&ledger, &seen, &policy, at(0), at(10_000));
    assert_eq!((late.holds.len(), late.blockers.len(), late.look_again), (1, 0, None), "{late:?}");
    assert!(late.actions.is_empty());
}
