//! The failure scripts of `kubevirt.md` §8.4, as far as their users would see what comes of them.

use super::*;
use crate::flow::plan::ShutdownTimeout;
use crate::rehearsal::timeline::Timeline;

fn run(faults: &[&str]) -> Timeline {
    let rehearsed = rehearse(&order(Preset::pair(), faults)).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{faults:?}");
    rehearsed.timeline
}

fn vms() -> (VmKey, VmKey) {
    (some_vm(&Preset::pair(), true), some_vm(&Preset::pair(), false))
}

#[test]
fn what_passes_by_itself_costs_nobody_an_operator() {
    let (mover, stayer) = vms();
    for script in [
        format!("user-deletes={mover}"),
        format!("user-stops={mover}"),
        format!("user-recreates={stayer}"),
        format!("user-halts={stayer}"),
        format!("start-refused={stayer}"),
        format!("agent-dies-at-stop={stayer}"),
        format!("evicted-by-others={mover}"),
        "taint-removed=node1".to_owned(),
        "virt-api-away=node1".to_owned(),
        "watches-expire=node1".to_owned(),
    ] {
        let timeline = run(&[&script]);
        assert!(timeline.succeeded, "{script}: {}", chart::chart(&timeline));
    }
}

#[test]
fn who_is_owed_a_start_is_named_whatever_the_run_waits_for() {
    let (mover, stayer) = vms();
    for (script, named) in [
        (format!("migration-always-fails={mover}"), vec![&mover, &stayer]),
        (format!("start-always-refused={stayer}"), vec![&stayer]),
        (format!("device-renamed={stayer}"), vec![&stayer]),
        ("node-never-returns=node1".to_owned(), vec![&stayer]),
    ] {
        let timeline = run(&[&script]);
        let why = timeline.blocked.first().map(|blocked| blocked.why.clone()).unwrap_or_default();
        for vm in named {
            assert!(why.contains(&vm.to_string()), "{script}: {vm} is not named: {why}");
        }
    }
}

#[test]
fn a_vm_that_its_user_took_over_is_left_to_its_user() {
    let (_, stayer) = vms();
    let line = |timeline: &Timeline| timeline.vms.iter().find(|vm| vm.vm == stayer).cloned();
    let halted = run(&[&format!("user-halts={stayer}")]);
    assert!(line(&halted).is_some_and(|vm| vm.still_off), "{}", chart::chart(&halted));
    let anew = run(&[&format!("user-recreates={stayer}")]);
    assert!(line(&anew).is_some_and(|vm| !vm.still_off), "{}", chart::chart(&anew));
}

/// `KubeVirt` makes the next evacuation as soon as one is aborted: each of them gets its time, and it ends.
#[test]
fn evacuations_that_come_again_and_again_end_also_where_little_time_is_given() {
    let (mover, _) = vms();
    let faults = [&*format!("target-unschedulable={mover}")];
    for on_migration_failure in [MigrationFailure::Hold, MigrationFailure::ShutdownAndRestore] {
        let evacuation = Evacuation { migration_seconds: 60, on_migration_failure, ..Evacuation::default() };
        let rehearsed = rehearse(&Order { evacuation, ..order(Preset::pair(), &faults) }).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{on_migration_failure:?}");
        let holds = on_migration_failure == MigrationFailure::Hold;
        assert_eq!(rehearsed.timeline.succeeded, !holds, "{}", chart::chart(&rehearsed.timeline));
    }
}

#[test]
fn a_guest_that_hears_late_shuts_down_in_its_own_time() {
    let (_, stayer) = vms();
    let evacuation = Evacuation { on_shutdown_timeout: ShutdownTimeout::ForceOff, ..Evacuation::default() };
    let order = Order { evacuation, ..order(Preset::pair(), &["virt-controller-away=node1"]) };
    let rehearsed = rehearse(&order).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    let line = rehearsed.timeline.vms.iter().find(|vm| vm.vm == stayer).unwrap();
    assert!(!line.forced && !line.still_off, "{}", chart::chart(&rehearsed.timeline));
}

#[test]
fn scripts_repeat_to_the_byte() {
    let (mover, stayer) = vms();
    let migrates = format!("migration-fails-twice={mover}");
    let faults = [&*migrates, &*format!("user-recreates={stayer}"), "watches-expire=node1", "kill@200"];
    let text =
        || serde_json::to_string(&rehearse(&order(Preset::pair(), &faults)).unwrap().timeline).unwrap();
    assert_eq!(text(), text());
}
