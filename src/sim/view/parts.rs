//! The fields of an object, each part of it looked up once: what is read when a new version comes in.

use serde_json::{Map, Value};

/// The three parts of an object.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) metadata: Fields<'a>,
    pub(super) spec: Fields<'a>,
    pub(super) status: Fields<'a>,
}

/// The fields of an object, or of nothing.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(Option<&'a Map<String, Value>>);

impl<'a> Parts<'a> {
    pub(super) fn of(object: &'a Value) -> Self {
        let whole = Fields::of(object);
        Self {
            metadata: whole.within("metadata"),
            spec: whole.within("spec"),
            status: whole.within("status"),
        }
    }
}

impl<'a> Fields<'a> {
    pub(super) fn of(object: &'a Value) -> Self {
        Self(object.as_object())
    }

    pub(super) fn is_there(self) -> bool {
        self.0.is_some()
    }

    pub(super) fn all(self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.0.into_iter().flatten()
    }

    pub(super) fn get(self, field: &str) -> Option<&'a Value> {
        self.0?.get(field)
    }

    pub(super) fn within(self, field: &str) -> Self {
        Self(self.get(field).and_then(Value::as_object))
    }

    pub(super) fn str(self, field: &str) -> Option<&'a str> {
        self.get(field)?.as_str()
    }

    pub(super) fn text(self, field: &str) -> &'a str {
        self.str(field).unwrap_or_default()
    }

    pub(super) fn owned(self, field: &str) -> Option<Box<str>> {
        self.str(field).map(Into::into)
    }

    pub(super) fn list(self, field: &str) -> &'a [Value] {
        self.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub(super) fn on(self, field: &str) -> bool {
        self.get(field) == Some(&Value::Bool(true))
    }
}
