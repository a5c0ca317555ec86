//! Patches: what an object becomes by a merge patch, a JSON patch or a strategic merge patch.

use json_patch::{AddOperation, PatchOperation, ReplaceOperation};
use serde_json::{Map, Value};

use super::PatchKind;
use super::json::{map, meta, text};
use super::kinds::Kind;
use super::lists::merge_key;
use super::status::Status;

/// What `old` becomes by a patch; server-side apply is elsewhere.
pub(super) fn patched(kind: &Kind, old: &Value, patch: PatchKind, body: &Value) -> Result<Value, Status> {
    let mut new = old.clone();
    match patch {
        PatchKind::Merge => {
            if !body.is_object() {
                return Err(Status::bad_request(
                    "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}",
                ));
            }
            merge(&mut new, body);
        }
        PatchKind::Json => {
            let operations: json_patch::Patch = serde_json::from_value(body.clone())
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
            for operation in operations.0 {
                let operation = lenient(&new, operation);
                json_patch::patch(&mut new, &[operation]).map_err(|_| unprocessable())?;
            }
        }
        PatchKind::Strategic => {
            if kind.custom {
                return Err(unsupported_type());
            }
            merge_strategically(&mut new, body, "");
        }
        PatchKind::Apply => return Err(unsupported_type()),
    }
    Ok(new)
}

/// The real server takes a `replace` of a field that is not there for an `add`.
fn lenient(document: &Value, operation: PatchOperation) -> PatchOperation {
    let PatchOperation::Replace(ReplaceOperation { path, value }) = operation else {
        return operation;
    };
    let parent = path.as_str().rsplit_once('/').and_then(|(parent, _)| document.pointer(parent));
    if parent.is_some_and(Value::is_object) {
        PatchOperation::Add(AddOperation { path, value })
    } else {
        PatchOperation::Replace(ReplaceOperation { path, value })
    }
}

/// The refusal of a patch type that a kind does not take.
pub(super) fn unsupported_type() -> Status {
    Status::new(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
    )
}

/// A patch cannot rename an object or move it elsewhere.
pub(super) fn check_identity(kind: &Kind, old: &Value, new: &Value) -> Result<(), Status> {
    for field in ["name", "namespace"] {
        let (had, said) = (meta(old, field), meta(new, field));
        if said != had {
            let message = if field == "name" {
                format!("the name of the object ({said}) does not match the name on the URL ({had})")
            } else {
                "the namespace of the provided object does not match the namespace sent on the request"
                    .to_owned()
            };
            return Err(Status::bad_request(message));
        }
    }
    let expected = kind.api_version();
    for (pointer, expected) in [("/apiVersion", expected), ("/kind", &*kind.kind)] {
        let said = text(new, pointer);
        if said != expected {
            return Err(Status::bad_request(format!("a patch cannot change {pointer} to {said:?}")));
        }
    }
    Ok(())
}

/// The real server keeps to itself which operation failed.
fn unprocessable() -> Status {
    let message = "the server rejected our request due to an error in our request";
    Status::new(422, "Invalid", message).without_details()
}

/// RFC 7386.
pub(super) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    let fields = map(into);
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else if value.is_object() {
            merge(fields.entry(key.as_str()).or_insert(Value::Null), value);
        } else {
            fields.insert(key.clone(), value.clone());
        }
    }
}

/// A merge in which lists of named things are merged by name, with the `$patch` directives.
fn merge_strategically(into: &mut Value, patch: &Value, at: &str) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if patch.get("$patch").and_then(Value::as_str) == Some("replace") {
        let own = patch.iter().filter(|(key, _)| *key != "$patch");
        *into = Value::Object(own.map(|(key, value)| (key.clone(), value.clone())).collect());
        return;
    }
    let fields = map(into);
    for (key, value) in patch {
        let inner = format!("{at}/{key}");
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            delete_from(fields, list, value);
        } else if key.starts_with('$') {
            // `$setElementOrder` only sorts.
        } else if value.is_null() {
            fields.remove(key);
        } else if let Value::Array(items) = value {
            merge_list(fields.entry(key.as_str()).or_insert(Value::Null), items, &inner);
        } else if value.is_object() {
            merge_strategically(fields.entry(key.as_str()).or_insert(Value::Null), value, &inner);
        } else {
            fields.insert(key.clone(), value.clone());
        }
    }
}

fn delete_from(fields: &mut Map<String, Value>, list: &str, unwanted: &Value) {
    let unwanted = unwanted.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(list) = fields.get_mut(list).and_then(Value::as_array_mut) {
        list.retain(|one| !unwanted.contains(one));
    }
}

fn merge_list(into: &mut Value, items: &[Value], path: &str) {
    let Some(key) = merge_key(path) else {
        *into = Value::Array(items.to_vec());
        return;
    };
    let mut list = match into.take() {
        Value::Array(list) => list,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Vec::new(),
    };
    if items.iter().any(|item| item.get("$patch").and_then(Value::as_str) == Some("replace")) {
        list.clear();
    }
    for item in items {
        let directive = item.get("$patch").and_then(Value::as_str);
        let same = |one: &Value| if key.is_empty() { one == item } else { one.get(key) == item.get(key) };
        let found = list.iter().position(same);
        match (directive, found) {
            (Some("replace"), _) => {}
            (Some("delete"), _) => list.retain(|one| !same(one)),
            (_, Some(index)) => {
                if let Some(one) = list.get_mut(index) {
                    merge_strategically(one, item, path);
                }
            }
            (_, None) => {
                let mut one = Value::Null;
                merge_strategically(&mut one, item, path);
                list.push(one);
            }
        }
    }
    *into = Value::Array(list);
}
