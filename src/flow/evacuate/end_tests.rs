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
    seen.vmis.get_mut(&vm()).unwrap().deleting = Some(at(9));
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

/// virt-controller was away for five minutes: it has accepted the stop, and deletes the instance that much later.
#[test]
fn a_guest_that_hears_late_gets_all_of_its_time() {
    let mut ledger =
        ledger(Verdict::ShutDown { why: "holds a device".into() }, vec![Record::StopIntent { vm: vm() }]);
    ledger.line_mut(&vm()).unwrap().entry.grace_seconds = Some(120);
    let mut seen = seen(None, &[]);
    seen.vmis.get_mut(&vm()).unwrap().deleting = Some(at(309));
    let force = Evacuation { on_shutdown_timeout: ShutdownTimeout::ForceOff, ..Evacuation::default() };
    for (after, expected) in [
        (345, "wait VM default/db is shutting down: 75 s of 120 s left, then KubeVirt cuts its power"),
        (644, "wait VM default/db is shutting down; KubeVirt cuts its power now"),
        (645, "force off"),
    ] {
        let said = said(&decide(&ledger, &seen, &force, at(8), at(9 + after)), 9 + after);
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

#[test]
fn whom_somebody_else_stops_is_neither_stopped_again_nor_given_up() {
    let shut = Verdict::ShutDown { why: "it holds a device".into() };
    let policy =
        Evacuation { on_migration_failure: MigrationFailure::ShutdownAndRestore, ..Evacuation::default() };
    let failed_thrice = ledger(Verdict::Migrate, vec![asked(1), asked(2), asked(3)]);
    for ledger in [ledger(shut, vec![]), ledger(Verdict::Migrate, vec![]), failed_thrice] {
        let mut seen = look(open(), 1900, vec![migration("upgrade-3", Some(id(3)), failed())]);
        seen.vmis.get_mut(&vm()).unwrap().deleting = Some(at(1890));
        let decision = decide(&ledger, &seen, &policy, at(8), at(1900));
        assert!(decision.actions.is_empty() && decision.holds.is_empty(), "{decision:?}");
        assert!(decision.blockers[0].what.contains("is being stopped by somebody else"), "{decision:?}");
        let late = decide(&ledger, &seen, &policy, at(8), at(3000));
        assert!(late.holds[0].what.contains("does not go"), "{late:?}");
    }
}

#[test]
fn what_kubevirt_keeps_of_a_guest_that_lost_its_power_is_off() {
    let shut = Verdict::ShutDown { why: "it holds a device".into() };
    let ledger = ledger(shut, vec![Record::StopIntent { vm: vm() }]);
    let seen = seen(Some(false), &[]);
    let early = decide(&ledger, &seen, &Evacuation::default(), at(8), at(20));
    assert!(early.actions.is_empty() && early.blockers[0].what.contains("is off"), "{early:?}");
    let late = decide(&ledger, &seen, &Evacuation::default(), at(8), at(60));
    assert_eq!(late.actions, [VmAction::RecordGone { vm: vm() }]);
}

#[test]
fn the_last_no_of_kubevirt_is_said_whatever_is_waited_for() {
    let why = "a snapshot is being made";
    let shut = Verdict::ShutDown { why: "it holds a device".into() };
    for (ledger, after, holds) in [
        (ledger(shut.clone(), vec![Record::StopIntent { vm: vm() }]), 60, false),
        (ledger(shut, vec![Record::StopIntent { vm: vm() }]), 700, true),
        (ledger(Verdict::Migrate, vec![asked(1)]), 60, false),
        (ledger(Verdict::Migrate, vec![asked(1)]), 1900, true),
    ] {
        let mut seen = look(open(), after, vec![]);
        seen.refused.insert(vm(), why.to_owned());
        let decision = decide(&ledger, &seen, &Evacuation::default(), at(8), at(after));
        let said = if holds { &decision.holds[0].what } else { &decision.blockers[0].what };
        assert!(said.contains(why), "after {after} s: {said}");
    }
}

#[test]
fn migrations_that_nobody_lists_are_waited_for_with_an_end() {
    let ledger = ledger(Verdict::Migrate, vec![]);
    let mut seen = look(open(), 9, vec![]);
    (seen.listed, seen.unlisted_since) = (false, Some(at(10)));
    let early = decide(&ledger, &seen, &Evacuation::default(), at(8), at(20));
    assert!(early.actions.is_empty() && early.look_again.is_some(), "{early:?}");
    assert!(early.blockers[0].what.contains("does not list the migrations"), "{early:?}");
    let late = decide(&ledger, &seen, &Evacuation::default(), at(8), at(700));
    assert!(late.holds[0].owner.contains("may list"), "{late:?}");
}

#[test]
fn a_migration_that_came_to_nothing_although_it_succeeded_is_tried_again() {
    let ledger = ledger(Verdict::Migrate, vec![asked(1)]);
    let seen = look(open(), 1800, vec![migration("upgrade-1", Some(id(1)), MigrationState::Succeeded)]);
    let early = decide(&ledger, &seen, &Evacuation::default(), at(8), at(60));
    assert!(early.actions.is_empty() && early.blockers[0].what.contains("still shown here"), "{early:?}");
    let late = decide(&ledger, &seen, &Evacuation::default(), at(8), at(1900));
    assert!(late.holds[0].what.contains("the VM is still here"), "{late:?}");
}

#[test]
fn a_launcher_gets_its_time_also_after_a_power_cut_at_the_very_end() {
    let shut = Verdict::ShutDown { why: "it holds a device".into() };
    let told = vec![Record::StopIntent { vm: vm() }, Record::ForceOffIntent { vm: vm() }];
    let ledger = ledger(shut, told);
    let policy = Evacuation { guest_shutdown_seconds: 1, ..Evacuation::default() };
    let mut seen = seen(Some(false), &[]);
    seen.vmis.get_mut(&vm()).unwrap().deleting = Some(at(10));
    let grace = ledger.line(&vm()).unwrap().entry.grace_seconds;
    let cut = 10 + i64::try_from(policy.guest_shutdown(grace).as_secs()).unwrap() + 45;
    let just_cut = decide(&ledger, &seen, &policy, at(8), at(cut + 5));
    assert!(just_cut.holds.is_empty() && just_cut.blockers[0].what.contains("is off"), "{just_cut:?}");
    let late = decide(&ledger, &seen, &policy, at(8), at(cut + 120));
    assert!(late.holds[0].what.contains("stays in deletion"), "{late:?}");
}
