//! One server after the other: whoever puts the new binary in place on a server whose etcd has other members has the turn until that is
//! verified, and no second server begins meanwhile.

#[path = "support/node_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod node_in_memory;
#[path = "support/server_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod server_in_memory;

use std::sync::Arc;

use http::Method;
use serde_json::Value;
use upgrade_agent::agent::quorum::spared_on_the_way;
use upgrade_agent::agent::step_error::Reaction;
use upgrade_agent::agent::steps::{post_drain, restart};
use upgrade_agent::cluster::turn::{self, LEASE, Turn};
use upgrade_agent::flow::record::Record;
use upgrade_agent::sim::machine::etcd::EtcdMember;
use upgrade_agent::sim::object::Object;

use node_in_memory::NodeInMemory;
use server_in_memory::swapped;

fn lease(node: &NodeInMemory) -> Option<Object> {
    node.server.get_object("coordination.k8s.io", "leases", "harvester-system", LEASE)
}

fn holder(node: &NodeInMemory) -> Option<String> {
    Some(lease(node)?.pointer("/spec/holderIdentity")?.as_str()?.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_second_server_waits_for_the_first_and_names_it() {
    let (mut node, _troubles) = swapped().await;
    let cluster = node.run.cluster.clone();
    assert_eq!(turn::take(&cluster, "node2", node.run.now()).await.unwrap(), Turn::Taken);
    let waits = spared_on_the_way(&node.run).await.unwrap_err();
    assert_eq!(waits.reaction, Reaction::Retry);
    let words = waits.sentence();
    assert!(words.contains("server node2 has its turn since 2026-03-01") && words.contains(LEASE), "{words}");
    // It is waited for, and not for ever.
    let held = restart::restart_rke2(&mut node.run).await.unwrap_err().sentence();
    assert!(held.contains("server node2 has its turn") && held.contains("then resume"), "{held}");
    assert_eq!(node.machine.starts(), []);
    turn::give_back(&cluster, "node3").await.unwrap();
    assert_eq!(holder(&node).as_deref(), Some("node2"), "another's turn is left alone");
    turn::give_back(&cluster, "node2").await.unwrap();
    assert!(lease(&node).is_none());
    restart::restart_rke2(&mut node.run).await.unwrap();
    assert_eq!(holder(&node).as_deref(), Some("node1"), "until it is verified");
    assert!(matches!(turn::take(&cluster, "node2", node.run.now()).await.unwrap(), Turn::Anothers(_)));
    node.run.record(Record::Verified { kubelet_version: "v1.35.6+rke2r1".to_owned() }).unwrap();
    post_drain::take_marks_away(&mut node.run).await.unwrap();
    assert!(lease(&node).is_none(), "nothing is left of it");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_died_has_its_turn_still_and_a_server_that_left_has_none() {
    let (node, _troubles) = swapped().await;
    let cluster = node.run.cluster.clone();
    let take = async |name| turn::take(&cluster, name, node.run.now()).await.unwrap();
    assert_eq!((take("node1").await, take("node1").await), (Turn::Taken, Turn::Kept));
    turn::give_back(&cluster, "node1").await.unwrap();
    assert_eq!(take("node3").await, Turn::Taken);
    assert!(matches!(take("node1").await, Turn::Anothers(_)));
    node.server.call(&Method::DELETE, "/api/v1/nodes/node3", &Value::Null).unwrap();
    assert_eq!(take("node1").await, Turn::Taken);
    assert_eq!(holder(&node).as_deref(), Some("node1"));
}

#[tokio::test(start_paused = true)]
async fn of_all_that_come_at_the_same_moment_one_has_it() {
    let (node, _troubles) = swapped().await;
    let take = |name: &'static str| turn::take(&node.run.cluster, name, node.run.now());
    let (one, two, three) = tokio::join!(take("node1"), take("node2"), take("node3"));
    let taken = [one, two, three].into_iter().filter(|turn| matches!(turn, Ok(Turn::Taken))).count();
    assert_eq!(taken, 1);
}

/// It has no quorum to lose.
#[tokio::test(start_paused = true)]
async fn the_only_member_of_etcd_takes_no_turn() {
    let (node, _troubles) = swapped().await;
    node.machine.set_etcd(Arc::new(|| vec![EtcdMember { is_own: true, ..EtcdMember::well("node1") }]));
    spared_on_the_way(&node.run).await.unwrap();
    assert!(lease(&node).is_none());
}
