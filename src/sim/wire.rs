//! The simulators' way to the API: paths, watches and the few verbs they write with. It decides nothing and keeps
//! nothing; what an answer tells about an object is handed back as [`Learned`].

use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::fields::{self, name, namespace, text, uid};
use super::view::{Key, Kind};

/// One thing to write. Patches carry the resourceVersion they were decided on, so a stale decision answers 409.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Create { kind: Kind, object: Value },
    Patch { kind: Kind, key: Key, status: bool, body: Value },
    Delete { kind: Kind, key: Key, uid: String, grace: Option<u32> },
    Bind { pod: Key, uid: String, node: String },
    Event { body: Value },
    Renew { node: Key, body: Value },
    Done { uid: String, what: &'static str },
}

/// What the answer to a write tells.
#[derive(Debug)]
pub(super) enum Learned {
    Now(Kind, Box<Value>),
    Gone(Kind, Key),
    Bound(Key, String),
    Done(String, &'static str),
}

impl Write {
    pub(super) fn patch(kind: Kind, object: &Value, mut body: Value) -> Self {
        // A merge patch with the version in it is refused when somebody else was faster.
        let version = text(object, "/metadata/resourceVersion");
        if let Some(fields) = body.as_object_mut() {
            let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
            if let Some(metadata) = metadata.as_object_mut().filter(|_| !version.is_empty()) {
                metadata.insert("resourceVersion".to_owned(), version.into());
            }
        }
        Self::Patch { kind, key: Key::of(object), status: false, body }
    }

    pub(super) fn patch_status(kind: Kind, object: &Value, status: &Value) -> Self {
        let Self::Patch { kind, key, body, .. } = Self::patch(kind, object, json!({"status": status})) else {
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

/// Watches one kind for ever, with back-off.
pub(super) fn watch(
    client: &Client,
    kind: Kind,
) -> BoxStream<'static, (Kind, watcher::Result<watcher::Event<Value>>)> {
    let (group, name, plural) = kind.names();
    let resource = ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: kind.api_version().to_owned(),
        kind: name.to_owned(),
        plural: plural.to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    events.map(move |event| (kind, event.map(plain))).boxed()
}

fn plain(event: watcher::Event<DynamicObject>) -> watcher::Event<Value> {
    let value = |object: DynamicObject| serde_json::to_value(object).unwrap_or_default();
    match event {
        watcher::Event::Apply(object) => watcher::Event::Apply(value(object)),
        watcher::Event::Delete(object) => watcher::Event::Delete(value(object)),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(value(object)),
        watcher::Event::InitDone => watcher::Event::InitDone,
    }
}

/// Sends one request; the body's type follows from the method.
pub(super) async fn send(client: &Client, method: Method, path: &str, body: &Value) -> kube::Result<Value> {
    let content = match (&method, body.is_array()) {
        (&Method::PATCH, true) => "application/json-patch+json",
        (&Method::PATCH, false) => "application/merge-patch+json",
        _ => "application/json",
    };
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request =
        Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, content).body(bytes);
    client.request(request.map_err(|error| kube::Error::Service(error.into()))?).await
}

/// Writes in order and stops at the first refusal; what was learned until then is kept.
pub(super) async fn perform(
    client: &Client,
    writes: Vec<Write>,
    now: jiff::Timestamp,
    serial: u64,
) -> (Vec<Learned>, Option<kube::Error>) {
    let mut learned = Vec::new();
    for (step, write) in writes.into_iter().enumerate() {
        tracing::trace!(?write, "write");
        match perform_one(client, write, now, &format!("{serial:x}{step:x}")).await {
            Ok(news) => learned.extend(news),
            Err(error) => return (learned, Some(error)),
        }
    }
    (learned, None)
}

async fn perform_one(
    client: &Client,
    write: Write,
    now: jiff::Timestamp,
    serial: &str,
) -> kube::Result<Option<Learned>> {
    match write {
        Write::Create { kind, object } => {
            let made = send(client, Method::POST, &kind.path(namespace(&object), ""), &object).await?;
            Ok(Some(learned(kind, made)))
        }
        Write::Patch { kind, key, status, body } => {
            let of = if status { "/status" } else { "" };
            let path = format!("{}{of}", kind.path(&key.namespace, &key.name));
            let patched = send(client, Method::PATCH, &path, &body).await;
            gone_is_fine(kind, key, patched)
        }
        Write::Delete { kind, key, uid, grace } => {
            let mut options =
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
            if let (Some(grace), Some(fields)) = (grace, options.as_object_mut()) {
                fields.insert("gracePeriodSeconds".to_owned(), grace.into());
            }
            let deleted = send(client, Method::DELETE, &kind.path(&key.namespace, &key.name), &options).await;
            gone_is_fine(kind, key, deleted)
        }
        Write::Bind { pod, uid, node } => {
            let binding = json!({"apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
            let path = format!("{}/binding", Kind::Pod.path(&pod.namespace, &pod.name));
            send(client, Method::POST, &path, &binding).await?;
            Ok(Some(Learned::Bound(pod, node)))
        }
        Write::Event { mut body } => {
            let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let unique = format!("{}.{:x}{serial}", name(&body), now.as_nanosecond());
            for (pointer, field, value) in
                [("/metadata", "name", &unique), ("", "firstTimestamp", &at), ("", "lastTimestamp", &at)]
            {
                if let Some(fields) = body.pointer_mut(pointer).and_then(Value::as_object_mut) {
                    fields.insert(field.to_owned(), json!(value));
                }
            }
            let path = format!("/api/v1/namespaces/{}/events", namespace(&body));
            send(client, Method::POST, &path, &body).await?;
            Ok(None)
        }
        Write::Renew { node, body } => {
            let path =
                format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", node.name);
            send(client, Method::PATCH, &path, &body).await?;
            Ok(None)
        }
        Write::Done { uid, what } => Ok(Some(Learned::Done(uid, what))),
    }
}

fn gone_is_fine(kind: Kind, key: Key, answer: kube::Result<Value>) -> kube::Result<Option<Learned>> {
    match answer {
        Ok(object) if text(&object, "/kind") == "Status" => Ok(Some(Learned::Gone(kind, key))),
        Ok(object) => Ok(Some(learned(kind, object))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Some(Learned::Gone(kind, key))),
        Err(error) => Err(error),
    }
}

/// An object whose deletion nothing holds up any more is gone with the answer that shows it.
fn learned(kind: Kind, object: Value) -> Learned {
    let held = !fields::list(&object, "/metadata/finalizers").is_empty()
        || object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(0) > 0;
    if fields::is_deleting(&object) && !held {
        Learned::Gone(kind, Key::of(&object))
    } else {
        Learned::Now(kind, Box::new(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_bound_to_the_version_it_was_decided_on() {
        let vmi = json!({"metadata": {"name": "a", "namespace": "default", "resourceVersion": "7"}});
        let Write::Patch { status, body, .. } =
            Write::patch_status(Kind::Vmi, &vmi, &json!({"phase": "Running"}))
        else {
            panic!("not a patch")
        };
        assert!(!status, "a VMI has no status subresource");
        assert_eq!(body, json!({"metadata": {"resourceVersion": "7"}, "status": {"phase": "Running"}}));
    }

    #[test]
    fn the_last_finalizer_gone_means_the_object_is_gone() {
        let deleting = json!({"metadata": {"name": "a", "deletionTimestamp": "t"}});
        assert!(matches!(learned(Kind::Vmi, deleting), Learned::Gone(..)));
        let held = json!({"metadata": {"name": "a", "deletionTimestamp": "t", "finalizers": ["f"]}});
        assert!(matches!(learned(Kind::Vmi, held), Learned::Now(..)));
    }
}
