//! One set of requests, two servers: what is asserted here holds for the real `kube-apiserver` and for the one in memory,
//! so that a rehearsal refuses, counts and tells what a cluster would.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::similar_names,
    clippy::unwrap_used,
    reason = "checks fail by panicking"
)]

#[path = "conformance/access.rs"]
mod access;
#[path = "conformance/applies.rs"]
mod applies;
#[path = "conformance/customs.rs"]
mod customs;
#[path = "conformance/deletes.rs"]
mod deletes;
#[path = "conformance/evictions.rs"]
mod evictions;
#[path = "conformance/lists.rs"]
mod lists;
#[path = "conformance/owners.rs"]
mod owners;
#[path = "conformance/pods.rs"]
mod pods;
#[path = "conformance/watches.rs"]
mod watches;
#[path = "conformance/writes.rs"]
mod writes;

use access::Access;
use futures::future::BoxFuture;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use testbed::control_plane::ControlPlane;
use testbed::places::RunDir;
use tokio::time::Instant;
use upgrade_agent::host::clock::Clock;
use upgrade_agent::sim::api::ApiServer;

type Check = fn(Access) -> BoxFuture<'static, ()>;

fn checks() -> Vec<(&'static str, Check)> {
    [
        writes::checks(),
        applies::checks(),
        deletes::checks(),
        owners::checks(),
        lists::checks(),
        watches::checks(),
        pods::checks(),
        evictions::checks(),
        customs::checks(),
    ]
    .concat()
}

/// Runs every check in a namespace of its own, and tells of all that failed.
async fn run(client: kube::Client) {
    customs::define(&client).await;
    let running: Vec<_> = checks()
        .into_iter()
        .map(|(name, check)| {
            let client = client.clone();
            let check = tokio::spawn(async move { check(Access::new(client, name).await).await });
            (name, check)
        })
        .collect();
    let mut failed = Vec::new();
    let count = running.len();
    for (name, check) in running {
        if check.await.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{} of {count} failed: {failed:#?}", failed.len());
}

#[tokio::test]
async fn in_memory() {
    let clock = Clock::from("2026-01-05T10:00:00Z".parse().expect("a time"), Instant::now());
    run(ApiServer::new(clock, 1).client()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real() {
    let dir = RunDir::new().expect("a folder");
    let control_plane = ControlPlane::start(dir.path()).await.expect("a control plane");
    let kubeconfig = Kubeconfig::read_from(control_plane.admin_kubeconfig()).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a configuration");
    // Refusals are what is compared; by default a client hides some of them behind more attempts.
    config.default_retry = false;
    run(kube::Client::try_from(config).expect("a client")).await;
}
