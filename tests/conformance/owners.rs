//! Owners, dependents and the garbage collector.

use serde_json::{Value, json};

use super::access::Access;

crate::checks![
    background_deletion_takes_dependents_along,
    foreground_deletion_waits_for_blocking_dependents,
    orphaned_dependents_stay,
    a_second_owner_keeps_a_dependent,
    a_dependent_of_nobody_is_collected,
    finalizers_delay_the_collector,
];

fn owner(object: &Value, block: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": object["metadata"]["name"], "uid": object["metadata"]["uid"],
        "blockOwnerDeletion": block})
}

async fn dependent(at: &Access, name: &str, owners: &[Value], finalizers: &[&str]) -> Value {
    at.config_map(name, json!({"metadata": {"ownerReferences": owners, "finalizers": finalizers}})).await
}

async fn background_deletion_takes_dependents_along(at: Access) {
    let top = at.config_map("top", json!({})).await;
    let middle = dependent(&at, "middle", &[owner(&top, true)], &[]).await;
    dependent(&at, "leaf", &[owner(&middle, true)], &[]).await;
    at.delete(&at.core("configmaps/top"), &json!({"propagationPolicy": "Background"})).await.ok();
    assert_eq!(at.get(&at.core("configmaps/top")).await.code, 404);
    at.until_gone(&at.core("configmaps/middle")).await;
    at.until_gone(&at.core("configmaps/leaf")).await;
}

async fn foreground_deletion_waits_for_blocking_dependents(at: Access) {
    let top = at.config_map("top", json!({})).await;
    dependent(&at, "blocking", &[owner(&top, true)], &["check.example.com/one"]).await;
    dependent(&at, "other", &[owner(&top, false)], &["check.example.com/one"]).await;
    let marked =
        at.delete(&at.core("configmaps/top"), &json!({"propagationPolicy": "Foreground"})).await.ok();
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    for name in ["configmaps/blocking", "configmaps/other"] {
        let deleting = |reply: &super::access::Reply| reply.body["metadata"]["deletionTimestamp"].is_string();
        at.until(&at.core(name), "waited for the deletion", deleting).await;
    }
    assert_eq!(at.get(&at.core("configmaps/top")).await.code, 200);
    at.merge(&at.core("configmaps/blocking"), &json!({"metadata": {"finalizers": null}})).await.ok();
    at.until_gone(&at.core("configmaps/blocking")).await;
    at.until_gone(&at.core("configmaps/top")).await;
    assert_eq!(at.get(&at.core("configmaps/other")).await.code, 200);
}

async fn orphaned_dependents_stay(at: Access) {
    let top = at.config_map("top", json!({})).await;
    dependent(&at, "leaf", &[owner(&top, true)], &[]).await;
    let marked = at.delete(&at.core("configmaps/top"), &json!({"propagationPolicy": "Orphan"})).await.ok();
    assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]));
    at.until_gone(&at.core("configmaps/top")).await;
    let leaf = at.get(&at.core("configmaps/leaf")).await.ok();
    assert!(leaf["metadata"].get("ownerReferences").is_none());
}

async fn a_second_owner_keeps_a_dependent(at: Access) {
    let (one, two) = (at.config_map("one", json!({})).await, at.config_map("two", json!({})).await);
    dependent(&at, "leaf", &[owner(&one, true), owner(&two, true)], &[]).await;
    at.delete(&at.core("configmaps/one"), &json!({})).await.ok();
    let single = |reply: &super::access::Reply| {
        reply.body["metadata"]["ownerReferences"].as_array().is_some_and(|owners| owners.len() == 1)
    };
    let leaf = at.until(&at.core("configmaps/leaf"), "waited for one owner", single).await;
    assert_eq!(leaf["metadata"]["ownerReferences"][0]["name"], "two");
    at.delete(&at.core("configmaps/two"), &json!({})).await.ok();
    at.until_gone(&at.core("configmaps/leaf")).await;
}

async fn a_dependent_of_nobody_is_collected(at: Access) {
    let ghost = json!({"metadata": {"name": "ghost", "uid": "7f1a9c1e-7c0f-4c33-8b3a-1f8f2f0a0001"}});
    dependent(&at, "leaf", &[owner(&ghost, false)], &[]).await;
    at.until_gone(&at.core("configmaps/leaf")).await;
}

async fn finalizers_delay_the_collector(at: Access) {
    let top = at.config_map("top", json!({})).await;
    dependent(&at, "leaf", &[owner(&top, false)], &["check.example.com/one"]).await;
    at.delete(&at.core("configmaps/top"), &json!({})).await.ok();
    let deleting = |reply: &super::access::Reply| reply.body["metadata"]["deletionTimestamp"].is_string();
    at.until(&at.core("configmaps/leaf"), "waited for the deletion", deleting).await;
    at.merge(&at.core("configmaps/leaf"), &json!({"metadata": {"finalizers": null}})).await.ok();
    at.until_gone(&at.core("configmaps/leaf")).await;
}
