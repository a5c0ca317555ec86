//! Custom resources: `widgets` have a status subresource, `gadgets` have none.

use kube::Client;
use serde_json::{Value, json};

use super::access::{Access, version};

crate::checks![
    generation_of_whole_objects_rises_on_any_change,
    generation_rises_on_spec_not_on_status,
    status_is_written_apart,
    status_patches_leave_metadata_alone,
    without_the_subresource_there_is_no_status_path,
    custom_resources_need_a_version_to_be_replaced,
    selectable_fields_select,
    strategic_merge_is_not_for_custom_resources,
    a_definition_is_discovered,
    apply_creates_custom_resources,
    patches_of_custom_resources_check_version_and_uid,
];

/// Defines both kinds.
pub(crate) async fn define(client: &Client) {
    let at = Access::new(client.clone(), "definitions").await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"nodeName": {"type": "string"}}}}}});
    for (plural, kind, subresources) in
        [("widgets", "Widget", json!({"status": {}})), ("gadgets", "Gadget", json!({}))]
    {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.check.example.com")},
            "spec": {
                "group": "check.example.com", "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema,
                    "subresources": subresources, "selectableFields": [{"jsonPath": ".spec.nodeName"}]}],
            },
        });
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        at.post(path, &definition).await.ok();
        let path = format!("{path}/{plural}.check.example.com");
        at.until(&path, "waited to be served", |reply| {
            let conditions = reply.body["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True")
        })
        .await;
        at.until(&at.group("check.example.com/v1", plural), "waited for the list", |reply| reply.code == 200)
            .await;
    }
}

fn widgets(at: &Access, rest: &str) -> String {
    at.group("check.example.com/v1", &format!("widgets{rest}"))
}

fn gadgets(at: &Access, rest: &str) -> String {
    at.group("check.example.com/v1", &format!("gadgets{rest}"))
}

fn object(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "check.example.com/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"size": 1, "nodeName": "n1"}, "status": {"phase": "New"}})
}

async fn generation_of_whole_objects_rises_on_any_change(at: Access) {
    let made = at.post(&gadgets(&at, ""), &object("Gadget", "a")).await.ok();
    assert_eq!((&made["metadata"]["generation"], &made["status"]["phase"]), (&json!(1), &json!("New")));
    let path = gadgets(&at, "/a");
    let labelled = at.merge(&path, &json!({"metadata": {"labels": {"x": "y"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let status = at.merge(&path, &json!({"status": {"phase": "Old"}})).await.ok();
    assert_eq!((&status["metadata"]["generation"], &status["status"]["phase"]), (&json!(2), &json!("Old")));
    let spec = at.merge(&path, &json!({"spec": {"size": 2}})).await.ok();
    assert_eq!(spec["metadata"]["generation"], 3);
    let mut bare = spec.clone();
    bare.as_object_mut().unwrap().remove("status");
    let bare = at.put(&path, &bare).await.ok();
    assert!(bare.get("status").is_none(), "a PUT without it erases it");
    assert_eq!(bare["metadata"]["generation"], 4);
}

async fn generation_rises_on_spec_not_on_status(at: Access) {
    let made = at.post(&widgets(&at, ""), &object("Widget", "a")).await.ok();
    assert!(made.get("status").is_none(), "{made}");
    let path = widgets(&at, "/a");
    let same =
        at.merge(&path, &json!({"status": {"phase": "Old"}, "metadata": {"labels": {"x": "y"}}})).await.ok();
    assert_eq!(same["metadata"]["generation"], 1);
    let other = at.merge(&path, &json!({"other": {"x": 1}})).await.ok();
    assert_eq!(other["metadata"]["generation"], 2);
    let spec = at.merge(&path, &json!({"spec": {"size": 2}})).await.ok();
    assert_eq!(spec["metadata"]["generation"], 3);
}

async fn status_is_written_apart(at: Access) {
    at.post(&widgets(&at, ""), &object("Widget", "a")).await.ok();
    let path = widgets(&at, "/a");
    let status = at
        .merge(&format!("{path}/status"), &json!({"status": {"phase": "Old"}, "spec": {"size": 9}}))
        .await
        .ok();
    assert_eq!((&status["status"]["phase"], &status["spec"]["size"]), (&json!("Old"), &json!(1)));
    assert_eq!(status["metadata"]["generation"], 1);
    let mut new = status.clone();
    new["status"] = json!({"phase": "Newer"});
    new["spec"]["size"] = json!(3);
    let put = at.put(&path, &new).await.ok();
    assert_eq!((&put["status"]["phase"], &put["spec"]["size"]), (&json!("Old"), &json!(3)));
    assert_eq!(at.get(&format!("{path}/status")).await.ok()["status"]["phase"], "Old");
    new["metadata"]["resourceVersion"] = put["metadata"]["resourceVersion"].clone();
    let put = at.put(&format!("{path}/status"), &new).await.ok();
    assert_eq!(put["status"]["phase"], "Newer");
    let old = json!({"metadata": {"resourceVersion": version(&status)}, "status": {"phase": "Stale"}});
    at.merge(&format!("{path}/status"), &old).await.refused(409, "Conflict", "the object has been modified");
}

async fn status_patches_leave_metadata_alone(at: Access) {
    at.post(&widgets(&at, ""), &object("Widget", "a")).await.ok();
    let path = widgets(&at, "/a/status");
    let patch = json!({"metadata": {"labels": {"x": "y"}}, "status": {"phase": "Old"}});
    let new = at.merge(&path, &patch).await.ok();
    assert!(new["metadata"].get("labels").is_none());
}

async fn without_the_subresource_there_is_no_status_path(at: Access) {
    at.post(&gadgets(&at, ""), &object("Gadget", "a")).await.ok();
    let refusal = at.merge(&gadgets(&at, "/a/status"), &json!({"status": {}})).await;
    refusal.refused(404, "NotFound", "gadgets.check.example.com \"a\" not found");
}

async fn custom_resources_need_a_version_to_be_replaced(at: Access) {
    let made = at.post(&gadgets(&at, ""), &object("Gadget", "a")).await.ok();
    let path = gadgets(&at, "/a");
    let refusal = at.put(&path, &object("Gadget", "a")).await;
    refusal.refused(
        422,
        "Invalid",
        "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
    );
    at.put(&path, &made).await.ok();
    let refusal = at.get(&gadgets(&at, "/none")).await;
    let refusal = refusal.refused(404, "NotFound", "gadgets.check.example.com \"none\" not found");
    assert_eq!(refusal["details"], json!({"name": "none", "group": "check.example.com", "kind": "gadgets"}));
}

async fn selectable_fields_select(at: Access) {
    for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n1")] {
        let mut gadget = object("Gadget", name);
        gadget["spec"]["nodeName"] = json!(node);
        at.post(&gadgets(&at, ""), &gadget).await.ok();
    }
    let list = at.get(&gadgets(&at, "?fieldSelector=spec.nodeName%3Dn1")).await.ok();
    let names: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()).collect();
    assert_eq!(names, [json!("a"), json!("c")]);
    let refusal = at.get(&gadgets(&at, "?fieldSelector=spec.size%3D1")).await;
    refusal.refused(400, "BadRequest", "field label not supported: spec.size");
}

async fn strategic_merge_is_not_for_custom_resources(at: Access) {
    at.post(&gadgets(&at, ""), &object("Gadget", "a")).await.ok();
    let reply = at.patch(&gadgets(&at, "/a"), "application/strategic-merge-patch+json", &json!({})).await;
    reply.refused(415, "UnsupportedMediaType", "the body of the request was in an unknown format");
}

async fn a_definition_is_discovered(at: Access) {
    let path = "/apis/check.example.com/v1";
    let both =
        |reply: &super::access::Reply| reply.body["resources"].as_array().is_some_and(|list| list.len() == 3);
    let found = at.until(path, "waited for both kinds", both).await;
    let mut names: Vec<_> = found["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["gadgets", "widgets", "widgets/status"]);
    assert_eq!(at.get("/apis/check.example.com").await.ok()["preferredVersion"]["version"], "v1");
}

async fn patches_of_custom_resources_check_version_and_uid(at: Access) {
    let made = at.post(&gadgets(&at, ""), &object("Gadget", "a")).await.ok();
    let path = gadgets(&at, "/a");
    let uid = json!({"metadata": {"uid": "another"}, "spec": {"size": 2}});
    let refusal = at.merge(&path, &uid).await;
    refusal.refused(422, "Invalid", "metadata.uid: Invalid value: \"another\": field is immutable");
    at.merge(&path, &json!({"spec": {"size": 2}})).await.ok();
    let stale = json!({"metadata": {"resourceVersion": version(&made)}, "spec": {"size": 3}});
    at.merge(&path, &stale).await.refused(409, "Conflict", "the object has been modified");
    let mut other = at.get(&path).await.ok();
    other["metadata"]["uid"] = json!("another");
    at.put(&path, &other).await.refused(409, "Conflict", "Precondition failed: UID in precondition: another");
}

async fn apply_creates_custom_resources(at: Access) {
    let path = format!("{}?fieldManager=one", widgets(&at, "/a"));
    let body = json!({"apiVersion": "check.example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"size": 1, "list": [1, 2]}});
    let made = at.patch(&path, "application/apply-patch+yaml", &body).await;
    assert_eq!((made.code, &made.body["metadata"]["generation"]), (201, &json!(1)));
    let body = json!({"apiVersion": "check.example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"list": [3]}});
    let new = at.patch(&path, "application/apply-patch+yaml", &body).await.ok();
    assert_eq!((&new["spec"], &new["metadata"]["generation"]), (&json!({"list": [3]}), &json!(2)));
}
