//! A seeded world is at rest, and what is done in it goes the way it goes in a real one.

use std::time::Duration;

use http::Method;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::host::clock::Clock;
use crate::sim::fields::uid;
use crate::sim::kind::Kind;
use crate::sim::stage::stage;
use crate::sim::{Guests, run_with_guests};

#[tokio::test(start_paused = true)]
async fn every_preset_is_at_rest() {
    for preset in [Preset::default(), Preset::small(), Preset::pair(), Preset::sized(60, 120, 10)] {
        let stage = stage(&preset);
        let mut events = stage.events();
        while events[0].told().is_some() {}
        tokio::time::sleep(Duration::from_mins(1)).await;
        let heard: Vec<_> = std::iter::from_fn(|| events[0].told()).collect();
        assert!(heard.is_empty(), "{} nodes: {heard:#?}", preset.nodes);
        let guests: usize = stage.seeded.nodes.iter().map(|node| stage.guests.count(node)).sum();
        assert_eq!(guests, preset.vms);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tainted_node_empties_of_what_can_move() {
    let stage = stage(&Preset::default());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((stage.on("node2"), stage.guests.count("node2")), (20, 20));
    stage.cordon("node2", true);
    tokio::time::sleep(Duration::from_mins(20)).await;
    assert_eq!((stage.on("node2"), stage.guests.count("node2")), (2, 2), "those with a device stay");
    assert_eq!(stage.on("node1") + stage.on("node3"), 58);
    let attached = stage.list(Kind::Engine).iter().filter(|e| text(e, "/spec/nodeID") == "node2").count();
    assert_eq!(attached, 2, "disks follow their VMs");
    let finished = stage.list(Kind::Pod).iter().filter(|pod| fields::is_final(pod)).count();
    assert_eq!(finished, 18, "a source pod stays as a finished one");
}

#[tokio::test(start_paused = true)]
async fn a_reboot_takes_the_guests_and_brings_the_devices_back_later() {
    let stage = stage(&Preset::small());
    let wire = crate::sim::Wire::from(stage.server.clone());
    let clock = Clock::from("2026-03-01T00:00:00Z".parse().unwrap(), Instant::now());
    stage.settle(1).await;
    let uids = || -> std::collections::BTreeMap<String, String> {
        stage.list(Kind::Vmi).iter().map(|vmi| (name(vmi).to_owned(), uid(vmi).to_owned())).collect()
    };
    let before = uids();
    crate::sim::world::power_off(&wire, "node1", clock.now()).await.unwrap();
    stage.settle(2).await;
    assert_eq!(stage.guests.count("node1"), 0);
    let node = stage.get(Kind::Node, "", "node1");
    assert!(fields::condition_is(&node, "Ready", "Unknown"));
    assert!(fields::list(&node, "/spec/taints").iter().any(|t| text(t, "/key").contains("unreachable")));
    assert_eq!(stage.list(Kind::Vmi).len(), 8, "nobody can say yet that the guests are gone");
    let boot = uid_from("next boot");
    crate::sim::world::kubelet_started(&wire, "node1", "v1.35.6+rke2r1", &boot, clock.now()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let node = stage.get(Kind::Node, "", "node1");
    let offered = |node: &Value| node["status"]["allocatable"][crate::sim::world::PCI_DEVICE].clone();
    assert_eq!(offered(&node), "0");
    assert_eq!(
        (text(&node, "/status/nodeInfo/bootID"), fields::list(&node, "/spec/taints").len()),
        (boot.as_str(), 0)
    );
    stage.settle(5).await;
    assert_eq!(offered(&stage.get(Kind::Node, "", "node1")), "2");
    let after = uids();
    for vmi in stage.list(Kind::Vmi) {
        let vm = stage.get(Kind::Vm, namespace(&vmi), name(&vmi));
        let again = matches!(fields::run_strategy(&vm), "Always" | "RerunOnFailure");
        assert_eq!(before.get(name(&vmi)) != after.get(name(&vmi)), again, "{}", name(&vmi));
        assert_eq!(text(&vmi, "/status/phase"), if again { "Running" } else { "Failed" }, "{vmi}");
    }
    let volumes = stage.list(Kind::Volume);
    let healthy = volumes.iter().filter(|v| text(v, "/status/robustness") == "healthy").count();
    assert!(healthy > 0 || volumes.is_empty(), "disks of running VMs are whole again: {volumes:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_came_back_ends_with_its_node_like_any_other() {
    let stage = stage(&Preset::pair());
    let wire = crate::sim::Wire::from(stage.server.clone());
    let clock = Clock::from("2026-03-01T00:00:00Z".parse().unwrap(), Instant::now());
    stage.settle(1).await;
    let here: Vec<Value> = stage.list(Kind::Vmi);
    for leaving in ["node1", "node2"] {
        stage.cordon(leaving, true);
        stage.settle(5).await;
        stage.cordon(leaving, false);
    }
    let moved = stage.list(Kind::Vmi);
    let came_back = |vmi: &Value| vmi["status"]["migrationState"]["targetNode"] == "node1";
    let back: Vec<&Value> = moved.iter().filter(|vmi| came_back(vmi)).collect();
    assert!(!back.is_empty() && here.iter().all(|vmi| vmi["status"]["nodeName"] == "node1"));
    crate::sim::world::power_off(&wire, "node1", clock.now()).await.unwrap();
    stage.settle(2).await;
    let boot = uid_from("next boot");
    crate::sim::world::kubelet_started(&wire, "node1", "v1.35.6+rke2r1", &boot, clock.now()).await.unwrap();
    stage.settle(5).await;
    for vmi in back {
        let vm = stage.get(Kind::Vm, namespace(vmi), name(vmi));
        let again = matches!(fields::run_strategy(&vm), "Always" | "RerunOnFailure");
        let now = stage.get(Kind::Vmi, namespace(vmi), name(vmi));
        assert_eq!(text(&now, "/status/phase"), if again { "Running" } else { "Failed" }, "{}", name(vmi));
        assert_eq!(uid(&now) != uid(vmi), again, "{}", name(vmi));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_goes_through_once_the_guests_are_gone() {
    let stage = stage(&Preset::default());
    stage.settle(1).await;
    let budget = longhorn::instance_manager("node2");
    let budget = name(&budget);
    let has_budget = || stage.list(Kind::Budget).iter().any(|b| name(b) == budget);
    stage.cordon("node2", true);
    stage.settle(20).await;
    assert!(has_budget(), "two guests with devices still hold their engines there");
    for vmi in stage.list(Kind::Vmi).iter().filter(|vmi| text(vmi, "/status/nodeName") == "node2") {
        let halt = json!({"spec": {"runStrategy": "Halted"}});
        stage.patch(Kind::Vm, namespace(vmi), name(vmi), &halt);
    }
    stage.settle(5).await;
    assert_eq!((stage.on("node2"), has_budget()), (0, false));
    for pod in stage.list(Kind::Pod).iter().filter(|pod| {
        text(pod, "/spec/nodeName") == "node2"
            && !fields::is_final(pod)
            && !text(pod, "/metadata/ownerReferences/0/kind").contains("DaemonSet")
    }) {
        let path = format!("{}/eviction", Kind::Pod.path(namespace(pod), name(pod)));
        let metadata = json!({"name": name(pod), "namespace": namespace(pod)});
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata});
        stage.server.call(&Method::POST, &path, &eviction).unwrap();
    }
    stage.settle(5).await;
    let left = stage.list(Kind::Pod);
    let left = left.iter().filter(|pod| text(pod, "/spec/nodeName") == "node2" && !fields::is_final(pod));
    assert_eq!(left.count(), 1, "the daemon's pod");
    let robust = |state: &str| {
        stage.list(Kind::Volume).iter().filter(|v| text(v, "/status/robustness") == state).count()
    };
    assert_eq!((robust("degraded"), robust("unknown"), robust("healthy")), (58, 2, 0));
    stage.cordon("node2", false);
    stage.settle(60).await;
    assert_eq!((robust("degraded"), robust("unknown"), robust("healthy")), (0, 2, 58));
    assert!(has_budget());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_writes_faster_than_the_network_stays_where_it_is() {
    let stage = stage(&Preset::pair());
    stage.settle(1).await;
    let vmis = stage.list(Kind::Vmi);
    let vmi = vmis.iter().find(|vmi| fields::condition_is(vmi, "LiveMigratable", "True")).unwrap();
    let busy = json!({"metadata": {"annotations": {fields::DIRTY: "5000"}}});
    stage.patch(Kind::Vmi, namespace(vmi), name(vmi), &busy);
    let order = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "away", "namespace": namespace(vmi)}, "spec": {"vmiName": name(vmi)}});
    stage.server.call(&Method::POST, &Kind::Vmim.path(namespace(vmi), ""), &order).unwrap();
    stage.settle(1).await;
    assert_eq!((stage.guests.count("node1"), stage.guests.count("node2")), (8, 1), "on both while it copies");
    stage.settle(4).await;
    let moved = stage.get(Kind::Vmim, namespace(vmi), "away");
    let why = text(&moved, "/status/migrationState/failureReason");
    assert_eq!(text(&moved, "/status/phase"), "Failed");
    assert!(why.contains("stuck for 150 seconds"), "{why}");
    assert_eq!((stage.guests.count("node1"), stage.guests.count("node2")), (8, 0));
}

/// What comes of the example of an export, before and after the simulators have looked at it for a while.
async fn adopted() -> (Seeded, Vec<String>, ApiServer, u64) {
    let text = include_bytes!("../../../tests/fixtures/cluster.yaml");
    let objects = crate::sim::import::read(std::path::Path::new("cluster.yaml"), text).unwrap().objects;
    let start: Timestamp = "2026-03-02T09:00:00Z".parse().unwrap();
    let server = ApiServer::new(Clock::from(start, Instant::now()), 1);
    let (seeded, odd) = adopt(&server, objects, start);
    let loaded = server.resource_version();
    let stop = CancellationToken::new();
    let timing = Timing::virtual_time(start);
    tokio::spawn(run_with_guests(server.clone(), timing, Guests::default(), stop.clone()));
    tokio::time::sleep(Duration::from_mins(5)).await;
    let settled = server.resource_version();
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(server.resource_version(), settled, "it does not come to rest");
    stop.cancel();
    (seeded, odd, server, settled - loaded)
}

#[tokio::test(start_paused = true)]
async fn an_exported_cluster_goes_on_as_it_was() {
    let (seeded, odd, server, writes) = adopted().await;
    assert_eq!(seeded.nodes, ["node1", "node2", "node3"]);
    let all = server.list_objects("kubevirt.io", "virtualmachineinstances", "", "");
    assert!(all.iter().all(|vmi| text(vmi, "/status/phase") == "Running"), "{all:#?}");
    for vmi in &all {
        let own = format!("kubevirt.io/created-by={}", uid(vmi));
        let pods = server.list_objects("", "pods", namespace(vmi), &own);
        let on: Vec<&str> = pods.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
        assert_eq!(on, [text(vmi, "/status/nodeName")], "{} has one pod, made up where it is", name(vmi));
    }
    assert!(odd.iter().any(|line| line == "Node node1 has no machineID; one is made up"), "{odd:#?}");
    // Conditions and counts that the export leaves out are filled in once.
    assert!(writes <= 40, "{writes} writes");
}

async fn told_of_a_drain(seed: u64) -> String {
    let stage = stage(&Preset { seed, ..Preset::default() });
    let mut events = stage.events();
    stage.settle(1).await;
    stage.cordon("node2", true);
    stage.settle(3).await;
    let heard: Vec<String> =
        std::iter::from_fn(|| events[0].told()).map(|told| format!("{told:?}")).collect();
    heard.join("\n")
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_story() {
    let story = told_of_a_drain(1).await;
    assert!(story.len() > 100_000, "{}", story.len());
    assert!(story == told_of_a_drain(1).await, "a replay differs");
    assert!(story != told_of_a_drain(2).await, "another seed is another world");
}

#[tokio::test(start_paused = true)]
async fn guests_stop_and_start_through_the_aggregated_api() {
    let stage = stage(&Preset::small());
    let timing = Timing::virtual_time("2026-03-01T00:00:00Z".parse().unwrap());
    let virt = crate::sim::virt_api::VirtApi { wire: stage.server.clone().into(), timing };
    let ask = async |vm: &(String, String), what: &str| {
        let (namespace, name) = vm;
        let path =
            format!("/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachines/{name}/{what}");
        let request = http::Request::put(path).body(bytes::Bytes::new()).unwrap();
        virt.respond(request).await.status().as_u16()
    };
    stage.settle(1).await;
    for vm in &stage.seeded.vms {
        assert_eq!(ask(vm, "stop").await, 202);
    }
    stage.settle(2).await;
    assert_eq!((stage.on("node1"), stage.guests.count("node1")), (0, 0));
    for vm in &stage.seeded.vms {
        let strategy = stage.get(Kind::Vm, &vm.0, &vm.1)["spec"]["runStrategy"].clone();
        assert_eq!(ask(vm, "start").await, 202, "{strategy}");
    }
    stage.settle(2).await;
    assert_eq!((stage.on("node1"), stage.guests.count("node1")), (8, 8));
}
