//! Server-side apply: what a manager wants of an object, weighed against what others applied or wrote.

use serde_json::Value;

use super::Object;
use super::json::{list, map, meta, metadata};
use super::kinds::Kind;
use super::ownership::{self, Fields, books, fields_of, find};
use super::patch::merge;
use super::status::Status;
use super::store::{Place, Store, parts};
use super::update::{By, Update};

/// Who applies, and how.
#[derive(Debug, Clone)]
pub(super) struct Apply {
    pub(super) manager: String,
    pub(super) force: bool,
    pub(super) status: bool,
    pub(super) dry_run: bool,
}

impl Store {
    /// Applies `wanted`; true when that created the object.
    pub(super) fn apply(
        &mut self,
        place: Place,
        key: &str,
        wanted: &Value,
        how: &Apply,
    ) -> Result<(Object, bool), Status> {
        let kind = self.kind(place)?;
        let (namespace, name) = parts(key);
        if how.manager.is_empty() {
            let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
            return Err(Status::new(422, "Invalid", message));
        }
        if wanted.pointer("/metadata/managedFields").is_some() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let subresource = if how.status { "status" } else { "" };
        let mut fields = fields_of(wanted, kind.custom);
        let now = self.stamp();
        let Some(old) = self.get(place, key).cloned() else {
            if how.status {
                return Err(Status::not_found(&kind, name));
            }
            if !meta(wanted, "uid").is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    meta(wanted, "uid")
                );
                return Err(Status::conflict(&kind, name, &why));
            }
            let mut new = wanted.clone();
            metadata(&mut new).insert("name".to_owned(), name.into());
            if kind.status {
                fields.retain(|path| path.first().is_none_or(|step| step != "f:status"));
            }
            let created = self.create(place, namespace, new, true)?;
            let mut new = created.into_value();
            ownership::write(&mut new, &[(how.manager.clone(), String::new(), fields)], &now);
            if how.dry_run {
                return Ok((Object::of(new), true));
            }
            if kind.plural == "customresourcedefinitions"
                && let Some(defined) = Kind::of_definition(&new)
            {
                super::admission::establish(&mut new, &now);
                self.serve(defined);
            }
            return Ok((self.put(place, key, new), true));
        };
        if kind.status {
            // What the subresource does not write, it does not own.
            fields.retain(|path| (path.first().is_some_and(|step| step == "f:status")) == how.status);
        }
        let mut books = books(&old);
        let mine = books.iter().position(|(manager, sub, _)| *manager == how.manager && sub == subresource);
        let had: Fields = mine.map(|index| books.remove(index).2).unwrap_or_default();
        settle_conflicts(&kind, name, &old, wanted, how, &fields, &had, &mut books)?;
        let mut new = old.value().clone();
        for path in had.difference(&fields) {
            let others = books.iter().any(|(_, _, theirs)| theirs.contains(path));
            if !others && !fields.iter().any(|kept| kept.starts_with(path)) {
                ownership::remove(&mut new, path);
            }
        }
        overlay(&mut new, wanted, &fields);
        for field in ["uid", "resourceVersion"] {
            if !meta(wanted, field).is_empty() {
                metadata(&mut new).insert(field.to_owned(), meta(wanted, field).into());
            }
        }
        let unchanged = had == fields;
        books.push((how.manager.clone(), subresource.to_owned(), fields));
        books.sort();
        if !unchanged || new != *old.value() {
            ownership::write(&mut new, &books, &now);
            keep_times(&old, &mut new);
        }
        let update = Update { status: how.status, by: By::Apply, dry_run: how.dry_run };
        Ok((self.update(place, key, new, update)?, false))
    }
}

/// Refuses to change what is somebody else's, or takes it with `force`.
#[expect(clippy::too_many_arguments, reason = "both sides of one comparison")]
fn settle_conflicts(
    kind: &Kind,
    name: &str,
    old: &Value,
    wanted: &Value,
    how: &Apply,
    fields: &Fields,
    had: &Fields,
    books: &mut [(String, String, Fields)],
) -> Result<(), Status> {
    let changes: Vec<&Vec<String>> = fields
        .iter()
        .filter(|path| find(old, path).is_some_and(|value| Some(value) != find(wanted, path)))
        .collect();
    if how.force {
        for (_, _, theirs) in books.iter_mut() {
            theirs.retain(|path| !changes.contains(&path));
        }
        return Ok(());
    }
    let mut conflicts = Vec::new();
    for path in changes {
        let owner = books.iter().find(|(_, _, theirs)| theirs.contains(path));
        match owner {
            Some((manager, _, _)) => conflicts.push((manager.clone(), path)),
            None if !had.contains(path) => conflicts.push(("unknown".to_owned(), path)),
            None => {}
        }
    }
    let Some((first, _)) = conflicts.first() else {
        return Ok(());
    };
    let several = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
    let message = format!(
        "Apply failed with {} {several}: {several} with \"{first}\": {}",
        conflicts.len(),
        conflicts.iter().map(|(_, path)| dotted(path)).collect::<Vec<_>>().join("\n- ")
    );
    let mut status = Status::new(409, "Conflict", message);
    for (manager, path) in &conflicts {
        status =
            status.caused_by("FieldManagerConflict", format!("conflict with \"{manager}\""), &dotted(path));
    }
    tracing::debug!(kind = %kind.kind, name, "apply conflict");
    Err(status)
}

/// Writes the applied fields; other fields of the object stay as they are.
fn overlay(new: &mut Value, wanted: &Value, fields: &Fields) {
    for path in fields {
        let Some(value) = find(wanted, path) else {
            continue;
        };
        write(new, path, value);
    }
}

/// Writes a value where a path leads; what is missing on the way is made.
fn write(at: &mut Value, path: &[String], value: &Value) {
    let Some((step, rest)) = path.split_first() else {
        if value.is_object() {
            merge(at, value);
        } else {
            *at = value.clone();
        }
        return;
    };
    let (kind, key) = step.split_at_checked(2).unwrap_or(("f:", step));
    if kind == "f:" {
        return write(map(at).entry(key).or_insert(Value::Null), rest, value);
    }
    let item: Value = serde_json::from_str(key).unwrap_or_default();
    let same = |one: &Value| match (kind, item.as_object()) {
        ("k:", Some(keys)) => keys.iter().all(|(key, value)| one.get(key) == Some(value)),
        _ => *one == item,
    };
    let items = list(at);
    if !items.iter().any(same) {
        items.push(item.clone());
    }
    if let Some(found) = items.iter_mut().find(|one| same(one)) {
        write(found, rest, value);
    }
}

/// Times of managers whose fields did not change stay.
fn keep_times(old: &Value, new: &mut Value) {
    let before =
        old.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    let entries = new.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten() {
        let same = before.iter().find(|one| {
            ["manager", "subresource", "fieldsV1", "operation"]
                .iter()
                .all(|field| one.get(field) == entry.get(field))
        });
        if let Some(time) = same.and_then(|same| same.get("time")) {
            map(entry).insert("time".to_owned(), time.clone());
        }
    }
}

fn dotted(path: &[String]) -> String {
    path.iter()
        .map(|step| match step.split_at_checked(2) {
            Some(("f:", key)) => format!(".{key}"),
            Some((_, key)) => format!("[{}]", key.trim_matches(['{', '}']).replace(':', "=")),
            None => step.clone(),
        })
        .collect()
}
