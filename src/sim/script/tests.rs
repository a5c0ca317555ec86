//! What somebody sees of a VM with a script.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::sim::fields::{self, condition_is, name, namespace, phase, text, uid};
use crate::sim::kind::Kind;
use crate::sim::script::{MIGRATION_FAILURES, START_REFUSALS, TERMINATING};
use crate::sim::seed::Preset;
use crate::sim::stage::{Stage, stage};

/// The first VMI that can, or cannot, migrate.
fn some_vmi(stage: &Stage, migratable: &str) -> Value {
    let vmis = stage.list(Kind::Vmi);
    vmis.into_iter().find(|vmi| condition_is(vmi, "LiveMigratable", migratable)).unwrap()
}

fn script(stage: &Stage, kind: Kind, of: &Value, key: &str, value: &str) {
    stage.patch(kind, namespace(of), name(of), &json!({"metadata": {"annotations": {key: value}}}));
}

async fn migrated(stage: &Stage, vmi: &Value, order: &str) -> (String, String) {
    let body = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": order, "namespace": namespace(vmi)}, "spec": {"vmiName": name(vmi)}});
    stage.server.call(&Method::POST, &Kind::Vmim.path(namespace(vmi), ""), &body).unwrap();
    stage.settle(1).await;
    let ended = stage.get(Kind::Vmim, namespace(vmi), order);
    (phase(&ended).to_owned(), text(&ended, "/status/migrationState/failureReason").to_owned())
}

#[tokio::test(start_paused = true)]
async fn migrations_fail_as_often_as_the_script_says_and_then_work() {
    let stage = stage(&Preset::pair());
    stage.settle(1).await;
    let vmi = some_vmi(&stage, "True");
    script(&stage, Kind::Vm, &vmi, MIGRATION_FAILURES, "2");
    for order in ["first", "second"] {
        let (phase, why) = migrated(&stage, &vmi, order).await;
        assert_eq!(phase, "Failed");
        assert!(why.contains("libvirt api call"), "{why}");
    }
    let left = stage.get(Kind::Vmi, namespace(&vmi), name(&vmi));
    assert_eq!((phase(&left), text(&left, "/status/nodeName")), ("Running", text(&vmi, "/status/nodeName")));
    assert_eq!(migrated(&stage, &vmi, "third").await.0, "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_vmi_hangs_terminating_as_long_as_its_script_says() {
    for (value, minutes) in [("90", Some(3)), ("forever", None)] {
        let stage = stage(&Preset::pair());
        stage.settle(1).await;
        let vmi = some_vmi(&stage, "False");
        script(&stage, Kind::Vmi, &vmi, TERMINATING, value);
        stage.patch(Kind::Vm, namespace(&vmi), name(&vmi), &json!({"spec": {"runStrategy": "Halted"}}));
        stage.settle(1).await;
        let held = stage.get(Kind::Vmi, namespace(&vmi), name(&vmi));
        assert!(fields::is_deleting(&held) && fields::is_final(&held), "{held:?}");
        stage.settle(minutes.unwrap_or(600)).await;
        let there = stage.list(Kind::Vmi).iter().any(|one| uid(one) == uid(&vmi));
        assert_eq!(there, minutes.is_none(), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_start_stays_asked_for_and_is_tried_again() {
    let stage = stage(&Preset::pair());
    stage.settle(1).await;
    let vmi = some_vmi(&stage, "False");
    let (space, vm) = (namespace(&vmi).to_owned(), name(&vmi).to_owned());
    let strategy = json!({"spec": {"runStrategy": "Halted"}});
    stage.patch(Kind::Vm, &space, &vm, &strategy);
    stage.settle(5).await;
    script(&stage, Kind::Vm, &vmi, START_REFUSALS, "14");
    stage.patch(Kind::Vm, &space, &vm, &json!({"spec": {"runStrategy": "RerunOnFailure"}}));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = stage.get(Kind::Vm, &space, &vm);
    let failure = fields::condition(&refused, "Failure").unwrap();
    assert_eq!((text(failure, "/status"), text(failure, "/reason")), ("True", "FailedCreate"));
    assert!(text(failure, "/message").contains("failed calling webhook"), "{failure}");
    assert_eq!(text(&refused, "/status/printableStatus"), "Stopped");
    stage.settle(3).await;
    let started = stage.get(Kind::Vm, &space, &vm);
    assert_eq!(text(&started, "/status/printableStatus"), "Running");
    assert!(fields::condition(&started, "Failure").is_none());
}
