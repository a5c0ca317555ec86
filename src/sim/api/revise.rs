//! The short way of a merge patch: nearly all writes change some fields of `spec`, `status`, labels and the like, which
//! needs neither a copy of the object nor a comparison of two whole ones. Everything else goes through `update`; the
//! answers are the same.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Object;
use super::delta::Delta;
use super::json::{finalizers, is_deleting, meta};
use super::kinds::{Generation, Kind};
use super::status::Status;
use super::store::{Key, Place, Store, parts};
use crate::cluster::nodes::MAINTENANCE;

/// What the short way may change of `metadata`.
const PLAIN: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything but the status, where that is a subresource.
    Main,
    /// The status only.
    Status,
    /// Both.
    Whole,
}

impl Part {
    /// The part of a request, through `/status` or not.
    pub(super) fn of(status: bool) -> Self {
        if status { Self::Status } else { Self::Main }
    }

    fn has(self, kind: &Kind, field: &str) -> bool {
        !kind.status || self == Self::Whole || (field == "status") == (self == Self::Status)
    }
}

impl Store {
    /// Merges a patch into spec and status of an object as one write; `None` when that takes the long way.
    pub(super) fn amend(
        &mut self,
        (group, plural): (&str, &str),
        key: &str,
        patch: &Value,
    ) -> Option<Result<Object, Status>> {
        let place = self.place(group, plural)?;
        let kind = self.kind(place).ok()?;
        self.revise(place, key, &kind, patch, Part::Whole)
    }

    /// Merges a patch into the object at `key`; `None` when that takes the long way.
    pub(super) fn revise(
        &mut self,
        place: Place,
        key: &str,
        kind: &Kind,
        patch: &Value,
        part: Part,
    ) -> Option<Result<Object, Status>> {
        let patch = patch.as_object()?;
        let (key, entry) = self.collection(place)?.objects.get_key_value(key)?;
        if !is_plain(kind, &entry.object, patch, part == Part::Status) {
            return None;
        }
        let (key, old): (Key, Object) = (key.clone(), entry.object.clone());
        let metadata = patch.get("metadata").and_then(Value::as_object);
        let said = metadata.and_then(|fields| fields.get("resourceVersion")).and_then(Value::as_str);
        if said.is_some_and(|said| said != meta(&old, "resourceVersion")) {
            return Some(Err(Status::stale(kind, parts(&key).1)));
        }
        let Value::Object(mut fields) = self.spares.copy(place, &key, &old) else {
            return None;
        };
        let mut delta = Delta::default();
        let mut content = false;
        for (field, said) in patch {
            let apart = kind.status && field == "status";
            match field.as_str() {
                "metadata" if part == Part::Status && kind.custom => {}
                "metadata" => merge_metadata(&mut delta, &mut fields, metadata),
                // A write through `/status` changes the status, any other write everything else.
                field if !part.has(kind, field) => {}
                _ => {
                    let before = delta.keys().count();
                    delta.merge_field(&mut fields, field, said);
                    let spec_only = kind.generation == Generation::Spec;
                    content |= delta.keys().count() > before && !apart && (!spec_only || field == "spec");
                }
            }
        }
        if delta.is_empty() {
            self.spares.keep(place, &key, Object::of(Value::Object(fields)), Arc::default());
            return Some(Ok(old));
        }
        if kind.generation != Generation::Never && content {
            let generation = old.get("metadata").and_then(|metadata| metadata.get("generation"));
            let generation = generation.and_then(Value::as_i64).unwrap_or(0);
            delta.set(&mut fields, "metadata", "generation", (generation + 1).into());
        }
        self.version += 1;
        delta.set(&mut fields, "metadata", "resourceVersion", self.version.to_string().into());
        Some(Ok(self.put_changed(place, &key, Value::Object(fields), delta)))
    }
}

fn merge_metadata(delta: &mut Delta, into: &mut Map<String, Value>, said: Option<&Map<String, Value>>) {
    for field in PLAIN {
        if let Some(said) = said.and_then(|said| said.get(field)) {
            delta.merge_within(into, "metadata", field, said);
        }
    }
}

/// Whether the rules for everything but the changed fields themselves are kept without looking.
fn is_plain(kind: &Kind, old: &Value, patch: &Map<String, Value>, status: bool) -> bool {
    let Some(had) = old.get("metadata").and_then(Value::as_object) else {
        return false;
    };
    if had.contains_key("managedFields")
        || had.contains_key("selfLink")
        || PLAIN.iter().any(|one| is_empty(had.get(*one)))
    {
        return false;
    }
    let is_refusable = kind.is_core("nodes") && !status && closes(patch);
    if is_refusable || kind.is_core("namespaces") || kind.plural == "customresourcedefinitions" {
        return false;
    }
    let is_going = is_deleting(old);
    if is_going
        && finalizers(old).next().is_none()
        && had.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
    {
        return false;
    }
    patch.iter().all(|(field, said)| match field.as_str() {
        "apiVersion" | "kind" => false,
        "spec" => status || !kind.is_core("pods"),
        "metadata" => said.as_object().is_some_and(|said| {
            said.iter().all(|(field, said)| match field.as_str() {
                "resourceVersion" => said.as_str().is_some_and(|said| !said.is_empty()),
                // As a condition: what it is about is this object.
                "uid" => said.is_string() && Some(said) == had.get("uid"),
                "labels" | "annotations" => stays_filled(had.get(field), said),
                "finalizers" => !is_going && is_filled_list(said),
                "ownerReferences" => is_filled_list(said),
                _ => false,
            })
        }),
        _ => true,
    })
}

/// Whether a patch of a node says what Harvester's webhook may refuse.
fn closes(patch: &Map<String, Value>) -> bool {
    let of = |part: &str, field: &str| patch.get(part).and_then(|part| part.get(field));
    let annotated = of("metadata", "annotations").and_then(|all| all.get(MAINTENANCE));
    of("spec", "unschedulable").is_some_and(|said| *said == true) || annotated.is_some()
}

fn is_empty(value: Option<&Value>) -> bool {
    value.is_some_and(|value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    })
}

fn is_filled_list(said: &Value) -> bool {
    said.as_array().is_some_and(|list| !list.is_empty())
}

/// Whether a map surely has something in it after the patch.
fn stays_filled(had: Option<&Value>, said: &Value) -> bool {
    let Some(said) = said.as_object() else {
        return false;
    };
    let removed = said.values().filter(|value| value.is_null()).count();
    let had = match had {
        None => 0,
        Some(had) => match had.as_object() {
            Some(had) => had.len(),
            None => return false,
        },
    };
    said.len() > removed || had > removed
}
