//! What preflight says of the cluster around a server: etcd's members, the kubelets that its API server would serve.

use std::path::Path;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use upgrade_agent::agent::checks::CheckVerdict;
use upgrade_agent::sim::machine::etcd::{EtcdMember, EtcdTrouble};

use crate::node_in_memory::UPGRADE_UID;
use crate::{expect, node, rows};

#[tokio::test(start_paused = true)]
async fn a_server_that_would_be_too_new_for_a_kubelet_is_refused() {
    let node = node().await;
    expect(&node, "version skew", false, "v1.35.6+rke2r1 may follow").await;
    let join = |name: &str, version: &str| {
        let joined = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"nodeInfo": {"kubeletVersion": version}}});
        node.server.load(joined).unwrap();
    };
    // It was made by hand and its kubelet has never reported.
    join("announced", "");
    join("old", "v1.32.9+rke2r1");
    expect(&node, "version skew", false, "may follow").await;
    join("older", "v1.31.14+rke2r1");
    expect(&node, "version skew", true, "kubelet of older (v1.31.14+rke2r1)").await;
}

#[tokio::test(start_paused = true)]
async fn etcd_has_its_own_word() {
    let node = node().await;
    expect(&node, "etcd members", false, "API is away").await;
    let members = |third: EtcdMember| {
        let own = EtcdMember { is_own: true, ..EtcdMember::well("node1") };
        node.machine.set_etcd(Arc::new(move || vec![own.clone(), EtcdMember::well("node2"), third.clone()]));
    };
    members(EtcdMember::well("node3"));
    expect(&node, "etcd members", false, "2 other members").await;
    members(EtcdMember::with("node3", EtcdTrouble::Silent));
    expect(&node, "etcd members", true, "node3-etcd does not answer").await;
    members(EtcdMember::with("node3", EtcdTrouble::Alarm(1)));
    expect(&node, "etcd members", true, "NOSPACE").await;
    let keys = Path::new("/var/lib/rancher/rke2/server/tls/etcd/client.key");
    node.machine.change_disk(|disk| disk.unlink(keys)).unwrap();
    let row = rows(&node).await.remove("etcd members").unwrap();
    assert!(row.verdict == CheckVerdict::CouldNotTell && row.why.contains("client.key"), "{row:?}");
}

#[tokio::test(start_paused = true)]
async fn whether_other_pods_have_a_place_is_told_before_anything_is_done() {
    let node = node().await;
    expect(&node, "drain", false, "node2 among them").await;
    for other in ["node2", "node3"] {
        node.server.call(&Method::DELETE, &format!("/api/v1/nodes/{other}"), &json!({})).unwrap();
    }
    expect(&node, "drain", false, "all but its VMs stay").await;
    let join = |name: &str, closed: bool, labels: serde_json::Value| {
        let joined = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "spec": {"unschedulable": closed}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        node.server.load(joined).unwrap();
    };
    join("awitness", false, json!({"node-role.harvesterhci.io/witness": "true"}));
    // More than are read at once.
    for number in 1..=12 {
        join(&format!("closed{number}"), true, json!({}));
    }
    expect(&node, "drain", false, "all but its VMs stay").await;
    join("open", false, json!({}));
    expect(&node, "drain", false, "open among them").await;
}

#[tokio::test(start_paused = true)]
async fn taints_that_were_left_behind_are_named_with_their_cure() {
    let (drain, closed) = ("kubevirt.io/drain", "agent.harvesterhci.io/closed");
    for keys in [vec![drain], vec![closed], vec![drain, closed]] {
        let node = node().await;
        expect(&node, "stale marks", false, "none").await;
        let taints = keys.iter().map(|key| json!({"key": key, "value": "x", "effect": "NoSchedule"}));
        let taints = json!({"spec": {"taints": taints.collect::<Vec<_>>()}});
        node.server.call(&Method::PATCH, "/api/v1/nodes/node1", &taints).unwrap();
        let said = keys.iter().map(|key| format!("{key}=x")).collect::<Vec<_>>().join(" ");
        expect(&node, "stale marks", true, &format!("node1 is tainted {said}")).await;
        let fix = rows(&node).await.remove("stale marks").unwrap().fix;
        let cures = keys.iter().map(|key| format!("{key}:NoSchedule-")).collect::<Vec<_>>().join(" ");
        assert_eq!(fix, format!("kubectl taint node node1 {cures}"));
    }
}

#[tokio::test(start_paused = true)]
async fn marks_of_a_run_whose_journal_is_gone_are_not_taken_for_the_operators() {
    let taint = json!([{"key": "kubevirt.io/drain", "value": "draining", "effect": "NoSchedule"}]);
    for (uid, said) in [(UPGRADE_UID, "of this very upgrade"), ("another", "of upgrade another")] {
        let node = node().await;
        let marks = json!({"metadata": {"annotations": {"agent.harvesterhci.io/upgrade-uid": uid}},
            "spec": {"unschedulable": true, "taints": taint}});
        node.server.call(&Method::PATCH, "/api/v1/nodes/node1", &marks).unwrap();
        expect(&node, "stale marks", true, said).await;
        let fix = rows(&node).await.remove("stale marks").unwrap().fix;
        let commands = "kubectl annotate node node1 agent.harvesterhci.io/upgrade-uid-; kubectl taint node node1 \
                        kubevirt.io/drain:NoSchedule-; kubectl uncordon node1";
        assert!(fix.ends_with(commands), "{fix}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_stays_open_while_all_others_are_being_upgraded() {
    let node = node().await;
    for other in ["node2", "node3"] {
        node.server.call(&Method::DELETE, &format!("/api/v1/nodes/{other}"), &json!({})).unwrap();
    }
    let join = |name: &str, annotations: Value| {
        let joined = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": annotations},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        node.server.load(joined).unwrap();
    };
    join("idle", json!({}));
    expect(&node, "drain", false, "all but its VMs stay").await;
    join("other", json!({"agent.harvesterhci.io/upgrade-uid": "theirs"}));
    expect(&node, "drain", true, "other is being upgraded (agent.harvesterhci.io/upgrade-uid=theirs)").await;
}
