//! A machine whose live RKE2 is not the one that runs, found when nobody is at work on it: while a run is paused, and by an agent that
//! has no order at all. On a real systemd.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use asserts::{agent, said};
use support::cast::Cast;
use support::{LIVE, Stage, TO};
use testbed::rke2::binary;
use tokio::io::{AsyncBufReadExt, BufReader};
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::cluster::names::safe_concat;
use upgrade_agent::host::systemd::{BusAddress, Systemd};
use upgrade_agent::sim::world::Shutdown;

const OTHER: &str = "var/lib/other-rke2";

/// What `tar xzf` of another release does.
async fn install_over(stage: &Stage) {
    let file = stage.machine.disk().join(OTHER);
    std::fs::write(&file, binary(TO).unwrap()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    stage.machine.must_run(&["cp", "--remove-destination", &format!("/{OTHER}"), LIVE]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_undoes_it_and_asks_for_somebody() {
    let slow = Cast::named("paused")
        .bound("pci", |shape| (shape.shutdown, shape.grace_seconds) = (Shutdown::Seconds(400), 1200));
    let stage = Stage::shared(slow).await.unwrap();
    let (old, pid) = (stage.live_sha256().await.unwrap(), stage.rke2_pid().await.unwrap());
    stage.order(Control::Run).await.unwrap();
    let mut command = stage.agent(agent(), &["node", "--once"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    stage.wait("the cordon", async || stage.records("cordoned") > 0).await.unwrap();
    stage.set_control(Control::Pause).await.unwrap();
    let name = safe_concat(&[&stage.upgrade, &stage.node]);
    let paused = async || {
        let order = stage.orders().get(&name).await.unwrap();
        format!("{:?}", order.status).contains("AdministrativelyPaused")
    };
    stage.wait("the pause to show", paused).await.unwrap();
    assert_eq!(stage.records("swapIntent"), 0, "paused before the swap");
    install_over(&stage).await;
    let held =
        tokio::time::timeout(Duration::from_mins(15), child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(held.status.code(), Some(4), "{}", said(&held));
    assert!(said(&held).contains("replaced by somebody else"), "{}", said(&held));
    assert_eq!((stage.live_sha256().await.unwrap(), stage.rke2_pid().await.unwrap()), (old, pid));
    stage.set_control(Control::Run).await.unwrap();
    let output = stage.run_agent(agent(), &["node", "--once"]).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_an_order_names_it_and_touches_nothing() {
    let stage = Stage::shared(Cast::named("idle").bound("pci", |_| {})).await.unwrap();
    let pid = stage.rke2_pid().await.unwrap();
    install_over(&stage).await;
    let mut command = stage.agent(agent(), &["node"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let named = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("this node is armed") {
                return line;
            }
        }
        panic!("the agent ended without a word of it");
    };
    let line = tokio::time::timeout(Duration::from_mins(15), named).await.unwrap();
    assert!(line.contains(LIVE) && line.contains("put the old binary back"), "{line}");
    child.kill().await.unwrap();
    assert_eq!(stage.rke2_pid().await.unwrap(), pid);
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256, "nobody has ordered anything");
}

/// As in a pod: without RKE2 there is no kubelet, and nobody starts the agent again.
#[tokio::test(flavor = "multi_thread")]
async fn an_rke2_that_the_agent_stopped_before_it_died_comes_back_by_itself() {
    let stage = Stage::shared(Cast::named("revived")).await.unwrap();
    let unit = "rke2-server.service";
    let bus = BusAddress::Socket(stage.machine.bus());
    {
        let systemd = Systemd::connect(&bus).await.unwrap();
        let minutes = tokio::time::Instant::now() + Duration::from_mins(15);
        // What an earlier stop has armed is armed anew, however soon.
        for _ in 0..6 {
            systemd.stop_fenced(unit, minutes).await.unwrap();
        }
    }
    let up = async || stage.machine.run(&["systemctl", "is-active", unit]).await.unwrap().status.success();
    assert!(!up().await, "it is stopped");
    let timers = stage.machine.must_run(&["systemctl", "list-timers"]).await.unwrap();
    assert!(timers.contains("upgrade-agent-revives-rke2-server.timer"), "{timers}");
    stage.wait("RKE2 to be started again", up).await.unwrap();
    // What has ended is not unloaded at once.
    let is_gone = async |list: &str| {
        let left = stage.machine.must_run(&["systemctl", list, "--all", "upgrade-agent-*"]).await.unwrap();
        !left.contains("revives")
    };
    stage.wait("the timer's unit to go", async || is_gone("list-units").await).await.unwrap();
    let systemd = Systemd::connect(&bus).await.unwrap();
    let minutes = tokio::time::Instant::now() + Duration::from_mins(15);
    // It would run out by itself three minutes after the last stop, which this begins with: a start of ours disarms it.
    let begun = tokio::time::Instant::now();
    systemd.restart_fenced(unit, minutes).await.unwrap();
    stage.wait("the timer to go", async || is_gone("list-timers").await).await.unwrap();
    assert!(begun.elapsed() < Duration::from_mins(3), "it has run out: {:?}", begun.elapsed());
}
