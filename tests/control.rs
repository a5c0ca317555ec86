//! Pause and cancel on real parts: obeyed between steps, and everything is put back.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use asserts::{agent, said, stage};
use kube::ResourceExt;
use kube::api::Api;
use support::{NODE, Stage, UPGRADE};
use upgrade_agent::cluster::brief::BriefNode;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::cluster::nodes;
use upgrade_agent::sim::Timing;

async fn phase(stage: &Stage) -> String {
    let order = stage.orders().get(&format!("{UPGRADE}-{NODE}")).await.unwrap();
    order.status.map(|status| status.phase).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_touches_nothing_and_a_cancelled_one_puts_everything_back() {
    // Somebody has to be heard while guests shut down.
    let stage = stage(|start| Timing { scale: 1.0, ..Timing::fast(start) }).await;
    let before = stage.instances().await.unwrap();
    let (pid, live) = (stage.rke2_pid().await.unwrap(), stage.live_sha256().await.unwrap());
    stage.order(Control::Pause).await.unwrap();
    let mut command = stage.agent(agent(), &["node", "--once"]);
    let child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    stage.wait("the pause to show", async || phase(&stage).await == "Node-upgrade paused").await.unwrap();
    assert_eq!(
        stage.records("fenceIntent") + stage.records("cordonIntent"),
        0,
        "paused before anything is touched"
    );

    stage.set_control(Control::Run).await.unwrap();
    stage.wait("the first guest to be stopped", async || stage.records("stopIntent") > 0).await.unwrap();
    stage.set_control(Control::Cancel).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "a cancelled upgrade is no success: {}", said(&output));

    assert_eq!(stage.records("swapIntent"), 0, "{}", stage.journal());
    assert_eq!(stage.rke2_pid().await.unwrap(), pid);
    assert_eq!(stage.live_sha256().await.unwrap(), live);
    assert_eq!(stage.instances().await.unwrap().len(), before.len(), "every VM runs again");
    let node: BriefNode = Api::all(stage.client.clone()).get(NODE).await.unwrap();
    assert!(!nodes::is_closed(&node) && nodes::drain_taint(&node).is_none());
    assert!(!node.annotations().contains_key(nodes::OWNER_ANNOTATION));
    stage.machine.must_run(&["systemctl", "restart", "rke2-server"]).await.expect("the fence is gone");
    assert_eq!(phase(&stage).await, "Failed");
    assert!(!stage.machine.disk().join("opt/rke2/.stage").exists(), "the prefix is as it was");
}
