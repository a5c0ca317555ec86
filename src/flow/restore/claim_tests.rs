//! Every way in which a user can have taken a VM over, for every run strategy.

use super::*;
use crate::flow::progress::tests::vm_entry;
use crate::flow::vms::{AsLeft, Fate, Verdict};
use jiff::Timestamp;

/// A VM of this strategy, off and marked by us; `after` is the strategy that our stop has left.
fn line(strategy: &str, after: &str) -> LedgerLine {
    let mut entry = vm_entry("db", Verdict::ShutDown { why: "it holds a device".into() });
    entry.run_strategy = Some(strategy.into());
    let mut line = LedgerLine::new(entry, Fate::ShutDown { graceful: Some(true), at: Timestamp::UNIX_EPOCH });
    let run_strategy = Some(after.to_owned());
    line.as_left = Some(AsLeft { marked: true, generation: 7, run_strategy, spec: "as it was".into() });
    line
}

/// The VM as our stop has left it.
fn as_left(after: &str) -> VmNow {
    VmNow {
        uid: Some("vm-db".into()),
        deleting: false,
        marked: true,
        generation: 7,
        run_strategy: Some(after.to_owned()),
        spec: "as it was".into(),
        short_of_quota: false,
    }
}

fn said(whose: &Whose) -> &str {
    match whose {
        Whose::Ours => "ours",
        Whose::Comes => "comes",
        Whose::StillEnding => "still ending",
        Whose::Barred { why } | Whose::Taken { why } => why,
    }
}

const STRATEGIES: [(&str, &str); 4] =
    [("Always", "Halted"), ("Once", "Halted"), ("RerunOnFailure", "RerunOnFailure"), ("Manual", "Manual")];

type Change = fn(&mut VmNow);

#[test]
fn what_its_user_did_meanwhile_is_respected_whatever_the_strategy() {
    let table: [(&str, Change, &str); 11] = [
        ("nothing", |_| {}, "ours"),
        ("deleted", |vm| vm.deleting = true, "it was deleted, or deleted and made anew, meanwhile"),
        ("made anew under the same name", |vm| vm.uid = Some("other".into()), "it was deleted, or deleted"),
        ("mark taken off", |vm| vm.marked = false, "our mark was taken off"),
        (
            "spec changed",
            |vm| (vm.spec, vm.generation) = ("other".into(), 8),
            "its spec was changed meanwhile",
        ),
        ("only what controllers write changed", |vm| vm.generation = 8, "ours"),
        ("labels changed", |_| {}, "ours"),
        ("set to Always", |vm| (vm.run_strategy, vm.generation) = (Some("Always".into()), 8), "comes"),
        (
            "set to wait for another cluster",
            |vm| (vm.run_strategy, vm.generation) = (Some("WaitAsReceiver".into()), 8),
            "its run strategy is WaitAsReceiver now",
        ),
        ("spec without a strategy", |vm| vm.run_strategy = None, "its run strategy is none now"),
        ("started, then deleted", |vm| (vm.deleting, vm.generation) = (true, 8), "it was deleted"),
    ];
    for (strategy, after) in STRATEGIES {
        for (what, change, expected) in &table {
            let mut vm = as_left(after);
            change(&mut vm);
            let whose = whose(&line(strategy, after), Some(&vm), None, false);
            assert!(said(&whose).starts_with(expected), "{strategy}, {what}: {whose:?}");
        }
        assert_eq!(said(&whose(&line(strategy, after), None, None, false)), "it was deleted meanwhile");
    }
}

#[test]
fn stops_and_starts_by_its_user_are_told_from_ours() {
    let halted = |generation| VmNow { generation, ..as_left("Halted") };
    let set = |strategy: &str| VmNow { generation: 8, ..as_left(strategy) };
    let table = [
        ("Always, halted by us", line("Always", "Halted"), halted(7), "ours"),
        (
            "Always, started and stopped again",
            line("Always", "Halted"),
            halted(9),
            "it was started meanwhile, and",
        ),
        (
            "Once, started and stopped again",
            line("Once", "Halted"),
            halted(9),
            "it was started meanwhile, and",
        ),
        ("Once, started by its user", line("Once", "Halted"), set("Always"), "comes"),
        ("started through Harvester's webhook", line("Always", "Halted"), set("RerunOnFailure"), "comes"),
        (
            "Always, set to Manual",
            line("Always", "Halted"),
            set("Manual"),
            "its run strategy is Manual now, and was",
        ),
        ("RerunOnFailure, halted", line("RerunOnFailure", "RerunOnFailure"), halted(8), "its user halted it"),
        ("Manual, halted", line("Manual", "Manual"), halted(8), "its user halted it meanwhile"),
        ("Manual, set to RerunOnFailure", line("Manual", "Manual"), set("RerunOnFailure"), "comes"),
        (
            "RerunOnFailure, set to Manual",
            line("RerunOnFailure", "RerunOnFailure"),
            set("Manual"),
            "its run strategy",
        ),
        (
            "halted by Harvester for want of quota",
            line("Always", "Halted"),
            VmNow { short_of_quota: true, ..halted(9) },
            "Harvester has halted it because the resource quota",
        ),
    ];
    for (what, line, vm, expected) in table {
        let whose = whose(&line, Some(&vm), None, false);
        assert!(said(&whose).starts_with(expected), "{what}: {whose:?}");
    }
}

#[test]
fn an_instance_tells_who_has_started_it() {
    let fate = |uid: &str, ended, deleting| Some(InstanceNow { uid: uid.into(), ended, deleting });
    let instance = |uid: &str, has_ended: bool, deleting| fate(uid, has_ended.then_some(false), deleting);
    let asked = |strategy, after| {
        let fate = Fate::Restoring { graceful: None, off: Timestamp::UNIX_EPOCH };
        LedgerLine { fate, ..line(strategy, after) }
    };
    let table = [
        (
            "the old one, going",
            line("Manual", "Manual"),
            "Manual",
            instance("vmi-db", false, true),
            "still ending",
        ),
        (
            "the old one, its pod going",
            line("Manual", "Manual"),
            "Manual",
            instance("vmi-db", true, true),
            "still",
        ),
        (
            "the old one, kept after its end",
            line("Manual", "Manual"),
            "Manual",
            instance("vmi-db", true, false),
            "ours",
        ),
        (
            "the old one, run once, whose power was cut before it was told to stop",
            line("Once", "Halted"),
            "Once",
            instance("vmi-db", true, false),
            "ours",
        ),
        ("the same, cleared away", line("Once", "Halted"), "Once", None, "comes"),
        ("a new one", line("Always", "Halted"), "Always", instance("new", false, false), "comes"),
        (
            "a new one that waits for a node",
            line("Manual", "Manual"),
            "Manual",
            instance("new", false, false),
            "comes",
        ),
        (
            "a new one that has ended",
            line("Manual", "Manual"),
            "Manual",
            instance("new", true, false),
            "it was started meanwhile, and has ended again",
        ),
        // KubeVirt leaves those as they are.
        ("ours, failed", asked("Manual", "Manual"), "Manual", instance("new", true, false), "ours"),
        ("ours, failed", asked("Once", "Halted"), "Once", instance("new", true, false), "ours"),
        ("ours, failed, going", asked("Manual", "Manual"), "Manual", instance("new", true, true), "comes"),
        (
            "ours, failed, and KubeVirt starts it again",
            asked("RerunOnFailure", "RerunOnFailure"),
            "RerunOnFailure",
            instance("new", true, false),
            "comes",
        ),
        (
            "ours, shut down from within",
            asked("RerunOnFailure", "RerunOnFailure"),
            "RerunOnFailure",
            fate("new", Some(true), false),
            "it was started, and its guest has shut down by itself since",
        ),
        (
            "ours, failed, and set to Manual by its user",
            asked("Once", "Halted"),
            "Manual",
            instance("new", true, false),
            "its run strategy is Manual now",
        ),
        (
            "its user's, run once",
            line("Once", "Halted"),
            "Once",
            instance("new", true, false),
            "it was started meanwhile, and has ended again",
        ),
        (
            "one that is started anew by itself",
            line("Always", "Halted"),
            "Always",
            instance("new", true, false),
            "comes",
        ),
    ];
    for (what, line, strategy, instance, expected) in table {
        let asked = matches!(line.fate, Fate::Restoring { .. });
        let whose = whose(&line, Some(&as_left(strategy)), instance.as_ref(), asked);
        assert!(said(&whose).starts_with(expected), "{what}: {whose:?}");
    }
}

/// Journals of earlier agents, and VMs that nobody could look at once they were off.
#[test]
fn without_a_look_at_what_was_left_only_the_strategy_tells() {
    let table = [
        ("Always", "Halted", "ours"),
        ("Once", "Halted", "ours"),
        ("Always", "Always", "comes"),
        ("RerunOnFailure", "RerunOnFailure", "ours"),
        ("RerunOnFailure", "Halted", "its user halted it meanwhile"),
        ("Manual", "Halted", "its user halted it meanwhile"),
    ];
    for (was, now, expected) in table {
        let mut line = line(was, "");
        line.as_left = None;
        let vm = VmNow { marked: false, ..as_left(now) };
        let whose = whose(&line, Some(&vm), None, false);
        assert_eq!(said(&whose), expected, "{was}, now {now}");
    }
}

#[test]
fn a_halted_vm_that_nobody_remembers_the_strategy_of_is_started_all_the_same() {
    let mut adopted = line("Always", "Halted");
    adopted.entry.run_strategy = None;
    assert_eq!(whose(&adopted, Some(&as_left("Halted")), None, false), Whose::Ours);
}
