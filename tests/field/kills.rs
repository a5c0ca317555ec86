//! The agent is killed at five places that chance chooses.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::sim::world::{Shutdown, number_of};

use crate::asserts::agent;
use crate::support::cast::Cast;
use crate::support::{Stage, measured};
use crate::{Ran, assert_never_off, assert_stopped_once, reported};

const KILLS: usize = 5;
/// Lines of the journal of the whole run but for its last ones.
const LINES: u64 = 34;

/// `UPGRADE_AGENT_TEST_SEED` repeats a run.
fn seed() -> u64 {
    let given = std::env::var("UPGRADE_AGENT_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| number_of(&Timestamp::now().to_string()) % 100_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_it_forgets_nobody_and_turns_nobody_off_twice() {
    let seed = seed();
    let mut places = BTreeSet::new();
    for draw in 0_u64.. {
        if places.len() == KILLS {
            break;
        }
        places.insert(usize::try_from(1 + number_of(&format!("{seed} {draw}")) % LINES).unwrap());
    }
    eprintln!("seed {seed}: killed after lines {places:?}; UPGRADE_AGENT_TEST_SEED={seed} repeats it");
    let (apps, bound) = (["app-1", "app-2", "app-3"], ["vgpu-1", "vgpu-2", "vgpu-3"]);
    let mut cast = Cast::named("kills");
    for app in apps {
        cast = cast.movable(app, |_| {});
    }
    for (vm, seconds) in bound.into_iter().zip([5, 20, 60]) {
        cast = cast.bound(vm, |shape| shape.shutdown = Shutdown::Seconds(seconds));
    }
    let stage = Stage::shared(cast).await.unwrap();
    let before = stage.instances().await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let mut started = Vec::new();
    for lines in &places {
        started.push(Timestamp::now());
        kill_after(&stage, *lines).await;
    }
    started.push(Timestamp::now());
    let ran: Ran = stage.run_agent(agent(), &["node", "--once"]).await.unwrap().into();
    assert_never_off(&stage, &before, &apps).await;
    if ran.code == Some(4) {
        // It may hold, but then it says for whom.
        let reason = ran.said.lines().last().unwrap_or_default();
        assert!(reason.contains("kills/"), "seed {seed}: {}", ran.said);
        return;
    }
    assert_eq!(ran.code, Some(0), "seed {seed}: {}\n{}", ran.said, stage.journal());
    assert_eq!(reported(&stage).await.vms.owed, 0, "seed {seed}");
    // The first start is none; what is asked about the order comes before the step.
    let resumed =
        started.iter().skip(1).filter_map(|start| stage.first_request_after(*start, "/nodeupgrades"));
    let slowest = resumed.max().expect("it asked for something");
    let value = format!("{} ms", slowest.as_millis());
    measured("kill -9, started again -> at work in the same step (slowest)", &value, "<= 1 s");
    assert_stopped_once(&stage, &before, &bound).await;
}

/// SIGKILL as soon as the journal is so long, wherever the agent is by then.
async fn kill_after(stage: &Stage, lines: usize) {
    let mut agent = stage.start_agent(agent(), &["node", "--once"]).unwrap();
    let deadline = Instant::now() + Duration::from_mins(15);
    while stage.journal().lines().count() < lines {
        if let Some(status) = agent.try_wait().unwrap() {
            panic!("the agent ended ({status}) before line {lines}:\n{}", stage.journal());
        }
        assert!(Instant::now() < deadline, "no line {lines} in time:\n{}", stage.journal());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    agent.kill().await.unwrap();
}
