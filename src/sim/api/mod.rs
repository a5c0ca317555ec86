//! A Kubernetes API server in memory: it keeps objects and answers requests about them as the real `kube-apiserver` does,
//! quickly and the same way each time. It knows no controller but the garbage collector, and no clock but the one it is
//! given; it never touches a file or a socket.
//!
//! Production code reaches it through [`ApiServer::client`], an ordinary `kube::Client`. Simulators use
//! [`ApiServer::call`] and [`ApiServer::subscribe`], which carry objects and never JSON text.
//!
//! Tour: `kinds` says what is served, `store` keeps versions and their indices, `watch` tells who watches. Each verb has
//! its file (`read`, `create`, `update`, `patch`, `delete`, `evict`), `route` finds the verb of a request, `service`
//! speaks HTTP. `tests/conformance.rs` runs the same requests against this and against the real server.

mod admission;
mod apply;
mod body;
mod collection;
mod create;
mod delete;
mod delta;
mod discovery;
mod evict;
mod facts;
mod gc;
mod history;
mod ids;
mod json;
mod kinds;
mod lists;
mod names;
mod ownership;
mod patch;
mod read;
mod request;
mod revise;
mod route;
mod selector;
mod service;
mod shared;
mod spares;
mod status;
mod store;
mod subscription;
mod table;
#[cfg(test)]
mod tests;
mod update;
mod versions;
mod warm;
mod watch;
mod watchers;
mod webhooks;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Method;
use serde_json::Value;

use super::object::Object;
use crate::host::clock::Clock;

use route::Answer;
use shared::Shared;
use store::Store;

pub use body::ApiBody;
pub(in crate::sim) use selector::selects;
pub use service::ApiService;
pub use status::Status;
pub use subscription::{Changes, Event, Subscription};
pub use webhooks::Webhooks;

/// Answers the requests under a path of its own, as an aggregated API server does.
pub type Aggregated =
    Arc<dyn Fn(http::Request<Bytes>) -> BoxFuture<'static, http::Response<Bytes>> + Send + Sync>;

/// How a PATCH body is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/merge-patch+json`.
    Merge,
    /// `application/json-patch+json`.
    Json,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`.
    Apply,
}

/// The namespaces that are there from the start.
const NAMESPACES: [&str; 6] =
    ["default", "kube-system", "kube-node-lease", "harvester-system", "cattle-system", "longhorn-system"];

/// The server; a clone is another handle on the same objects.
#[derive(Debug, Clone)]
pub struct ApiServer {
    shared: Arc<Shared>,
}

impl ApiServer {
    /// An empty server with the namespaces of a Harvester cluster. uids and generated names follow from `seed`.
    #[must_use]
    pub fn new(clock: Clock, seed: u64) -> Self {
        let mut store = Store::new(clock, seed);
        for namespace in NAMESPACES {
            // Refused only when it is there already.
            if let Err(refusal) = store.ensure_namespace(namespace) {
                tracing::debug!(%refusal, "namespace");
            }
        }
        store.collect_garbage();
        Self { shared: Arc::new(Shared::of(store)) }
    }

    /// A server that begins with the same objects, versions and counters, cheaply: what neither side writes to is shared.
    /// Without those who watch and without the history, so that watches from an older version answer 410, and without
    /// those who answer under a prefix. The two can be used by different threads.
    #[must_use]
    pub fn fork(&self, clock: Clock) -> Self {
        let fork = self.shared.store().fork(clock);
        let shared = Shared::of(fork);
        shared.count_on_from(self.requests());
        Self { shared: Arc::new(shared) }
    }

    /// Stores an object as it is: uid, timestamps and status stay; only what is missing of uid, generation and creation
    /// time is filled in, and the resourceVersion is new. An object of that name is replaced, a missing namespace made. No
    /// admission, no defaults, no garbage collection.
    ///
    /// # Errors
    /// When its kind is not served or its name is missing.
    pub fn load(&self, object: Value) -> Result<Object, Status> {
        let mut store = self.shared.store();
        let loaded = store.load(object);
        store.chores.clear();
        loaded
    }

    /// One request without HTTP. A PATCH whose body is an array is a JSON patch, otherwise a merge patch.
    ///
    /// # Errors
    /// The refusal that a client would get; a watch is refused, as [`Self::subscribe`] is there for it.
    pub fn call(&self, method: &Method, path_and_query: &str, body: &Value) -> Result<Object, Status> {
        let kind = if body.is_array() { PatchKind::Json } else { PatchKind::Merge };
        self.call_with(method, path_and_query, kind, body)
    }

    /// As [`Self::call`], with the meaning of a PATCH body.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_with(
        &self,
        method: &Method,
        path_and_query: &str,
        meant: PatchKind,
        body: &Value,
    ) -> Result<Object, Status> {
        let (path, options) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let query = request::Query::parse(options);
        let request = route::Request { method, path, query, patch: Some(meant), body };
        match self.shared.store().answer(&request)? {
            Answer::Object(_, object) => Ok(object),
            Answer::List(page, api_version, kind) => Ok(Object::of(page.value(&api_version, &kind))),
            Answer::Watch(..) => Err(Status::method_not_allowed()),
        }
    }

    /// Merges a body into an object's spec and status in one write, which no client can: for whoever plays all those who
    /// would write one after the other. Nobody's webhooks are asked. None where it takes two requests after all.
    #[must_use]
    pub fn amend(
        &self,
        (group, plural): (&str, &str),
        (namespace, name): (&str, &str),
        body: &Value,
    ) -> Option<Result<Object, Status>> {
        self.shared.store().amend((group, plural), &store::key_of(namespace, name), body)
    }

    /// Every object of a kind as it is now, and then every change. It never lags; it ends when the server is gone. Empty
    /// for a kind that is not served.
    #[must_use]
    pub fn subscribe(&self, group: &str, plural: &str) -> Subscription {
        self.shared.store().subscribe(group, plural)
    }

    /// Every change of a kind from now on, as [`Self::subscribe`] tells it.
    #[must_use]
    pub fn follow(&self, group: &str, plural: &str) -> Subscription {
        self.shared.store().follow(group, plural)
    }

    /// One object as it is now; no namespace for cluster-scoped kinds.
    #[must_use]
    pub fn get_object(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Object> {
        let mut store = self.shared.store();
        let place = store.place(group, plural)?;
        let key = store::key_of(namespace, name);
        let object = store.get(place, &key)?.clone();
        if !object.is_warm() {
            store.warmed(place, key.into());
        }
        Some(object)
    }

    /// Objects of a kind by namespace and name: of all namespaces when `namespace` is empty, with any labels when the
    /// label selector is. None for a kind that is not served or a selector that cannot be read. What the caller parses is
    /// the caller's to let go of.
    #[must_use]
    pub fn list_objects(&self, group: &str, plural: &str, namespace: &str, labels: &str) -> Vec<Object> {
        self.shared.store().list(group, plural, namespace, labels)
    }

    /// The HTTP side, for layers that add faults.
    #[must_use]
    pub fn service(&self) -> ApiService {
        ApiService { server: self.clone() }
    }

    /// An ordinary client of this server. Must be called within a tokio runtime.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.service(), "default")
    }

    /// Hands every HTTP request whose path begins with `prefix` to `handler`.
    pub fn aggregate(&self, prefix: &str, handler: Aggregated) {
        self.shared.aggregate(prefix, handler);
    }

    /// Forgets all handlers. They hold this server as a rule, and it holds them: a world that ends has to part them.
    pub fn disaggregate(&self) {
        self.shared.disaggregate();
    }

    /// Whether `KubeVirt`'s webhooks are asked from now on; a new server or a fork asks nobody.
    pub fn ask(&self, webhooks: Webhooks) {
        self.shared.store().webhooks = webhooks;
    }

    /// How many requests came through [`Self::service`].
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests()
    }

    /// The newest resourceVersion.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        self.shared.version()
    }

    /// Forgets the history, so that watches from an older resourceVersion answer 410.
    pub fn compact(&self) {
        self.shared.store().compact();
    }

    /// Forgets the parsed forms of all objects, for when nothing happens for a while.
    pub fn cool(&self) {
        self.shared.store().cool();
    }
}
