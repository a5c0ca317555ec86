//! Who applied which field (`metadata.managedFields`). Only server-side apply writes books here: what nobody applied
//! belongs to whoever wrote it, who is not named.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::json::{map, metadata, text};
use super::lists::merge_key;

/// Fields as paths of `f:name` and `k:{...}` steps, each leaf once.
pub(super) type Fields = BTreeSet<Vec<String>>;

/// The leaves of what somebody applies; never the identity of the object.
pub(super) fn fields_of(applied: &Value, custom: bool) -> Fields {
    let mut found = Fields::new();
    for (key, value) in applied.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    let identity =
                        ["name", "namespace", "uid", "resourceVersion", "managedFields", "generateName"];
                    if !identity.contains(&key.as_str()) {
                        let path = format!("/metadata/{key}");
                        leaves(
                            value,
                            &path,
                            &mut vec!["f:metadata".into(), format!("f:{key}")],
                            custom,
                            &mut found,
                        );
                    }
                }
            }
            _ => leaves(value, &format!("/{key}"), &mut vec![format!("f:{key}")], custom, &mut found),
        }
    }
    found
}

fn leaves(value: &Value, path: &str, at: &mut Vec<String>, custom: bool, found: &mut Fields) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                at.push(format!("f:{key}"));
                leaves(value, &format!("{path}/{key}"), at, custom, found);
                at.pop();
            }
        }
        Value::Array(items) if key_of_list(path, custom).is_some() => {
            let key = key_of_list(path, custom).unwrap_or_default();
            for item in items {
                at.push(step(item, key));
                if key.is_empty() {
                    found.insert(at.clone());
                } else {
                    leaves(item, path, at, custom, found);
                }
                at.pop();
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            found.insert(at.clone());
        }
    }
}

/// Custom resources have only the lists of `metadata` as sets: their schemas are not kept.
fn key_of_list(path: &str, custom: bool) -> Option<&'static str> {
    merge_key(path).filter(|_| (!custom || path.starts_with("/metadata")) && path != "/spec/taints")
}

fn step(item: &Value, key: &str) -> String {
    if key.is_empty() { format!("v:{item}") } else { format!("k:{}", json!({key: item.get(key)})) }
}

/// Whether a plain value is the one that a `v:` step names.
fn says(value: &Value, step: &str) -> bool {
    serde_json::from_str::<Value>(step).is_ok_and(|named| named == *value)
}

/// The value at a path, if it is there.
pub(super) fn find<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match step.split_at_checked(2)? {
        ("f:", key) => value.get(key),
        ("v:", item) => value.as_array()?.iter().find(|one| says(one, item)),
        (_, keys) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
            value.as_array()?.iter().find(|one| keys.iter().all(|(key, value)| one.get(key) == Some(value)))
        }
    })
}

/// Removes what is at a path, and list items and maps that this leaves without any other content.
pub(super) fn remove(value: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    let Some((kind, key)) = step.split_at_checked(2) else {
        return;
    };
    if kind == "f:" {
        let Some(fields) = value.as_object_mut() else {
            return;
        };
        if let Some(inner) = fields.get_mut(key) {
            remove(inner, rest);
            if rest.is_empty() || is_empty(inner) {
                fields.remove(key);
            }
        }
        return;
    }
    let keys: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
    let Some(items) = value.as_array_mut() else {
        return;
    };
    items.retain_mut(|one| {
        if kind == "v:" {
            return !says(one, key);
        }
        if !keys.iter().all(|(key, value)| one.get(key) == Some(value)) {
            return true;
        }
        // The key of an item goes with the item, once nothing else of it is left.
        if rest.len() == 1
            && rest.first().is_some_and(|step| keys.contains_key(step.trim_start_matches("f:")))
        {
            return one.as_object().is_some_and(|fields| fields.len() > keys.len());
        }
        remove(one, rest);
        !is_empty(one)
    });
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The books: each manager's applied fields.
pub(super) fn books(object: &Value) -> Vec<(String, String, Fields)> {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let applied = list.into_iter().flatten().filter(|entry| text(entry, "/operation") == "Apply");
    applied
        .map(|entry| {
            let mut fields = Fields::new();
            if let Some(tree) = entry.get("fieldsV1") {
                read(tree, &mut Vec::new(), &mut fields);
            }
            (text(entry, "/manager").to_owned(), text(entry, "/subresource").to_owned(), fields)
        })
        .collect()
}

fn read(tree: &Value, at: &mut Vec<String>, into: &mut Fields) {
    let inner = tree.as_object().into_iter().flatten().filter(|(key, _)| *key != ".");
    let mut any = false;
    for (key, value) in inner {
        any = true;
        at.push(key.clone());
        read(value, at, into);
        at.pop();
    }
    if !any && !at.is_empty() {
        into.insert(at.clone());
    }
}

/// Writes the books into the object.
pub(super) fn write(object: &mut Value, books: &[(String, String, Fields)], now: &str) {
    let api_version = text(object, "/apiVersion").to_owned();
    let entries: Vec<Value> = books
        .iter()
        .filter(|(_, _, fields)| !fields.is_empty())
        .map(|(manager, subresource, fields)| {
            let mut tree = json!({});
            for path in fields {
                path.iter().fold(&mut tree, |tree, step| {
                    map(tree).entry(step.as_str()).or_insert_with(|| json!({}))
                });
            }
            let mut entry = json!({
                "apiVersion": api_version, "fieldsType": "FieldsV1", "fieldsV1": tree,
                "manager": manager, "operation": "Apply", "time": now,
            });
            if !subresource.is_empty() {
                map(&mut entry).insert("subresource".to_owned(), subresource.as_str().into());
            }
            entry
        })
        .collect();
    if entries.is_empty() {
        metadata(object).remove("managedFields");
    } else {
        metadata(object).insert("managedFields".to_owned(), entries.into());
    }
}

/// Takes fields from those who applied them when somebody else has written another value.
pub(super) fn release(old: &Value, new: &mut Value) {
    if new.pointer("/metadata/managedFields").is_none() {
        return;
    }
    let mut books = books(new);
    let now =
        new.pointer("/metadata/managedFields/0/time").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut changed = false;
    for (_, _, fields) in &mut books {
        let before = fields.len();
        fields.retain(|path| find(old, path) == find(new, path));
        changed |= fields.len() != before;
    }
    if changed {
        write(new, &books, &now);
    }
}
