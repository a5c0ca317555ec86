//! Live migrations that fail.

use crate::support::Stage;
use crate::support::cast::Cast;
use crate::{Ran, assert_never_off, key};

const FAILURES: &str = "sim.upgrade-agent/migration-failures";

async fn stage(name: &str, failures: &str) -> Stage {
    let cast = Cast::named(name).movable("app", |_| {}).movable("loser", |_| {});
    Stage::shared(cast.annotated(FAILURES, failures)).await.unwrap()
}

/// Side by side, because both wait most of the time: 20 s after the first failure, 40 s after the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_is_tried_again_and_holds_the_node_if_it_never_works() {
    let (twice, never) = (stage("twice", "2").await, stage("never", "always").await);
    let (before_twice, before_never) = (twice.instances().await.unwrap(), never.instances().await.unwrap());
    let (worked, held) = tokio::join!(Ran::through(&twice, |_| {}), Ran::through(&never, |_| {}));

    worked.assert_done(&twice);
    assert!(worked.row(&twice, "loser").contains("never stopped"), "{}", worked.row(&twice, "loser"));
    assert_never_off(&twice, &before_twice, &["app", "loser"]).await;
    assert_ne!(twice.instances().await.unwrap()[&key(&twice, "loser")].1, twice.node, "it moved");

    held.assert_holds(&never, &["never/loser"]);
    assert_never_off(&never, &before_never, &["app", "loser"]).await;
    let after = never.instances().await.unwrap();
    assert_eq!(after[&key(&never, "loser")].1, never.node, "it stays where it was");
    assert_ne!(after[&key(&never, "app")].1, never.node, "the other one was not held up");
}
