//! A new RKE2 that does not serve, and what becomes of the node: put back inside a Kubernetes minor, held over one; also when
//! the agent dies or the power fails on the way.

use super::*;
use crate::rehearsal::schedule::EffectKind;
use crate::sim::seed::Storage;

fn patch_level(faults: &[&str]) -> Order {
    Order { to: "v1.34.5+rke2r1".parse().unwrap(), ..order(Preset::small(), faults) }
}

#[test]
fn inside_a_minor_the_old_version_is_put_back_and_every_vm_runs_again() {
    // One that hangs takes the only API server away with it.
    for wrong in ["rke2-crashes", "rke2-wrong-version", "rke2-dies", "rke2-hangs"] {
        let rehearsed = rehearse(&patch_level(&[&format!("{wrong}=node1")])).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{wrong}");
        let line = &rehearsed.timeline.nodes[0];
        assert_eq!(line.ended, "Rolled back", "{wrong}: {}", chart::chart(&rehearsed.timeline));
        assert!(rehearsed.timeline.vms.iter().all(|vm| !vm.still_off), "{wrong}");
    }
}

#[test]
fn over_a_minor_the_run_holds_with_the_reason() {
    let over = rehearse(&order(Preset::small(), &["rke2-crashes=node1"])).unwrap();
    assert_eq!(complaints(&over), Vec::<String>::new());
    assert!(over.timeline.blocked[0].why.contains("snapshot"), "{}", over.timeline.blocked[0].why);
    assert!(over.timeline.blocked[0].why.contains("rke2.prev-"), "{}", over.timeline.blocked[0].why);
}

/// Also on the way back nothing is lost and nothing starts that nobody approved, wherever it is hit: the judge looks on.
#[test]
fn whatever_hits_it_on_the_way_back_it_comes_back() {
    let stand = Stand::build(&patch_level(&[])).unwrap();
    let whole = stand.rehearse(&patch_level(&["rke2-crashes=node1"])).unwrap();
    let effects = whole.places.effects.len();
    let first = effects / 2;
    let mut rehearsed = 0;
    for blow in ["kill", "kill-after", "power", "power-after", "power-torn"] {
        for number in (first..effects).step_by(9) {
            let faults = ["rke2-crashes=node1".to_owned(), format!("{blow}@{number}")];
            let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
            let hurt = stand.rehearse(&patch_level(&faults)).unwrap();
            assert_eq!(complaints(&hurt), Vec::<String>::new(), "{faults:?}");
            assert_eq!(hurt.timeline.nodes[0].ended, "Rolled back", "{faults:?}");
            rehearsed += 1;
        }
    }
    assert!(rehearsed > 50, "{rehearsed} schedules over {effects} effects");
}

#[test]
fn without_a_whole_snapshot_of_etcd_a_server_keeps_its_version() {
    for (wrong, words) in [("snapshot-fails", "etcd-snapshot save"), ("snapshot-torn", "no whole snapshot")] {
        let rehearsed = rehearse(&patch_level(&[&format!("{wrong}=node1")])).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{wrong}");
        let why = &rehearsed.timeline.blocked[0].why;
        assert!(why.contains(words) && why.contains("no swap"), "{why}");
        assert!(rehearsed.timeline.vms.iter().any(|vm| vm.still_off && why.contains(&vm.vm.name)), "{why}");
    }
}

/// Behind a guard that cannot be executed RKE2 would never start again: nothing is fenced, and no VM has to leave.
#[test]
fn where_the_guard_cannot_be_executed_nothing_is_touched() {
    let rehearsed = rehearse(&patch_level(&["guard-not-executable=node1"])).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    let why = &rehearsed.timeline.blocked[0].why;
    assert!(why.contains("cannot execute") && why.contains("Nothing is fenced yet"), "{why}");
    assert!(rehearsed.timeline.vms.is_empty(), "a VM noticed: {:?}", rehearsed.timeline.vms);
}

fn patch_of(preset: &Preset, faults: &[&str]) -> Order {
    Order { to: "v1.34.5+rke2r1".parse().unwrap(), ..order(preset.clone(), faults) }
}

/// The effects of an upgrade to another patch, by number, of this kind.
fn numbers_of(preset: &Preset, wanted: EffectKind) -> Vec<usize> {
    let effects = rehearse(&patch_of(preset, &[])).unwrap().places.effects;
    (1..).zip(effects).filter(|(_, kind)| *kind == wanted).map(|(number, _)| number).collect()
}

/// The order to stop RKE2, on a world's first node: of each node the last calls to systemd are stop RKE2, done with that, start
/// RKE2, done with that, the fence is away.
fn restart_of(preset: &Preset) -> usize {
    let calls = numbers_of(preset, EffectKind::Call);
    let of_first = calls.len() / preset.nodes;
    calls[of_first - 5]
}

/// Its own fault it is not: the node waits until somebody can say how it is. RKE2 itself bears it for a quarter of an hour, then
/// ends and is started again, and etcd has no leader meanwhile. The only server's API server is its own, and has that quarter as well.
#[test]
fn an_api_server_that_is_away_during_the_restart_or_after_it_costs_nothing_but_time() {
    for (preset, lengths) in [(Preset::small(), &[900][..]), (Preset::pair(), &[900, 1200, 1790])] {
        let restart = restart_of(&preset);
        let after = numbers_of(&preset, EffectKind::Request).into_iter().filter(|number| *number > restart);
        let places: Vec<usize> = [restart].into_iter().chain(after.take(4)).collect();
        for (number, &seconds) in
            places.iter().flat_map(|number| lengths.iter().map(move |one| (number, one)))
        {
            let fault = format!("away@{number}+{seconds}");
            let rehearsed = rehearse(&patch_of(&preset, &[&fault])).unwrap();
            assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{fault}");
            let line = chart::chart(&rehearsed.timeline);
            assert!(rehearsed.timeline.succeeded && rehearsed.asked == 0, "{fault}: {line}");
            assert!(rehearsed.timeline.seconds > f64::from(seconds), "{fault}: {line}");
        }
    }
}

/// An agent node, after its three servers: no etcd, and half of a server's time.
#[test]
fn the_same_goes_for_a_node_that_is_no_server() {
    let preset = Preset { storage: Storage::None, ..Preset::sized(4, 1, 0) };
    let calls = numbers_of(&preset, EffectKind::Call);
    let restart = calls[calls.len() - 5];
    let verify =
        numbers_of(&preset, EffectKind::Request).into_iter().find(|number| *number > restart).unwrap();
    for (place, seconds) in [(restart, 1200), (restart, 1790), (verify, 1200), (verify, 1790)] {
        let fault = format!("away@{place}+{seconds}");
        let rehearsed = rehearse(&patch_of(&preset, &[&fault])).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{fault}");
        let line = chart::chart(&rehearsed.timeline);
        assert!(rehearsed.timeline.succeeded && rehearsed.asked == 0, "{fault}: {line}");
    }
    let wrong = ["rke2-crashes=node4", &format!("away@{restart}+1200")];
    let rehearsed = rehearse(&patch_of(&preset, &wrong)).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    assert_eq!(rehearsed.timeline.nodes[3].ended, "Rolled back", "{}", chart::chart(&rehearsed.timeline));
}

/// Longer than anybody waits: an operator is asked, and nothing goes back for it. Unless it is the only server, whose API server is its
/// own: that one goes back.
#[test]
fn an_api_server_that_is_away_for_hours_is_no_reason_to_go_back_but_the_only_servers_own() {
    for (preset, ended) in [(Preset::pair(), "Succeeded"), (Preset::small(), "Rolled back")] {
        let restart = restart_of(&preset);
        let after = numbers_of(&preset, EffectKind::Request).into_iter().find(|number| *number > restart);
        for number in [Some(restart), after].into_iter().flatten() {
            for minutes in [33, 45, 47, 49, 55, 70] {
                let fault = format!("away@{number}+{}", minutes * 60);
                let rehearsed = rehearse(&patch_of(&preset, &[&fault])).unwrap();
                assert!(rehearsed.broken.is_empty(), "{fault}: {:?}", rehearsed.broken);
                let line = chart::chart(&rehearsed.timeline);
                assert_eq!(rehearsed.timeline.nodes[0].ended, ended, "{fault}: {line}");
                assert!(rehearsed.timeline.vms.iter().all(|vm| !vm.still_off), "{fault}: {line}");
            }
        }
    }
}

/// A new RKE2 that dies at once is the one at fault also while the cluster is away.
#[test]
fn an_rke2_that_crashes_while_the_api_server_is_away_is_put_back() {
    for preset in [Preset::small(), Preset::pair()] {
        let fault = format!("away@{}+1200", restart_of(&preset));
        for wrong in ["rke2-crashes", "rke2-dies"] {
            let rehearsed = rehearse(&patch_of(&preset, &[&format!("{wrong}=node1"), &fault])).unwrap();
            assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{wrong}");
            let line = &rehearsed.timeline.nodes[0];
            assert_eq!(line.ended, "Rolled back", "{wrong}: {}", chart::chart(&rehearsed.timeline));
        }
    }
}

/// systemd itself starts the new binary then, before the agent's own restart, and again and again in vain: that takes nothing away
/// that could be spared, and no API server of this machine will ever answer.
#[test]
fn one_that_cannot_be_executed_is_put_back_also_when_somebody_kills_the_old_one_before_the_restart() {
    let wrong = "rke2-not-executable=node1";
    let calm = rehearse(&patch_level(&[wrong])).unwrap();
    let swapped = calm.places.lines.iter().find(|line| line.name == "swapped").unwrap().effect;
    for number in swapped..swapped + 5 {
        let kill = format!("others-kill@{number}");
        let rehearsed = rehearse(&patch_level(&[wrong, &kill])).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{kill}");
        let line = chart::chart(&rehearsed.timeline);
        assert_eq!(
            (rehearsed.timeline.nodes[0].ended.as_str(), rehearsed.asked),
            ("Rolled back", 0),
            "{kill}: {line}"
        );
    }
}

/// The snapshot has to be from right before the swap: a run that goes on takes another one, and nobody has to say so twice.
#[test]
fn one_word_of_the_operator_is_enough_between_the_snapshot_and_the_swap() {
    let places = rehearse(&patch_level(&[])).unwrap().places;
    let effect = |name| places.lines.iter().find(|line| line.name == name).unwrap().effect;
    let mut held = 0;
    for number in effect("snapshot")..effect("swapped") {
        let fault = format!("full@{number}");
        let rehearsed = rehearse(&patch_level(&[&fault])).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{fault}");
        assert!(rehearsed.asked <= 1, "{fault}: asked {} times", rehearsed.asked);
        held += rehearsed.asked;
    }
    assert!(held > 0, "none of them held");
}
