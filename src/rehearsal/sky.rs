//! Trouble of the cluster's servers that passes: who is away, who turns requests away, and until when. Asked for every
//! request of an agent; while there is no trouble that costs one look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use crate::rehearsal::doings::Trouble;
use crate::sim::Switch;
use crate::sim::api::{ApiServer, Status, Webhooks};

/// Between two breaks of all watches.
const EXPIRES_EVERY: Duration = Duration::from_secs(20);

/// One for one rehearsal; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Sky {
    /// Off while virt-api is away.
    pub(super) virt_api: Switch,
    /// Off while virt-controller is away.
    pub(super) virt_controller: Switch,
    overcast: Arc<AtomicBool>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    until: BTreeMap<Trouble, Instant>,
    /// Requests that have met their trouble.
    met: BTreeSet<(Trouble, String)>,
    asked: u64,
}

impl Sky {
    /// Begins a trouble that ends by itself; `hang_up` breaks all connections of the agent.
    pub(super) fn begin(
        &self,
        server: &ApiServer,
        trouble: Trouble,
        length: Duration,
        hang_up: impl Fn() + Send + 'static,
    ) {
        let (sky, server) = (self.clone(), server.clone());
        match trouble {
            Trouble::VirtApiAway => {
                server.ask(Webhooks::Down);
                sky.virt_api.turn(false);
                tokio::spawn(async move {
                    tokio::time::sleep(length).await;
                    server.ask(Webhooks::Up);
                    sky.virt_api.turn(true);
                });
            }
            Trouble::VirtControllerAway => {
                sky.virt_controller.turn(false);
                tokio::spawn(async move {
                    tokio::time::sleep(length).await;
                    sky.virt_controller.turn(true);
                });
            }
            Trouble::Expires => {
                tokio::spawn(async move {
                    let end = Instant::now() + length;
                    while Instant::now() < end {
                        server.compact();
                        hang_up();
                        tokio::time::sleep(EXPIRES_EVERY).await;
                    }
                });
            }
            Trouble::Races | Trouble::Throttles | Trouble::Conflicts => {
                self.inner().until.insert(trouble, Instant::now() + length);
                self.overcast.store(true, Ordering::Relaxed);
            }
        }
    }

    /// What a request meets instead of its answer; none when it goes through.
    pub(super) fn meets(&self, method: &Method, path: &str) -> Option<Status> {
        if !self.overcast.load(Ordering::Relaxed) {
            return None;
        }
        let now = Instant::now();
        let mut inner = self.inner();
        inner.until.retain(|_, until| now < *until);
        if inner.until.is_empty() {
            self.overcast.store(false, Ordering::Relaxed);
            return None;
        }
        inner.asked += 1;
        if inner.until.contains_key(&Trouble::Throttles) && inner.asked.is_multiple_of(2) {
            let message = "Too many requests, please try again later.";
            return Some(Status::new(429, "TooManyRequests", message));
        }
        let is_subresource = path.starts_with("/apis/subresources.kubevirt.io/");
        let writes = [Method::POST, Method::PUT, Method::PATCH].contains(method);
        // A review is an answer, no object that somebody else could change meanwhile.
        let changes = writes && !is_subresource && !path.starts_with("/apis/authorization.k8s.io/");
        if inner.meets_first(Trouble::Races, is_subresource && writes, path) {
            let why = "the server rejected our request due to an error in our request";
            let message = format!("Internal error occurred: {why}");
            return Some(Status::new(500, "InternalError", message));
        }
        if inner.meets_first(Trouble::Conflicts, changes, path) {
            let message = format!(
                "Operation cannot be fulfilled on {path}: the object has been modified; please apply your changes \
                 to the latest version and try again"
            );
            return Some(Status::new(409, "Conflict", message));
        }
        None
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Is this the first request of its kind since the trouble began?
    fn meets_first(&mut self, trouble: Trouble, concerned: bool, path: &str) -> bool {
        concerned && self.until.contains_key(&trouble) && self.met.insert((trouble, path.to_owned()))
    }
}
