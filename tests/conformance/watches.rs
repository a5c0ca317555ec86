//! Watches.

use serde_json::{Value, json};

use super::access::{Access, version};

crate::checks![
    a_watch_goes_on_from_a_list,
    a_watch_without_a_version_begins_with_what_is_there,
    a_selector_shows_comings_and_goings,
    a_watch_of_one_name,
    a_watch_ends_in_time_with_a_bookmark,
    initial_events_end_with_a_bookmark,
    watches_from_long_ago_are_gone,
    deleted_events_carry_the_last_state,
    watches_of_all_namespaces,
];

async fn now(at: &Access) -> String {
    version(&at.get(&at.core("configmaps")).await.ok()).to_owned()
}

async fn a_watch_goes_on_from_a_list(at: Access) {
    at.config_map("old", json!({})).await;
    let from = now(&at).await;
    at.config_map("a", json!({})).await;
    let path = at.core("configmaps");
    let mut watch = at
        .watch(&format!(
            "{path}?watch=true&resourceVersion={from}&fieldSelector=metadata.name%21%3Dkube-root-ca.crt"
        ))
        .await;
    at.merge(&format!("{path}/a"), &json!({"data": {"a": "2"}})).await.ok();
    at.merge(&format!("{path}/a"), &json!({"data": {"a": "2"}})).await.ok();
    at.delete(&format!("{path}/a"), &json!({})).await.ok();
    at.config_map("b", json!({})).await;
    let events = watch.events(4, "/data/a").await;
    assert_eq!(events, ["ADDED a 1", "MODIFIED a 2", "DELETED a 2", "ADDED b 1"]);
}

async fn a_watch_without_a_version_begins_with_what_is_there(at: Access) {
    at.config_map("a", json!({"metadata": {"labels": {"x": "1"}}})).await;
    at.config_map("b", json!({"metadata": {"labels": {"x": "1"}}})).await;
    let mut watch = at.watch(&format!("{}?watch=true&labelSelector=x", at.core("configmaps"))).await;
    let mut events = watch.events(2, "").await;
    events.sort();
    assert_eq!(events.iter().map(|event| &event[..7]).collect::<Vec<_>>(), ["ADDED a", "ADDED b"]);
}

async fn a_selector_shows_comings_and_goings(at: Access) {
    let from = now(&at).await;
    let path = at.core("configmaps");
    let mut watch = at.watch(&format!("{path}?watch=true&resourceVersion={from}&labelSelector=x%3D1")).await;
    at.config_map("a", json!({})).await;
    let label = |value: Value| json!({"metadata": {"labels": {"x": value}}});
    at.merge(&format!("{path}/a"), &label(json!("1"))).await.ok();
    at.merge(&format!("{path}/a"), &json!({"data": {"a": "2"}})).await.ok();
    let gone = at.merge(&format!("{path}/a"), &label(json!("2"))).await.ok();
    at.merge(&format!("{path}/a"), &label(json!("1"))).await.ok();
    let events = watch.events(2, "/metadata/labels/x").await;
    assert_eq!(events, ["ADDED a 1", "MODIFIED a 1"]);
    let left = watch.next().await.unwrap();
    assert_eq!((&left["type"], &left["object"]["metadata"]["labels"]["x"]), (&json!("DELETED"), &json!("1")));
    assert_eq!(version(&left["object"]), version(&gone));
    assert_eq!(watch.events(1, "/metadata/labels/x").await, ["ADDED a 1"]);
}

async fn a_watch_of_one_name(at: Access) {
    let from = now(&at).await;
    let path = at.core("configmaps");
    let mut watch =
        at.watch(&format!("{path}?watch=true&resourceVersion={from}&fieldSelector=metadata.name%3Db")).await;
    for name in ["a", "b", "c"] {
        at.config_map(name, json!({})).await;
    }
    at.delete(&format!("{path}/b"), &json!({})).await.ok();
    assert_eq!(watch.events(2, "/data/a").await, ["ADDED b 1", "DELETED b 1"]);
}

async fn a_watch_ends_in_time_with_a_bookmark(at: Access) {
    let from = now(&at).await;
    let path = format!("{}?watch=true&resourceVersion={from}&timeoutSeconds=3", at.core("secrets"));
    let mut watch = at.watch(&path).await;
    assert!(watch.next().await.is_none());
    let mut watch = at.watch(&format!("{path}&allowWatchBookmarks=true")).await;
    let mut kinds = Vec::new();
    while let Some(event) = watch.next().await {
        assert_eq!(event["object"]["kind"], "Secret");
        assert!(version(&event["object"]).parse::<u64>().unwrap() >= from.parse().unwrap());
        kinds.push(event["type"].clone());
    }
    assert!(kinds.iter().all(|kind| kind == "BOOKMARK"), "{kinds:?}");
}

async fn initial_events_end_with_a_bookmark(at: Access) {
    at.config_map("a", json!({"metadata": {"labels": {"x": "1"}}})).await;
    let path = at.core("configmaps");
    let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&labelSelector=x";
    let mut watch = at.watch(&format!("{path}?{query}&resourceVersionMatch=NotOlderThan")).await;
    let first = watch.next().await.unwrap();
    if first["type"] == "ERROR" {
        // A real server above an etcd that does not tell its progress cannot do it; clients list then.
        return;
    }
    assert_eq!(first["object"]["metadata"]["name"], "a");
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    at.config_map("b", json!({"metadata": {"labels": {"x": "1"}}})).await;
    // Later bookmarks come when they come.
    let added = loop {
        let event = watch.next().await.unwrap();
        if event["type"] != "BOOKMARK" {
            break event;
        }
    };
    assert_eq!((&added["type"], &added["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("b")));
    assert_eq!(added["object"]["data"]["a"], "1");
    let reply = at.get(&format!("{path}?{query}")).await;
    reply.refused(422, "Invalid", "sendInitialEvents");
}

/// The real server forgets after minutes; what it says then is the same for a version before its first.
async fn watches_from_long_ago_are_gone(at: Access) {
    let path = format!("{}?watch=true&resourceVersion=99999999&timeoutSeconds=1", at.core("configmaps"));
    let reply = at.get(&path).await;
    let (code, told) = (reply.code, reply.body.to_string());
    assert!(code == 504 || told.contains("Too large resource version") || told == "\"\"", "{code} {told}");
}

async fn deleted_events_carry_the_last_state(at: Access) {
    let made = at.config_map("a", json!({"metadata": {"finalizers": ["check.example.com/one"]}})).await;
    let path = at.core("configmaps");
    let from = version(&made);
    let mut watch =
        at.watch(&format!("{path}?watch=true&resourceVersion={from}&fieldSelector=metadata.name%3Da")).await;
    at.delete(&format!("{path}/a"), &json!({})).await.ok();
    at.merge(&format!("{path}/a"), &json!({"metadata": {"finalizers": null}, "data": {"a": "9"}})).await.ok();
    let marked = watch.next().await.unwrap();
    assert_eq!(marked["type"], "MODIFIED");
    assert!(marked["object"]["metadata"]["deletionTimestamp"].is_string());
    let gone = watch.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert!(version(&gone["object"]).parse::<u64>().unwrap() > version(&marked["object"]).parse().unwrap());
}

async fn watches_of_all_namespaces(at: Access) {
    let from = now(&at).await;
    let selector = format!("labelSelector=space%3D{}", at.space);
    let mut watch =
        at.watch(&format!("/api/v1/configmaps?watch=true&resourceVersion={from}&{selector}")).await;
    at.config_map("a", json!({"metadata": {"labels": {"space": at.space}}})).await;
    assert_eq!(watch.events(1, "/metadata/namespace").await, [format!("ADDED a {}", at.space)]);
}
