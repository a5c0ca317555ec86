//! People who delete or start a VM while its node is upgraded.

use kube::api::{Api, DeleteParams, DynamicObject};
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::sim::world::{self, Shutdown};

use crate::asserts::agent;
use crate::support::Stage;
use crate::support::cast::Cast;
use crate::{Ran, accepted, assert_never_off, assert_stopped_once, key};

/// One that is off soon, another that keeps the node busy for three seconds more.
fn cast(name: &str) -> Cast {
    let cast = Cast::named(name).movable("app", |_| {});
    cast.bound("early", |shape| shape.shutdown = Shutdown::Seconds(10))
        .bound("late", |shape| shape.shutdown = Shutdown::Seconds(80))
}

/// Runs the upgrade; as soon as the first VM is recorded as off, somebody does something.
async fn meanwhile(stage: &Stage, act: impl AsyncFnOnce()) -> Ran {
    stage.order(Control::Run).await.unwrap();
    let run = stage.run_agent(agent(), &["node", "--once"]);
    let act = async {
        stage.wait("the first VM to be off", async || stage.records("vmStopped") > 0).await.unwrap();
        assert!(stage.journal().contains("\"early\"") || stage.journal().contains("/early"));
        act().await;
        assert_eq!(stage.records("restoreIntent"), 0, "somebody came before the agent started anything");
    };
    let (ran, ()) = tokio::join!(run, act);
    ran.unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_deleted_between_stop_and_start_is_struck_with_that_reason() {
    let stage = Stage::shared(cast("deleted")).await.unwrap();
    let before = stage.instances().await.unwrap();
    let vms: Api<DynamicObject> =
        Api::namespaced_with(stage.client.clone(), &stage.namespace, &world::vm_resource());
    let ran = meanwhile(&stage, async || {
        vms.delete("early", &DeleteParams::default()).await.unwrap();
    })
    .await;
    ran.assert_done(&stage);
    assert!(ran.row(&stage, "early").contains("deleted"), "{}", ran.row(&stage, "early"));
    assert_eq!(
        (stage.records("vmStruck"), accepted(&stage, "early", "start")),
        (1, 0),
        "{}",
        stage.journal()
    );
    assert_stopped_once(&stage, &before, &["late"]).await;
    assert_never_off(&stage, &before, &["app"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_its_user_starts_meanwhile_is_not_started_twice() {
    let stage = Stage::shared(cast("started")).await.unwrap();
    let before = stage.instances().await.unwrap();
    let vmis: Api<DynamicObject> =
        Api::namespaced_with(stage.client.clone(), &stage.namespace, &world::vmi_resource());
    let mut users = String::new();
    let ran = meanwhile(&stage, async || {
        let path = "/apis/subresources.kubevirt.io/v1/namespaces/started/virtualmachines/early/start";
        let start = http::Request::put(path).body(b"{}".to_vec()).unwrap();
        stage.client.request_text(start).await.unwrap();
        let started = async || vmis.get_opt("early").await.unwrap().is_some();
        stage.wait("the user's instance", started).await.unwrap();
        users = vmis.get("early").await.unwrap().metadata.uid.unwrap();
    })
    .await;
    ran.assert_done(&stage);
    let after = stage.instances().await.unwrap();
    assert_eq!(after[&key(&stage, "early")], (users, stage.node.clone()), "the user's instance runs");
    assert_eq!(accepted(&stage, "early", "start"), 0, "the agent started no other");
    assert_eq!(crate::reported(&stage).await.vms.owed, 0);
    assert_stopped_once(&stage, &before, &["late"]).await;
    assert_never_off(&stage, &before, &["app"]).await;
}
