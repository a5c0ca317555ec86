//! The failure scripts of `KubeVirt` on Harvester, by the rehearsal's words, on real parts: users who meddle, servers in
//! trouble, starts that are refused, devices that do not come back.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::flow::plan::Evacuation;
use upgrade_agent::sim::Timing;
use upgrade_agent::sim::world::Shutdown;

use crate::asserts::{Instances, agent};
use crate::support::Stage;
use crate::support::cast::Cast;
use crate::support::cluster::Cluster;
use crate::support::script::Script;
use crate::{Ran, accepted, assert_never_off, assert_stopped_once, key, reported};

/// Keeps its node busy while others are already off.
fn with_late_guest(cast: Cast) -> Cast {
    cast.bound("late", |shape| shape.shutdown = Shutdown::Seconds(100))
}

/// The run to its end, with all that is played meanwhile; killed agents are started again.
pub(crate) async fn played(stage: &Stage, script: &Script, policy: impl FnOnce(&mut Evacuation)) -> Ran {
    stage.order_with(Control::Run, policy).await.unwrap();
    let run = async {
        loop {
            let mut command = stage.agent(agent(), &["node", "--once"]);
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
            let ended = tokio::time::timeout(Duration::from_mins(30), child.wait_with_output());
            tokio::select! {
                ran = ended => match ran {
                    Ok(ran) => return Ran::from(ran.unwrap()),
                    Err(late) => panic!("the agent does not end, {late}; journal:\n{}", stage.journal()),
                },
                // Dropping it kills the agent.
                () = script.kill.notified() => {}
            }
            // One of its threads may be writing yet, and keeps the lock for so long.
            let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let is_gone = async || !matches!(waitid(Id::Pid(pid), look), Ok(WaitStatus::StillAlive));
            stage.wait("the killed agent to be gone", is_gone).await.unwrap();
        }
    };
    let ran = tokio::select! {
        ran = run => ran,
        ended = script.play(stage) => panic!("nobody plays any more: {ended:?}"),
    };
    script.assert_played().unwrap();
    ran
}

/// The run until its blockers name all of these, or its hold does.
async fn assert_names(stage: &Stage, script: &Script, names: &[&str]) {
    let what = format!("a blocker that names {names:?}");
    let told = stage.wait(&what, async || {
        let order = stage.orders().get(&format!("{}-{}", stage.upgrade, stage.node)).await;
        let blockers = order.ok().and_then(|order| order.status).map(|status| status.blockers);
        let said: Vec<String> = blockers.unwrap_or_default().into_iter().map(|one| one.what).collect();
        names.iter().all(|name| said.iter().any(|what| what.contains(name)))
    });
    tokio::select! {
        ran = played(stage, script, |_| {}) => ran.assert_names(names),
        told = told => told.unwrap(),
    }
}

/// The run with these scripts, which it gets through without owing anybody a start; and who ran before it.
async fn goes_through(stage: &mut Stage, words: &[&str]) -> (Instances, Ran) {
    let before = stage.instances().await.unwrap();
    let script = Script::begin(stage, words).await.unwrap();
    let ran = played(stage, &script, |_| {}).await;
    ran.assert_done(stage);
    assert_eq!(reported(stage).await.vms.owed, 0, "{}", stage.namespace);
    (before, ran)
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_meddle_with_their_vms_get_what_they_asked_for() {
    let mut cast = Cast::named("users").movable("app", |_| {}).movable("sold", |_| {});
    for vm in ["deleted", "recreated", "started", "stopped", "halted"] {
        cast = cast.bound(vm, |_| {});
    }
    let mut stage = Stage::shared(with_late_guest(cast)).await.unwrap();
    let words = [
        "user-deletes=users/sold",
        "user-deletes-while-off=users/deleted",
        "user-recreates=users/recreated",
        "user-starts=users/started",
        "user-stops=users/stopped",
        "user-halts=users/halted",
    ];
    let (before, ran) = goes_through(&mut stage, &words).await;
    assert_never_off(&stage, &before, &["app"]).await;
    assert_stopped_once(&stage, &before, &["late"]).await;
    for (vm, starts) in [("sold", 0), ("deleted", 0), ("recreated", 0), ("started", 0), ("halted", 0)] {
        assert_eq!(accepted(&stage, vm, "start"), starts, "{vm} is its user's affair\n{}", ran.said);
    }
    let after = stage.instances().await.unwrap();
    for gone in ["sold", "deleted", "halted"] {
        assert!(!after.contains_key(&key(&stage, gone)), "{gone} runs, which its user did not want");
    }
    assert_eq!(after[&key(&stage, "started")].1, stage.node, "the user's instance runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_who_meddle_with_the_node_cost_no_vm() {
    let cast = Cast::named("meddled")
        .movable("app", |_| {})
        .movable_elsewhere("comer")
        .bound("killed", |_| {})
        // Still going down when the agent is back: an end that nobody saw is its user's affair.
        .bound("evicted", |shape| (shape.shutdown, shape.grace_seconds) = (Shutdown::Seconds(1200), 1500));
    let mut stage = Stage::shared(with_late_guest(cast)).await.unwrap();
    let words = [
        "user-migrates-here=meddled/comer",
        "agent-dies-at-stop=meddled/killed",
        "evicted-by-others=meddled/evicted",
        "taint-removed=meddled-1",
    ];
    let (before, ran) = goes_through(&mut stage, &words).await;
    assert_never_off(&stage, &before, &["app", "comer"]).await;
    assert_stopped_once(&stage, &before, &["killed", "late"]).await;
    let after = stage.instances().await.unwrap();
    assert_ne!(after[&key(&stage, "comer")].1, stage.node, "it was moved off again");
    assert!(after.contains_key(&key(&stage, "evicted")), "it runs again: {after:?}\n{}", ran.said);
}

/// A cluster of their own: what is wrong with it would be wrong for everybody on it.
#[tokio::test(flavor = "multi_thread")]
async fn servers_in_trouble_are_waited_for_and_nobody_is_stopped_twice() {
    let cluster = Arc::new(Cluster::start(Timing::fast, &|_| {}).await.unwrap());
    let apps = ["app-1", "app-2", "app-3"];
    for (name, words) in [
        ("errs", ["api-throttles", "writes-conflict", "virt-api-races", "watches-expire"].as_slice()),
        ("deaf", &["virt-api-away"]),
        ("idle", &["virt-controller-away"]),
    ] {
        let mut cast = Cast::named(name);
        for app in apps {
            cast = cast.movable(app, |_| {});
        }
        let cast = with_late_guest(cast.bound("quick", |_| {}));
        let mut stage = Stage::raise(cluster.clone(), cast, &|_| {}).await.unwrap();
        let words: Vec<String> = words.iter().map(|word| format!("{word}={}", stage.node)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (before, _) = goes_through(&mut stage, &words).await;
        assert_never_off(&stage, &before, &apps).await;
        assert_stopped_once(&stage, &before, &["quick", "late"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_hang_in_their_end_or_are_refused_at_first_run_again() {
    let mut cast = Cast::named("starts").movable("app", |_| {});
    for vm in ["deaf", "slow", "refused"] {
        cast = cast.bound(vm, |shape| shape.grace_seconds = 20);
    }
    let mut stage = Stage::shared(cast).await.unwrap();
    let words = [
        "guest-ignores-shutdown=starts/deaf",
        "slow-terminating=starts/slow",
        "start-refused=starts/refused",
    ];
    let (before, _) = goes_through(&mut stage, &words).await;
    assert_never_off(&stage, &before, &["app"]).await;
    assert_stopped_once(&stage, &before, &["deaf", "slow", "refused"]).await;
}

/// Each on a node of its own, side by side, because all wait most of the time.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_cannot_be_settled_is_named() {
    let moving = Cast::named("stuck").movable("picky", |_| {}).movable("busy", |_| {});
    let before = Cast::named("sick").bound("loops", |_| {}).bound("failed", |_| {});
    let start = Cast::named("barred").bound("barred", |_| {});
    tokio::join!(
        names(
            moving,
            &["target-unschedulable=stuck/picky", "migration-never-converges=stuck/busy"],
            &["stuck/picky", "stuck/busy"]
        ),
        settles(before, &["crash-loops=sick/loops", "lingers-failed=sick/failed"]),
        names(start, &["start-always-refused=barred/barred"], &["barred/barred"]),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_nodes_that_do_not_come_back_are_named_with_the_vms_they_are_missed_by() {
    let pair = |name: &str| Cast::named(name).bound("pci-1", |_| {}).bound("pci-2", |_| {});
    tokio::join!(
        names(pair("lost"), &["device-lost=lost-1"], &["lost/pci-1", "lost/pci-2"]),
        names(pair("short"), &["device-short=short-1"], &["short/pci-"]),
        names(
            Cast::named("renamed").bound("pci-1", |_| {}),
            &["device-renamed=renamed/pci-1"],
            &["renamed/pci-1"]
        ),
        names(with_late_guest(pair("taken")), &["device-taken=taken/pci-1"], &["taken/"]),
        names(
            Cast::named("dark").bound("pci-1", |_| {}),
            &["node-never-returns=dark-1"],
            &["is restarting on"]
        ),
    );
}

async fn names(cast: Cast, words: &[&str], names: &[&str]) {
    let mut stage = Stage::shared(cast).await.unwrap();
    let script = Script::begin(&mut stage, words).await.unwrap();
    assert_names(&stage, &script, names).await;
}

/// It goes through, or holds and names somebody.
async fn settles(cast: Cast, words: &[&str]) {
    let mut stage = Stage::shared(cast).await.unwrap();
    let script = Script::begin(&mut stage, words).await.unwrap();
    // What a simulator makes of a sick VM takes it a moment.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ran = played(&stage, &script, |_| {}).await;
    if ran.code == Some(4) {
        ran.assert_names(&[&format!("{}/", stage.namespace)]);
    } else {
        ran.assert_done(&stage);
        assert_eq!(reported(&stage).await.vms.owed, 0);
    }
}

#[test]
fn every_failure_script_is_played_on_real_parts() {
    let tests =
        [include_str!("scripts.rs"), include_str!("guests.rs"), include_str!("migrations.rs")].concat();
    for one in upgrade_agent::rehearsal::faults::ALL.iter().filter(|one| one.script > 0) {
        let quoted = [format!("\"{}=", one.word), format!("\"{}\"", one.word)];
        assert!(
            quoted.iter().any(|word| tests.contains(word)),
            "script {} ({}) is not played",
            one.script,
            one.word
        );
    }
}
