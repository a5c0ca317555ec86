//! What a write changed of an object: enough to go back to what it was, and to bring an older copy up to date. It knows
//! maps and values only, and nothing of Kubernetes.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The fields of one map that a write changed, in the order of the changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Delta(Vec<(Cow<'static, str>, Was)>);

#[derive(Debug, Clone)]
enum Was {
    /// It was not there.
    Absent,
    /// It was this.
    Whole(Value),
    /// It was a map and still is; this changed within.
    Within(Delta),
    /// It was a list and still is.
    Items(Items),
}

/// How a list was changed: single items of it, and what came after those that both lists have.
#[derive(Debug, Clone)]
struct Items {
    changed: Vec<(usize, Value)>,
    /// How many items both have.
    common: usize,
    tail: Vec<Value>,
}

impl Delta {
    /// Merges a patch as RFC 7386 says and notes what that changes.
    pub(super) fn merge(&mut self, into: &mut Map<String, Value>, patch: &Map<String, Value>) {
        for (key, said) in patch {
            self.merge_field(into, key, said);
        }
    }

    /// One field of a merge.
    pub(super) fn merge_field(&mut self, into: &mut Map<String, Value>, key: &str, said: &Value) {
        if said.is_null() {
            if let Some((key, was)) = into.remove_entry(key) {
                self.0.push((key.into(), Was::Whole(was)));
            }
            return;
        }
        let Some(found) = into.get_mut(key) else {
            into.insert(key.to_owned(), merged(said));
            self.0.push((key.to_owned().into(), Was::Absent));
            return;
        };
        let was = match (&mut *found, said) {
            (Value::Object(fields), Value::Object(patch)) => {
                let mut within = Self::default();
                within.merge(fields, patch);
                (!within.is_empty()).then_some(Was::Within(within))
            }
            (Value::Array(items), Value::Array(said)) => renew(items, said),
            // What is no map says the same before and after it was merged.
            (found, said) if *found == *said && !said.is_object() => None,
            (found, said) => Some(Was::Whole(std::mem::replace(found, merged(said)))),
        };
        if let Some(was) = was {
            self.0.push((key.to_owned().into(), was));
        }
    }

    /// One field of a merge into a map that is in this map.
    pub(super) fn merge_within(
        &mut self,
        into: &mut Map<String, Value>,
        section: &'static str,
        key: &str,
        said: &Value,
    ) {
        let Some(fields) = into.get_mut(section).and_then(Value::as_object_mut) else {
            return;
        };
        let mut within = Self::default();
        within.merge_field(fields, key, said);
        self.join(section, within);
    }

    fn join(&mut self, section: &'static str, within: Self) {
        if within.is_empty() {
            return;
        }
        match self.0.iter_mut().find(|(name, _)| name == section) {
            Some((_, Was::Within(known))) => known.0.extend(within.0),
            Some(_) | None => self.0.push((section.into(), Was::Within(within))),
        }
    }

    /// Sets a field of a map that is in this map.
    pub(super) fn set(
        &mut self,
        into: &mut Map<String, Value>,
        section: &'static str,
        key: &'static str,
        value: Value,
    ) {
        let Some(fields) = into.get_mut(section).and_then(Value::as_object_mut) else {
            return;
        };
        let was = if let Some(found) = fields.get_mut(key) {
            Was::Whole(std::mem::replace(found, value))
        } else {
            fields.insert(key.to_owned(), value);
            Was::Absent
        };
        self.join(section, Self(vec![(key.into(), was)]));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which fields of the map itself changed.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| &**key)
    }

    /// Whether anything changed at a path of keys with dots between them, above it or below it.
    pub(super) fn touches(&self, path: &str) -> bool {
        let (step, rest) = path.split_once('.').unwrap_or((path, ""));
        self.0.iter().filter(|(key, _)| key == step).any(|(_, was)| match was {
            Was::Within(within) => rest.is_empty() || within.touches(rest),
            Was::Absent | Was::Whole(_) | Was::Items(_) => true,
        })
    }

    /// Whether nothing within a map of this map changed but one field.
    pub(super) fn changes_only(&self, section: &str, field: &str) -> bool {
        self.0.iter().filter(|(key, _)| key == section).all(|(_, was)| match was {
            Was::Within(within) => within.keys().all(|key| key == field),
            Was::Absent | Was::Whole(_) | Was::Items(_) => false,
        })
    }

    /// Whether nothing changed but at these paths, or below one of them.
    pub(super) fn only_at(&self, paths: &[&[&str]]) -> bool {
        self.0.iter().all(|(key, was)| {
            let mut below = Vec::new();
            for path in paths {
                match path {
                    [step] if key == step => return true,
                    [step, rest @ ..] if key == step => below.push(rest),
                    _ => {}
                }
            }
            match was {
                Was::Within(within) => within.only_at(&below),
                Was::Absent | Was::Whole(_) | Was::Items(_) => false,
            }
        })
    }

    /// Undoes the changes.
    pub(super) fn undo(&self, fields: &mut Map<String, Value>) {
        for (key, was) in self.0.iter().rev() {
            match (was, fields.get_mut(&**key)) {
                (Was::Absent, _) => {
                    fields.remove(&**key);
                }
                (Was::Whole(value), Some(field)) => field.clone_from(value),
                (Was::Whole(value), None) => {
                    fields.insert(key.clone().into_owned(), value.clone());
                }
                (Was::Within(within), Some(Value::Object(fields))) => within.undo(fields),
                (Was::Items(items), Some(Value::Array(list))) => items.undo(list),
                (Was::Within(_) | Was::Items(_), _) => {}
            }
        }
    }

    /// Brings a copy from before the changes to what `now` is after them.
    pub(super) fn follow(&self, stale: &mut Map<String, Value>, now: &Map<String, Value>) {
        for (key, was) in &self.0 {
            let Some(now) = now.get(&**key) else {
                stale.remove(&**key);
                continue;
            };
            match (was, stale.get_mut(&**key), now) {
                (Was::Within(within), Some(Value::Object(stale)), Value::Object(now)) => {
                    within.follow(stale, now);
                }
                (Was::Items(items), Some(Value::Array(stale)), Value::Array(now)) => items.follow(stale, now),
                (_, Some(stale), now) => stale.clone_from(now),
                (_, None, now) => {
                    stale.insert(key.clone().into_owned(), now.clone());
                }
            }
        }
    }
}

impl Items {
    fn undo(&self, list: &mut Vec<Value>) {
        list.truncate(self.common);
        for (index, value) in &self.changed {
            if let Some(item) = list.get_mut(*index) {
                item.clone_from(value);
            }
        }
        list.extend_from_slice(&self.tail);
    }

    fn follow(&self, stale: &mut Vec<Value>, now: &[Value]) {
        stale.truncate(self.common);
        for (index, _) in &self.changed {
            if let (Some(stale), Some(now)) = (stale.get_mut(*index), now.get(*index)) {
                stale.clone_from(now);
            }
        }
        stale.extend_from_slice(now.get(self.common..).unwrap_or_default());
    }
}

/// Replaces a list by another, item by item.
fn renew(list: &mut Vec<Value>, said: &[Value]) -> Option<Was> {
    let common = list.len().min(said.len());
    let tail = list.split_off(common);
    let mut changed = Vec::new();
    for (index, (found, said)) in list.iter_mut().zip(said).enumerate() {
        if found != said {
            changed.push((index, std::mem::replace(found, said.clone())));
        }
    }
    let added = said.get(common..).unwrap_or_default();
    list.extend_from_slice(added);
    let is_same = changed.is_empty() && tail.is_empty() && added.is_empty();
    (!is_same).then_some(Was::Items(Items { changed, common, tail }))
}

/// What a patch makes of nothing.
fn merged(said: &Value) -> Value {
    let Value::Object(said) = said else {
        return said.clone();
    };
    let kept = said.iter().filter(|(_, value)| !value.is_null());
    Value::Object(kept.map(|(key, value)| (key.clone(), merged(value))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::sim::api::patch::merge;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(null)), Just(json!(1)), Just(json!("x")), Just(json!({}))];
        leaf.prop_recursive(3, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn map() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[abc]", value(), 0..4).prop_map(|fields| fields.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_merge_can_be_undone_and_followed(before in map(), patch in map()) {
            let mut plain = Value::Object(before.clone());
            merge(&mut plain, &Value::Object(patch.clone()));
            let (mut after, mut delta) = (before.clone(), Delta::default());
            delta.merge(&mut after, &patch);
            prop_assert_eq!(&plain, &Value::Object(after.clone()));
            prop_assert_eq!(delta.is_empty(), before == after);
            let mut stale = before.clone();
            delta.follow(&mut stale, &after);
            prop_assert_eq!(&stale, &after);
            delta.undo(&mut after);
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn says_what_it_touches() {
        let mut object = json!({"metadata": {"labels": {"a": "1"}}, "status": {"phase": "A"}});
        let mut delta = Delta::default();
        if let (Some(object), Some(patch)) =
            (object.as_object_mut(), json!({"status": {"phase": "B"}}).as_object())
        {
            delta.merge(object, patch);
            delta.set(object, "metadata", "resourceVersion", "2".into());
        }
        assert!(delta.touches("status.phase") && delta.touches("metadata"));
        assert!(!delta.touches("metadata.labels") && !delta.touches("status.podIP"));
        let version: &[&str] = &["metadata", "resourceVersion"];
        assert!(delta.only_at(&[version, &["status"]]) && delta.only_at(&[&["status", "phase"], version]));
        assert!(!delta.only_at(&[version]) && !delta.only_at(&[version, &["status", "phase", "x"]]));
    }
}
