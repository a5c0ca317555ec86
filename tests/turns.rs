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
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use upgrade_agent::agent::perform::perform;
use upgrade_agent::agent::quorum::{Beside, spared_on_the_way};
use upgrade_agent::agent::step_error::Reaction;
use upgrade_agent::agent::steps::{post_drain, restart};
use upgrade_agent::cluster::turn::{self, LEASE, Turn};
use upgrade_agent::flow::record::Record;
use upgrade_agent::flow::step::Step;
use upgrade_agent::sim::machine::etcd::EtcdMember;
use upgrade_agent::sim::object::Object;

use node_in_memory::NodeInMemory;
use server_in_memory::{LIVE, NEW, before_swap, swapped};

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

/// It has no quorum to lose; whether an API server that is away is its own depends on who else there is.
#[tokio::test(start_paused = true)]
async fn the_only_member_of_etcd_takes_no_turn() {
    let (node, _troubles) = swapped().await;
    assert_eq!(spared_on_the_way(&node.run).await.unwrap(), Beside::Members);
    turn::give_back(&node.run.cluster, "node1").await.unwrap();
    node.machine.set_etcd(Arc::new(|| vec![EtcdMember { is_own: true, ..EtcdMember::well("node1") }]));
    assert_eq!(spared_on_the_way(&node.run).await.unwrap(), Beside::Others, "two more have its role");
    for other in ["node2", "node3"] {
        node.server.call(&Method::DELETE, &format!("/api/v1/nodes/{other}"), &Value::Null).unwrap();
    }
    assert_eq!(spared_on_the_way(&node.run).await.unwrap(), Beside::Nobody);
    // Another datastore may be away as well.
    node.run.host.root.fs().remove_tree("/var/lib/rancher/rke2/server/db/etcd".as_ref()).unwrap();
    assert_eq!(spared_on_the_way(&node.run).await.unwrap(), Beside::Others);
    assert!(lease(&node).is_none());
}

fn well() -> Vec<EtcdMember> {
    ["node1", "node2", "node3"]
        .map(|name| EtcdMember { is_own: name == "node1", ..EtcdMember::well(name) })
        .to_vec()
}

/// Somebody uncordons the node while it takes its turn: the run has to pre-drain again, which may last for hours.
#[tokio::test(start_paused = true)]
async fn a_server_that_may_not_swap_keeps_nobody_waiting() {
    let mut node = before_swap().await;
    let server = node.server.clone();
    node.machine.set_etcd(Arc::new(move || {
        if server.get_object("coordination.k8s.io", "leases", "harvester-system", LEASE).is_some() {
            let open = json!({"spec": {"unschedulable": null}});
            server.call(&Method::PATCH, "/api/v1/nodes/node1", &open).unwrap();
        }
        well()
    }));
    perform(&mut node.run, Step::Swap).await.unwrap_err();
    assert!(
        node.run.journal.entries().iter().any(|entry| matches!(entry.record, Record::GateRefused { .. }))
    );
    assert!(lease(&node).is_none(), "{:?}", holder(&node));
}

/// The disk that etcd needs is left alone while it is waited for.
#[tokio::test(start_paused = true)]
async fn nothing_is_copied_before_it_is_the_servers_turn() {
    let mut node = before_swap().await;
    turn::take(&node.run.cluster, "node2", node.run.now()).await.unwrap();
    perform(&mut node.run, Step::Swap).await.unwrap_err();
    let next = format!("{LIVE}.next-{NEW}");
    assert!(node.machine.disk().read(next.as_ref()).is_err(), "{next} is there");
    turn::give_back(&node.run.cluster, "node2").await.unwrap();
    perform(&mut node.run, Step::Swap).await.unwrap();
    assert!(node.machine.disk().read(next.as_ref()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn whoever_replaces_the_binary_while_the_restart_waits_is_found_and_undone() {
    let mut node = before_swap().await;
    perform(&mut node.run, Step::Swap).await.unwrap();
    let placed = node.run.host.root.fs().sha256_file(LIVE.as_ref()).unwrap();
    turn::give_back(&node.run.cluster, "node1").await.unwrap();
    turn::take(&node.run.cluster, "node2", node.run.now()).await.unwrap();
    let machine = node.machine.clone();
    let replaces = async {
        tokio::time::sleep(Duration::from_mins(2)).await;
        machine.change_disk(|disk| disk.install(LIVE, b"somebody else's".to_vec(), 0o755)).unwrap();
        Instant::now()
    };
    let (held, since) = tokio::join!(restart::restart_rke2(&mut node.run), replaces);
    let words = held.unwrap_err().sentence();
    assert!(words.contains("replaced by somebody else"), "{words}");
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    assert_eq!(node.run.host.root.fs().sha256_file(LIVE.as_ref()).unwrap(), placed);
}

/// Rights that are older than the agent: it cannot have taken a turn, and VMs wait for their start.
#[tokio::test(start_paused = true)]
async fn without_the_right_to_leases_no_vm_waits_for_ever() {
    let (mut node, _troubles) = swapped().await;
    let denied = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden",
        "code": 403, "message": "leases.coordination.k8s.io is forbidden"});
    node.server.aggregate(
        "/apis/coordination.k8s.io",
        Arc::new(move |_| {
            let denied = denied.to_string();
            Box::pin(async move { http::Response::builder().status(403).body(denied.into()).unwrap() })
        }),
    );
    let words = spared_on_the_way(&node.run).await.unwrap_err().sentence();
    assert!(words.contains("apply manifests/rbac.yaml"), "{words}");
    for record in [
        Record::RestartIntent { invocation: String::new() },
        Record::Restarted { invocation: "x".to_owned(), pid: 1 },
        Record::Verified { kubelet_version: NEW.to_owned() },
    ] {
        node.run.record(record).unwrap();
    }
    post_drain::take_marks_away(&mut node.run).await.unwrap();
}
