//! Server-side apply.

use serde_json::{Value, json};

use super::access::{Access, Reply, version};

crate::checks![
    apply_creates_and_merges,
    apply_conflicts_with_other_managers,
    apply_removes_what_is_no_longer_applied,
    apply_needs_a_manager,
    a_write_takes_a_field_from_its_applier,
];

async fn apply(at: &Access, query: &str, data: Value) -> Reply {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let path = format!("{}?{query}", at.core("configmaps/a"));
    at.patch(&path, "application/apply-patch+yaml", &body).await
}

async fn apply_creates_and_merges(at: Access) {
    let made = apply(&at, "fieldManager=one", json!({"a": "1"})).await;
    assert_eq!((made.code, &made.body["data"]), (201, &json!({"a": "1"})));
    let books = &made.body["metadata"]["managedFields"][0];
    assert_eq!((&books["manager"], &books["operation"]), (&json!("one"), &json!("Apply")));
    let both = apply(&at, "fieldManager=two", json!({"b": "2"})).await;
    assert_eq!((both.code, &both.body["data"]), (200, &json!({"a": "1", "b": "2"})));
    let again = apply(&at, "fieldManager=two", json!({"b": "2"})).await.ok();
    assert_eq!(version(&again), version(&both.body), "nothing changed");
}

async fn apply_conflicts_with_other_managers(at: Access) {
    apply(&at, "fieldManager=one", json!({"a": "1"})).await.ok();
    let refusal = apply(&at, "fieldManager=two", json!({"a": "2"})).await;
    let refusal =
        refusal.refused(409, "Conflict", "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let cause = &refusal["details"]["causes"][0];
    assert_eq!((&cause["reason"], &cause["field"]), (&json!("FieldManagerConflict"), &json!(".data.a")));
    let forced = apply(&at, "fieldManager=two&force=true", json!({"a": "2"})).await.ok();
    assert_eq!(forced["data"]["a"], "2");
    apply(&at, "fieldManager=one", json!({"a": "1"})).await.refused(409, "Conflict", "conflict with \"two\"");
}

async fn apply_removes_what_is_no_longer_applied(at: Access) {
    apply(&at, "fieldManager=one", json!({"a": "1", "b": "2", "c": "3"})).await.ok();
    apply(&at, "fieldManager=two", json!({"c": "3"})).await.ok();
    let less = apply(&at, "fieldManager=one", json!({"a": "1"})).await.ok();
    assert_eq!(less["data"], json!({"a": "1", "c": "3"}), "c has another owner");
}

async fn apply_needs_a_manager(at: Access) {
    let reply = apply(&at, "force=true", json!({"a": "1"})).await;
    reply.refused(422, "Invalid", "fieldManager: Required value: is required for apply patch");
}

async fn a_write_takes_a_field_from_its_applier(at: Access) {
    apply(&at, "fieldManager=one", json!({"a": "1"})).await.ok();
    at.merge(&at.core("configmaps/a"), &json!({"data": {"a": "2", "w": "1"}})).await.ok();
    let refusal = apply(&at, "fieldManager=one", json!({"a": "1"})).await;
    refusal.refused(409, "Conflict", "Apply failed with 1 conflict");
    let kept = apply(&at, "fieldManager=one", json!({"b": "1"})).await.ok();
    assert_eq!(kept["data"], json!({"a": "2", "b": "1", "w": "1"}), "what was taken is not removed");
}
