//! Tests of the ladder's end: who goes off, in which order, in whose time; and what the journal alone tells of it.

use super::ladder_tests::{aborted, asked, awaited, check, failed, look, open, said};
use super::tests::{at, id, ledger, migration, seen, vm};
use super::*;
use crate::flow::plan::{MigrationFailure, ShutdownTimeout};
use crate::flow::progress::tests::vm_entry;
use crate::flow::record::Record;
use crate::flow::vms::VmEntry;

use MigrationState::Unfinished;

#[test]
fn policy_stops_a_vm_only_when_nothing_moves_it() {
    let policy =
        Evacuation { on_migration_failure: MigrationFailure::ShutdownAndRestore, ..Evacuation::default() };
    let three = || vec![asked(1), asked(2), asked(3)];
    let last = |state| look(open(), 9, vec![migration("upgrade-3", Some(id(3)), state)]);
    let both = || {
        let mut seen = last(failed());
        seen.migrations.entry(vm()).or_default().push(migration("kubevirt-evacuation-x", None, Unfinished));
        seen
    };
    let mut stopping = three();
    stopping.push(aborted("upgrade-3", true));
    check(
        &policy,
        vec![
            ("it failed for good", three(), last(failed()), 99, &["stop db"]),
            ("it goes on", three(), last(Unfinished), 99, &["wait VM default/db is being"]),
            ("its time is over", three(), last(Unfinished), 5000, &["abort upgrade-3"]),
            (
                "it is being aborted",
                stopping,
                last(Unfinished),
                15,
                &["wait VM default/db: KubeVirt is aborting"],
            ),
            (
                "somebody else moves it",
                three(),
                both(),
                99,
                &["wait VM default/db is being live-migrated by"],
            ),
            (
                "who ran away with it is caught first",
                three(),
                both(),
                5000,
                &["abort kubevirt-evacuation-x false"],
            ),
        ],
    );
}

#[test]
fn given_up_vms_go_off_in_their_owners_order() {
    let policy =
        Evacuation { on_migration_failure: MigrationFailure::ShutdownAndRestore, ..Evacuation::default() };
    let mut ledger = ledger(Verdict::Migrate, vec![asked(1), asked(2), asked(3)]);
    let app = VmKey::new("default", "app");
    ledger.enter(VmEntry { shutdown_order: -1, ..vm_entry("app", Verdict::Migrate) });
    let fate = ledger.line(&vm()).unwrap().fate.clone();
    ledger.line_mut(&app).unwrap().fate = fate;
    let mut seen = look(open(), 9, vec![migration("upgrade-3", Some(id(3)), failed())]);
    seen.vmis.insert(app.clone(), seen.vmis[&vm()].clone());
    seen.migrations.insert(app.clone(), seen.migrations[&vm()].clone());
    let decision = decide(&ledger, &seen, &policy, at(8), at(99));
    assert_eq!(said(&decision, 99)[0], "stop app");
    assert!(
        said(&decision, 99)[1].contains("VM default/db is shut down after VM default/app"),
        "{decision:?}"
    );
    ledger.line_mut(&app).unwrap().fate = Fate::ShutDown { graceful: Some(true), at: at(120) };
    seen.vmis.remove(&app);
    assert_eq!(said(&decide(&ledger, &seen, &policy, at(8), at(130)), 130), ["stop db"]);
}

#[test]
fn a_guests_time_is_told_and_who_ends_it() {
    let shut = || Verdict::ShutDown { why: "it holds a device".into() };
    let told = |grace| {
        let mut ledger = ledger(shut(), vec![Record::StopIntent { vm: vm() }]);
        ledger.line_mut(&vm()).unwrap().entry.grace_seconds = grace;
        ledger
    };
    let mut seen = seen(None, &[]);
    seen.vmis.get_mut(&vm()).unwrap().deleting = true;
    let hold = Evacuation::default();
    let force = Evacuation { on_shutdown_timeout: ShutdownTimeout::ForceOff, ..hold.clone() };
    for (grace, policy, after, expected) in [
        (
            Some(300),
            &hold,
            216,
            "wait VM default/db is shutting down: 84 s of 300 s left, then KubeVirt cuts its power",
        ),
        (
            Some(120),
            &hold,
            20,
            "wait VM default/db is shutting down: 100 s of 120 s left, then KubeVirt cuts its power",
        ),
        (
            None,
            &force,
            20,
            "wait VM default/db is shutting down: 10 s of 30 s left, then KubeVirt cuts its power",
        ),
        (
            Some(120),
            &hold,
            145,
            "wait VM default/db is shutting down; KubeVirt cuts its power now, after its 120 s: 200 s of 345 s left, then hold",
        ),
        (
            Some(120),
            &force,
            145,
            "wait VM default/db is shutting down; KubeVirt cuts its power now, after its 120 s: 200 s of 345 s left, then \
             power off",
        ),
        (
            Some(120),
            &hold,
            345,
            "hold VM default/db did not shut down in time, and KubeVirt did not cut its power after 120 s; since 5 min; \
             operator: shut its guest down by hand",
        ),
        (Some(120), &force, 345, "force off"),
    ] {
        let decision = decide(&told(grace), &seen, policy, at(8), at(9 + after));
        let said = said(&decision, 9 + after);
        assert!(said.len() == 1 && said[0].starts_with(expected), "{after}: {said:?} is not {expected}");
    }
}

#[test]
fn the_journal_alone_tells_what_the_agent_waits_for() {
    let policy = Evacuation::default();
    let told = |verdict, records| {
        let ledger = ledger(verdict, records);
        let decision = decide(&ledger, &Seen::as_recorded(&ledger, at(99)), &policy, at(8), at(99));
        said(&decision, 99)
    };
    let shut = Verdict::ShutDown { why: "it holds a device".into() };
    for (verdict, records, expected) in [
        (
            Verdict::Migrate,
            vec![awaited()],
            "wait VM default/db waits for a target: node2 is cordoned; since 90 s",
        ),
        (
            Verdict::Migrate,
            vec![asked(1)],
            "wait VM default/db is being live-migrated (attempt 1): 28 min of 30 min",
        ),
        (
            shut,
            vec![Record::StopIntent { vm: vm() }],
            "wait VM default/db is shutting down; KubeVirt cuts its power now",
        ),
    ] {
        let said = told(verdict, records);
        assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?} is not {expected}");
    }
}

#[test]
fn going_on_after_a_hold_gives_every_vm_all_of_its_time() {
    let mut records = vec![asked(1), asked(2), asked(3)];
    records.push(Record::Held { step: crate::flow::step::Step::PreDrain, reason: "db".into() });
    records.push(Record::Resumed);
    let now = 6000;
    let seen = look(open(), now, vec![migration("upgrade-3", Some(id(3)), failed())]);
    let decision =
        decide(&ledger(Verdict::Migrate, records), &seen, &Evacuation::default(), at(now), at(now));
    assert_eq!(said(&decision, now), ["migrate 1 -"]);
}
