//! What those hear who write about VMs, with `KubeVirt`'s webhooks there, away, and not there at all.

use http::Method;
use serde_json::{Value, json};

use crate::sim::api::{Status, Webhooks};
use crate::sim::fields::{condition_is, name, namespace, text};
use crate::sim::kind::Kind;
use crate::sim::seed::Preset;
use crate::sim::stage::{Stage, stage};

fn some_vmi(stage: &Stage, migratable: &str) -> Value {
    let vmis = stage.list(Kind::Vmi);
    vmis.into_iter().find(|vmi| condition_is(vmi, "LiveMigratable", migratable)).unwrap()
}

fn migrate(stage: &Stage, vmi: &Value, order: &str) -> Result<(), Status> {
    let body = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": order, "labels": {"kubevirt.io/vmi-name": name(vmi)}}, "spec": {"vmiName": name(vmi)}});
    stage.server.call(&Method::POST, &Kind::Vmim.path(namespace(vmi), ""), &body).map(drop)
}

fn evict(stage: &Stage, vmi: &Value) -> Result<(), Status> {
    let pods = stage.list(Kind::Pod);
    let labelled = |pod: &&Value| pod["metadata"]["labels"]["vm.kubevirt.io/name"] == *name(vmi);
    let pod = pods.iter().find(labelled).unwrap();
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name(pod)}});
    let path = format!("{}/eviction", Kind::Pod.path(namespace(pod), name(pod)));
    stage.server.call(&Method::POST, &path, &body).map(drop)
}

#[tokio::test(start_paused = true)]
async fn migrations_that_cannot_be_are_refused_with_400_and_the_reason() {
    let stage = stage(&Preset::pair());
    stage.server.ask(Webhooks::Up);
    stage.settle(1).await;
    let stayer = migrate(&stage, &some_vmi(&stage, "False"), "no").unwrap_err();
    assert_eq!(stayer.code, 400);
    assert!(stayer.message.contains("Cannot migrate VMI, Reason: HostDeviceNotLiveMigratable"), "{stayer}");
    let mover = some_vmi(&stage, "True");
    migrate(&stage, &mover, "first").unwrap();
    let second = migrate(&stage, &mover, "second").unwrap_err();
    assert_eq!(second.code, 400);
    assert!(second.message.contains("in-flight migration detected"), "{second}");
    assert!(second.message.starts_with("admission webhook"), "{second}");
}

#[tokio::test(start_paused = true)]
async fn an_eviction_moves_a_guest_that_can_move_and_ends_one_that_cannot() {
    let stage = stage(&Preset::pair());
    stage.server.ask(Webhooks::Up);
    stage.settle(1).await;
    let (mover, stayer) = (some_vmi(&stage, "True"), some_vmi(&stage, "False"));
    for said in ["Eviction triggered evacuation of VMI", "Evacuation in progress"] {
        let refused = evict(&stage, &mover).unwrap_err();
        assert_eq!(refused.code, 429);
        assert!(refused.message.contains(said), "{refused}");
    }
    evict(&stage, &stayer).unwrap();
    stage.settle(2).await;
    let after = stage.get(Kind::Vmi, namespace(&mover), name(&mover));
    assert_ne!(text(&after, "/status/nodeName"), text(&mover, "/status/nodeName"));
    assert_eq!(text(&after, "/status/phase"), "Running");
    let gone =
        stage.server.get_object("kubevirt.io", "virtualmachineinstances", namespace(&stayer), name(&stayer));
    assert!(gone.is_none(), "its guest was shut down, and RerunOnFailure does not start it again: {gone:?}");
}

#[tokio::test(start_paused = true)]
async fn without_virt_api_its_webhooks_fail_what_they_would_be_asked() {
    let stage = stage(&Preset::pair());
    stage.settle(1).await;
    stage.server.ask(Webhooks::Down);
    let mover = some_vmi(&stage, "True");
    for refused in [migrate(&stage, &mover, "m"), evict(&stage, &mover)] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.code, &*refused.reason), (500, "InternalError"));
        assert!(refused.message.contains("failed calling webhook"), "{refused}");
    }
    stage.cordon("node2", true);
    stage.server.ask(Webhooks::None);
    migrate(&stage, &mover, "m").unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_closes_the_last_available_node() {
    let stage = stage(&Preset::pair());
    stage.server.ask(Webhooks::Up);
    let change = |node: &str, body: Value| {
        stage.server.call(&Method::PATCH, &Kind::Node.path("", node), &body).map(drop)
    };
    let (cordon, open) = (json!({"spec": {"unschedulable": true}}), json!({"spec": {"unschedulable": null}}));
    let maintenance =
        |is: Value| json!({"metadata": {"annotations": {"harvesterhci.io/maintain-status": is}}});
    for first in [cordon.clone(), maintenance("running".into())] {
        change("node1", first).unwrap();
        for last in [cordon.clone(), maintenance("running".into())] {
            let refused = change("node2", last).unwrap_err();
            assert_eq!(refused.code, 400);
            assert!(refused.message.contains("the last available node"), "{refused}");
        }
        // Who is closed may be closed further, and the last one may be changed otherwise.
        change("node1", cordon.clone()).unwrap();
        change("node1", maintenance("completed".into())).unwrap();
        change("node2", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})).unwrap();
        change("node1", open.clone()).unwrap();
        change("node1", maintenance(Value::Null)).unwrap();
        change("node2", cordon.clone()).unwrap();
        change("node2", open.clone()).unwrap();
    }
}
