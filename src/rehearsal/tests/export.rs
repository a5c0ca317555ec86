//! Clusters as people export them: all of it, or just what runs; with agents whose names come first, or without a server.

mod company;
mod hands;
mod under_way;
mod vms;

use std::path::Path;

use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::host::clock::Clock;
use crate::sim::import::read;
use crate::sim::{api::ApiServer, seed, seed::Storage};

/// Groups and plurals.
type Kinds = &'static [(&'static str, &'static str)];

/// What somebody has done to each object of an export; null is left out.
type Edit<'a> = &'a dyn Fn(&mut Value);

const RUNS: Kinds =
    &[("", "nodes"), ("kubevirt.io", "virtualmachines"), ("kubevirt.io", "virtualmachineinstances")];
const PODS: Kinds = &[("", "pods")];
const BUDGETS: Kinds = &[("policy", "poddisruptionbudgets")];
const CLAIMS: Kinds = &[("", "persistentvolumeclaims")];
const STORAGE: Kinds = &[
    ("longhorn.io", "volumes"),
    ("longhorn.io", "engines"),
    ("longhorn.io", "replicas"),
    ("longhorn.io", "instancemanagers"),
    ("policy", "poddisruptionbudgets"),
];

/// What `kubectl get … -o json` shows of these kinds of a made-up cluster, after somebody has had a hand in it.
fn exported(preset: &Preset, kinds: &[Kinds], edit: impl FnMut(&mut Value)) -> Order {
    let start = "2026-01-01T00:00:00Z".parse().unwrap();
    let server = ApiServer::new(Clock::from(start, Instant::now()), 1);
    let preset = Preset { version: "v1.34.2+rke2r1".to_owned(), ..preset.clone() };
    seed::seed(&server, &preset, start).unwrap();
    let objects =
        kinds.concat().into_iter().flat_map(|(group, plural)| server.list_objects(group, plural, "", ""));
    let mut items: Vec<Value> = objects.map(|object| (*object).clone()).collect();
    items.iter_mut().for_each(edit);
    items.retain(|item| !item.is_null());
    let file = json!({"apiVersion": "v1", "items": items, "kind": "List"}).to_string();
    let scene = Scene::Objects(read(Path::new("cluster.json"), file.as_bytes()).unwrap().objects.into());
    Order { scene, ..order(preset, &[]) }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The spec of a guest, in itself or in its VM.
fn spec_of_guest(object: &mut Value) -> &mut Value {
    let of_vm = text(object, "/kind") == "VirtualMachine";
    object.pointer_mut(if of_vm { "/spec/template/spec" } else { "/spec" }).unwrap()
}

/// Gives a node these roles, and no others.
fn has_roles(node: &mut Value, roles: &[&str]) {
    let labels = node.pointer_mut("/metadata/labels").and_then(Value::as_object_mut).unwrap();
    labels.retain(|key, _| !key.starts_with("node-role."));
    labels.extend(roles.iter().map(|role| (format!("node-role.kubernetes.io/{role}"), json!("true"))));
}

#[test]
fn what_was_not_exported_is_taken_for_sound() {
    let preset = Preset::sized(3, 12, 3);
    let as_it_is = |_: &mut Value| {};
    let of_others = |object: &mut Value| {
        if text(object, "/kind") == "PersistentVolumeClaim" {
            object["metadata"]["annotations"] =
                json!({"volume.kubernetes.io/storage-provisioner": "nfs.csi.k8s.io"});
        }
    };
    let nobody_is_a_server = |object: &mut Value| {
        if text(object, "/kind") == "Node" {
            has_roles(object, &[]);
        }
    };
    // Longhorn makes names of its own.
    let called = |object: &mut Value| {
        *object =
            serde_json::from_str(&object.to_string().replace("instance-manager-", "instance-manager-0"))
                .unwrap();
    };
    let table: [(&str, &[Kinds], Edit<'_>); 8] = [
        ("all of it", &[RUNS, PODS, CLAIMS, STORAGE], &as_it_is),
        ("all of it, with Longhorn's names", &[RUNS, PODS, CLAIMS, STORAGE], &called),
        ("no pods", &[RUNS, CLAIMS, STORAGE], &as_it_is),
        ("no pods, with Longhorn's names", &[RUNS, CLAIMS, STORAGE], &called),
        ("what runs", &[RUNS], &as_it_is),
        ("no volumes of Longhorn's", &[RUNS, CLAIMS], &as_it_is),
        ("volumes of somebody else's", &[RUNS, CLAIMS], &of_others),
        ("no server", &[RUNS], &nobody_is_a_server),
    ];
    for (what, kinds, edit) in table {
        let rehearsed = rehearse(&exported(&preset, kinds, edit)).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{what}");
        let timeline = &rehearsed.timeline;
        assert!(timeline.succeeded, "{what}: {}", chart::chart(timeline));
        let off = timeline.vms.iter().filter(|vm| vm.off.is_some()).count();
        assert_eq!((timeline.nodes.len(), timeline.vm_count, off), (3, 12, 3), "{what}");
        let told = rehearsed.notes.iter().any(|note| note.contains("all are taken for servers"));
        assert_eq!(told, what == "no server", "{what}: {:?}", rehearsed.notes);
    }
}

#[test]
fn a_claim_that_is_known_to_be_lost_keeps_its_vm_off() {
    let lost = |object: &mut Value| {
        if text(object, "/kind") == "PersistentVolumeClaim" {
            object["status"]["phase"] = json!("Lost");
        }
    };
    let rehearsed = rehearse(&exported(&Preset::sized(3, 12, 3), &[RUNS, CLAIMS], lost)).unwrap();
    let why = &rehearsed.timeline.blocked[0].why;
    assert!(why.contains("is Lost, not Bound"), "{why}");
}

#[test]
fn servers_come_before_agents_and_a_witness_is_one_of_them() {
    let roles = |node: &mut Value| match text(node, "/metadata/name") {
        "node1" => has_roles(node, &["worker"]),
        "node2" | "node3" => has_roles(node, &["control-plane", "etcd"]),
        "node4" => has_roles(node, &["etcd"]),
        _ => {}
    };
    let order = exported(&Preset::sized(4, 12, 2), &[RUNS], roles);
    let rehearsed = rehearse(&order).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    let timeline = &rehearsed.timeline;
    assert!(timeline.succeeded, "{}", chart::chart(timeline));
    let in_order: Vec<&str> = timeline.nodes.iter().map(|line| line.node.as_str()).collect();
    assert_eq!(in_order, ["node2", "node3", "node4", "node1"]);
    // Only a server saves a snapshot of etcd before its swap.
    let fails_on = |node: &str| {
        let faults = vec![format!("snapshot-fails={node}").parse().unwrap()];
        rehearse(&Order { faults, ..order.clone() }).unwrap().timeline.blocked
    };
    let held: Vec<String> = fails_on("node4").into_iter().map(|blocked| blocked.node).collect();
    assert_eq!(held, ["node4"]);
    assert!(fails_on("node1").is_empty());
}

#[test]
fn a_volume_that_still_heals_is_waited_for_before_the_first_turn() {
    let degraded = |object: &mut Value| {
        if text(object, "/kind") == "Volume" {
            object["status"]["robustness"] = json!("degraded");
        }
    };
    let rehearsed =
        rehearse(&exported(&Preset::sized(3, 12, 3), &[RUNS, CLAIMS, STORAGE], degraded)).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    assert!(rehearsed.timeline.succeeded, "{}", chart::chart(&rehearsed.timeline));
}

#[test]
fn replicas_that_are_missing_are_built_before_the_next_turn() {
    let preset = Preset::sized(3, 12, 3);
    let kinds = [RUNS, CLAIMS, STORAGE];
    let of_third = |object: &mut Value| {
        if text(object, "/kind") == "Replica" && text(object, "/spec/nodeID") == "node3" {
            *object = Value::Null;
        }
    };
    let whole = rehearse(&exported(&preset, &kinds, |_| {})).unwrap().timeline.seconds;
    let order = exported(&preset, &kinds, of_third);
    for faults in ["", "kill@66"] {
        let faults = faults.split_terminator(',').map(|fault| fault.parse().unwrap()).collect();
        let rehearsed = rehearse(&Order { faults, ..order.clone() }).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new());
        let timeline = &rehearsed.timeline;
        assert!(timeline.succeeded, "{}", chart::chart(timeline));
        assert!(timeline.seconds < whole + 1800.0, "{} s, {whole} s when whole", timeline.seconds);
    }
}

#[test]
fn a_replica_too_many_for_the_nodes_is_not_waited_for() {
    let preset = Preset::sized(2, 6, 2);
    let kinds = [RUNS, CLAIMS, STORAGE];
    let three = |object: &mut Value| {
        if text(object, "/kind") == "Volume" {
            object["spec"]["numberOfReplicas"] = json!(3);
            object["status"]["robustness"] = json!("degraded");
        }
    };
    let whole = rehearse(&exported(&preset, &kinds, |_| {})).unwrap().timeline.seconds;
    let rehearsed = rehearse(&exported(&preset, &kinds, three)).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    let timeline = &rehearsed.timeline;
    assert!(timeline.succeeded, "{}", chart::chart(timeline));
    // Ten minutes before each turn.
    assert!(timeline.seconds < whole + 1500.0, "{} s, {whole} s with two replicas", timeline.seconds);
}

#[test]
fn a_pod_that_a_finalizer_keeps_has_ended_all_the_same() {
    let preset = Preset::sized(3, 12, 3);
    let kept = |object: &mut Value| {
        if text(object, "/kind") == "Pod" && text(object, "/metadata/labels/app").starts_with("store") {
            object["metadata"]["finalizers"] = json!(["example.com/keeps-it"]);
        }
    };
    let rehearsed = rehearse(&exported(&preset, &[RUNS, PODS], kept)).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    assert!(rehearsed.timeline.succeeded, "{}", chart::chart(&rehearsed.timeline));
}

#[test]
fn a_budget_counts_the_pods_that_it_selects_in_whatever_way() {
    let one_of = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["store-1"]}]});
    let labelled = json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
    let both = json!({"matchLabels": {"app": "store-1"},
        "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]});
    for selector in [one_of, labelled, both, json!({})] {
        let selecting = |object: &mut Value| {
            if text(object, "/kind") == "PodDisruptionBudget" && text(object, "/metadata/name") == "store-1" {
                object["spec"]["selector"] = selector.clone();
            }
        };
        let order = exported(&Preset::sized(3, 12, 3), &[RUNS, PODS, STORAGE], selecting);
        let rehearsed = rehearse(&order).unwrap();
        assert!(rehearsed.timeline.succeeded, "{selector}: {}", chart::chart(&rehearsed.timeline));
    }
}

#[test]
fn the_only_node_keeps_its_other_pods_whatever_their_budgets_say() {
    let forbidden = |object: &mut Value| {
        if text(object, "/kind") == "PodDisruptionBudget" {
            object["spec"] = json!({"maxUnavailable": 0, "selector": object["spec"]["selector"]});
        }
    };
    let witnessed = |object: &mut Value| {
        forbidden(object);
        if text(object, "/metadata/name") == "node2" {
            has_roles(object, &["etcd"]);
            object["metadata"]["labels"]["node-role.harvesterhci.io/witness"] = json!("true");
        } else if text(object, "/kind") == "Pod" && text(object, "/spec/nodeName") == "node2" {
            *object = Value::Null;
        }
    };
    let pair = Preset { crowded: true, storage: Storage::None, ..Preset::sized(2, 6, 2) };
    let table: [(&str, Preset, Edit<'_>); 2] =
        [("alone", Preset::sized(1, 6, 2), &forbidden), ("beside a witness", pair, &witnessed)];
    for (what, preset, edit) in table {
        let rehearsed = rehearse(&exported(&preset, &[RUNS, PODS, BUDGETS], edit)).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{what}");
        let timeline = &rehearsed.timeline;
        assert!(timeline.succeeded, "{what}: {}", chart::chart(timeline));
        // Shut down, all of them, and started again.
        assert_eq!(timeline.vms.iter().filter(|vm| vm.off.is_some() && !vm.still_off).count(), 6, "{what}");
    }
}

#[test]
fn a_volume_that_a_pod_uses_keeps_its_only_replicas_node_from_being_drained() {
    let table = [
        ("by nobody", false, 1, true),
        ("by a pod", true, 1, false),
        ("by a pod, with three", true, 3, true),
    ];
    for (what, used, replicas, goes) in table {
        let mut volume = String::new();
        let database = |object: &mut Value| match text(object, "/kind") {
            // One of a VM on the second node is the database's.
            "Volume" if volume.is_empty() && text(object, "/status/currentNodeID") == "node2" => {
                text(object, "/metadata/name").clone_into(&mut volume);
                object["spec"]["numberOfReplicas"] = json!(replicas);
                object["status"]["kubernetesStatus"] =
                    json!({"namespace": "harvester-system", "pvcName": "data"});
            }
            "Replica"
                if replicas == 1
                    && text(object, "/spec/volumeName") == volume
                    && text(object, "/spec/nodeID") != "node1" =>
            {
                *object = Value::Null;
            }
            "Pod" if used && text(object, "/metadata/labels/app") == "store-1" => {
                object["spec"]["volumes"] =
                    json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
            }
            _ => {}
        };
        let order = exported(&Preset::sized(3, 12, 3), &[RUNS, STORAGE, PODS], database);
        let timeline = rehearse(&order).unwrap().timeline;
        assert_eq!(timeline.succeeded, goes, "{what}: {}", chart::chart(&timeline));
        if let Some(blocked) = timeline.blocked.first() {
            assert_eq!(blocked.node, "node1", "{what}");
            assert!(blocked.why.contains("longhorn-system/instance-manager"), "{what}: {}", blocked.why);
        }
    }
}
