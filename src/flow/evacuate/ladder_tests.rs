//! Tests of the ladder while a VM may still move: each rung, each deadline, and the words that people read at it.

use super::tests::{at, id, ledger, migration, seen, vm};
use super::*;
use crate::flow::plan::MigrationFailure;
use crate::flow::record::Record;

use MigrationState::{Failed, Unfinished};

const CHAIN: &str =
    "wait VM default/db waits for a target: node2 lacks 3.2 GiB of memory, node3 is cordoned; since ";
const HOLD: &str = "hold VM default/db could not be live-migrated: attempt 1 failed, it was slow";

pub(super) fn asked(attempt: u32) -> Record {
    Record::MigrationIntent { vm: vm(), attempt, to: None }
}

pub(super) fn awaited() -> Record {
    Record::TargetAwaited { vm: vm(), why: "node2 is cordoned".into() }
}

pub(super) fn aborted(name: &str, ours: bool) -> Record {
    Record::AbortIntent { vm: vm(), migration: name.into(), uid: None, ours, why: "it was slow".into() }
}

pub(super) fn closed() -> Target {
    let why = "node2 lacks 3.2 GiB of memory, node3 is cordoned".to_owned();
    Target::None { why, cure: Some("uncordon node3".into()) }
}

pub(super) fn failed() -> MigrationState {
    Failed { reason: "target unschedulable".into() }
}

/// The world at a second in which the last look at the nodes said this.
pub(super) fn look(target: Target, looked: i64, migrations: Vec<SeenMigration>) -> Seen {
    Seen {
        looked: Some(at(looked)),
        targets: [(vm(), target)].into(),
        migrations: [(vm(), migrations)].into(),
        ..seen(None, &[])
    }
}

pub(super) fn open() -> Target {
    Target::Open { other: None }
}

/// Everything that a decision says, one short line each.
pub(super) fn said(decision: &Decision, now: i64) -> Vec<String> {
    let mut said: Vec<String> = decision
        .actions
        .iter()
        .map(|action| match action {
            VmAction::Migrate { attempt, to, .. } => {
                format!("migrate {attempt} {}", to.as_deref().unwrap_or("-"))
            }
            VmAction::AwaitTarget { .. } => "await".into(),
            VmAction::Abort { migration, ours, .. } => format!("abort {migration} {ours}"),
            VmAction::Stop { vm } => format!("stop {}", vm.name),
            VmAction::AskAgain { .. } => "ask again".into(),
            VmAction::ForceOff { .. } => "force off".into(),
            VmAction::RecordGone { .. } => "gone".into(),
        })
        .collect();
    said.extend(decision.look_for.values().map(|but| format!("look {but:?}")));
    said.extend(decision.blockers.iter().map(|one| format!("wait {}", one.sentence(at(now)))));
    said.extend(decision.holds.iter().map(|one| format!("hold {}", one.chain(at(now)))));
    said
}

pub(super) type Row = (&'static str, Vec<Record>, Seen, i64, &'static [&'static str]);

/// Lines that begin with these are said, and no others; the ledger's own line is of second 8, the records follow.
pub(super) fn check(policy: &Evacuation, table: Vec<Row>) {
    for (what, records, seen, now, expected) in table {
        let decision = decide(&ledger(Verdict::Migrate, records), &seen, policy, at(8), at(now));
        let said = said(&decision, now);
        assert_eq!(said.len(), expected.len(), "{what}: {said:#?}");
        for (line, beginning) in said.iter().zip(expected) {
            assert!(line.starts_with(beginning), "{what}: {line} is not {beginning}");
        }
        let waits = decision.blockers.iter().any(|one| one.deadline.is_some());
        assert!(!waits || decision.look_again.is_some(), "{what}: a wait needs an end");
    }
}

#[test]
fn a_target_is_looked_for_before_anything_is_asked_of_kubevirt() {
    let nobody = || Seen { looked: None, targets: [].into(), ..look(open(), 0, vec![]) };
    let large = || Seen { nodes_read: 80, ..look(closed(), 15, vec![]) };
    let unlisted = || Seen { listed: false, ..look(open(), 9, vec![]) };
    check(
        &Evacuation::default(),
        vec![
            ("before the first look", vec![], nobody(), 9, &["look {}"]),
            (
                "before the migrations are listed",
                vec![asked(1)],
                unlisted(),
                5000,
                &["wait the API server does not list the migrations of VM default/db"],
            ),
            ("there is one", vec![], look(open(), 9, vec![]), 9, &["migrate 1 -"]),
            ("nobody knows: KubeVirt may", vec![], look(Target::Unknown, 9, vec![]), 9, &["migrate 1 -"]),
            ("a look of a minute ago is too old", vec![], look(open(), 9, vec![]), 69, &["look {}"]),
            ("there is none", vec![], look(closed(), 9, vec![]), 9, &["await", CHAIN]),
            ("it waits, not looking at each turn", vec![awaited()], look(closed(), 15, vec![]), 20, &[CHAIN]),
            ("it waits, and looks again", vec![awaited()], look(closed(), 15, vec![]), 27, &["look {}"]),
            ("the longer, the fewer looks", vec![awaited()], look(closed(), 400, vec![]), 490, &[CHAIN]),
            ("but not for ever", vec![awaited()], look(closed(), 400, vec![]), 520, &["look {}"]),
            ("and fewer in a large cluster", vec![awaited()], large(), 90, &[CHAIN]),
            ("it appears", vec![awaited()], look(open(), 600, vec![]), 600, &["migrate 1 -"]),
            (
                "the scheduler has the last word",
                vec![awaited()],
                look(closed(), 1509, vec![]),
                1509,
                &["migrate 1 -"],
            ),
            (
                "nothing helps",
                vec![awaited(), asked(1)],
                look(closed(), 1809, vec![migration("upgrade-1", Some(10), failed())]),
                1810,
                &[
                    "hold VM default/db could not be live-migrated: attempt 1 failed, target unschedulable; node2 lacks 3.2 \
                   GiB of memory, node3 is cordoned; since 30 min; operator: uncordon node3, or move or stop it by hand",
                ],
            ),
        ],
    );
}

#[test]
fn a_wait_for_a_target_is_told_as_one_sentence() {
    let now = 9 + 240;
    for (policy, then) in
        [(MigrationFailure::Hold, "hold"), (MigrationFailure::ShutdownAndRestore, "shut it down")]
    {
        let policy = Evacuation { on_migration_failure: policy, ..Evacuation::default() };
        let seen = look(closed(), now, vec![]);
        let decision = decide(&ledger(Verdict::Migrate, vec![awaited()]), &seen, &policy, at(8), at(now));
        let expected = format!(
            "VM default/db waits for a target: node2 lacks 3.2 GiB of memory, node3 is cordoned; since 4 min; at 30 min: \
             {then}; operator: uncordon node3, or move or stop it by hand"
        );
        assert_eq!(decision.blockers[0].sentence(at(now)), expected);
    }
}

#[test]
fn the_next_attempt_goes_elsewhere() {
    let on = |node: &str| SeenMigration {
        target: Some(node.into()),
        ..migration("upgrade-1", Some(id(1)), failed())
    };
    let other = || Target::Open { other: Some("node3".into()) };
    check(
        &Evacuation::default(),
        vec![
            (
                "an old look does not know",
                vec![asked(1)],
                look(open(), 9, vec![on("node2")]),
                30,
                &["look {\"node2\"}"],
            ),
            ("another node", vec![asked(1)], look(other(), 30, vec![on("node2")]), 30, &["migrate 2 node3"]),
            ("no other node", vec![asked(1)], look(open(), 30, vec![on("node2")]), 30, &["migrate 2 -"]),
            (
                "no node at all",
                vec![asked(1)],
                look(closed(), 30, vec![on("node2")]),
                30,
                &["await", "wait VM default/db waits"],
            ),
            (
                "back-off first",
                vec![asked(1)],
                look(other(), 28, vec![on("node2")]),
                28,
                &["wait VM default/db waits to be migrated"],
            ),
        ],
    );
}

#[test]
fn what_does_not_end_is_aborted_and_its_end_awaited() {
    let ours = |state| migration("upgrade-1", Some(id(1)), state);
    let preparing = || SeenMigration { preparing: Some(at(20)), ..ours(Unfinished) };
    let going = || SeenMigration { deleting: true, ..ours(Unfinished) };
    let other = || migration("kubevirt-evacuation-x", None, Unfinished);
    let end = 9 + 1800;
    let seen = |migrations| look(open(), 9, migrations);
    let given_up = || vec![asked(1), aborted("upgrade-1", true)];
    check(
        &Evacuation::default(),
        vec![
            (
                "its time is not over",
                vec![asked(1)],
                seen(vec![ours(Unfinished)]),
                end - 1,
                &["wait VM default/db is being live"],
            ),
            (
                "its time is over",
                vec![asked(1)],
                seen(vec![ours(Unfinished)]),
                end,
                &["abort upgrade-1 true"],
            ),
            (
                "its target gets ready",
                vec![asked(1)],
                seen(vec![preparing()]),
                919,
                &["wait VM default/db is being live"],
            ),
            ("its target does not", vec![asked(1)], seen(vec![preparing()]), 920, &["abort upgrade-1 true"]),
            (
                "it is asked for again",
                given_up(),
                seen(vec![ours(Unfinished)]),
                25,
                &["abort upgrade-1 true"],
            ),
            (
                "it has been heard",
                given_up(),
                seen(vec![going()]),
                100,
                &["wait VM default/db: KubeVirt is aborting"],
            ),
            (
                "nobody does it",
                given_up(),
                seen(vec![going()]),
                190,
                &["hold KubeVirt does not end migration upgrade-1"],
            ),
            ("it has ended", given_up(), seen(vec![ours(failed())]), end, &[HOLD]),
            ("it is gone", given_up(), seen(vec![]), end, &[HOLD]),
            ("it is gone, and there is time", given_up(), look(open(), 40, vec![]), 40, &["migrate 2 -"]),
            (
                "somebody else's goes on",
                vec![],
                seen(vec![other()]),
                9 + 1800,
                &["wait VM default/db is being live-migrated by"],
            ),
            (
                "somebody else's is stuck",
                vec![],
                seen(vec![other()]),
                10 + 1800,
                &["abort kubevirt-evacuation-x false"],
            ),
            (
                "and has ended",
                vec![aborted("kubevirt-evacuation-x", false)],
                look(open(), 1900, vec![migration("kubevirt-evacuation-x", None, failed())]),
                1900,
                &["migrate 1 -"],
            ),
            (
                "begun late, and not cut short",
                vec![awaited(), asked(1)],
                look(open(), 1790, vec![migration("upgrade-1", Some(10), Unfinished)]),
                9 + 1800 - 1,
                &["wait VM default/db is being live"],
            ),
        ],
    );
}
