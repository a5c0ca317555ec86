//! Trouble of the cluster's servers that passes: who is away, who turns requests away, and until when. Asked for every
//! request of an agent, by the wire in memory or by a proxy; while there is no trouble that costs one look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Uri};
use tokio::time::Instant;

use super::Switch;
use super::api::{ApiServer, Status, Webhooks};

/// What is wrong with the cluster's servers for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// virt-api is away: 503 for what it serves, 500 for what its webhooks are asked about.
    VirtApiAway,
    /// What is asked of virt-controller is accepted, and nothing happens.
    VirtControllerAway,
    /// virt-api answers the first request about each VM with a lost race.
    Races,
    /// The API server turns every other request away.
    Throttles,
    /// The first write of each object meets a conflict.
    Conflicts,
    /// Watches break again and again, and cannot go on where they were.
    Expires,
}

/// Where the agent's requests go.
#[derive(Debug, Clone)]
pub enum Place {
    /// To this API server in memory, which asks its webhooks itself and forgets its history.
    Memory(ApiServer),
    /// To a real one, through a proxy that asks [`Troubles::meets`].
    Proxy,
}

/// Between two breaks of all watches.
const EXPIRES_EVERY: Duration = Duration::from_secs(20);

/// Those of one cluster; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Troubles {
    /// Off while virt-api is away.
    pub virt_api: Switch,
    /// Off while virt-controller is away.
    pub virt_controller: Switch,
    any: Arc<AtomicBool>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    until: BTreeMap<Trouble, Instant>,
    /// Requests that have met their trouble.
    met: BTreeSet<(Trouble, String)>,
    asked: u64,
}

impl Troubles {
    /// Begins a trouble that ends by itself; `hang_up` breaks all connections of the agent.
    pub fn begin(
        &self,
        place: Place,
        trouble: Trouble,
        length: Duration,
        hang_up: impl Fn() + Send + 'static,
    ) {
        let troubles = self.clone();
        match (trouble, place) {
            (Trouble::VirtApiAway, place) => {
                match &place {
                    Place::Memory(server) => server.ask(Webhooks::Down),
                    Place::Proxy => self.on_the_wire(trouble, length),
                }
                self.virt_api.turn(false);
                tokio::spawn(async move {
                    tokio::time::sleep(length).await;
                    if let Place::Memory(server) = place {
                        server.ask(Webhooks::Up);
                    }
                    troubles.virt_api.turn(true);
                });
            }
            (Trouble::VirtControllerAway, _) => {
                self.virt_controller.turn(false);
                tokio::spawn(async move {
                    tokio::time::sleep(length).await;
                    troubles.virt_controller.turn(true);
                });
            }
            (Trouble::Expires, place) => {
                let every = match &place {
                    Place::Memory(_) => EXPIRES_EVERY,
                    // As often as in memory, however long it lasts.
                    Place::Proxy => length / 9,
                };
                tokio::spawn(async move {
                    let end = Instant::now() + length;
                    while Instant::now() < end {
                        match &place {
                            Place::Memory(server) => server.compact(),
                            Place::Proxy => troubles.on_the_wire(trouble, end - Instant::now()),
                        }
                        hang_up();
                        tokio::time::sleep(every).await;
                    }
                });
            }
            (Trouble::Races | Trouble::Throttles | Trouble::Conflicts, _) => {
                self.on_the_wire(trouble, length);
            }
        }
    }

    fn on_the_wire(&self, trouble: Trouble, length: Duration) {
        let mut inner = self.inner();
        inner.until.insert(trouble, Instant::now() + length);
        // What met the last one of its kind meets this one, too.
        inner.met.retain(|(of, _)| *of != trouble);
        self.any.store(true, Ordering::Relaxed);
    }

    /// What a request meets instead of its answer; none when it goes through.
    #[must_use]
    pub fn meets(&self, method: &Method, uri: &Uri) -> Option<Status> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let now = Instant::now();
        let mut inner = self.inner();
        inner.until.retain(|_, until| now < *until);
        if inner.until.is_empty() {
            self.any.store(false, Ordering::Relaxed);
            return None;
        }
        inner.asked += 1;
        inner.meets(method, uri)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn meets(&mut self, method: &Method, uri: &Uri) -> Option<Status> {
        let path = uri.path();
        let is_subresource = path.starts_with("/apis/subresources.kubevirt.io/");
        let writes = [Method::POST, Method::PUT, Method::PATCH].contains(method);
        // A review is an answer, no object that somebody else could change meanwhile.
        let changes = writes && !is_subresource && !path.starts_with("/apis/authorization.k8s.io/");
        if self.until.contains_key(&Trouble::Throttles) && self.asked.is_multiple_of(2) {
            let message = "Too many requests, please try again later.";
            return Some(Status::new(429, "TooManyRequests", message));
        }
        if self.until.contains_key(&Trouble::VirtApiAway) {
            if is_subresource {
                let why = "error trying to reach service: dial tcp: connect: connection refused";
                return Some(Status::new(503, "ServiceUnavailable", why));
            }
            if changes && path.starts_with("/apis/kubevirt.io/") {
                let message = "Internal error occurred: failed calling webhook: connect: connection refused";
                return Some(Status::new(500, "InternalError", message));
            }
        }
        if self.meets_first(Trouble::Races, is_subresource && writes, path) {
            let why = "the server rejected our request due to an error in our request";
            let message = format!("Internal error occurred: {why}");
            return Some(Status::new(500, "InternalError", message));
        }
        if self.meets_first(Trouble::Conflicts, changes, path) {
            let message = format!(
                "Operation cannot be fulfilled on {path}: the object has been modified; please apply your changes \
                 to the latest version and try again"
            );
            return Some(Status::new(409, "Conflict", message));
        }
        let goes_on = uri.query().is_some_and(|query| query.contains("watch=true") && !from_anywhere(query));
        if self.meets_first(Trouble::Expires, goes_on, path) {
            return Some(Status::new(410, "Expired", "too old resource version"));
        }
        None
    }

    /// Is this the first request of its kind since the trouble began?
    fn meets_first(&mut self, trouble: Trouble, concerned: bool, path: &str) -> bool {
        concerned && self.until.contains_key(&trouble) && self.met.insert((trouble, path.to_owned()))
    }
}

/// Does a watch begin wherever the server likes?
fn from_anywhere(query: &str) -> bool {
    let version = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
    version.is_none_or(|version| version.is_empty() || version == "0")
}
