//! Two of three real etcds are not enough to take the third away: not at the beginning, not when one goes during the drain, and not while
//! another server is on its way. A real API server, a real systemd, real etcds.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use std::time::Duration;

use asserts::{agent, said};
use jiff::Timestamp;
use kube::api::ListParams;
use support::cast::Cast;
use support::{NAMESPACE, Stage};
use testbed::etcd::EtcdCluster;
use testbed::places::RunDir;
use upgrade_agent::cluster::Cluster;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::cluster::turn::{self, Turn};

const ONCE: [&str; 2] = ["node", "--once"];

/// Whoever looks at the order reads it.
async fn tells(stage: &Stage, words: &str) {
    let orders = stage.orders();
    let told = async || {
        let orders = orders.list(&ListParams::default()).await.unwrap();
        format!("{:?}", orders.items).contains(words)
    };
    stage.wait(words, told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_is_swapped_while_another_member_of_etcd_is_away() {
    let run = RunDir::new().unwrap();
    let mut etcd = EtcdCluster::start(run.path(), 3).unwrap();
    // On a shared cluster the servers of other tests come and go.
    let stage = Stage::alone(Cast::app_and_pci("quorum")).await.unwrap();
    etcd.write_server_files(0, stage.machine.disk()).unwrap();
    stage.order(Control::Run).await.unwrap();
    etcd.kill(2);
    // As long as the others choose another leader, they cannot say who is away.
    let names_it = async || {
        let refused = stage.run_agent(agent(), &ONCE).await.unwrap();
        assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
        said(&refused).contains("etcd3 does not answer")
    };
    stage.wait("a refusal that names the member", names_it).await.unwrap();
    assert_eq!(stage.records("fenceIntent"), 0, "nothing was touched");

    etcd.revive(2).unwrap();
    let child = stage.start_agent(agent(), &ONCE).unwrap();
    stage.kill_at(child, "drained", 1, "swapIntent").await.unwrap();
    etcd.kill(1);
    let cluster = Cluster { client: stage.client.clone(), namespace: NAMESPACE.to_owned() };
    let other = format!("{}-2", stage.node.trim_end_matches("-1"));
    let mut child = stage.start_agent(agent(), &ONCE).unwrap();
    tells(&stage, "etcd2 does not answer").await;
    assert_eq!(
        turn::take(&cluster, &other, Timestamp::now()).await.unwrap(),
        Turn::Taken,
        "nobody has it yet"
    );
    etcd.revive(1).unwrap();
    tells(&stage, &format!("server {other} has its turn")).await;
    assert_eq!(stage.records("swapIntent"), 0, "the old binary is live");
    turn::give_back(&cluster, &other).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_mins(15), child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", stage.journal());
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256);
    assert_eq!(
        turn::take(&cluster, &other, Timestamp::now()).await.unwrap(),
        Turn::Taken,
        "it was given back"
    );
}
