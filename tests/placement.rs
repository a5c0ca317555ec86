//! Where the VMs of a node can go, read from an API server in memory: as little as the answer needs, however large the
//! cluster, and with every reason when the answer is no.

#![expect(clippy::unwrap_used, reason = "tests")]

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use upgrade_agent::agent::placement::Surroundings;
use upgrade_agent::cluster::vms::instances_on;
use upgrade_agent::flow::classify::Elsewhere;
use upgrade_agent::flow::vms::VmKey;
use upgrade_agent::host::clock::Clock;
use upgrade_agent::sim::api::ApiServer;
use upgrade_agent::sim::seed::{Preset, seed};

fn cluster(nodes: usize, vms: usize) -> ApiServer {
    let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let server = ApiServer::new(Clock::from(start, Instant::now()), 1);
    seed(&server, &Preset::sized(nodes, vms, 0), start).unwrap();
    server
}

fn patch(server: &ApiServer, path: &str, body: &Value) {
    server.call(&Method::PATCH, path, body).unwrap();
}

async fn surroundings(server: &ApiServer) -> Surroundings {
    let client = server.client();
    let here = instances_on(&client, "node1").await.unwrap();
    Surroundings::of(&client, "node1", &here.iter().collect::<Vec<_>>()).await.unwrap()
}

fn cordon(server: &ApiServer, node: usize) {
    patch(server, &format!("/api/v1/nodes/node{node}"), &json!({"spec": {"unschedulable": true}}));
}

fn shrink(server: &ApiServer, node: usize) {
    let room = json!({"status": {"allocatable": {"memory": "1Gi"}}});
    patch(server, &format!("/api/v1/nodes/node{node}/status"), &room);
}

#[tokio::test(start_paused = true)]
async fn a_large_cluster_costs_no_more_requests_than_a_small_one() {
    let mut asked = Vec::new();
    for nodes in [8, 200] {
        let server = cluster(nodes, nodes * 4);
        let before = server.requests();
        let mut around = surroundings(&server).await;
        let proof = around.prove(|_| true).await.unwrap();
        assert_eq!((proof.placed.len(), proof.unplaced.len()), (4, 0));
        asked.push(server.requests() - before);
    }
    assert!(asked[1] <= asked[0] && asked[0] <= 7, "{asked:?} requests");
}

/// Of three nodes, only the second can give a guest of the first one its CPU.
#[tokio::test(start_paused = true)]
async fn a_guest_that_runs_as_its_host_goes_where_that_cpu_can_be_had() {
    let server = cluster(3, 6);
    let label = |node: usize, labels: &Value| {
        patch(&server, &format!("/api/v1/nodes/node{node}"), &json!({"metadata": {"labels": labels}}));
    };
    label(
        1,
        &json!({"host-model-cpu.node.kubevirt.io/SierraForest": "true",
        "host-model-required-features.node.kubevirt.io/vme": "true"}),
    );
    let both = json!({"cpu-model-migration.node.kubevirt.io/SierraForest": "true",
        "cpu-feature.node.kubevirt.io/vme": "true"});
    label(2, &both);
    label(3, &json!({"cpu-model-migration.node.kubevirt.io/Penryn": "true"}));
    for vmi in server.list_objects("kubevirt.io", "virtualmachineinstances", "", "") {
        let text = |field: &str| vmi["metadata"][field].as_str().unwrap().to_owned();
        let path = format!(
            "/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}",
            text("namespace"),
            text("name")
        );
        patch(&server, &path, &json!({"spec": {"domain": {"cpu": {"model": "host-model"}}}}));
    }
    let proof = surroundings(&server).await.prove(|_| true).await.unwrap();
    assert!(proof.unplaced.is_empty());
    assert!(proof.placed.values().all(|node| node == "node2"), "{:?}", proof.placed);
    label(2, &json!({"cpu-feature.node.kubevirt.io/vme": null}));
    let proof = surroundings(&server).await.prove(|_| true).await.unwrap();
    assert!(proof.placed.is_empty());
    let why = proof.unplaced.iter().map(upgrade_agent::flow::placement::Unplaced::reasons);
    assert!(why.into_iter().all(|why| why.contains("cpu-feature.node.kubevirt.io/vme")));
}

#[tokio::test(start_paused = true)]
async fn the_only_node_with_room_is_found_however_far_down_the_list_it_is() {
    let server = cluster(120, 240);
    for node in (2..=120).filter(|node| *node != 77) {
        if node % 2 == 0 { cordon(&server, node) } else { shrink(&server, node) }
    }
    let mut around = surroundings(&server).await;
    let proof = around.prove(|_| true).await.unwrap();
    let nodes: Vec<&str> = proof.placed.values().map(String::as_str).collect();
    assert_eq!(nodes, ["node77", "node77"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_no_place_is_named_with_every_node_and_the_smallest_change() {
    let server = cluster(4, 8);
    cordon(&server, 2);
    shrink(&server, 3);
    shrink(&server, 4);
    let mut around = surroundings(&server).await;
    let proof = around.prove(|_| true).await.unwrap();
    assert_eq!(proof.unplaced.len(), 2);
    for one in &proof.unplaced {
        assert_eq!(one.why.keys().collect::<Vec<_>>(), ["node2", "node3", "node4"]);
        assert_eq!(one.smallest_change().as_deref(), Some("uncordon node2"));
        assert!(one.reasons().contains("GiB of memory"), "{}", one.reasons());
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_bound_to_its_node_by_a_label_is_told_from_one_that_can_move() {
    let server = cluster(3, 9);
    let pods = server.list_objects("", "pods", "", "kubevirt.io=virt-launcher");
    let here: Vec<Value> = pods
        .iter()
        .filter(|pod| pod.pointer("/spec/nodeName") == Some(&json!("node1")))
        .map(|pod| (**pod).clone())
        .collect();
    let text = |pod: &Value, pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
    let vm = |pod: &Value| {
        VmKey::new(&text(pod, "/metadata/namespace"), &text(pod, "/metadata/ownerReferences/0/name"))
    };
    let (free, mut chosen, mut bound) = (here[0].clone(), here[1].clone(), here[2].clone());
    for pod in [&mut chosen, &mut bound] {
        let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0");
        server.call(&Method::DELETE, &path, &Value::Null).unwrap();
        pod["spec"]["nodeSelector"]["kubernetes.io/hostname"] = json!("node1");
        pod["metadata"]["name"] = json!(format!("{name}-again"));
        server.load(pod.clone()).unwrap();
    }
    let own = vm(&bound);
    let path =
        format!("/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}", own.namespace, own.name);
    patch(&server, &path, &json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "node1"}}}));
    let mut around = surroundings(&server).await;
    assert_eq!(around.elsewhere(&vm(&free)).await.unwrap(), Elsewhere::Open);
    // Somebody once chose this node for a migration: the next one is free again.
    assert_eq!(around.elsewhere(&vm(&chosen)).await.unwrap(), Elsewhere::Open);
    assert!(matches!(around.elsewhere(&vm(&bound)).await.unwrap(), Elsewhere::Never { .. }));
    let unseen = around.elsewhere(&VmKey::new("default", "nobody")).await.unwrap();
    assert!(matches!(unseen, Elsewhere::Closed { .. }), "{unseen:?}");
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_away_for_a_moment_cost_no_vm_its_uptime() {
    for (what, path, body) in [
        (
            "virt-handler is only just starting",
            "",
            json!({"metadata": {"labels": {"kubevirt.io/schedulable": "false"}}}),
        ),
        (
            "the node is drained by somebody",
            "",
            json!({"spec": {"taints": [{"key": "kubevirt.io/drain", "value": "draining", "effect": "NoSchedule"}]}}),
        ),
        (
            "the node is away",
            "/status",
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
                   "metadata": {"labels": {"kubevirt.io/schedulable": "false"}}}),
        ),
    ] {
        let server = cluster(2, 4);
        patch(&server, &format!("/api/v1/nodes/node2{path}"), &body);
        let mut around = surroundings(&server).await;
        for vmi in instances_on(&server.client(), "node1").await.unwrap() {
            let vm = upgrade_agent::cluster::vms::key_of(&vmi);
            let found = around.elsewhere(&vm).await.unwrap();
            assert!(matches!(found, Elsewhere::Closed { .. }), "{what}: {found:?}");
        }
    }
}
