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
use crate::sim::object::Object;

/// How long storage may take to rebuild before the next node is begun all the same.
const REBUILD: Duration = Duration::from_hours(4);
/// How long nothing may change about it before somebody looks whether anything rebuilds at all.
const PATIENCE: Duration = Duration::from_mins(10);
/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// The volumes of a cluster; none where nothing rebuilds them.
pub(super) struct Storage(Option<(ApiServer, Arc<Mutex<Volumes>>)>);

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
        Self(Some((server.clone(), volumes)))
    }

    /// Waits until no volume is degraded. Whoever rolls an upgrade over nodes lets Longhorn rebuild what the last one took
    /// away: until then the budgets of the others hold their drains up. What nobody rebuilds, a third replica in a cluster of
    /// two nodes, is not waited for.
    pub(super) async fn heals(&self) {
        let Some((server, volumes)) = &self.0 else { return };
        let end = Instant::now() + REBUILD;
        let (mut seen, mut since) = (BTreeSet::new(), Instant::now());
        while Instant::now() < end {
            let degraded = lock(volumes).degraded_now();
            if degraded.is_empty() {
                return;
            }
            if degraded != seen {
                (seen, since) = (degraded, Instant::now());
            } else if since.elapsed() >= PATIENCE {
                if !is_rebuilding(server, &seen) {
                    return;
                }
                since = Instant::now();
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// Does an engine of these volumes write to a replica that is not whole yet?
fn is_rebuilding(server: &ApiServer, volumes: &BTreeSet<String>) -> bool {
    server.list_objects("longhorn.io", "engines", "", "").into_iter().map(Object::into_value).any(|engine| {
        let of = engine.pointer("/spec/volumeName").and_then(Value::as_str);
        let modes = engine.pointer("/status/replicaModeMap").and_then(Value::as_object);
        of.is_some_and(|volume| volumes.contains(volume))
            && modes.is_some_and(|modes| modes.values().any(|mode| mode == "WO"))
    })
}

impl Volumes {
    /// Those that are degraded now.
    fn degraded_now(&mut self) -> BTreeSet<String> {
        while let Some(event) = self.events.try_next() {
            self.take_in(&event);
        }
        self.degraded.clone()
    }

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
        let object = json!({"apiVersion": "longhorn.io/v1beta2", "kind": kind, "metadata": metadata,
            "spec": {"volumeName": "volume"}, "status": status});
        server.load(object).unwrap();
    }

    fn becomes(server: &ApiServer, kind: &str, status: &Value) {
        let plural = format!("{}s", kind.to_lowercase());
        let path = format!(
            "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/{plural}/{}/status",
            kind.to_lowercase()
        );
        server.call(&Method::PATCH, &path, &json!({"status": status})).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_rebuilds_is_not_waited_for() {
        let server = ApiServer::new(Clock::from(Timestamp::UNIX_EPOCH, Instant::now()), 1);
        load(&server, "Volume", &json!({"robustness": "degraded"}));
        load(&server, "Engine", &json!({"replicaModeMap": {"a": "RW", "b": "WO"}}));
        let storage = Storage::follow(&server);
        let begun = Instant::now();
        let breaks_off = async {
            sleep(Duration::from_mins(35)).await;
            becomes(&server, "Engine", &json!({"replicaModeMap": {"b": null}}));
        };
        tokio::join!(storage.heals(), breaks_off);
        assert_eq!(begun.elapsed(), Duration::from_mins(40), "it was rebuilt for so long");
        becomes(&server, "Engine", &json!({"replicaModeMap": {"b": "WO"}}));
        let begun = Instant::now();
        storage.heals().await;
        assert_eq!(begun.elapsed(), REBUILD);
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
        let is_now = |robustness: &str| becomes(&server, "Volume", &json!({"robustness": robustness}));
        let healing = async {
            for (after, robustness) in [(50, "healthy"), (1, "degraded"), (50, "healthy")] {
                sleep(Duration::from_secs(after)).await;
                is_now(robustness);
            }
        };
        tokio::join!(storage.heals(), healing);
        assert_eq!(begun.elapsed(), Duration::from_mins(2), "the look after it was whole for good");
        is_now("degraded");
        let path = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/volumes/volume";
        server.call(&Method::DELETE, path, &Value::Null).unwrap();
        storage.heals().await;
        assert_eq!(begun.elapsed(), Duration::from_mins(2), "one that is gone does not count");
    }
}
