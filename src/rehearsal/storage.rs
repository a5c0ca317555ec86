//! How Longhorn's volumes are, as the cluster tells it: each change is looked at once, so that waiting for storage costs
//! the same in a large cluster as in a small one. Changes nothing.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::sim::api::{ApiServer, Event, Subscription};

/// How long storage may take to rebuild before the next node is begun all the same.
const REBUILD: Duration = Duration::from_hours(4);
/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// The volumes of a cluster; none where nothing rebuilds them.
pub(super) struct Storage(Option<Arc<Mutex<Volumes>>>);

struct Volumes {
    events: Subscription,
    degraded: BTreeSet<String>,
}

impl Storage {
    /// Follows the volumes of a cluster from now on, until its server is gone.
    pub(super) fn follow(server: &ApiServer) -> Self {
        // Without engines nothing rebuilds, and nothing is taken away.
        if server.list_objects("longhorn.io", "engines", "", "").is_empty() {
            return Self(None);
        }
        let events = server.subscribe("longhorn.io", "volumes");
        let volumes = Arc::new(Mutex::new(Volumes { events, degraded: BTreeSet::new() }));
        let followed = Arc::clone(&volumes);
        // Versions that wait to be looked at would pile up during a node's turn.
        tokio::spawn(poll_fn(move |context| lock(&followed).hear(context)));
        Self(Some(volumes))
    }

    /// Waits until no volume is degraded. Whoever rolls an upgrade over nodes lets Longhorn rebuild what the last one took
    /// away: until then the budgets of the others hold their drains up.
    pub(super) async fn heals(&self) {
        let end = Instant::now() + REBUILD;
        while Instant::now() < end && self.is_degraded() {
            sleep(LOOK_AGAIN).await;
        }
    }

    fn is_degraded(&self) -> bool {
        self.0.as_ref().is_some_and(|volumes| {
            let mut volumes = lock(volumes);
            while let Some(event) = volumes.events.try_next() {
                volumes.take_in(&event);
            }
            !volumes.degraded.is_empty()
        })
    }
}

impl Volumes {
    /// Takes in what was told; ready when nothing more will be.
    fn hear(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(event) = ready!(self.events.poll_next_unpin(context)) {
            self.take_in(&event);
        }
        Poll::Ready(())
    }

    fn take_in(&mut self, event: &Event) {
        // Looked at once, and not to be kept parsed for that.
        let volume = event.object().apart();
        let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let name = text("/metadata/name");
        if text("/status/robustness") == "degraded" && !matches!(event, Event::Deleted(_)) {
            self.degraded.insert(name.to_owned());
        } else {
            self.degraded.remove(name);
        }
    }
}

fn lock(volumes: &Mutex<Volumes>) -> MutexGuard<'_, Volumes> {
    volumes.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::host::clock::Clock;

    fn load(server: &ApiServer, kind: &str, status: &Value) {
        let metadata = json!({"name": kind.to_lowercase(), "namespace": "longhorn-system"});
        let object = json!({"apiVersion": "longhorn.io/v1beta2", "kind": kind, "metadata": metadata, "status": status});
        server.load(object).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn waits_as_long_as_a_volume_is_degraded() {
        let server = ApiServer::new(Clock::from(Timestamp::UNIX_EPOCH, Instant::now()), 1);
        let begun = Instant::now();
        load(&server, "Volume", &json!({"robustness": "degraded"}));
        Storage::follow(&server).heals().await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "nothing rebuilds it");
        load(&server, "Engine", &json!({}));
        let storage = Storage::follow(&server);
        let path = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/volumes/volume/status";
        let becomes = |robustness: &str| {
            let body = json!({"status": {"robustness": robustness}});
            server.call(&Method::PATCH, path, &body).unwrap();
        };
        let healing = async {
            for (after, robustness) in [(50, "healthy"), (1, "degraded"), (50, "healthy")] {
                sleep(Duration::from_secs(after)).await;
                becomes(robustness);
            }
        };
        tokio::join!(storage.heals(), healing);
        assert_eq!(begun.elapsed(), Duration::from_mins(2), "the look after it was whole for good");
        becomes("degraded");
        server.call(&Method::DELETE, path.trim_end_matches("/status"), &Value::Null).unwrap();
        storage.heals().await;
        assert_eq!(begun.elapsed(), Duration::from_mins(2), "one that is gone does not count");
    }
}
