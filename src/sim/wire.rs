//! The simulators' way to the API: a client of some API server, or the one in memory called directly; and the few verbs
//! that they write with. It decides nothing and keeps nothing; what an answer tells is handed back as [`Learned`].

mod watch;

use crate::sim::fields::At as _;
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

use super::api::ApiServer;
use super::fields::{self, name, namespace, text, uid};
use super::object::Object;
use super::view::{Key, Kind};
pub(super) use watch::{Events, Heard};

/// How the simulators reach the API.
#[derive(Clone)]
pub struct Wire(Backend);

#[derive(Clone)]
enum Backend {
    Client(Client),
    Memory(ApiServer),
}

impl From<Client> for Wire {
    fn from(client: Client) -> Self {
        Self(Backend::Client(client))
    }
}

impl From<ApiServer> for Wire {
    fn from(server: ApiServer) -> Self {
        Self(Backend::Memory(server))
    }
}

impl Wire {
    /// Whether the API server is in memory: whatever is asked is done when the call returns.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.0, Backend::Memory(_))
    }

    /// An ordinary client of it. Must be called within a tokio runtime.
    pub(super) fn client(&self) -> Client {
        match &self.0 {
            Backend::Client(client) => client.clone(),
            Backend::Memory(server) => server.client(),
        }
    }

    /// Sends one request; the body's type follows from the method.
    pub(super) async fn send(&self, method: Method, path: &str, body: &Value) -> kube::Result<Object> {
        match &self.0 {
            Backend::Memory(server) => server.call(&method, path, body).map_err(kube::Error::from),
            Backend::Client(client) => {
                let content = match (&method, body.is_array()) {
                    (&Method::PATCH, true) => "application/json-patch+json",
                    (&Method::PATCH, false) => "application/merge-patch+json",
                    _ => "application/json",
                };
                let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
                let request = Request::builder().method(method).uri(path);
                let request = request.header(http::header::CONTENT_TYPE, content).body(bytes);
                let request = request.map_err(|error| kube::Error::Service(error.into()))?;
                client.request(request).await.map(without_history)
            }
        }
    }

    /// Merges a body into spec and status: at once where that can be done, otherwise as clients have to.
    async fn amend(&self, kind: Kind, key: &Key, body: &Value) -> kube::Result<Object> {
        let (group, _, plural) = kind.names();
        if let Backend::Memory(server) = &self.0
            && let Some(amended) = server.amend((group, plural), (key.namespace(), key.name()), body)
        {
            return amended.map_err(kube::Error::from);
        }
        let path = kind.path(key.namespace(), key.name());
        self.send(Method::PATCH, &path, body).await?;
        self.send(Method::PATCH, &format!("{path}/status"), body).await
    }
}

/// Nobody here reads who wrote which field.
fn without_history(mut object: Value) -> Object {
    if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    Object::of(object)
}

/// One thing to write. Patches carry the resourceVersion they were decided on, so a stale decision answers 409.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Create {
        kind: Kind,
        object: Value,
    },
    Patch {
        kind: Kind,
        key: Key,
        status: bool,
        body: Value,
    },
    /// What several controllers would write one after the other of spec and status, from whoever plays them all.
    Amend {
        kind: Kind,
        key: Key,
        body: Value,
    },
    Delete {
        kind: Kind,
        key: Key,
        uid: String,
        grace: Option<u32>,
    },
    Bind {
        pod: Key,
        uid: String,
        node: String,
    },
    Event {
        body: Value,
    },
    Renew {
        node: Key,
        body: Value,
    },
    Done {
        uid: String,
        what: &'static str,
    },
}

/// What the answer to a write tells.
#[derive(Debug)]
pub(super) enum Learned {
    Now(Kind, Object),
    Gone(Kind, Key),
    Bound(Key, String),
    Done(String, &'static str),
}

impl Write {
    pub(super) fn patch(kind: Kind, object: &Value, mut body: Value) -> Self {
        // A merge patch with the version in it is refused when somebody else was faster.
        let version = fields::metadata(object, "resourceVersion");
        if let Some(fields) = body.as_object_mut() {
            let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
            if let Some(metadata) = metadata.as_object_mut().filter(|_| !version.is_empty()) {
                metadata.insert("resourceVersion".to_owned(), version.into());
            }
        }
        Self::Patch { kind, key: Key::of(object), status: false, body }
    }

    pub(super) fn patch_status(kind: Kind, object: &Value, status: Value) -> Self {
        let body = fields::object([("status", status)]);
        let Self::Patch { kind, key, body, .. } = Self::patch(kind, object, body) else {
            return Self::Event { body: Value::Null };
        };
        // VMIs have no status subresource: their status is written with the object.
        Self::Patch { kind, key, status: kind != Kind::Vmi, body }
    }

    pub(super) fn delete(kind: Kind, object: &Value, grace: Option<u32>) -> Self {
        Self::Delete { kind, key: Key::of(object), uid: uid(object).to_owned(), grace }
    }

    /// An event about `object`, as `component` records it.
    pub(super) fn event(
        kind: Kind,
        object: &Value,
        warning: bool,
        component: &str,
        said: (&str, &str),
    ) -> Self {
        let (reason, message) = said;
        let kind_of_event = if warning { "Warning" } else { "Normal" };
        Self::Event {
            body: json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": {"namespace": namespace(object), "name": name(object)},
                "involvedObject": {"apiVersion": kind.api_version(), "kind": kind.names().1, "name": name(object),
                    "namespace": namespace(object), "uid": uid(object),
                    "resourceVersion": text(object, "/metadata/resourceVersion")},
                "type": kind_of_event, "reason": reason, "message": message, "count": 1,
                "source": {"component": component}, "reportingComponent": component, "reportingInstance": component,
            }),
        }
    }
}

/// Writes in order and stops at the first refusal; what was learned until then is kept.
pub(super) async fn perform(
    wire: &Wire,
    writes: Vec<Write>,
    now: jiff::Timestamp,
    serial: u64,
) -> (Vec<Learned>, Option<kube::Error>) {
    let mut learned = Vec::new();
    for (step, write) in writes.into_iter().enumerate() {
        tracing::trace!(?write, "write");
        match perform_one(wire, write, now, (serial, step)).await {
            Ok(news) => learned.extend(news),
            Err(error) => return (learned, Some(error)),
        }
    }
    (learned, None)
}

async fn perform_one(
    wire: &Wire,
    write: Write,
    now: jiff::Timestamp,
    (serial, step): (u64, usize),
) -> kube::Result<Option<Learned>> {
    match write {
        Write::Create { kind, object } => {
            let made = wire.send(Method::POST, &kind.path(namespace(&object), ""), &object).await?;
            Ok(Some(learned(kind, made)))
        }
        Write::Patch { kind, key, status, body } => {
            let of = if status { "/status" } else { "" };
            let path = format!("{}{of}", kind.path(key.namespace(), key.name()));
            let patched = wire.send(Method::PATCH, &path, &body).await;
            gone_is_fine(kind, key, patched)
        }
        Write::Amend { kind, key, body } => {
            let amended = wire.amend(kind, &key, &body).await;
            gone_is_fine(kind, key, amended)
        }
        Write::Delete { kind, key, uid, grace } => {
            let mut options =
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
            if let (Some(grace), Some(fields)) = (grace, options.as_object_mut()) {
                fields.insert("gracePeriodSeconds".to_owned(), grace.into());
            }
            let deleted = wire.send(Method::DELETE, &kind.path(key.namespace(), key.name()), &options).await;
            gone_is_fine(kind, key, deleted)
        }
        Write::Bind { pod, uid, node } => {
            let binding = json!({"apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
            let path = format!("{}/binding", Kind::Pod.path(pod.namespace(), pod.name()));
            wire.send(Method::POST, &path, &binding).await?;
            Ok(Some(Learned::Bound(pod, node)))
        }
        Write::Event { mut body } => {
            let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let unique = format!("{}.{:x}{serial:x}{step:x}", name(&body), now.as_nanosecond());
            for (pointer, field, value) in
                [("/metadata", "name", &unique), ("", "firstTimestamp", &at), ("", "lastTimestamp", &at)]
            {
                if let Some(fields) = body.pointer_mut(pointer).and_then(Value::as_object_mut) {
                    fields.insert(field.to_owned(), json!(value));
                }
            }
            let path = format!("/api/v1/namespaces/{}/events", namespace(&body));
            wire.send(Method::POST, &path, &body).await?;
            Ok(None)
        }
        Write::Renew { node, body } => {
            let path =
                format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", node.name());
            wire.send(Method::PATCH, &path, &body).await?;
            Ok(None)
        }
        Write::Done { uid, what } => Ok(Some(Learned::Done(uid, what))),
    }
}

fn gone_is_fine(kind: Kind, key: Key, answer: kube::Result<Object>) -> kube::Result<Option<Learned>> {
    match answer {
        Ok(object) if object.get("kind").and_then(Value::as_str) == Some("Status") => {
            Ok(Some(Learned::Gone(kind, key)))
        }
        Ok(object) => Ok(Some(learned(kind, object))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Some(Learned::Gone(kind, key))),
        Err(error) => Err(error),
    }
}

/// An object whose deletion nothing holds up any more is gone with the answer that shows it.
fn learned(kind: Kind, object: Object) -> Learned {
    let is_held = || {
        !fields::list(&object, "/metadata/finalizers").is_empty()
            || object.at("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(0) > 0
    };
    if fields::is_deleting(&object) && !is_held() {
        Learned::Gone(kind, Key::of(&object))
    } else {
        Learned::Now(kind, object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_bound_to_the_version_it_was_decided_on() {
        let vmi = json!({"metadata": {"name": "a", "namespace": "default", "resourceVersion": "7"}});
        let Write::Patch { status, body, .. } =
            Write::patch_status(Kind::Vmi, &vmi, json!({"phase": "Running"}))
        else {
            panic!("not a patch")
        };
        assert!(!status, "a VMI has no status subresource");
        assert_eq!(body, json!({"metadata": {"resourceVersion": "7"}, "status": {"phase": "Running"}}));
    }

    #[test]
    fn the_last_finalizer_gone_means_the_object_is_gone() {
        let deleting = json!({"metadata": {"name": "a", "deletionTimestamp": "t"}});
        assert!(matches!(learned(Kind::Vmi, Object::of(deleting)), Learned::Gone(..)));
        let held = json!({"metadata": {"name": "a", "deletionTimestamp": "t", "finalizers": ["f"]}});
        assert!(matches!(learned(Kind::Vmi, Object::of(held)), Learned::Now(..)));
    }
}
