//! Deletion and finalizers.

use serde_json::json;

use super::access::{Access, version};

crate::checks![
    delete_answers_with_a_status,
    delete_checks_preconditions,
    finalizers_hold_an_object,
    no_new_finalizers_while_deleting,
    delete_collection_takes_the_selected,
    delete_with_a_strange_policy_is_refused,
    a_namespace_takes_its_content_along,
];

async fn delete_answers_with_a_status(at: Access) {
    let made = at.config_map("a", json!({})).await;
    let answer = at.delete(&at.core("configmaps/a"), &json!({})).await;
    assert_eq!((answer.code, &answer.body["status"]), (200, &json!("Success")));
    let details = json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]});
    assert_eq!(answer.body["details"], details);
    assert_eq!(at.get(&at.core("configmaps/a")).await.code, 404);
}

async fn delete_checks_preconditions(at: Access) {
    let made = at.config_map("a", json!({})).await;
    let path = at.core("configmaps/a");
    let uid = made["metadata"]["uid"].as_str().unwrap();
    at.delete(&path, &json!({"preconditions": {"uid": "another"}})).await.refused(
        409,
        "Conflict",
        &format!("the UID in the precondition (another) does not match the UID in record ({uid}). The object might have been deleted and then recreated"),
    );
    at.delete(&path, &json!({"preconditions": {"resourceVersion": "1"}})).await.refused(
        409,
        "Conflict",
        "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record",
    );
    at.delete(&path, &json!({"preconditions": {"uid": uid, "resourceVersion": version(&made)}})).await.ok();
}

async fn finalizers_hold_an_object(at: Access) {
    at.config_map(
        "a",
        json!({"metadata": {"finalizers": ["check.example.com/one", "check.example.com/two"]}}),
    )
    .await;
    let path = at.core("configmaps/a");
    let marked = at.delete(&path, &json!({})).await;
    assert_eq!(marked.code, 200);
    let meta = &marked.body["metadata"];
    assert!(meta["deletionTimestamp"].is_string(), "{marked:?}");
    assert_eq!(meta["deletionGracePeriodSeconds"], 0);
    let again = at.delete(&path, &json!({})).await.ok();
    assert_eq!(version(&again), version(&marked.body));
    at.merge(&path, &json!({"metadata": {"finalizers": ["check.example.com/two"]}})).await.ok();
    assert_eq!(at.get(&path).await.code, 200);
    let last = at.json_patch(&path, &json!([{"op": "remove", "path": "/metadata/finalizers"}])).await;
    assert_eq!(last.code, 200);
    assert_eq!(at.get(&path).await.code, 404);
}

async fn no_new_finalizers_while_deleting(at: Access) {
    at.config_map("a", json!({"metadata": {"finalizers": ["check.example.com/one"]}})).await;
    let path = at.core("configmaps/a");
    at.delete(&path, &json!({})).await.ok();
    let patch = json!({"metadata": {"finalizers": ["check.example.com/one", "check.example.com/new"]}});
    let refusal = at.merge(&path, &patch).await.refused(
        422,
        "Invalid",
        "ConfigMap \"a\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"check.example.com/new\"}",
    );
    assert_eq!(refusal["details"]["causes"][0]["reason"], "FieldValueForbidden");
    at.merge(&path, &json!({"data": {"still": "writable"}})).await.ok();
}

async fn delete_collection_takes_the_selected(at: Access) {
    for (name, x) in [("a", "1"), ("b", "2"), ("c", "1")] {
        at.config_map(name, json!({"metadata": {"labels": {"x": x}}})).await;
    }
    at.delete(&format!("{}?labelSelector=x%3D1", at.core("configmaps")), &json!({})).await.ok();
    let list = at.get(&format!("{}?labelSelector=x", at.core("configmaps"))).await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
}

async fn delete_with_a_strange_policy_is_refused(at: Access) {
    at.config_map("a", json!({})).await;
    let reply = at.delete(&at.core("configmaps/a"), &json!({"propagationPolicy": "Sometimes"})).await;
    reply.refused(422, "Invalid", "propagationPolicy");
}

async fn a_namespace_takes_its_content_along(at: Access) {
    at.config_map("a", json!({"metadata": {"finalizers": ["check.example.com/one"]}})).await;
    at.config_map("b", json!({})).await;
    let path = format!("/api/v1/namespaces/{}", at.space);
    let marked = at.delete(&path, &json!({})).await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    at.until_gone(&at.core("configmaps/b")).await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}});
    let refusal = at.post(&at.core("configmaps"), &body).await;
    refusal.refused(403, "Forbidden", "because it is being terminated");
    at.merge(&at.core("configmaps/a"), &json!({"metadata": {"finalizers": null}})).await.ok();
    at.until_gone(&path).await;
}
