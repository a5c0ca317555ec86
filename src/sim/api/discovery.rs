//! What the server says about itself: version, groups, kinds.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kinds::Kind;
use super::status::Status;
use super::store::Store;

const EVERY_VERB: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The document at a path that leads to no objects.
pub(super) fn document(store: &Store, path: &str) -> Result<Value, Status> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["version"] => Ok(json!({
            "major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
        })),
        ["api"] => Ok(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(store).iter().map(|(name, version)| group(name, version)).collect();
            Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", version] => resources(store, "", version),
        ["apis", name] => {
            let groups = groups(store);
            let version = groups.get(*name).ok_or_else(Status::no_such_path)?;
            let mut document = group(name, version);
            let fields = super::json::map(&mut document);
            fields.insert("kind".to_owned(), "APIGroup".into());
            fields.insert("apiVersion".to_owned(), "v1".into());
            Ok(document)
        }
        ["apis", group, version] => resources(store, group, version),
        _ => Err(Status::no_such_path()),
    }
}

fn kinds(store: &Store) -> impl Iterator<Item = &Kind> {
    store.collections().map(|(_, collection)| &*collection.kind)
}

fn groups(store: &Store) -> BTreeMap<&str, &str> {
    kinds(store).filter(|kind| !kind.group.is_empty()).map(|kind| (&*kind.group, &*kind.version)).collect()
}

fn group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resources(store: &Store, group: &str, version: &str) -> Result<Value, Status> {
    let mut list = Vec::new();
    for kind in kinds(store).filter(|kind| kind.group == group && kind.version == version) {
        list.push(json!({
            "name": kind.plural, "singularName": kind.kind.to_lowercase(), "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": EVERY_VERB,
        }));
        let mut subresource = |name: &str, of: &str, verbs: &[&str]| {
            list.push(json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": of, "verbs": verbs,
            }));
        };
        if kind.status {
            subresource("status", &kind.kind, &["get", "patch", "update"]);
        }
        if kind.is_core("pods") {
            subresource("binding", "Binding", &["create"]);
            subresource("eviction", "Eviction", &["create"]);
        }
    }
    if list.is_empty() {
        return Err(Status::no_such_path());
    }
    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list}))
}
