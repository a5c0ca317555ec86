//! What only simulators use of the server: forks, subscriptions, handlers, and that a seed decides everything.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use http::Method;
use serde_json::{Value, json};

use super::*;

const NODES: &str = "/api/v1/nodes";

fn clock() -> Clock {
    Clock::from("2026-01-01T00:00:00Z".parse().unwrap(), tokio::time::Instant::now())
}

fn server() -> ApiServer {
    ApiServer::new(clock(), 7)
}

fn node(server: &ApiServer, name: &str) -> Object {
    let node = json!({"metadata": {"name": name, "labels": {"zone": "a"}}, "spec": {"podCIDR": "x"}});
    server.call(&Method::POST, NODES, &node).unwrap()
}

fn label(server: &ApiServer, name: &str, zone: &str) -> Object {
    let patch = json!({"metadata": {"labels": {"zone": zone}}});
    server.call(&Method::PATCH, &format!("{NODES}/{name}"), &patch).unwrap()
}

fn zone(server: &ApiServer, name: &str) -> Value {
    server.get_object("", "nodes", "", name).unwrap()["metadata"]["labels"]["zone"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_fork_goes_its_own_way() {
    let base = server();
    for name in ["n1", "n2"] {
        node(&base, name);
    }
    let mut heard = base.subscribe("", "nodes");
    while heard.try_next().is_some() {}
    let fork = base.fork(clock());
    assert_eq!(fork.resource_version(), base.resource_version());
    let elsewhere = fork.clone();
    std::thread::spawn(move || label(&elsewhere, "n1", "b")).join().unwrap();
    assert_eq!((zone(&base, "n1"), zone(&fork, "n1")), (json!("a"), json!("b")));
    assert!(heard.try_next().is_none(), "who watches the one hears nothing of the other");
    base.call(&Method::DELETE, "/api/v1/nodes/n2", &Value::Null).unwrap();
    assert_eq!(zone(&fork, "n2"), "a");
    assert_eq!(fork.list_objects("", "nodes", "", "zone=a").len(), 1, "its index is its own");
    // New uids go on where the base was, the same in every fork.
    let twin = base.fork(clock());
    assert_eq!(node(&twin, "n3")["metadata"]["uid"], node(&base, "n3")["metadata"]["uid"]);
}

#[tokio::test(start_paused = true)]
async fn a_fork_and_a_compacted_server_have_no_past() {
    let server = server();
    node(&server, "n1");
    let then = server.resource_version();
    label(&server, "n1", "b");
    let client = server.client();
    let parameters = kube::api::WatchParams::default();
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
    let first = |nodes: kube::Api<_>, version: u64| {
        let parameters = parameters.clone();
        async move {
            let mut events = std::pin::pin!(nodes.watch(&parameters, &version.to_string()).await.unwrap());
            futures::StreamExt::next(&mut events).await.unwrap().unwrap()
        }
    };
    let event = first(nodes.clone(), then).await;
    assert!(matches!(event, kube::api::WatchEvent::Modified(_)), "{event:?}");
    server.compact();
    let fork = server.fork(clock());
    for nodes in [nodes, kube::Api::all(fork.client())] {
        let kube::api::WatchEvent::Error(status) = first(nodes, then).await else { panic!("not refused") };
        assert_eq!(status.code, 410);
    }
}

#[tokio::test(start_paused = true)]
async fn old_versions_can_be_had_again() {
    let server = server();
    node(&server, "n1");
    let mut versions = Vec::new();
    for zone in ["b", "c", "d"] {
        versions.push((server.resource_version(), server.get_object("", "nodes", "", "n1").unwrap()));
        label(&server, "n1", zone);
    }
    server.cool();
    server.call(&Method::DELETE, "/api/v1/nodes/n1", &Value::Null).unwrap();
    for (version, then) in versions {
        let path = format!("{NODES}?resourceVersion={version}&resourceVersionMatch=Exact");
        let list = server.call(&Method::GET, &path, &Value::Null).unwrap();
        assert_eq!(list["items"], json!([*then]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_tells_everything_in_order() {
    let server = server();
    let before = node(&server, "n1");
    let mut heard = server.subscribe("", "nodes");
    let after = label(&server, "n1", "b");
    label(&server, "n1", "b");
    server.call(&Method::DELETE, "/api/v1/nodes/n1", &Value::Null).unwrap();
    assert!(matches!(heard.try_next(), Some(Event::Added(node)) if node == before));
    let Some(Event::Modified(node, Some(changes))) = heard.try_next() else { panic!("no change") };
    assert_eq!(node, after);
    let version: &[&str] = &["metadata", "resourceVersion"];
    assert!(changes.only_at(&[version, &["metadata", "labels"]]) && !changes.only_at(&[version]));
    assert!(matches!(heard.try_next(), Some(Event::Deleted(_))), "a write that changes nothing is no event");
    assert!(heard.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_handler_answers_under_its_prefix() {
    let server = server();
    let handler: Aggregated = Arc::new(|request| {
        let path = request.uri().path().to_owned();
        async move { http::Response::new(Bytes::from(json!({"path": path}).to_string())) }.boxed()
    });
    server.aggregate("/apis/subresources.kubevirt.io/", handler);
    let client = server.client();
    let ask = |path: &str| client.request::<Value>(http::Request::get(path).body(Vec::new()).unwrap());
    let path = "/apis/subresources.kubevirt.io/v1/x";
    assert_eq!(ask(path).await.unwrap()["path"], path);
    assert_eq!(ask("/api/v1/nodes").await.unwrap()["kind"], "NodeList");
    assert_eq!(server.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_cooled_reads_the_same() {
    let (warm, cool) = (server(), server());
    for server in [&warm, &cool] {
        node(server, "n1");
        label(server, "n1", "b");
    }
    cool.cool();
    let nodes = cool.shared.store().place("", "nodes").unwrap();
    assert!(!cool.shared.store().get(nodes, "n1").unwrap().is_warm());
    for server in [&warm, &cool] {
        label(server, "n1", "c");
        label(server, "n1", "d");
    }
    let [one, other] = [&warm, &cool].map(|server| server.get_object("", "nodes", "", "n1").unwrap());
    assert_eq!(one.text(), other.text());
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_bytes() {
    let clock = clock();
    let [one, other] = [(), ()].map(|()| {
        let server = ApiServer::new(clock, 3);
        let pod = json!({"metadata": {"generateName": "p-"}, "spec": {"containers": [{"name": "c"}]}});
        let made = server.call(&Method::POST, "/api/v1/namespaces/default/pods", &pod).unwrap();
        label(&server, node(&server, "n1")["metadata"]["name"].as_str().unwrap(), "z");
        let nodes = server.call(&Method::GET, NODES, &Value::Null).unwrap();
        format!("{made:?}{nodes:?}")
    });
    assert_eq!(one, other);
}

#[tokio::test(start_paused = true)]
async fn budgets_are_found_by_what_they_ask_for_now() {
    let server = server();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n1"}, "status": {"phase": "Running"},
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web", "zone": "a"}}});
    server.load(pod).unwrap();
    let budget = |selector: Value| {
        server
            .load(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"selector": selector},
                "metadata": {"name": "web", "namespace": "default", "generation": 1},
                "status": {"observedGeneration": 1, "disruptionsAllowed": 0}}))
            .unwrap()
    };
    let evicted = || {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}});
        let path = "/api/v1/namespaces/default/pods/web/eviction?dryRun=All";
        server.call(&Method::POST, path, &eviction).map(drop).map_err(|refusal| refusal.code)
    };
    for selector in [
        json!({"matchLabels": {"app": "web"}}),
        json!({"matchLabels": {"app": "web", "zone": "a"}}),
        json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}),
        json!({}),
    ] {
        budget(selector.clone());
        assert_eq!(evicted(), Err(429), "{selector}");
    }
    for selector in
        [json!({"matchLabels": {"app": "db"}}), json!({"matchLabels": {"app": "web", "zone": "b"}})]
    {
        budget(selector.clone());
        assert_eq!(evicted(), Ok(()), "{selector}");
    }
    // A patch of what it asks for counts at once.
    let body = json!({"spec": {"selector": {"matchLabels": {"app": "web", "zone": "a"}}}});
    let path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web";
    server.call(&Method::PATCH, path, &body).unwrap();
    assert_eq!(evicted(), Err(429));
}

#[tokio::test(start_paused = true)]
async fn who_follows_hears_of_changes_only() {
    let server = server();
    node(&server, "n1");
    let mut heard = server.follow("", "nodes");
    assert!(heard.try_next().is_none());
    let changed = label(&server, "n1", "b");
    assert!(matches!(heard.try_next(), Some(Event::Modified(node, _)) if node == changed));
}
