//! Shapes of VMs: what is decided, what evacuation does then, what is owed, and what its start waits for. In one table; the
//! rows follow the rules table of reference `kubevirt.md` §7.

use super::*;
use crate::flow::evacuate::{Seen, SeenVmi, Target, VmAction, decide};
use crate::flow::progress::tests::{entries, replay, whole_run};
use crate::flow::record::Record;
use crate::flow::restore::premises;
use jiff::Timestamp;

mod shapes;

use shapes::{Shape, all, facts};

fn said(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Migrate => "migrate".to_owned(),
        Verdict::Leaving => "leaving".to_owned(),
        Verdict::ShutDown { why } => format!("shut down: {why}"),
        Verdict::Hold { why } => format!("hold: {why}"),
    }
}

/// The verdict in words, of what was read.
fn verdict(facts: &VmFacts, policy: &Evacuation, elsewhere: &Elsewhere) -> String {
    said(&classify(facts, policy, elsewhere))
}

/// The shape's facts and its surroundings.
fn shaped(shape: &Shape) -> (VmFacts, Elsewhere) {
    let mut facts = facts();
    let mut elsewhere = Elsewhere::Open;
    (shape.differs)(&mut facts, &mut elsewhere);
    (facts, elsewhere)
}

/// The records up to the ledger, with this one VM in it, and more.
fn run_with(entry: &VmEntry, more: Vec<Record>) -> crate::flow::progress::Progress {
    let mut records: Vec<Record> = whole_run().into_iter().take(7).map(|entry| entry.record).collect();
    records.push(Record::LedgerWritten { vms: vec![entry.clone()] });
    records.extend(more);
    replay(&entries(records))
}

/// The first thing that evacuation does about it.
fn action(entry: &VmEntry, elsewhere: &Elsewhere) -> &'static str {
    let progress = run_with(entry, vec![]);
    let (now, is_going) = (Timestamp::UNIX_EPOCH, entry.verdict == Verdict::Leaving);
    let vmi = SeenVmi { uid: entry.vmi_uid.clone(), deleting: is_going.then_some(now), ended: None };
    let target = match elsewhere {
        Elsewhere::Open => Target::Open { other: None },
        Elsewhere::Closed { why } | Elsewhere::Never { why } => Target::None { why: why.clone(), cure: None },
        Elsewhere::Alone => Target::None { why: "there is no other node".into(), cure: None },
    };
    let seen = Seen {
        vmis: [(entry.vm.clone(), vmi)].into(),
        listed: true,
        looked: Some(now),
        targets: [(entry.vm.clone(), target)].into(),
        ..Seen::default()
    };
    let decision = decide(progress.ledger(), &seen, &Evacuation::default(), now, now);
    match (decision.actions.first(), decision.holds.is_empty()) {
        (Some(VmAction::Migrate { .. }), true) => "migrates",
        (Some(VmAction::Stop { .. }), true) => "stops",
        (Some(VmAction::AwaitTarget { .. }), true) => "waits for a target",
        (None, true) => "waits",
        (None, false) => "holds",
        (Some(_), _) => "?",
    }
}

/// What is owed once that has happened.
fn owed(entry: &VmEntry) -> &'static str {
    let vm = entry.vm.clone();
    let more = match &entry.verdict {
        Verdict::Migrate => vec![
            Record::MigrationIntent { vm: vm.clone(), attempt: 1, to: None },
            Record::VmMigrated { vm, to: "node2".into() },
        ],
        Verdict::ShutDown { .. } => {
            vec![Record::StopIntent { vm: vm.clone() }, Record::VmStopped { vm, graceful: Some(true) }]
        }
        Verdict::Leaving => vec![Record::VmLeft { vm, reason: "stopped by its user".into() }],
        Verdict::Hold { .. } => vec![],
    };
    let progress = run_with(entry, more);
    if progress.ledger().owed().next().is_some() { "a start" } else { "-" }
}

#[test]
fn shapes_and_what_becomes_of_them() {
    assert!(all().count() >= 40);
    for shape in all() {
        let (facts, elsewhere) = shaped(shape);
        let what = shape.what;
        let entry = enter(&facts, &Evacuation::default(), &elsewhere);
        let verdict = said(&entry.verdict);
        assert!(verdict.starts_with(shape.verdict), "{what}: {verdict}");
        assert_eq!(action(&entry, &elsewhere), shape.action, "{what}: action");
        let expected = if shape.needs == "-" { "-" } else { "a start" };
        assert_eq!(owed(&entry), expected, "{what}: owed");
        if expected == "a start" {
            let needs: Vec<String> = premises(&entry).iter().map(ToString::to_string).collect();
            assert_eq!(needs.join(", "), shape.needs, "{what}: what its start waits for");
        }
    }
}

#[test]
fn nobody_is_shut_down_where_the_plan_says_hold() {
    let policy = Evacuation { non_migratable: NonMigratable::Hold, ..Evacuation::default() };
    for shape in all() {
        let (facts, own) = shaped(shape);
        for elsewhere in [own, Elsewhere::Open, Elsewhere::Alone, Elsewhere::Never { why: "x".into() }] {
            let said = verdict(&facts, &policy, &elsewhere);
            assert!(!said.starts_with("shut down"), "{}: {said}", shape.what);
            assert_eq!(said == "leaving", shape.verdict == "leaving", "{}: {said}", shape.what);
        }
    }
}

#[test]
fn whom_the_plan_excludes_is_never_touched() {
    let policy = Evacuation { exclude: [VmKey::new("default", "db")].into(), ..Evacuation::default() };
    for shape in all() {
        let (facts, elsewhere) = shaped(shape);
        let said = verdict(&facts, &policy, &elsewhere);
        let wanted = if shape.verdict == "leaving" { "leaving" } else { "hold: the plan excludes" };
        assert!(said.starts_with(wanted), "{}: {said}", shape.what);
    }
}

#[test]
fn the_server_of_an_upgrades_images_is_stopped_last() {
    let mut serves = facts();
    serves.serves_upgrade = true;
    let entry = enter(&serves, &Evacuation::default(), &Elsewhere::Alone);
    assert!(entry.left_off && entry.shutdown_order == i32::MAX);
    assert!(!enter(&facts(), &Evacuation::default(), &Elsewhere::Alone).left_off);
}
