//! Lists: selectors, pages and versions.

use serde_json::{Value, json};

use super::access::{Access, Reply, version};

crate::checks![
    label_selectors,
    field_selectors,
    selectors_that_cannot_be_read,
    pages_show_one_moment,
    a_list_has_a_version_and_a_kind,
    list_versions,
    continue_tokens_are_checked,
];

fn names(list: &Value) -> String {
    let names =
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap());
    names.filter(|name| !name.starts_with("kube-")).collect::<Vec<_>>().join(" ")
}

async fn three(at: &Access) {
    for (name, labels) in [("a", json!({"x": "1"})), ("b", json!({"x": "2", "y": ""})), ("c", json!({}))] {
        at.config_map(name, json!({"metadata": {"labels": labels}})).await;
    }
}

async fn label_selectors(at: Access) {
    three(&at).await;
    let cases = [
        ("x=1", "a"),
        ("x==1", "a"),
        ("x!=1", "b c"),
        ("x in (1, 2)", "a b"),
        ("x notin (1)", "b c"),
        ("x", "a b"),
        ("!x", "c"),
        ("x,y", "b"),
        ("x in (1,2),y=", "b"),
        ("x=3", ""),
        ("", "a b c"),
    ];
    for (selector, expected) in cases {
        let escaped = selector.replace('=', "%3D").replace(' ', "%20").replace('!', "%21");
        let list = at.get(&format!("{}?labelSelector={escaped}", at.core("configmaps"))).await.ok();
        assert_eq!(names(&list), expected, "{selector}");
    }
}

async fn field_selectors(at: Access) {
    three(&at).await;
    for (selector, expected) in [
        ("metadata.name=b", "b"),
        ("metadata.name!=b", "a c"),
        ("metadata.name=b,metadata.namespace=default", ""),
        ("metadata.name=none", ""),
    ] {
        let path = format!("{}?fieldSelector={}", at.core("configmaps"), selector.replace('=', "%3D"));
        assert_eq!(names(&at.get(&path).await.ok()), expected, "{selector}");
    }
    let everywhere =
        format!("/api/v1/configmaps?fieldSelector=metadata.namespace%3D{},metadata.name%3Dc", at.space);
    assert_eq!(names(&at.get(&everywhere).await.ok()), "c");
}

async fn selectors_that_cannot_be_read(at: Access) {
    let path = at.core("configmaps");
    let reply = at.get(&format!("{path}?fieldSelector=data.a%3D1")).await;
    reply.refused(
        400,
        "BadRequest",
        "\"data.a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
    );
    let reply = at.get(&format!("{path}?labelSelector=x%20like%20y")).await;
    reply.refused(400, "BadRequest", "unable to parse requirement");
    let reply = at.get(&format!("{}?fieldSelector=spec.color%3D1", at.core("pods"))).await;
    reply.refused(400, "BadRequest", "field label not supported: spec.color");
}

async fn pages_show_one_moment(at: Access) {
    three(&at).await;
    at.config_map("d", json!({})).await;
    let path = at.core("configmaps");
    let selector = "labelSelector=n%21%3D1&";
    let first = at.get(&format!("{path}?{selector}limit=2")).await.ok();
    assert_eq!(names(&first), "a b");
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    at.delete(&format!("{path}/c"), &json!({})).await.ok();
    at.merge(&format!("{path}/d"), &json!({"data": {"a": "2"}})).await.ok();
    at.config_map("e", json!({})).await;
    let second = at.get(&format!("{path}?{selector}limit=50&continue={token}")).await.ok();
    assert_eq!(names(&second), "c d", "as it was at the first page");
    let d = second["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "d").unwrap();
    assert_eq!(d["data"]["a"], "1");
    assert_eq!(version(&second), version(&first));
    assert!(second["metadata"].get("continue").is_none_or(|token| token == ""));
}

async fn a_list_has_a_version_and_a_kind(at: Access) {
    let list = at.get(&at.core("secrets")).await.ok();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("SecretList"), &json!("v1")));
    assert_eq!(list["items"], json!([]));
    let made = at.config_map("a", json!({})).await;
    let list = at.get(&at.core("configmaps")).await.ok();
    assert!(version(&list).parse::<u64>().unwrap() >= version(&made).parse::<u64>().unwrap());
    let item = list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "a").unwrap();
    assert_eq!(version(item), version(&made));
}

async fn list_versions(at: Access) {
    let made = at.config_map("a", json!({})).await;
    let later = at.config_map("b", json!({})).await;
    let path = at.core("configmaps");
    let then = format!("{path}?resourceVersion={}&resourceVersionMatch=Exact", version(&made));
    let list = at.get(&then).await.ok();
    assert_eq!((names(&list).as_str(), version(&list)), ("a", version(&made)));
    // A server may answer from its cache, which is behind its store for moments: "not older than a" need not show b yet,
    // and a cache that is not there yet, or too far behind, has the client ask again (429, 504).
    let has_answered = |reply: &Reply| !matches!(reply.code, 429 | 504);
    let since = format!("{path}?resourceVersion={}&resourceVersionMatch=NotOlderThan", version(&later));
    assert_eq!(names(&at.until(&since, "asked for what is not older", has_answered).await), "a b");
    let any = at.until(&format!("{path}?resourceVersion=0"), "asked for any", has_answered).await;
    assert_eq!(any["kind"], "ConfigMapList");
    let reply = at.get(&format!("{path}?resourceVersionMatch=Exact")).await;
    reply.refused(422, "Invalid", "resourceVersionMatch is forbidden unless resourceVersion is provided");
    let reply = at.get(&format!("{path}?resourceVersion=new")).await;
    assert_eq!(reply.code, 400);
    let future = format!("{path}?resourceVersion=99999999&resourceVersionMatch=NotOlderThan");
    let refusal = at.until(&future, "asked for the future", |reply| reply.code == 504).await;
    assert_eq!(refusal["reason"], "Timeout");
    assert!(refusal["message"].as_str().unwrap().contains("Too large resource version"), "{refusal}");
}

async fn continue_tokens_are_checked(at: Access) {
    let reply = at.get(&format!("{}?limit=1&continue=nonsense", at.core("configmaps"))).await;
    reply.refused(400, "BadRequest", "continue key is not valid");
}
