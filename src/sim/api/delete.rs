//! Deletion: preconditions, grace periods, finalizers and what becomes of dependents.

use serde_json::{Value, json};

use super::Object;
use super::gc::Chore;
use super::json::{finalizers, is_deleting, meta, metadata, text};
use super::kinds::Kind;
use super::status::{Cause, Status};
use super::store::{Key, Place, Store, parts, stamp};

/// Finalizer of an owner that waits for its dependents to be deleted.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner that waits for its dependents to forget it.
pub(super) const ORPHAN: &str = "orphan";

/// `DeleteOptions`, from the body or the query.
#[derive(Debug, Clone, Default)]
pub(super) struct DeleteOptions {
    pub(super) grace: Option<i64>,
    pub(super) propagation: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) dry_run: bool,
}

/// What a deletion came to.
#[derive(Debug)]
pub(super) enum Deleted {
    /// It is gone; this was its last version.
    Gone(Object),
    /// It waits for finalizers or its grace period.
    Pending(Object),
}

impl DeleteOptions {
    /// Reads the body.
    pub(super) fn read(body: &Value) -> Self {
        let field = |pointer: &str| Some(text(body, pointer).to_owned()).filter(|text| !text.is_empty());
        let orphan = body.get("orphanDependents").and_then(Value::as_bool);
        Self {
            grace: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            propagation: field("/propagationPolicy")
                .or_else(|| orphan.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned())),
            uid: field("/preconditions/uid"),
            resource_version: field("/preconditions/resourceVersion"),
            dry_run: body.get("dryRun").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
        }
    }

    fn check(&self, kind: &Kind, name: &str, object: &Value) -> Result<(), Status> {
        if let Some(wanted) = &self.uid
            && wanted != meta(object, "uid")
        {
            let why = format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                meta(object, "uid")
            );
            return Err(Status::conflict(kind, name, &why));
        }
        if let Some(wanted) = &self.resource_version
            && wanted != meta(object, "resourceVersion")
        {
            let why = format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({}). The object might have been modified",
                meta(object, "resourceVersion")
            );
            return Err(Status::conflict(kind, name, &why));
        }
        if let Some(policy) = &self.propagation
            && !["Background", "Foreground", "Orphan"].contains(&policy.as_str())
        {
            let detail = format!(
                "Invalid value: \"{policy}\": must be one of: \"Background\",\"Foreground\",\"Orphan\" or null"
            );
            let cause = Cause { reason: "FieldValueInvalid", field: "propagationPolicy".to_owned(), detail };
            let options = Kind { group: "meta.k8s.io".into(), kind: "DeleteOptions".into(), ..kind.clone() };
            return Err(Status::invalid(&options, "", &cause));
        }
        Ok(())
    }
}

impl Store {
    /// Deletes an object, or marks it when something still holds it.
    pub(super) fn delete(
        &mut self,
        place: Place,
        key: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let kind = self.kind(place)?;
        let name = parts(key).1;
        let object = self.get(place, key).cloned().ok_or_else(|| Status::not_found(&kind, name))?;
        options.check(&kind, name, &object)?;
        let mut value = object.value().clone();
        let held = set_finalizers(&kind, options, &mut value);
        let grace = grace(&kind, options, &object);
        let is_marked = is_deleting(&object);
        let old_grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
        let shorter = is_marked && grace.is_some_and(|grace| old_grace.is_some_and(|old| grace < old));
        if !is_marked || shorter {
            let seconds = grace.unwrap_or(0);
            let due = self.clock.now().checked_add(jiff::SignedDuration::from_secs(seconds));
            let due = stamp(due.unwrap_or_else(|_| self.clock.now()));
            let fields = metadata(&mut value);
            fields.insert("deletionTimestamp".to_owned(), due.into());
            fields.insert("deletionGracePeriodSeconds".to_owned(), json!(seconds));
            let generation = fields.get("generation").and_then(Value::as_i64).filter(|_| !is_marked);
            if let Some(generation) = generation.filter(|generation| *generation > 0) {
                fields.insert("generation".to_owned(), json!(generation + 1));
            }
        }
        let in_grace = if shorter || !is_marked { grace.unwrap_or(0) } else { old_grace.unwrap_or(0) } > 0;
        if held || in_grace || holds_namespace(&kind, &mut value) {
            if options.dry_run || value == *object.value() {
                return Ok(Deleted::Pending(Object::of(value)));
            }
            let object = self.put(place, key, value);
            self.chores.push_back(Chore::Owner(place, Key::from(key)));
            return Ok(Deleted::Pending(object));
        }
        // What is removed at once was never seen as being deleted.
        let last = if is_marked { value } else { object.value().clone() };
        Ok(Deleted::Gone(if options.dry_run { Object::of(last) } else { self.remove(place, key, last) }))
    }

    /// Stores a new version, or removes the object when it was the last thing that held it.
    pub(super) fn settle(&mut self, place: Place, key: &str, value: Value) -> Object {
        let grace =
            value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        let held = finalizers(&value).next().is_some() || value.pointer("/spec/finalizers/0").is_some();
        if is_deleting(&value) && grace == 0 && !held {
            self.remove(place, key, value)
        } else {
            self.put(place, key, value)
        }
    }
}

/// Puts the finalizers of the wished policy; tells whether any finalizer holds the object.
fn set_finalizers(kind: &Kind, options: &DeleteOptions, value: &mut Value) -> bool {
    let had: Vec<String> = finalizers(value).map(str::to_owned).collect();
    let default = if kind.group == "batch" && kind.plural == "jobs" { Some("Orphan") } else { None };
    let policy = match options.propagation.as_deref() {
        Some(policy) => Some(policy),
        None if had.iter().any(|one| one == ORPHAN || one == FOREGROUND) => None,
        None => default,
    };
    let mut finalizers = had.clone();
    if let Some(policy) = policy {
        finalizers.retain(|one| one != ORPHAN && one != FOREGROUND);
        match policy {
            "Orphan" => finalizers.push(ORPHAN.to_owned()),
            "Foreground" => finalizers.push(FOREGROUND.to_owned()),
            _ => {}
        }
    }
    let held = !finalizers.is_empty();
    if finalizers != had {
        if held {
            metadata(value).insert("finalizers".to_owned(), json!(finalizers));
        } else {
            metadata(value).remove("finalizers");
        }
    }
    held
}

/// Seconds that a pod has; `None` for kinds that know no grace.
fn grace(kind: &Kind, options: &DeleteOptions, object: &Value) -> Option<i64> {
    if !kind.is_core("pods") {
        return None;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
    let ended = matches!(text(object, "/status/phase"), "Succeeded" | "Failed");
    if text(object, "/spec/nodeName").is_empty() || ended {
        return Some(0);
    }
    Some(match options.grace.unwrap_or(own) {
        // A negative period means one second, as the real server reads it.
        seconds if seconds < 0 => 1,
        seconds => seconds,
    })
}

/// A namespace stays, terminating, until what is in it is gone.
fn holds_namespace(kind: &Kind, value: &mut Value) -> bool {
    let held = kind.is_core("namespaces") && value.pointer("/spec/finalizers/0").is_some();
    if held {
        super::json::map(value).insert("status".to_owned(), json!({"phase": "Terminating"}));
    }
    held
}
