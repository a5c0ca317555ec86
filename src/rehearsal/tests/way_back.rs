//! A new RKE2 that does not serve, and what becomes of the node: put back inside a Kubernetes minor, held over one; also when
//! the agent dies or the power fails on the way.

use super::*;
use crate::rehearsal::schedule::EffectKind;

fn patch_level(faults: &[&str]) -> Order {
    Order { to: "v1.34.5+rke2r1".parse().unwrap(), ..order(Preset::small(), faults) }
}

#[test]
fn inside_a_minor_the_old_version_is_put_back_and_every_vm_runs_again() {
    for wrong in ["rke2-crashes", "rke2-wrong-version", "rke2-dies"] {
        let rehearsed = rehearse(&patch_level(&[&format!("{wrong}=node1")])).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{wrong}");
        let line = &rehearsed.timeline.nodes[0];
        assert_eq!(line.ended, "Rolled back", "{wrong}: {}", chart::chart(&rehearsed.timeline));
        assert!(rehearsed.timeline.vms.iter().all(|vm| !vm.still_off), "{wrong}");
    }
}

#[test]
fn over_a_minor_and_in_doubt_the_run_holds_with_the_reason() {
    let over = rehearse(&order(Preset::small(), &["rke2-crashes=node1"])).unwrap();
    assert_eq!(complaints(&over), Vec::<String>::new());
    assert!(over.timeline.blocked[0].why.contains("snapshot"), "{}", over.timeline.blocked[0].why);
    // The only server's API is away with it, so nobody can tell whose fault the silence is.
    let silent = rehearse(&patch_level(&["rke2-hangs=node1"])).unwrap();
    assert_eq!(complaints(&silent), Vec::<String>::new());
    let why = &silent.timeline.blocked[0].why;
    assert!(why.contains("rke2.prev-") && why.contains("does not answer"), "{why}");
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

/// Its own fault it is not: the node waits until somebody can say how it is.
#[test]
fn an_api_server_that_is_away_for_a_quarter_of_an_hour_during_the_restart_costs_nothing_but_time() {
    for preset in [Preset::small(), Preset::pair()] {
        let patch = |faults: &[&str]| Order {
            to: "v1.34.5+rke2r1".parse().unwrap(),
            ..order(preset.clone(), faults)
        };
        let effects = rehearse(&patch(&[])).unwrap().places.effects;
        let numbers_of = |wanted: EffectKind| -> Vec<usize> {
            (1..).zip(&effects).filter(|(_, kind)| **kind == wanted).map(|(number, _)| number).collect()
        };
        // The last calls to systemd: stop RKE2, done with that, start RKE2, done with that, the fence is away.
        let calls = numbers_of(EffectKind::Call);
        let restart = calls[calls.len() - 5];
        let asked = numbers_of(EffectKind::Request).into_iter().filter(|number| *number > restart);
        for number in asked.take(4) {
            let fault = format!("away@{number}+900");
            let rehearsed = rehearse(&patch(&[&fault])).unwrap();
            assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{fault}");
            let line = chart::chart(&rehearsed.timeline);
            assert!(rehearsed.timeline.succeeded, "{fault}: {line}");
            assert!(rehearsed.timeline.seconds > 900.0, "{fault}: {line}");
        }
    }
}
