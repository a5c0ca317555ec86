//! What an object can be found by without parsing it: its labels and its selectable fields.

use std::sync::Arc;

use serde_json::Value;

use super::kinds::Kind;

/// Lines of `key=value`, shared by all versions that have the same; keys of fields begin with a dot, which no label does.
#[derive(Debug, Clone)]
pub(super) struct Facts(Arc<Lines>);

#[derive(Debug)]
struct Lines {
    text: Box<str>,
    hashes: Box<[u64]>,
}

impl PartialEq for Facts {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}

impl Facts {
    pub(super) fn of(kind: &Kind, object: &Value) -> Self {
        let mut lines = String::with_capacity(256);
        let mut hashes = Vec::with_capacity(8);
        let mut add = |dot: &str, key: &str, value: &str| {
            if !value.contains('\n') {
                hashes.push(hash(&[dot, key, "=", value]));
                for part in [dot, key, "=", value, "\n"] {
                    lines.push_str(part);
                }
            }
        };
        let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
        for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
            add("", key, value.as_str().unwrap_or_default());
        }
        for field in &kind.fields {
            let found = field.split('.').try_fold(object, |value, part| value.get(part));
            match found {
                None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => {
                    add(".", field, absent(field));
                }
                Some(Value::String(text)) => add(".", field, text),
                Some(Value::Bool(flag)) => add(".", field, if *flag { "true" } else { "false" }),
                Some(Value::Number(number)) => add(".", field, &number.to_string()),
            }
        }
        Self(Arc::new(Lines { text: lines.into(), hashes: hashes.into() }))
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.text.lines()
    }

    /// The value of a label, or of a field with its dot.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// One number per fact, for indices; equal facts have equal numbers.
    pub(super) fn hashes(&self) -> &[u64] {
        &self.0.hashes
    }
}

/// What Go's zero value of an absent field reads as.
fn absent(field: &str) -> &'static str {
    match field {
        "spec.unschedulable" | "spec.hostNetwork" => "false",
        "status.replicas" | "status.successful" => "0",
        _ => "",
    }
}

/// FNV-1a over the parts as one text. Only an accelerator: whatever it finds is compared in full.
pub(super) fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.as_bytes() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}
