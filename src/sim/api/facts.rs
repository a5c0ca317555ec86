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

/// Facts that are being gathered.
#[derive(Default)]
struct Found {
    text: String,
    hashes: Vec<u64>,
}

impl Found {
    fn add(&mut self, mark: &str, key: &str, value: &str) {
        if !value.contains('\n') {
            self.hashes.push(hash(&[mark, key, "=", value]));
            for part in [mark, key, "=", value, "\n"] {
                self.text.push_str(part);
            }
        }
    }

    fn add_labels(&mut self, object: &Value) {
        let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
        for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
            self.add("", key, value.as_str().unwrap_or_default());
        }
    }

    fn settled(self) -> Facts {
        Facts(Arc::new(Lines { text: self.text.into(), hashes: self.hashes.into() }))
    }
}

/// Before the label that a budget is found by; no label and no field begins with it.
const ASKS: &str = "?";

impl Facts {
    pub(super) fn of(kind: &Kind, object: &Value) -> Self {
        let mut found = Found::default();
        found.add_labels(object);
        for field in &kind.fields {
            let value = field.split('.').try_fold(object, |value, part| value.get(part));
            match value {
                None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => {
                    found.add(".", field, absent(field));
                }
                Some(Value::String(text)) => found.add(".", field, text),
                Some(Value::Bool(flag)) => found.add(".", field, if *flag { "true" } else { "false" }),
                Some(Value::Number(number)) => found.add(".", field, &number.to_string()),
            }
        }
        if kind.is_budget() {
            // One of the labels that it asks for will do; one that asks for none may be about every pod.
            let asked = object.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
            match asked.and_then(|asked| asked.iter().next_back()) {
                Some((key, value)) => found.add(ASKS, key, value.as_str().unwrap_or_default()),
                None => found.add(ASKS, "", ""),
            }
        }
        found.settled()
    }

    /// Its labels alone.
    pub(super) fn of_labels(object: &Value) -> Self {
        let mut found = Found::default();
        found.add_labels(object);
        found.settled()
    }

    /// Numbers of the facts of which a budget has one that may be about this pod.
    pub(super) fn asking_for(pod: &Value) -> impl Iterator<Item = u64> {
        let labels = pod.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
        let labels = labels.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()));
        labels.chain([("", "")]).map(|(key, value)| hash(&[ASKS, key, "=", value]))
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
