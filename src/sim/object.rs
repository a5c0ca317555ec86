//! One stored version of an object. Its JSON text and its parsed form are made from each other when first asked for, and
//! shared by everybody who holds the version; nothing here ever changes what the object says.

mod text;

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

use text::{Kept, Text};

/// A version of an object; a clone costs a reference count.
#[derive(Clone)]
pub struct Object {
    forms: Arc<Forms>,
}

/// The text or the value is always there.
struct Forms {
    text: OnceLock<Text>,
    value: OnceLock<Value>,
    /// What of the text is known before it is written.
    kept: Kept,
}

impl Object {
    /// The version with this content.
    #[must_use]
    pub fn of(value: Value) -> Self {
        Self::with(OnceLock::new(), OnceLock::from(value), Kept::default())
    }

    /// The version with this content after another; `is_same` says of `metadata`, `spec` and `status` whether they are the
    /// same in both, of `metadata` but for the resourceVersion.
    pub(super) fn after(value: Value, before: &Self, is_same: impl Fn(&str) -> bool) -> Self {
        let kept = Kept::of(before.forms.text.get(), &before.forms.kept, is_same);
        Self::with(OnceLock::new(), OnceLock::from(value), kept)
    }

    fn with(text: OnceLock<Text>, value: OnceLock<Value>, kept: Kept) -> Self {
        Self { forms: Arc::new(Forms { text, value, kept }) }
    }

    /// Its JSON text, without a line break.
    #[must_use]
    pub fn text(&self) -> &Bytes {
        &self.written().bytes
    }

    fn written(&self) -> &Text {
        self.forms.text.get_or_init(|| {
            self.forms.value.get().map_or_else(Text::default, |value| Text::write(value, &self.forms.kept))
        })
    }

    /// Its content.
    #[must_use]
    pub fn value(&self) -> &Value {
        // The text was written from a `Value`, so it can be read.
        self.forms.value.get_or_init(|| serde_json::from_slice(self.text()).unwrap_or_default())
    }

    /// Forgets the parsed form; the next reader parses the text again.
    pub fn cool(&mut self) {
        if !self.is_warm() {
            return;
        }
        *self = self.cold();
    }

    /// The same version for a reader who keeps it: what that one parses is its own to forget.
    #[must_use]
    pub fn apart(&self) -> Self {
        if self.is_warm() {
            return self.clone();
        }
        self.cold()
    }

    fn cold(&self) -> Self {
        Self::with(OnceLock::from(self.written().clone()), OnceLock::new(), Kept::default())
    }

    /// Whether the parsed form is in memory.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.forms.value.get().is_some()
    }

    /// The parsed content when nobody else holds this version.
    #[must_use]
    pub(super) fn into_own_value(self) -> Option<Value> {
        Arc::try_unwrap(self.forms).ok()?.value.into_inner()
    }

    /// The content, without a copy where nobody else holds this version.
    #[must_use]
    pub fn into_value(self) -> Value {
        match Arc::try_unwrap(self.forms) {
            Ok(Forms { text, value, .. }) => value.into_inner().unwrap_or_else(|| {
                serde_json::from_slice(text.get().map_or(&[][..], |text| &text.bytes)).unwrap_or_default()
            }),
            Err(forms) => Self { forms }.value().clone(),
        }
    }
}

impl Deref for Object {
    type Target = Value;

    fn deref(&self) -> &Value {
        self.value()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.text()))
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.forms, &other.forms) || self.value() == other.value()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn says_the_same_warm_and_cold() {
        let mut object = Object::of(json!({"metadata": {"name": "a"}, "spec": [1, null]}));
        let other = object.clone();
        object.cool();
        assert!(!object.is_warm() && other.is_warm());
        assert_eq!(object["metadata"]["name"], "a");
        assert!(object.is_warm(), "a reader warms it");
        assert_eq!(object, other);
        assert_eq!(object.text(), r#"{"metadata":{"name":"a"},"spec":[1,null]}"#);
        object.cool();
        assert_eq!(object.into_value(), other.into_value());
    }
}
