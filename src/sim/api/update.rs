//! Replacing an object, whole or its status: what a writer may not touch, who was first, and what a change means.

use serde_json::{Value, json};

use super::Object;
use super::delete::FOREGROUND;
use super::json::{finalizers, is_deleting, map, meta, metadata, take_field};
use super::kinds::{Generation, Kind};
use super::ownership;
use super::status::{Cause, Status};
use super::store::{Place, Store, parts};

/// Fields of `metadata` that only the server writes.
const SERVERS_OWN: [&str; 6] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "namespace",
    "resourceVersion",
];

/// How an object is to be replaced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    /// Through `/status`.
    pub(super) status: bool,
    pub(super) by: By,
    pub(super) dry_run: bool,
}

/// What kind of request replaces an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Some kinds accept it only with the version that it replaces.
    Put,
    /// Its uid is compared as a field and not as a precondition.
    Patch,
    /// It keeps the books on who owns which field itself.
    Apply,
}

impl Store {
    /// The kind at a place.
    pub(super) fn kind(&self, place: Place) -> Result<std::sync::Arc<Kind>, Status> {
        self.collection(place).map(|collection| collection.kind.clone()).ok_or_else(Status::no_such_path)
    }

    /// Replaces the object at `key` by `new` as far as the writer may.
    pub(super) fn update(
        &mut self,
        place: Place,
        key: &str,
        mut new: Value,
        how: Update,
    ) -> Result<Object, Status> {
        let kind = self.kind(place)?;
        let name = parts(key).1;
        let old = self.get(place, key).cloned().ok_or_else(|| Status::not_found(&kind, name))?;
        check_preconditions(&kind, name, &old, &new, how)?;
        if how.by != By::Put {
            refuse_immutable(&kind, name, &old, &new)?;
        }
        keep_server_fields(&old, &mut new);
        separate(&kind, &old, &mut new, how.status);
        if is_deleting(&old) {
            refuse_new_finalizers(&kind, name, &old, &new)?;
        }
        super::admission::check_update(&kind, name, &old, &new, how.status)?;
        if kind.is_core("nodes") && !how.status {
            self.ask_about_node(place, &old, &new)?;
        }
        if how.by != By::Apply {
            ownership::release(&old, &mut new);
        }
        if new == *old.value() {
            return Ok(old);
        }
        if kind.generation != Generation::Never && !how.status && kind.raises_generation(&old, &new) {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            metadata(&mut new).insert("generation".to_owned(), json!(generation + 1));
        }
        if how.dry_run {
            return Ok(Object::of(new));
        }
        if kind.plural == "customresourcedefinitions"
            && let Some(defined) = Kind::of_definition(&new)
        {
            self.serve(defined);
        }
        Ok(self.settle(place, key, new))
    }
}

fn check_preconditions(kind: &Kind, name: &str, old: &Value, new: &Value, how: Update) -> Result<(), Status> {
    let uid = meta(new, "uid");
    if how.by == By::Put && !uid.is_empty() && uid != meta(old, "uid") {
        let namespace = meta(old, "namespace");
        let at = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let group = if kind.custom { format!("{}/", kind.group) } else { String::new() };
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{group}{}/{at}{name}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            kind.plural,
            meta(old, "uid")
        );
        return Err(Status::conflict(kind, name, &why));
    }
    let version = meta(new, "resourceVersion");
    if version.is_empty() {
        if how.by == By::Put && kind.needs_version() {
            let cause = Cause {
                reason: "FieldValueInvalid",
                field: "metadata.resourceVersion".to_owned(),
                detail: "Invalid value: 0: must be specified for an update".to_owned(),
            };
            return Err(Status::invalid(kind, name, &cause));
        }
    } else if version != meta(old, "resourceVersion") {
        return Err(Status::stale(kind, name));
    }
    Ok(())
}

fn refuse_immutable(kind: &Kind, name: &str, old: &Value, new: &Value) -> Result<(), Status> {
    for field in ["uid", "deletionTimestamp"] {
        let (had, said) = (meta(old, field), meta(new, field));
        if !said.is_empty() && said != had {
            let cause = Cause {
                reason: "FieldValueInvalid",
                field: format!("metadata.{field}"),
                detail: format!("Invalid value: {said:?}: field is immutable"),
            };
            return Err(Status::invalid(kind, name, &cause));
        }
    }
    Ok(())
}

fn keep_server_fields(old: &Value, new: &mut Value) {
    let Some(old) = old.get("metadata") else {
        return;
    };
    let new = map(new).entry("metadata").or_insert(Value::Null);
    for field in SERVERS_OWN.into_iter().chain(["name", "uid"]) {
        take_field(new, old, field);
    }
    let fields = map(new);
    fields.remove("selfLink");
    fields.remove("generateName");
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let is_empty = fields.get(field).is_some_and(|value| match value {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        });
        if is_empty {
            fields.remove(field);
        }
    }
    take_field(new, old, "generateName");
    // A writer that sends none keeps the books; only an explicit empty list closes them.
    match map(new).get("managedFields") {
        None => take_field(new, old, "managedFields"),
        Some(list) if list == &json!([]) || list == &json!([{}]) => {
            map(new).remove("managedFields");
        }
        Some(_) => {}
    }
}

/// A write through `/status` changes the status, any other write everything else.
fn separate(kind: &Kind, old: &Value, new: &mut Value, status: bool) {
    if !kind.status {
        return;
    }
    if !status {
        take_field(new, old, "status");
        return;
    }
    let written = new.get("status").cloned();
    let metadata = new.get("metadata").cloned();
    *new = old.clone();
    match written {
        Some(status) => map(new).insert("status".to_owned(), status),
        None => map(new).remove("status"),
    };
    // Kubernetes' own kinds let labels and the like through, custom resources do not.
    if !kind.custom
        && let Some(metadata) = metadata
    {
        map(new).insert("metadata".to_owned(), metadata);
    }
}

fn refuse_new_finalizers(kind: &Kind, name: &str, old: &Value, new: &Value) -> Result<(), Status> {
    let added: Vec<String> = finalizers(new)
        .filter(|one| *one != FOREGROUND && !finalizers(old).any(|had| had == *one))
        .map(|one| format!("{one:?}"))
        .collect();
    if added.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.join(", ")
    );
    let cause = Cause { reason: "FieldValueForbidden", field: "metadata.finalizers".to_owned(), detail };
    Err(Status::invalid(kind, name, &cause))
}
