//! The JSON text of an object: written once for a version, with the parts that a write left alone taken over from the text
//! of the version before. Always what `serde_json` would have written.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use serde_json::{Map, Value};

/// The parts of an object that are worth taking over.
const SECTIONS: [&str; 3] = ["metadata", "spec", "status"];

thread_local! {
    /// Where this thread writes its texts.
    static DRAFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const VERSION: &[u8] = b"\"resourceVersion\":\"";

/// Texts of sections that are those of this version too; of `metadata` all but the resourceVersion. Most versions at rest
/// have none, and there are hundreds of thousands of them.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<Box<[Option<Bytes>; 3]>>);

/// A text, and where its sections are.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    pub(super) bytes: Bytes,
    sections: [Range<u32>; 3],
}

impl Kept {
    /// What can be taken over from a version: its own text as far as it was written, otherwise what it would take over.
    pub(super) fn of(text: Option<&Text>, kept: &Self, is_same: impl Fn(&str) -> bool) -> Self {
        let mut all: [Option<Bytes>; 3] = Default::default();
        for (index, slot) in all.iter_mut().enumerate() {
            if !SECTIONS.get(index).is_some_and(|section| is_same(section)) {
                continue;
            }
            *slot = match text.and_then(|text| Some((text, text.section(index)?))) {
                Some((_, range)) if range.is_empty() => None,
                Some((text, range)) => Some(text.bytes.slice(range)),
                None => kept.section(index).cloned(),
            };
        }
        Self(all.iter().any(Option::is_some).then(|| Box::new(all)))
    }

    fn section(&self, index: usize) -> Option<&Bytes> {
        self.0.as_ref()?.get(index)?.as_ref()
    }
}

impl Text {
    fn section(&self, index: usize) -> Option<Range<usize>> {
        let range = self.sections.get(index)?;
        Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    /// The text of a value.
    pub(super) fn write(value: &Value, kept: &Kept) -> Self {
        // What is kept is copied to its exact length once it is known: hundreds of thousands of them are kept.
        DRAFT.with_borrow_mut(|draft| {
            draft.clear();
            Self::draft(draft, value, kept)
        })
    }

    fn draft(text: &mut Vec<u8>, value: &Value, kept: &Kept) -> Self {
        let mut sections: [Range<u32>; 3] = Default::default();
        if let Value::Object(fields) = value {
            text.push(b'{');
            for (key, value) in fields {
                if text.len() > 1 {
                    text.push(b',');
                }
                write_string(text, key);
                text.push(b':');
                let from = text.len();
                let section = SECTIONS.iter().position(|section| section == key);
                let known = section.and_then(|section| kept.section(section));
                if !known.is_some_and(|known| take_over(text, known, key, value)) {
                    write(text, value);
                }
                if let Some(range) = section.and_then(|section| sections.get_mut(section)) {
                    // Nothing is taken over of a text that is too long to be counted so; no server takes one that long.
                    *range = match (u32::try_from(from), u32::try_from(text.len())) {
                        (Ok(from), Ok(to)) => from..to,
                        _ => 0..0,
                    };
                }
            }
            text.push(b'}');
        } else {
            write(text, value);
        }
        debug_assert_eq!(
            String::from_utf8_lossy(text),
            value.to_string(),
            "a text that was put together says something else"
        );
        Self { bytes: Bytes::copy_from_slice(text), sections }
    }
}

/// False when it cannot be taken over.
fn take_over(text: &mut Vec<u8>, known: &[u8], key: &str, value: &Value) -> bool {
    if key != "metadata" {
        text.extend_from_slice(known);
        return true;
    }
    // The last of this name is that of `metadata` itself: behind it come texts only.
    let at = known.windows(VERSION.len()).rposition(|window| window == VERSION);
    let version = value.get("resourceVersion").and_then(Value::as_str);
    let (Some(at), Some(version)) = (at, version) else { return false };
    let (before, rest) = known.split_at(at + VERSION.len());
    let Some(end) = rest.iter().position(|byte| *byte == b'"') else { return false };
    text.extend_from_slice(before);
    text.extend_from_slice(version.as_bytes());
    text.extend_from_slice(rest.get(end..).unwrap_or_default());
    true
}

fn write(text: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => text.extend_from_slice(b"null"),
        Value::Bool(true) => text.extend_from_slice(b"true"),
        Value::Bool(false) => text.extend_from_slice(b"false"),
        Value::Number(number) => text.extend_from_slice(number.to_string().as_bytes()),
        Value::String(string) => write_string(text, string),
        Value::Array(items) => {
            text.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write(text, item);
            }
            text.push(b']');
        }
        Value::Object(fields) => write_fields(text, fields),
    }
}

fn write_fields(text: &mut Vec<u8>, fields: &Map<String, Value>) {
    text.push(b'{');
    for (index, (key, value)) in fields.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        write_string(text, key);
        text.push(b':');
        write(text, value);
    }
    text.push(b'}');
}

fn write_string(text: &mut Vec<u8>, string: &str) {
    // Without a way out of the loop, many letters are looked at in one step.
    let special = |byte: u8| u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\');
    if string.bytes().fold(0, |any, byte| any | special(byte)) != 0 {
        text.extend_from_slice(Value::from(string).to_string().as_bytes());
        return;
    }
    text.reserve(string.len() + 2);
    text.push(b'"');
    text.extend_from_slice(string.as_bytes());
    text.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn is_what_serde_json_writes() {
        let odd = json!({"a": [null, true, false, -1, 1.5, 1e300, u64::MAX], "\"\u{1}\n\\": "ü\u{7f}\t",
            "metadata": {}, "spec": [], "z": [{}, [[]]]});
        assert_eq!(Text::write(&odd, &Kept::default()).bytes, odd.to_string());
        assert_eq!(Text::write(&json!("plain"), &Kept::default()).bytes, "\"plain\"");
        assert_eq!(Text::write(&json!({}), &Kept::default()).bytes, "{}");
    }

    #[test]
    fn takes_over_what_is_the_same_and_puts_the_version_in() {
        let annotation = json!({"note": "\"resourceVersion\":\"7\""});
        let mut value = json!({"kind": "Pod", "spec": {"a": 1}, "status": {"b": 2},
            "metadata": {"annotations": annotation, "resourceVersion": "9", "uid": "u"}});
        let first = Text::write(&value, &Kept::default());
        value["metadata"]["resourceVersion"] = json!("10");
        value["status"]["b"] = json!(3);
        let kept = Kept::of(Some(&first), &Kept::default(), |section| section != "status");
        let second = Text::write(&value, &kept);
        assert_eq!(second.bytes, value.to_string());
        // One that never wrote its text hands on what it was given.
        value["spec"]["a"] = json!(2);
        value["metadata"]["resourceVersion"] = json!("1000");
        let kept = Kept::of(None, &kept, |section| section == "metadata");
        assert_eq!(Text::write(&value, &kept).bytes, value.to_string());
    }
}
