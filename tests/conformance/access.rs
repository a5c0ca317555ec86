//! How the checks talk to a server: raw requests, so that codes and bodies are seen as they are.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// A client and a namespace that nobody else uses.
#[derive(Clone)]
pub(crate) struct Access {
    client: Client,
    /// The namespace.
    pub(crate) space: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// HTTP code.
    pub(crate) code: u16,
    /// Parsed body.
    pub(crate) body: Value,
}

impl Reply {
    /// The body of a request that was granted.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.code < 300, "refused: {self:#?}");
        self.body
    }

    /// A refusal with this code and reason, and a message that contains this.
    #[track_caller]
    pub(crate) fn refused(self, code: u16, reason: &str, message: &str) -> Value {
        let said = self.body["message"].as_str().unwrap_or_default().to_owned();
        let got = (self.code, self.body["reason"].as_str().unwrap_or_default());
        assert!(
            got == (code, reason) && said.contains(message),
            "want {code} {reason} {message:?}, got {self:#?}"
        );
        assert_eq!(self.body["code"], code);
        assert_eq!(self.body["status"], "Failure");
        self.body
    }
}

impl Access {
    /// Makes the namespace.
    pub(crate) async fn new(client: Client, name: &str) -> Self {
        let space = format!("check-{}", name.replace('_', "-"));
        let access = Self { client, space };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": access.space}});
        access.post("/api/v1/namespaces", &namespace).await.ok();
        access
    }

    /// Path of a core collection of the namespace.
    pub(crate) fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.space)
    }

    /// Path of a collection of the namespace in a group.
    pub(crate) fn group(&self, group: &str, rest: &str) -> String {
        format!("/apis/{group}/namespaces/{}/{rest}", self.space)
    }

    /// A request with a body of this type.
    pub(crate) async fn send(&self, method: Method, path: &str, content: &str, body: Vec<u8>) -> Reply {
        self.send_wanting("application/json", method, path, (content, body)).await
    }

    /// A request whose answer is to be of a type, with a body of another.
    pub(crate) async fn send_wanting(
        &self,
        accept: &str,
        method: Method,
        path: &str,
        (content, body): (&str, Vec<u8>),
    ) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .header("accept", accept)
            .body(Body::from(body))
            .expect("a request");
        let answer = timeout(PATIENCE, self.client.send(request)).await.expect("in time").expect("an answer");
        let code = answer.status().as_u16();
        let text: Bytes = answer.into_body().collect_bytes().await.expect("a body");
        let body = serde_json::from_slice(&text)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&text).into_owned()));
        Reply { code, body }
    }

    async fn json(&self, method: Method, path: &str, body: &Value) -> Reply {
        self.send(method, path, "application/json", body.to_string().into_bytes()).await
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "application/json", Vec::new()).await
    }

    /// POST.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.json(Method::POST, path, body).await
    }

    /// PUT.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.json(Method::PUT, path, body).await
    }

    /// DELETE with options.
    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Reply {
        self.json(Method::DELETE, path, options).await
    }

    /// PATCH with a merge patch.
    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Reply {
        self.patch(path, "application/merge-patch+json", body).await
    }

    /// PATCH with a JSON patch.
    pub(crate) async fn json_patch(&self, path: &str, body: &Value) -> Reply {
        self.patch(path, "application/json-patch+json", body).await
    }

    /// PATCH with any type.
    pub(crate) async fn patch(&self, path: &str, content: &str, body: &Value) -> Reply {
        self.send(Method::PATCH, path, content, body.to_string().into_bytes()).await
    }

    /// Creates a `ConfigMap`; gives it as stored.
    pub(crate) async fn config_map(&self, name: &str, extra: Value) -> Value {
        let mut body =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}});
        merge(&mut body, extra);
        self.post(&self.core("configmaps"), &body).await.ok()
    }

    /// Waits until the answer at a path satisfies.
    pub(crate) async fn until(&self, path: &str, what: &str, good: impl Fn(&Reply) -> bool) -> Value {
        let wait = async {
            loop {
                let reply = self.get(path).await;
                if good(&reply) {
                    return reply.body;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        if let Ok(body) = timeout(PATIENCE, wait).await {
            return body;
        }
        panic!("{what} at {path} in vain: {:#?}", self.get(path).await)
    }

    /// Waits until nothing is at the path.
    pub(crate) async fn until_gone(&self, path: &str) {
        self.until(path, "waited for the end", |reply| reply.code == 404).await;
    }

    /// Starts a watch; its lines as they come.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        let request = Request::get(path).body(Vec::new()).expect("a request");
        let lines =
            timeout(PATIENCE, self.client.request_stream(request)).await.expect("in time").expect("a watch");
        Watch(Box::pin(lines.lines().map_err(|error| panic!("{error}"))).boxed())
    }
}

/// Events of a watch.
pub(crate) struct Watch(BoxStream<'static, Result<String, ()>>);

impl Watch {
    /// The next event; none when the server ends the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let line = timeout(PATIENCE, self.0.next()).await.expect("an event in time")?.expect("a line");
        Some(serde_json::from_str(&line).expect("JSON"))
    }

    /// Type and name of the next events, with a field of each.
    pub(crate) async fn events(&mut self, count: usize, pointer: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..count {
            let event = self.next().await.expect("more events");
            let field = match event["object"].pointer(pointer) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
            seen.push(
                format!("{} {name} {field}", event["type"].as_str().unwrap_or_default()).trim().to_owned(),
            );
        }
        seen
    }
}

/// Adds fields to an object.
pub(crate) fn merge(into: &mut Value, extra: Value) {
    match (into, extra) {
        (Value::Object(into), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, extra) => *into = extra,
    }
}

/// The resourceVersion of an object.
pub(crate) fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().expect("a version")
}

/// A named check for a list of them.
#[macro_export]
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// The checks of this file.
        pub(crate) fn checks() -> Vec<(&'static str, $crate::Check)> {
            vec![$((stringify!($name), |access| Box::pin($name(access)))),*]
        }
    };
}
