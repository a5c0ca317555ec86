//! Creating, replacing and patching.

use http::Method;
use serde_json::{Value, json};

use super::access::{Access, version};

crate::checks![
    create_fills_in_metadata,
    create_twice_conflicts,
    create_needs_a_name_and_a_namespace,
    create_checks_the_body,
    generate_name_ends_in_five_letters,
    missing_is_404,
    unknown_kinds_and_methods,
    put_of_an_old_version_conflicts,
    put_of_another_uid_conflicts,
    merge_patch_checks_version_and_uid,
    merge_patch_removes_with_null,
    metadata_is_all_that_some_want_back,
    json_patch_tests_first,
    strategic_merge_merges_named_items,
    a_write_that_changes_nothing_keeps_the_version,
    dry_run_stores_nothing,
    server_fields_cannot_be_written,
    generation_of_deployments_follows_the_spec,
    leases_need_a_version_to_be_replaced,
];

async fn create_fills_in_metadata(at: Access) {
    let made =
        at.config_map("a", json!({"metadata": {"uid": "mine", "generation": 7, "labels": {"x": "y"}}})).await;
    let meta = &made["metadata"];
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert_eq!(meta["creationTimestamp"].as_str().unwrap().len(), "2026-01-05T10:00:00Z".len());
    assert!(version(&made).parse::<u64>().unwrap() > 0);
    assert_eq!((&meta["namespace"], &meta["labels"]["x"]), (&json!(at.space), &json!("y")));
    assert_eq!(meta["generation"], 7, "of kinds without one it is the writer's");
    assert!(meta.get("selfLink").is_none());
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let read = at.get(&at.core("configmaps/a")).await.ok();
    assert_eq!(version(&read), version(&made));
}

async fn create_twice_conflicts(at: Access) {
    at.config_map("a", json!({})).await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let refusal = at.post(&at.core("configmaps"), &body).await;
    let refusal = refusal.refused(409, "AlreadyExists", "configmaps \"a\" already exists");
    assert_eq!(refusal["details"], json!({"name": "a", "kind": "configmaps"}));
}

async fn create_needs_a_name_and_a_namespace(at: Access) {
    let path = at.core("configmaps");
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let refusal = at.post(&path, &nameless).await.refused(422, "Invalid", "name or generateName is required");
    assert_eq!(refusal["details"]["causes"][0]["field"], "metadata.name");
    let bad = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "A_b"}});
    at.post(&path, &bad).await.refused(
        422,
        "Invalid",
        "ConfigMap \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\"",
    );
    let named = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let nowhere = at.post("/api/v1/namespaces/no-such-space/configmaps", &named).await;
    let refusal = nowhere.refused(404, "NotFound", "namespaces \"no-such-space\" not found");
    assert_eq!(refusal["details"], json!({"name": "no-such-space", "kind": "namespaces"}));
    let elsewhere =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}});
    at.post(&path, &elsewhere).await.refused(
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    let versioned =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "1"}});
    let refusal = at.post(&path, &versioned).await;
    assert!(
        refusal.body["message"]
            .as_str()
            .unwrap()
            .contains("resourceVersion should not be set on objects to be created")
    );
    assert_eq!(refusal.code, 500);
}

async fn create_checks_the_body(at: Access) {
    let path = at.core("configmaps");
    let reply = at.send(http::Method::POST, &path, "application/json", b"{".to_vec()).await;
    assert_eq!((reply.code, &reply.body["reason"]), (400, &json!("BadRequest")));
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    let reply = at.post(&path, &other).await;
    assert_eq!((reply.code, &reply.body["reason"]), (400, &json!("BadRequest")));
    let other = json!({"apiVersion": "apps/v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let reply = at.post(&path, &other).await;
    assert_eq!((reply.code, &reply.body["reason"]), (400, &json!("BadRequest")));
}

async fn generate_name_ends_in_five_letters(at: Access) {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "some-"}});
    let one = at.post(&at.core("configmaps"), &body).await.ok();
    let two = at.post(&at.core("configmaps"), &body).await.ok();
    let (one, two) = (one["metadata"]["name"].as_str().unwrap(), two["metadata"]["name"].as_str().unwrap());
    assert!(one != two && one.starts_with("some-") && one.len() == 10, "{one} {two}");
}

async fn missing_is_404(at: Access) {
    let path = at.core("configmaps/none");
    let refusal = at.get(&path).await.refused(404, "NotFound", "configmaps \"none\" not found");
    assert_eq!(refusal["details"], json!({"name": "none", "kind": "configmaps"}));
    at.merge(&path, &json!({"data": {}})).await.refused(404, "NotFound", "configmaps \"none\" not found");
    at.delete(&path, &json!({})).await.refused(404, "NotFound", "configmaps \"none\" not found");
    let refusal = at.get(&at.group("apps/v1", "deployments/none")).await;
    let refusal = refusal.refused(404, "NotFound", "deployments.apps \"none\" not found");
    assert_eq!(refusal["details"], json!({"name": "none", "group": "apps", "kind": "deployments"}));
}

async fn unknown_kinds_and_methods(at: Access) {
    let lost = "the server could not find the requested resource";
    at.get(&at.core("trolls")).await.refused(404, "NotFound", lost);
    at.get(&at.core("configmaps/a/status")).await.refused(404, "NotFound", lost);
    let wrong = "the server does not allow this method on the requested resource";
    at.put(&at.core("configmaps"), &json!({})).await.refused(405, "MethodNotAllowed", wrong);
    at.post(&at.core("configmaps/a"), &json!({})).await.refused(405, "MethodNotAllowed", wrong);
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let answer = at.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await;
    assert_eq!((answer.code, &answer.body["status"]["allowed"]), (201, &json!(true)));
    assert_eq!(at.get("/healthz").await.body, json!("ok"));
    assert_eq!(at.get("/version").await.ok()["major"], "1");
}

async fn put_of_an_old_version_conflicts(at: Access) {
    let old = at.config_map("a", json!({})).await;
    let path = at.core("configmaps/a");
    let mut new = old.clone();
    new["data"]["a"] = json!("2");
    let stored = at.put(&path, &new).await.ok();
    assert_ne!(version(&stored), version(&old));
    let refusal = at.put(&path, &new).await.refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
    );
    assert_eq!(refusal["details"], json!({"name": "a", "kind": "configmaps"}));
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    new["data"]["a"] = json!("3");
    assert_eq!(at.put(&path, &new).await.ok()["data"]["a"], "3");
    new["metadata"]["name"] = json!("b");
    at.put(&path, &new).await.refused(
        400,
        "BadRequest",
        "the name of the object (b) does not match the name on the URL (a)",
    );
}

async fn put_of_another_uid_conflicts(at: Access) {
    let mut object = at.config_map("a", json!({})).await;
    let path = at.core("configmaps/a");
    let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
    object["metadata"]["uid"] = json!("another");
    at.put(&path, &object).await.refused(
        409,
        "Conflict",
        &format!("Precondition failed: UID in precondition: another, UID in object meta: {uid}"),
    );
}

async fn merge_patch_checks_version_and_uid(at: Access) {
    let old = at.config_map("a", json!({})).await;
    let path = at.core("configmaps/a");
    let patch = json!({"metadata": {"resourceVersion": version(&old), "uid": old["metadata"]["uid"]}, "data": {"a": "2"}});
    at.merge(&path, &patch).await.ok();
    let patch = json!({"metadata": {"resourceVersion": version(&old)}, "data": {"a": "3"}});
    at.merge(&path, &patch).await.refused(409, "Conflict", "the object has been modified");
    let patch = json!({"metadata": {"uid": "another"}, "data": {"a": "3"}});
    let refusal = at.merge(&path, &patch).await;
    refusal.refused(422, "Invalid", "metadata.uid: Invalid value: \"another\": field is immutable");
    let patch = json!({"metadata": {"name": "b"}});
    let reply = at.merge(&path, &patch).await;
    assert_eq!((reply.code, &reply.body["reason"]), (400, &json!("BadRequest")), "{reply:?}");
}

async fn metadata_is_all_that_some_want_back(at: Access) {
    let old = at.config_map("a", json!({})).await;
    let path = at.core("configmaps/a");
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let merge = |patch: Value| ("application/merge-patch+json", patch.to_string().into_bytes());
    let patch =
        json!({"metadata": {"uid": old["metadata"]["uid"], "labels": {"x": "1"}}, "data": {"a": "2"}});
    let new = at.send_wanting(accept, Method::PATCH, &path, merge(patch)).await.ok();
    let read = at.get(&path).await.ok();
    assert_eq!(read["data"], json!({"a": "2"}));
    assert_eq!(
        (&new["kind"], &new["apiVersion"]),
        (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!(new["metadata"], read["metadata"]);
    assert!(new.get("data").is_none(), "{new}");
    let read = at.send_wanting(accept, Method::GET, &path, ("application/json", Vec::new())).await.ok();
    assert_eq!(read, new);
    let patch = json!({"metadata": {"uid": "another"}});
    let refusal = at.send_wanting(accept, Method::PATCH, &path, merge(patch)).await;
    refusal.refused(422, "Invalid", "field is immutable");
    let none = at.core("configmaps/none");
    let refusal = at.send_wanting(accept, Method::PATCH, &none, merge(json!({"data": {}}))).await;
    refusal.refused(404, "NotFound", "configmaps \"none\" not found");
}

async fn merge_patch_removes_with_null(at: Access) {
    at.config_map("a", json!({"metadata": {"labels": {"x": "1", "y": "2"}}, "data": {"b": "2"}})).await;
    let path = at.core("configmaps/a");
    let patch = json!({"data": {"b": null, "c": "3", "none": null}, "metadata": {"labels": null, "annotations": {"n": "m"}}});
    let new = at.merge(&path, &patch).await.ok();
    assert_eq!(new["data"], json!({"a": "1", "c": "3"}));
    assert!(new["metadata"].get("labels").is_none());
    assert_eq!(new["metadata"]["annotations"], json!({"n": "m"}));
}

async fn json_patch_tests_first(at: Access) {
    let old = at.config_map("a", json!({})).await;
    let path = at.core("configmaps/a");
    let patch = |uid: &str| {
        json!([{"op": "test", "path": "/metadata/uid", "value": uid},
               {"op": "replace", "path": "/data/a", "value": "2"}, {"op": "add", "path": "/data/b", "value": "3"}])
    };
    let refusal = at.json_patch(&path, &patch("another")).await;
    let refusal =
        refusal.refused(422, "Invalid", "the server rejected our request due to an error in our request");
    assert_eq!(refusal["details"], json!({}));
    let new = at.json_patch(&path, &patch(old["metadata"]["uid"].as_str().unwrap())).await.ok();
    assert_eq!(new["data"], json!({"a": "2", "b": "3"}));
    let missing = json!([{"op": "replace", "path": "/data/zzz", "value": "2"}]);
    assert_eq!(at.json_patch(&path, &missing).await.ok()["data"]["zzz"], "2", "as good as an add");
    let missing = json!([{"op": "remove", "path": "/data/none"}]);
    at.json_patch(&path, &missing).await.refused(422, "Invalid", "the server rejected our request");
    let stale = json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": version(&old)},
                       {"op": "replace", "path": "/data/a", "value": "9"}]);
    at.json_patch(&path, &stale).await.refused(409, "Conflict", "the object has been modified");
}

async fn strategic_merge_merges_named_items(at: Access) {
    let strategic = "application/strategic-merge-patch+json";
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {
        "selector": {"matchLabels": {"x": "y"}},
        "template": {"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [
            {"name": "one", "image": "one"}, {"name": "two", "image": "two"}]}}}});
    at.post(&at.group("apps/v1", "deployments"), &body).await.ok();
    let path = at.group("apps/v1", "deployments/a");
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "two", "image": "new"}, {"name": "one", "$patch": "delete"}]}}}});
    let new = at.patch(&path, strategic, &patch).await.ok();
    let containers = new.pointer("/spec/template/spec/containers").unwrap().as_array().unwrap();
    assert_eq!(
        (containers.len(), &containers[0]["name"], &containers[0]["image"]),
        (1, &json!("two"), &json!("new"))
    );
}

async fn a_write_that_changes_nothing_keeps_the_version(at: Access) {
    let old = at.config_map("a", json!({})).await;
    let path = at.core("configmaps/a");
    let same = at.merge(&path, &json!({"data": {"a": "1"}})).await.ok();
    assert_eq!(version(&same), version(&old));
    assert_eq!(version(&at.put(&path, &old).await.ok()), version(&old));
}

async fn dry_run_stores_nothing(at: Access) {
    let path = at.core("configmaps");
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1"}});
    let made = at.post(&format!("{path}?dryRun=All"), &body).await;
    assert_eq!((made.code, &made.body["data"]["a"]), (201, &json!("1")));
    assert_eq!(at.get(&format!("{path}/a")).await.code, 404);
    let old = at.post(&path, &body).await.ok();
    let new = at.merge(&format!("{path}/a?dryRun=All"), &json!({"data": {"a": "2"}})).await.ok();
    assert_eq!(new["data"]["a"], "2");
    at.delete(&format!("{path}/a"), &json!({"dryRun": ["All"]})).await.ok();
    let kept = at.get(&format!("{path}/a")).await.ok();
    assert_eq!((&kept["data"]["a"], version(&kept)), (&json!("1"), version(&old)));
}

async fn server_fields_cannot_be_written(at: Access) {
    let old = at.config_map("a", json!({})).await;
    let patch = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 9, "labels": {"x": "y"}}});
    let new = at.merge(&at.core("configmaps/a"), &patch).await.ok();
    assert_eq!(new["metadata"]["creationTimestamp"], old["metadata"]["creationTimestamp"]);
    assert_eq!(new["metadata"]["labels"]["x"], "y");
    let patch = json!({"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}});
    let refusal = at.merge(&at.core("configmaps/a"), &patch).await;
    refusal.refused(
        422,
        "Invalid",
        "metadata.deletionTimestamp: Invalid value: \"2001-01-01T00:00:00Z\": field is immutable",
    );
}

async fn generation_of_deployments_follows_the_spec(at: Access) {
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"x": "y"}},
        "template": {"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "one", "image": "one"}]}}},
        "status": {"replicas": 5}});
    let made = at.post(&at.group("apps/v1", "deployments"), &body).await.ok();
    assert_eq!((&made["metadata"]["generation"], &made["status"]), (&json!(1), &json!({})));
    let path = at.group("apps/v1", "deployments/a");
    let labelled = at.merge(&path, &json!({"metadata": {"labels": {"l": "m"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = at.merge(&path, &json!({"spec": {"replicas": 2}, "status": {"replicas": 9}})).await.ok();
    assert_eq!((&scaled["metadata"]["generation"], &scaled["status"]), (&json!(2), &json!({})));
    let status = at
        .merge(&format!("{path}/status"), &json!({"spec": {"replicas": 7}, "status": {"replicas": 2}}))
        .await
        .ok();
    assert_eq!((&status["metadata"]["generation"], &status["status"]["replicas"]), (&json!(2), &json!(2)));
    assert_eq!(status["spec"]["replicas"], 2);
}

async fn leases_need_a_version_to_be_replaced(at: Access) {
    let path = at.group("coordination.k8s.io/v1", "leases");
    let body = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"},
        "spec": {"holderIdentity": "me"}});
    let made = at.post(&path, &body).await.ok();
    assert!(made["metadata"].get("generation").is_none());
    let refusal = at.put(&format!("{path}/a"), &body).await;
    refusal.refused(
        422,
        "Invalid",
        "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
    );
    at.put(&format!("{path}/a"), &made).await.ok();
}
