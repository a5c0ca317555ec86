//! Whole rehearsals: what users see, that they repeat to the byte, and that the judge finds each rule that is broken on purpose.

mod export;
mod others;
mod scripts;
mod way_back;

use super::*;
use crate::flow::plan::MigrationFailure;
use crate::flow::vms::VmKey;
use crate::mutation::{self, Mutation};
use crate::rehearsal::check::{Which, check, complaints, places};
use crate::rehearsal::faults::{Blow, Flaw};
use crate::rehearsal::judge::Invariant;
use crate::rehearsal::world::{Ground, World};
use crate::sim::SimError;

fn order(preset: Preset, faults: &[&str]) -> Order {
    Order {
        scene: Scene::Preset(preset),
        seed: 1,
        faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(),
        evacuation: Evacuation::default(),
        immutable_binary: false,
        from: "v1.34.2+rke2r1".parse().unwrap(),
        to: "v1.35.6+rke2r1".parse().unwrap(),
        only: Vec::new(),
        changes: Vec::new(),
    }
}

/// The first VM of the world with, or without, a way to another node.
fn some_vm(preset: &Preset, movable: bool) -> VmKey {
    let whole = rehearse(&order(preset.clone(), &[])).unwrap().timeline;
    let fits = |vm: &&timeline::VmLine| vm.off.is_none() == movable;
    whole.vms.iter().find(fits).map(|vm| vm.vm.clone()).unwrap()
}

#[test]
fn a_users_cluster_comes_through_and_only_vms_with_devices_are_off() {
    let rehearsed = rehearse(&order(Preset::default(), &[])).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    let timeline = &rehearsed.timeline;
    assert_eq!((timeline.nodes.len(), timeline.vm_count), (3, 60));
    let off = timeline.vms.iter().filter(|vm| vm.off.is_some()).count();
    assert_eq!(off, 6, "{}", chart::chart(timeline));
    assert!(timeline.nodes.iter().all(|line| line.ended == "Succeeded" && line.starts == 1));
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_another_world() {
    let text = |seed, faults: &[&str]| {
        let rehearsed = rehearse(&Order { seed, ..order(Preset::pair(), faults) }).unwrap();
        (chart::chart(&rehearsed.timeline), serde_json::to_string(&rehearsed.timeline).unwrap())
    };
    assert_eq!(text(7, &[]), text(7, &[]));
    assert_ne!(text(7, &[]).1, text(8, &[]).1);
    let hurt = ["kill@40", "power-torn@90", "await@150"];
    assert_eq!(text(7, &hurt), text(7, &hurt));
    // Watches that break open again after a pause; whatever is left to chance there shows after some tries.
    let broken = ["power-after@60", "away@150+40"];
    let first = text(7, &broken);
    for _ in 0..6 {
        assert_eq!(first, text(7, &broken));
    }
}

#[test]
fn a_rehearsal_on_shared_ground_is_the_one_on_ground_of_its_own() {
    let told = |rehearsed: Rehearsed| {
        let timeline = serde_json::to_string(&rehearsed.timeline).unwrap();
        (timeline, rehearsed.places, rehearsed.notes, rehearsed.asked)
    };
    for preset in [Preset::small(), Preset::pair()] {
        let stand = Stand::build(&order(preset.clone(), &[])).unwrap();
        // What one of them does to the cluster is nothing to those after it.
        for faults in [&[][..], &["kill@40", "power-torn@90"], &["away@150+40"], &["no-room=node1"], &[]] {
            let order = order(preset.clone(), faults);
            assert_eq!(told(stand.rehearse(&order).unwrap()), told(rehearse(&order).unwrap()), "{faults:?}");
        }
    }
}

#[test]
fn a_kill_costs_a_restart_and_nothing_else() {
    let calm = rehearse(&order(Preset::small(), &[])).unwrap().timeline;
    let killed = rehearse(&order(Preset::small(), &["kill@120"])).unwrap();
    assert_eq!(complaints(&killed), Vec::<String>::new());
    assert_eq!(killed.timeline.nodes[0].starts, 2);
    assert_eq!(killed.timeline.nodes[0].shut_down, calm.nodes[0].shut_down);
}

/// The API's absence excuses nobody from a kill.
#[test]
fn a_kill_after_a_request_that_nobody_heard_is_a_kill() {
    let faults = ["away@150+40", "kill-after@152"];
    let done = rehearse(&order(Preset::small(), &faults)).unwrap();
    assert_eq!(complaints(&done), Vec::<String>::new());
    assert_eq!(done.timeline.nodes[0].starts, 2);
}

/// Whoever is called once more by each of several blows comes each time.
#[test]
fn five_blows_that_each_ask_for_an_operator_still_end_with_every_vm_running() {
    let mut faults: Vec<String> = Vec::new();
    let mut done = rehearse(&order(Preset::small(), &[])).unwrap();
    for asked in 1..=5 {
        let last =
            faults.last().map_or(50, |fault| fault.rsplit('@').next().unwrap().parse::<u64>().unwrap());
        let one_more = (last + 1..last + 60).find_map(|place| {
            let more = [faults.clone(), vec![format!("full@{place}")]].concat();
            let words: Vec<&str> = more.iter().map(String::as_str).collect();
            let done = rehearse(&order(Preset::small(), &words)).unwrap();
            (done.asked == asked).then_some((more, done))
        });
        (faults, done) = one_more.unwrap_or_else(|| panic!("nothing asks for an operator behind {faults:?}"));
        assert_eq!(complaints(&done), Vec::<String>::new(), "{faults:?}");
    }
    assert!(done.timeline.succeeded, "{}", chart::chart(&done.timeline));
}

/// Every fault word does what its help says, as far as a user would see it.
#[test]
fn each_flaw_shows_in_the_timeline() {
    let pair = Preset::pair();
    let (mover, stayer) = (some_vm(&pair, true), some_vm(&pair, false));
    let run = |fault: String, change: fn(&mut Order)| {
        let mut order = order(pair.clone(), &[&fault]);
        order.only = vec!["node1".to_owned()];
        change(&mut order);
        let rehearsed = rehearse(&order).unwrap();
        assert!(rehearsed.broken.is_empty(), "{fault}: {:?}", rehearsed.broken);
        rehearsed.timeline
    };
    let blocked = |fault: String| {
        let timeline = run(fault.clone(), |_| {});
        assert!(!timeline.succeeded, "{fault} must block: {}", chart::chart(&timeline));
        timeline.blocked[0].why.clone()
    };
    assert!(blocked(format!("migration-never-converges={mover}")).contains(&mover.to_string()));
    assert!(blocked("device-lost=node1".to_owned()).contains("does not offer"));
    assert!(blocked("stray-guest=node1".to_owned()).contains("qemu"));
    for word in ["rke2-crashes", "rke2-hangs", "rke2-wrong-version"] {
        blocked(format!("{word}=node1"));
    }
    blocked("cordoned=node2".to_owned());
    blocked("no-room=node2".to_owned());
    // KubeVirt itself cuts its power when the VM's own grace is over.
    let forced = run(format!("guest-ignores-shutdown={stayer}"), |_| {});
    assert!(forced.succeeded && forced.vms.iter().any(|vm| vm.vm == stayer && vm.forced));
    let shut = run(format!("migration-never-converges={mover}"), |order| {
        order.evacuation.on_migration_failure = MigrationFailure::ShutdownAndRestore;
    });
    assert!(shut.succeeded && shut.vms.iter().any(|vm| vm.vm == mover && vm.off.is_some()));
    let user = run(format!("user-starts={stayer}"), |_| {});
    assert!(user.succeeded, "{}", chart::chart(&user));
}

#[test]
fn a_fault_about_nothing_is_refused() {
    for fault in ["cordoned=nodex", "user-starts=default/nobody", "rke2-hangs=nodex"] {
        let error = rehearse(&order(Preset::pair(), &[fault])).unwrap_err().to_string();
        assert!(error.contains(fault), "{error}");
    }
}

/// A world in which each rule matters, and the fault that makes it matter.
fn trap(mutation: Mutation, places: &Places) -> Vec<Order> {
    let small = |faults: Vec<Fault>| Order { faults, ..order(Preset::small(), &[]) };
    let spread = |blow: Blow, kind: schedule::EffectKind| {
        let numbers = (1..).zip(&places.effects).filter(move |(_, known)| **known == kind);
        numbers.map(move |(number, _)| small(vec![Fault::At(number, blow)])).step_by(5).collect::<Vec<_>>()
    };
    match mutation {
        Mutation::SkipSync
        | Mutation::SkipDirectorySync
        | Mutation::ForgetOneVm
        | Mutation::DropTheFence
        | Mutation::CopyOverLive
        | Mutation::LeaveTheMarks => vec![small(Vec::new())],
        Mutation::PublishBeforeAppend => spread(Blow::Full, schedule::EffectKind::File),
        Mutation::SwapWithoutGate => {
            vec![small(vec![Fault::Node("node1".to_owned(), Flaw::StrayGuest)])]
        }
        Mutation::KeepTheTurn => vec![order(Preset { nodes: 2, ..Preset::small() }, &[])],
        Mutation::NameNobodyOwed => vec![pair_with("migration-always-fails", true)],
        Mutation::StopWhatDoesNotMove => {
            vec![pair_with("migration-fails-twice", true), pair_with("migration-always-fails", true)]
        }
        Mutation::StrikeWhatDoesNotStart => vec![pair_with("start-always-refused", false)],
        Mutation::RepeatTheStop => spread(Blow::KillAfter, schedule::EffectKind::Request),
    }
}

/// The world of two nodes in which a script is about a VM that can, or cannot, move.
fn pair_with(script: &str, movable: bool) -> Order {
    let vm = some_vm(&Preset::pair(), movable);
    order(Preset::pair(), &[&format!("{script}={vm}")])
}

/// The sound agent passes under the trap; with the rule broken, the judge names the promise.
fn is_caught(rule: Mutation, promise: Invariant) {
    let places = places(&order(Preset::small(), &[])).unwrap();
    let traps = trap(rule, &places);
    for order in traps.iter().take(20) {
        let broken = rehearse(order).unwrap().broken;
        assert_eq!(broken, [], "the sound agent under the trap of {rule:?}");
    }
    let _broken = mutation::break_rule(rule);
    let caught = traps.iter().find_map(|order| {
        let broken = rehearse(order).unwrap().broken.first().cloned();
        broken.map(|broken| (order.faults.clone(), broken))
    });
    let (faults, broken) = caught.unwrap_or_else(|| panic!("{rule:?} was not caught"));
    println!("{rule:?}: caught with {faults:?}: {broken}");
    assert_eq!(broken.invariant, promise, "{rule:?}: {broken}");
}

/// One test for each rule, so that each is named in the output.
macro_rules! caught {
    ($($name:ident: $rule:ident breaks $promise:ident,)*) => {
        mod a_broken_rule_is_caught {
            use super::*;
            $(#[test]
            fn $name() {
                is_caught(Mutation::$rule, Invariant::$promise);
            })*

            #[test]
            fn and_no_rule_is_left_out() {
                assert_eq!([$(Mutation::$rule),*], Mutation::ALL);
            }
        }
    };
}

caught! {
    skip_the_sync: SkipSync breaks I4,
    skip_the_directory_sync: SkipDirectorySync breaks I4,
    publish_before_append: PublishBeforeAppend breaks I4,
    swap_without_gate: SwapWithoutGate breaks I1,
    forget_one_vm: ForgetOneVm breaks I2,
    drop_the_fence: DropTheFence breaks I1,
    repeat_the_stop: RepeatTheStop breaks I4,
    copy_over_the_live_binary: CopyOverLive breaks I1,
    leave_the_marks: LeaveTheMarks breaks I6,
    keep_the_turn: KeepTheTurn breaks I6,
    name_nobody_owed: NameNobodyOwed breaks I2,
    stop_what_does_not_move: StopWhatDoesNotMove breaks I3,
    strike_what_does_not_start: StrikeWhatDoesNotStart breaks I2,
}

/// A taste of what `rehearse --crashes` does at full speed in a release build.
#[test]
fn some_crash_schedules_of_each_kind_come_through() {
    for (preset, which) in [(Preset::small(), Which::Sample(60)), (Preset::pair(), Which::Random(12))] {
        let checked = check(&order(preset, &[]), which, |_, _| {}).unwrap();
        let failed: Vec<String> = checked
            .failures
            .iter()
            .map(|failure| format!("{}: {:?}", failure.flags(), failure.why))
            .collect();
        assert_eq!(failed, Vec::<String>::new());
        assert!(checked.run >= 12);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_whose_simulators_have_ended_is_void() {
    let order = order(Preset::pair(), &[]);
    let world = World::build(Ground::build(&order).unwrap(), &order, |_, _| ()).unwrap();
    world.is_sound().unwrap();
    let at = world.start;
    world.ended.get_or_init(|| SimError::NoRest { what: "Pod default/one".to_owned(), at });
    let told = world.is_sound().unwrap_err().to_string();
    assert!(told.contains("Pod default/one") && told.contains("2026-01-01T00:00:00Z"), "{told}");
}
