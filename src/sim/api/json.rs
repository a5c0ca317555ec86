//! Reading and writing fields of objects.

use serde_json::{Map, Value};

use crate::sim::fields::At as _;

/// The text at a JSON pointer, empty when there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.at(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The text of a field of `metadata`.
pub(super) fn meta<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata` as a map, made when it is missing.
pub(super) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    map(map(value).entry("metadata").or_insert(Value::Null))
}

/// The value as a map, replaced by an empty one when it is something else.
pub(super) fn map(value: &mut Value) -> &mut Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            *other = Value::Object(Map::new());
            map(other)
        }
    }
}

/// The value as a list, replaced by an empty one when it is something else.
pub(super) fn list(value: &mut Value) -> &mut Vec<Value> {
    match value {
        Value::Array(items) => items,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            *other = Value::Array(Vec::new());
            list(other)
        }
    }
}

/// Sets `to`'s field to what `from` has, or removes it.
pub(super) fn take_field(to: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => {
            map(to).insert(field.to_owned(), value.clone());
        }
        None => {
            map(to).remove(field);
        }
    }
}

/// The finalizers.
pub(super) fn finalizers(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.at("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// The owner references.
pub(super) fn owners(value: &Value) -> impl Iterator<Item = &Value> {
    value.at("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten()
}

/// Whether a deletion waits for finalizers or a grace period.
pub(super) fn is_deleting(value: &Value) -> bool {
    value.get("metadata").is_some_and(|metadata| metadata.get("deletionTimestamp").is_some())
}
