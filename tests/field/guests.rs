//! Guests that do not listen, and instances that do not go.

use std::sync::Arc;

use jiff::Timestamp;
use upgrade_agent::flow::plan::{Evacuation, ShutdownTimeout};
use upgrade_agent::sim::Timing;
use upgrade_agent::sim::world::Shutdown;

use crate::scripts::played;
use crate::support::Stage;
use crate::support::cast::Cast;
use crate::support::cluster::Cluster;
use crate::support::script::Script;
use crate::{Ran, accepted, assert_never_off, key};

fn with_deaf_guest(cast: Cast) -> Cast {
    cast.bound("deaf", |shape| (shape.shutdown, shape.grace_seconds) = (Shutdown::Ignore, 20))
}

fn hurried(policy: &mut Evacuation) {
    policy.guest_shutdown_seconds = 1;
}

/// `KubeVirt` cuts a guest off itself when its grace is over. In this world that comes late: twenty seconds of grace are
/// two hundred, so that the plan's deadline is the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ignores_its_power_button_is_held_for_or_cut_off_as_the_plan_says() {
    fn late(start: Timestamp) -> Timing {
        Timing { scale: 0.1, ..Timing::fast(start) }
    }
    let cluster = Arc::new(Cluster::start(late, &|_| {}).await.unwrap());
    let raise = async |name| {
        let cast = with_deaf_guest(Cast::named(name));
        Stage::raise(cluster.clone(), cast, &|_| {}).await.unwrap()
    };
    let (patient, strict) = (raise("patient").await, raise("strict").await);
    let (before_patient, before_strict) =
        (patient.instances().await.unwrap(), strict.instances().await.unwrap());
    let force = |policy: &mut Evacuation| {
        hurried(policy);
        policy.on_shutdown_timeout = ShutdownTimeout::ForceOff;
    };
    // Looked at as soon as it holds: some time later it is `KubeVirt` that cuts it off.
    let holds = async { (Ran::through(&patient, hurried).await, patient.instances().await.unwrap()) };
    let ((held, at_hold), forced) = tokio::join!(holds, Ran::through(&strict, force));

    held.assert_holds(&patient, &["patient/deaf", "did not shut down"]);
    assert_eq!(patient.records("forceOffIntent"), 0, "nobody said that its power may be cut");
    let deaf = at_hold.get(&key(&patient, "deaf")).cloned();
    assert_eq!(
        deaf.as_ref(),
        before_patient.get(&key(&patient, "deaf")),
        "its guest still runs where it was"
    );
    assert_eq!(accepted(&patient, "deaf", "stop"), 1);

    forced.assert_done(&strict);
    let row = forced.row(&strict, "deaf");
    assert!(row.contains("power cut by onShutdownTimeout"), "{row}");
    assert_eq!(strict.records("forceOffIntent"), 1);
    assert!(strict.journal().contains("\"graceful\":false"), "{}", strict.journal());
    assert_ne!(
        strict.instances().await.unwrap()[&key(&strict, "deaf")].0,
        before_strict[&key(&strict, "deaf")].0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_kubevirt_cuts_off_is_reported_as_cut_off() {
    // Who cut it is told by its grace period: it has to be as long as the agent thinks.
    let as_long_as_it_says = |start| Timing { scale: 1.0, ..Timing::fast(start) };
    let cluster = Arc::new(Cluster::start(as_long_as_it_says, &|_| {}).await.unwrap());
    let cast = Cast::named("deaf").movable("app", |_| {}).bound("deaf", |shape| {
        (shape.shutdown, shape.grace_seconds) = (Shutdown::Ignore, 3);
    });
    let stage = Stage::raise(cluster, cast, &|_| {}).await.unwrap();
    let before = stage.instances().await.unwrap();
    let ran = Ran::through(&stage, |_| {}).await;
    ran.assert_done(&stage);
    let row = ran.row(&stage, "deaf");
    assert!(row.contains("power cut by KubeVirt after its 3 s"), "{row}");
    assert_eq!(stage.records("forceOffIntent"), 0, "it was not the agent");
    assert_never_off(&stage, &before, &["app"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_hangs_in_its_deletion_holds_the_node_and_is_named() {
    let cast = Cast::named("clings").movable("app", |_| {}).bound("stuck", |shape| {
        (shape.shutdown, shape.grace_seconds) = (Shutdown::Seconds(1), 1);
    });
    let mut stage = Stage::shared(cast).await.unwrap();
    let before = stage.instances().await.unwrap();
    let script = Script::begin(&mut stage, &["stuck-terminating=clings/stuck"]).await.unwrap();
    let ran = played(&stage, &script, hurried).await;
    ran.assert_holds(&stage, &["clings/stuck"]);
    assert_never_off(&stage, &before, &["app"]).await;
    assert_eq!(stage.records("preDrained"), 0);
}
