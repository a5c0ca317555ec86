//! How a node is closed, drained and opened beside other nodes that take its pods or do not, step by step in memory, under
//! Harvester's webhook.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/node_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod node_in_memory;

use http::Method;
use node_in_memory::{NodeInMemory, UPGRADE_UID};
use serde_json::{Value, json};
use upgrade_agent::agent::step_error::Reaction;
use upgrade_agent::agent::steps::cordon::cordon_node;
use upgrade_agent::agent::steps::drain::evict_pods;
use upgrade_agent::agent::steps::post_drain::take_marks_away;
use upgrade_agent::cluster::nodes;
use upgrade_agent::flow::record::Record;
use upgrade_agent::sim::api::Webhooks;
use upgrade_agent::sim::seed::{Preset, Storage};

const CLOSED: &str = "agent.harvesterhci.io/closed";
const DRAIN: &str = "kubevirt.io/drain";

/// Nodes without a VM, with the pods of an application and of a `DaemonSet`.
async fn beside(others: usize) -> NodeInMemory {
    let preset = Preset { storage: Storage::None, ..Preset::sized(1 + others, 0, 0) };
    let node = NodeInMemory::new(&preset).await;
    node.server.ask(Webhooks::Up);
    node
}

fn change(node: &NodeInMemory, name: &str, part: &str, body: &Value) {
    node.server.call(&Method::PATCH, &format!("/api/v1/nodes/{name}{part}"), body).unwrap();
}

/// Whether the node is cordoned, and its taints.
fn marks(node: &NodeInMemory) -> (bool, Vec<String>) {
    let found = node.server.get_object("", "nodes", "", "node1").unwrap();
    let taints = found["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let keys = taints.iter().filter_map(|taint| Some(taint["key"].as_str()?.to_owned())).collect();
    (found["spec"]["unschedulable"] == true, keys)
}

/// uids of the pods on the node under test.
fn pods(node: &NodeInMemory) -> Vec<String> {
    let all = node.server.list_objects("", "pods", "", "");
    let here = all.iter().filter(|pod| pod["spec"]["nodeName"] == "node1");
    here.map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

/// As far as to the end of its drain; how many were evicted.
async fn drained(node: &mut NodeInMemory, meanwhile: impl FnOnce(&NodeInMemory)) -> u32 {
    cordon_node(&mut node.run).await.unwrap();
    meanwhile(node);
    node.run.record(Record::PreDrained).unwrap();
    evict_pods(&mut node.run).await.unwrap();
    let last = &node.run.journal.entries().last().unwrap().record;
    let drained = if let Record::Drained { evicted } = last { Some(*evicted) } else { None };
    drained.unwrap()
}

#[tokio::test(start_paused = true)]
async fn pods_leave_a_cordoned_node_for_an_open_one() {
    let mut node = beside(1).await;
    assert_eq!(drained(&mut node, |_| {}).await, 1);
    assert_eq!(marks(&node), (true, vec![DRAIN.to_owned()]));
    assert_eq!(pods(&node).len(), 1, "the DaemonSet's");
}

#[tokio::test(start_paused = true)]
async fn pods_that_nobody_would_take_stay_on_a_tainted_node() {
    let maintenance = json!({"metadata": {"annotations": {"harvesterhci.io/maintain-status": "completed"}}});
    let tainted = json!({"spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}});
    let away = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let witness = json!({"metadata": {"labels": {"node-role.harvesterhci.io/witness": "true"}}});
    let table = [
        ("there is none", 0, "", Value::Null),
        ("it is cordoned", 1, "", json!({"spec": {"unschedulable": true}})),
        ("it is in maintenance", 1, "", maintenance),
        ("it is tainted", 1, "", tainted),
        ("it is away", 1, "/status", away),
        ("it is a witness", 1, "", witness),
    ];
    for (what, others, part, body) in table {
        let mut node = beside(others).await;
        if others > 0 {
            change(&node, "node2", part, &body);
        }
        let before = pods(&node);
        assert_eq!(drained(&mut node, |_| {}).await, 0, "{what}");
        assert_eq!(marks(&node), (false, vec![DRAIN.to_owned(), CLOSED.to_owned()]), "{what}");
        assert_eq!(pods(&node), before, "{what}");
        node.run.record(Record::CancelRequested).unwrap();
        take_marks_away(&mut node.run).await.unwrap();
        assert_eq!(marks(&node), (false, vec![]), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_after_the_taint_gets_no_pods() {
    let mut node = beside(0).await;
    let before = pods(&node);
    let join = |node: &NodeInMemory| {
        let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let joined =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node2"}, "status": status});
        node.server.load(joined).unwrap();
    };
    assert_eq!(drained(&mut node, join).await, 0);
    assert_eq!(pods(&node), before);
}

#[tokio::test(start_paused = true)]
async fn pods_stay_on_a_cordoned_node_once_every_other_is_closed() {
    let mut node = beside(1).await;
    let before = pods(&node);
    // Harvester lets nobody cordon it now, but it may go away.
    let away = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    assert_eq!(drained(&mut node, |node| change(node, "node2", "/status", &away)).await, 0);
    assert_eq!((marks(&node), pods(&node)), ((true, vec![DRAIN.to_owned()]), before));
}

#[tokio::test(start_paused = true)]
async fn our_taint_goes_also_where_it_alone_says_whose_it_is() {
    for (value, left) in [(UPGRADE_UID, vec![]), ("another", vec![DRAIN, CLOSED])] {
        let mut node = beside(0).await;
        cordon_node(&mut node.run).await.unwrap();
        let taint = |key: &str, value: &str| json!({"key": key, "value": value, "effect": "NoSchedule"});
        let edited = json!({"metadata": {"annotations": {nodes::OWNER_ANNOTATION: null}},
            "spec": {"taints": [taint(DRAIN, "draining"), taint(CLOSED, value)]}});
        change(&node, "node1", "", &edited);
        node.run.record(Record::CancelRequested).unwrap();
        take_marks_away(&mut node.run).await.unwrap();
        assert_eq!(marks(&node).1, left, "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cordon_that_its_owner_took_off_meanwhile_stays_off() {
    let node = beside(0).await;
    let client = node.server.client();
    let found = nodes::get(&client, "node1").await.unwrap().unwrap();
    nodes::close(&client, &found, nodes::Closing::Taint, UPGRADE_UID).await.unwrap();
    let found = nodes::get(&client, "node1").await.unwrap().unwrap();
    // It was cordoned when the run began. Harvester would refuse to cordon it anew.
    nodes::open(&client, &found, true, false).await.unwrap();
    assert_eq!(marks(&node), (false, vec![]));
}

#[tokio::test(start_paused = true)]
async fn two_nodes_are_never_closed_for_an_upgrade_at_once() {
    let upgraded = [
        json!({"metadata": {"annotations": {nodes::OWNER_ANNOTATION: "theirs"}}, "spec": {"unschedulable": true}}),
        json!({"spec": {"taints": [{"key": DRAIN, "value": "draining", "effect": "NoSchedule"}]}}),
    ];
    for theirs in upgraded {
        let mut node = beside(1).await;
        change(&node, "node2", "", &theirs);
        let error = cordon_node(&mut node.run).await.unwrap_err();
        assert_eq!(error.reaction, Reaction::Retry, "{}", error.sentence());
        assert!(error.sentence().contains("node2 is being upgraded"), "{}", error.sentence());
        assert_eq!(marks(&node), (false, vec![]));
        // It is through.
        let open = json!({"metadata": {"annotations": {nodes::OWNER_ANNOTATION: null}},
            "spec": {"unschedulable": null, "taints": null}});
        change(&node, "node2", "", &open);
        cordon_node(&mut node.run).await.unwrap();
        assert_eq!(marks(&node), (true, vec![DRAIN.to_owned()]));
        // One that is closed already stays so, whatever becomes of the other.
        node.server.ask(Webhooks::None);
        change(&node, "node2", "", &theirs);
        cordon_node(&mut node.run).await.unwrap();
        assert_eq!(marks(&node), (true, vec![DRAIN.to_owned()]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cordon_that_harvester_refuses_is_thought_over() {
    let mut node = beside(1).await;
    // Its webhook still sees the other one as closed, or sees it before we do.
    let (real, server) = (node.run.cluster.client.clone(), node.server.clone());
    node.run.cluster.client = kube::Client::new(
        tower::service_fn(move |request: http::Request<kube::client::Body>| {
            if request.method() == Method::PATCH {
                let closed = json!({"spec": {"unschedulable": true}});
                server.call(&Method::PATCH, "/api/v1/nodes/node2", &closed).unwrap();
            }
            let mut service = server.service();
            async move { tower::Service::call(&mut service, request).await }
        }),
        "default",
    );
    let error = cordon_node(&mut node.run).await.unwrap_err();
    assert_eq!(error.reaction, Reaction::Retry, "{}", error.sentence());
    assert!(error.sentence().contains("last available node"), "{}", error.sentence());
    node.run.cluster.client = real;
    cordon_node(&mut node.run).await.unwrap();
    assert_eq!(marks(&node), (false, vec![DRAIN.to_owned(), CLOSED.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn what_others_close_meanwhile_stays_closed() {
    let maintenance = json!({"metadata": {"annotations": {"harvesterhci.io/maintain-status": "running"}},
        "spec": {"unschedulable": true}});
    let cordon = json!({"spec": {"unschedulable": true}});
    let table = [
        ("cordoned by its owner, beside our taint", 0, &cordon, (true, vec![])),
        ("in maintenance, beside our cordon", 1, &maintenance, (true, vec![DRAIN.to_owned()])),
    ];
    for (what, others, theirs, left) in table {
        let mut node = beside(others).await;
        cordon_node(&mut node.run).await.unwrap();
        node.server.ask(Webhooks::None);
        change(&node, "node1", "", theirs);
        node.run.record(Record::CancelRequested).unwrap();
        take_marks_away(&mut node.run).await.unwrap();
        assert_eq!(marks(&node), left, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_swapped_while_nobody_can_write_to_nodes() {
    let mut node = beside(1).await;
    cordon_node(&mut node.run).await.unwrap();
    node.run.record(Record::PreDrained).unwrap();
    let (real, server) = (node.run.cluster.client.clone(), node.server.clone());
    node.run.cluster.client = kube::Client::new(
        tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let is_write = request.method() == Method::PATCH && request.uri().path().contains("/nodes/");
            let mut service = server.service();
            async move {
                if !is_write {
                    return tower::Service::call(&mut service, request).await;
                }
                let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500,
                    "message": "failed calling webhook \"validator.harvesterhci.io\""});
                Ok(http::Response::builder()
                    .status(500)
                    .body(bytes::Bytes::from(body.to_string()).into())
                    .unwrap())
            }
        }),
        "default",
    );
    let error = evict_pods(&mut node.run).await.unwrap_err();
    assert_eq!(error.reaction, Reaction::Retry, "{}", error.sentence());
    assert!(error.sentence().contains("failed calling webhook"), "{}", error.sentence());
    assert!(!matches!(node.run.journal.entries().last().unwrap().record, Record::Drained { .. }));
    node.run.cluster.client = real;
    evict_pods(&mut node.run).await.unwrap();
}
