//! A node that runs no server: its RKE2 is another unit, has no etcd to save and no API server to wait for, and may go back over a
//! minor. A real systemd and API server, with the server on a node beside it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use std::time::Duration;

use asserts::{Instances, agent, said};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use support::cast::Cast;
use support::script::Script;
use support::{FROM, Stage, TO};
use testbed::stand_in::Role;
use upgrade_agent::cluster::brief::BriefNode;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::cluster::nodes;
use upgrade_agent::flow::vms::VmKey;

const ONCE: [&str; 2] = ["node", "--once"];

/// An agent at the old version beside a server of this one.
async fn beside_server(name: &str, version: &str) -> Stage {
    let cast = Cast { role: Role::Agent, ..Cast::app_and_pci(name) };
    let stage = Stage::alone(cast).await.unwrap();
    let server = format!("{name}-2");
    let api: Api<BriefNode> = Api::all(stage.client.clone());
    let label = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "true"}}});
    api.patch(&server, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    let status = json!({"status": {"nodeInfo": {"kubeletVersion": version}}});
    api.patch_status(&server, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    stage
}

async fn assert_served(stage: &Stage, before: &Instances, version: &str, sha256: &str) {
    assert_eq!(stage.live_sha256().await.unwrap(), sha256);
    assert_eq!(stage.running_sha256().await.unwrap(), sha256);
    let after = stage.instances().await.unwrap();
    let (app, pci) = (VmKey::new(&stage.namespace, "app"), VmKey::new(&stage.namespace, "pci"));
    assert_eq!(after[&app].0, before[&app].0, "app was never off");
    assert_ne!(after[&pci].0, before[&pci].0, "pci was shut down");
    assert_eq!(after[&pci].1, stage.node, "and runs where its device is");
    let node: BriefNode = Api::all(stage.client.clone()).get(&stage.node).await.unwrap();
    assert_eq!(nodes::kubelet_version(&node), Some(version));
    assert!(!nodes::is_closed(&node) && nodes::drain_taint(&node).is_none(), "cordon and taint are gone");
    assert!(!node.annotations().contains_key(nodes::OWNER_ANNOTATION));
    stage.machine.must_run(&["systemctl", "restart", &stage.unit()]).await.expect("the fence is gone");
    assert_eq!(stage.records("snapshot"), 0, "it has no etcd");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_node_is_upgraded_once_its_server_is() {
    let stage = beside_server("worker", FROM).await;
    let plan = stage.plan_file("plan.json", |_| {}).unwrap();
    let plan = plan.display().to_string();
    let early = stage.agent(agent(), &["preflight", "--plan", &plan]).output().await.unwrap();
    assert_eq!(early.status.code(), Some(3), "{}", said(&early));
    assert!(said(&early).contains("newer than server worker-2"), "{}", said(&early));

    let stage = beside_server("late", TO).await;
    let before = stage.instances().await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let done = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_eq!(done.status.code(), Some(0), "{}\n{}", said(&done), stage.journal());
    assert_served(&stage, &before, TO, &stage.new_sha256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_serve_goes_back_over_a_minor() {
    let mut stage = beside_server("faulty", TO).await;
    let (before, old) = (stage.instances().await.unwrap(), stage.live_sha256().await.unwrap());
    Script::begin(&mut stage, &["rke2-crashes=faulty-1"]).await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let back = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_eq!(back.status.code(), Some(1), "{}\n{}", said(&back), stage.journal());
    assert!(said(&back).contains("rolled back"), "{}", said(&back));
    assert_served(&stage, &before, FROM, &old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cut_between_swap_and_restart_of_an_agent_is_gone_on_from() {
    let mut stage = beside_server("dark", TO).await;
    let before = stage.instances().await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let child = stage.start_agent(agent(), &ONCE).unwrap();
    stage.kill_at(child, "swapped", 1, "verified").await.unwrap();
    stage.machine.kill();
    stage.machine.boot_again().await.unwrap();
    stage.machine.wait_active(&stage.unit(), Duration::from_mins(15)).await.unwrap();
    let done = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_eq!(done.status.code(), Some(0), "{}\n{}", said(&done), stage.journal());
    assert_served(&stage, &before, TO, &stage.new_sha256).await;
}
