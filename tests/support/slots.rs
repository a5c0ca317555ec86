//! How busy `KubeVirt` was with migrations: what it could not have done faster, whoever asked.

#![expect(unreachable_pub, reason = "one module for several programs")]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use upgrade_agent::sim::world;

/// Migrations that `KubeVirt` runs at once: two out of a node, five in the cluster (reference `kubevirt.md` §4.1).
pub const OUT_OF_A_NODE: usize = 2;

/// How far a migration is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    Waits,
    Runs,
    Ended,
}

/// Watches the migrations of a namespace from now on.
pub struct Slots {
    seen: tokio::sync::mpsc::UnboundedReceiver<(Instant, String, Stand)>,
    watch: JoinHandle<()>,
}

impl Slots {
    /// Begins to watch.
    pub fn watch(client: Client, namespace: &str) -> Self {
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &world::vmim_resource());
        let (tell, seen) = tokio::sync::mpsc::unbounded_channel();
        let watch = tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                let Ok(watcher::Event::Apply(one) | watcher::Event::InitApply(one)) = event else {
                    continue;
                };
                let stand = match one.data["status"]["phase"].as_str().unwrap_or_default() {
                    "" | "Pending" => Stand::Waits,
                    "Succeeded" | "Failed" => Stand::Ended,
                    _ => Stand::Runs,
                };
                let name = one.metadata.name.unwrap_or_default();
                if tell.send((Instant::now(), name, stand)).is_err() {
                    return;
                }
            }
        });
        Self { seen, watch }
    }

    /// How long as many migrations ran as may run, or one waited that `KubeVirt` had not begun yet; and how many there were.
    pub fn bound(mut self) -> (Duration, usize) {
        self.watch.abort();
        let mut all: BTreeMap<String, Stand> = BTreeMap::new();
        let (mut bound, mut before) = (Duration::ZERO, Instant::now());
        while let Ok((at, name, stand)) = self.seen.try_recv() {
            let count = |stand| all.values().filter(|one| **one == stand).count();
            if count(Stand::Runs) >= OUT_OF_A_NODE || count(Stand::Waits) > 0 {
                bound += at - before;
            }
            before = at;
            all.insert(name, stand);
        }
        (bound, all.len())
    }
}
