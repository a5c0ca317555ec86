//! Live migrations that fail.

use crate::scripts::played;
use crate::support::Stage;
use crate::support::cast::Cast;
use crate::support::script::Script;
use crate::{assert_never_off, key};

async fn stage(name: &str, word: &str) -> (Stage, Script) {
    let cast = Cast::named(name).movable("app", |_| {}).movable("loser", |_| {});
    let mut stage = Stage::shared(cast).await.unwrap();
    let script = Script::begin(&mut stage, &[&format!("{word}={name}/loser")]).await.unwrap();
    (stage, script)
}

/// Side by side, because both wait most of the time: 20 s after the first failure, 40 s after the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_is_tried_again_and_holds_the_node_if_it_never_works() {
    let (twice, on_twice) = stage("twice", "migration-fails-twice").await;
    let (never, on_never) = stage("never", "migration-always-fails").await;
    let (before_twice, before_never) = (twice.instances().await.unwrap(), never.instances().await.unwrap());
    let (worked, held) = tokio::join!(played(&twice, &on_twice, |_| {}), played(&never, &on_never, |_| {}));

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
