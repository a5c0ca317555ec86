//! Creating and loading objects: names, uids, times, and the status that a new object may not bring.

use serde_json::{Value, json};

use super::Object;
use super::admission;
use super::json::{map, meta, metadata, text};
use super::kinds::{Generation, Kind};
use super::status::{Cause, Status};
use super::store::{Place, Store, key_of, stamp};

impl Store {
    /// Creates an object in a namespace (empty for cluster-scoped kinds).
    pub(super) fn create(
        &mut self,
        place: Place,
        namespace: &str,
        mut new: Value,
        dry_run: bool,
    ) -> Result<Object, Status> {
        let kind = self.kind(place)?;
        check_namespace(&kind, namespace, &new)?;
        if !meta(&new, "resourceVersion").is_empty() {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Status::new(500, "", message));
        }
        let generated = meta(&new, "name").is_empty();
        if generated {
            let prefix = meta(&new, "generateName").to_owned();
            if prefix.is_empty() {
                let cause = Cause {
                    reason: "FieldValueRequired",
                    field: "metadata.name".to_owned(),
                    detail: "Required value: name or generateName is required".to_owned(),
                };
                return Err(Status::invalid(&kind, "", &cause));
            }
            let name = self.ids.name(&prefix);
            metadata(&mut new).insert("name".to_owned(), name.into());
        }
        let name = meta(&new, "name").to_owned();
        admission::check_name(&kind, &name)?;
        let key = key_of(namespace, &name);
        if self.get(place, &key).is_some() {
            return Err(Status::already_exists(&kind, &name));
        }
        if kind.namespaced {
            self.check_namespace_open(&kind, namespace, &name)?;
        }
        self.begin(&kind, namespace, &mut new);
        admission::prepare(&kind, &mut new);
        self.fill_in(place, &mut new);
        if dry_run {
            return Ok(Object::of(new));
        }
        if kind.plural == "customresourcedefinitions"
            && let Some(defined) = Kind::of_definition(&new)
        {
            admission::establish(&mut new, &self.stamp());
            self.serve(defined);
        }
        Ok(self.put(place, &key, new))
    }

    fn check_namespace_open(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), Status> {
        let Some(namespaces) = self.place("", "namespaces") else {
            return Ok(());
        };
        let found = self.get(namespaces, namespace);
        let Some(found) = found else {
            return Err(Status::not_found(&*self.kind(namespaces)?, namespace));
        };
        if text(found, "/status/phase") == "Terminating" {
            let message = format!(
                "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
                kind.resource()
            );
            return Err(Status::forbidden(kind, name, message).caused_by(
                "NamespaceTerminating",
                format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            ));
        }
        Ok(())
    }

    fn begin(&mut self, kind: &Kind, namespace: &str, new: &mut Value) {
        let (uid, now) = (self.ids.uid(), self.stamp());
        map(new).insert("apiVersion".to_owned(), kind.api_version().into());
        map(new).insert("kind".to_owned(), (*kind.kind).into());
        if kind.status && !kind.is_core("nodes") {
            map(new).remove("status");
        }
        let fields = metadata(new);
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"] {
            fields.remove(field);
        }
        fields.insert("uid".to_owned(), uid.into());
        fields.insert("creationTimestamp".to_owned(), now.into());
        if kind.namespaced {
            fields.insert("namespace".to_owned(), namespace.into());
        } else {
            fields.remove("namespace");
        }
        if kind.generation != Generation::Never {
            fields.insert("generation".to_owned(), json!(1));
        }
    }

    /// Stores an object as it is, filling in only what the server would have had to.
    pub(super) fn load(&mut self, mut new: Value) -> Result<Object, Status> {
        let (api_version, kind) = (text(&new, "/apiVersion"), text(&new, "/kind"));
        let unknown =
            || Status::bad_request(format!("no kind \"{kind}\" is registered for version \"{api_version}\""));
        let place = self.place_of_kind(api_version, kind).ok_or_else(unknown)?;
        let kind = self.kind(place)?;
        let name = meta(&new, "name").to_owned();
        if name.is_empty() {
            return Err(Status::bad_request(format!("a {} without a name cannot be loaded", kind.kind)));
        }
        let namespace = match (kind.namespaced, meta(&new, "namespace")) {
            (false, _) => String::new(),
            (true, "") => "default".to_owned(),
            (true, namespace) => namespace.to_owned(),
        };
        let drawn = self.ids.clone();
        self.ids.skip_uid();
        let clock = self.clock;
        let fields = metadata(&mut new);
        let missing: [(&str, &dyn Fn() -> String); 3] = [
            ("uid", &|| drawn.clone().uid()),
            ("creationTimestamp", &|| stamp(clock.now())),
            ("namespace", &|| namespace.clone()),
        ];
        for (field, value) in missing {
            if (field != "namespace" || !namespace.is_empty())
                && fields.get(field).is_none_or(|had| had.is_null() || had == "")
            {
                fields.insert(field.to_owned(), value().into());
            }
        }
        if kind.generation != Generation::Never && fields.get("generation").is_none_or(|had| !had.is_i64()) {
            fields.insert("generation".to_owned(), json!(1));
        }
        if kind.plural == "customresourcedefinitions"
            && let Some(defined) = Kind::of_definition(&new)
        {
            self.serve(defined);
        }
        if kind.namespaced {
            self.ensure_namespace(&namespace)?;
        }
        let key = key_of(&namespace, &name);
        let loaded = self.put(place, &key, new);
        self.rests(place, &key);
        Ok(loaded)
    }

    /// Makes a namespace that is not there.
    pub(super) fn ensure_namespace(&mut self, namespace: &str) -> Result<(), Status> {
        let Some(place) = self.place("", "namespaces") else {
            return Ok(());
        };
        if self.get(place, namespace).is_none() {
            self.create(place, "", json!({"metadata": {"name": namespace}}), false)?;
        }
        Ok(())
    }
}

fn check_namespace(kind: &Kind, namespace: &str, new: &Value) -> Result<(), Status> {
    let said = meta(new, "namespace");
    if kind.namespaced && !said.is_empty() && said != namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(message));
    }
    Ok(())
}
