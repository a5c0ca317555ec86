//! Lists: which objects, as of which version, how many at once, and the text that is put together from theirs.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::sync::mpsc::unbounded_channel;

use super::Object;
use super::collection::{Collection, Entry};
use super::request::Query;
use super::selector::Selector;
use super::status::Status;
use super::store::{Key, Place, Store, key_of, parts};
use super::subscription::{Event, Subscription};
use super::watchers::Interest;

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) version: u64,
    pub(super) items: Vec<(Key, Object)>,
    pub(super) next: Option<String>,
    pub(super) remaining: Option<usize>,
}

const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

impl Store {
    /// The objects that somebody is interested in, by key.
    pub(super) fn select<'a>(&'a self, place: Place, interest: &'a Interest) -> Vec<(&'a Key, &'a Entry)> {
        self.collection(place).map_or_else(Vec::new, |collection| collection.select(interest))
    }

    /// One page of a list as the query wants it.
    pub(super) fn page(&self, place: Place, namespace: &str, query: &Query) -> Result<Page, Status> {
        let kind = self.kind(place)?;
        let selector = Selector::parse(&kind, query.get("labelSelector"), query.get("fieldSelector"))?;
        let is_selective = !selector.is_empty();
        let interest = Interest { namespace: namespace.to_owned(), selector };
        let limit = query.number("limit")?.filter(|limit| *limit > 0).unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (version, after) = self.start(query)?;
        let mut items: Vec<(Key, Object)> = if version >= self.version {
            let found = self.select(place, &interest);
            found.into_iter().map(|(key, entry)| (key.clone(), entry.object.clone())).collect()
        } else {
            self.select_then(place, &interest, version)?
        };
        if let Some(after) = after {
            items.retain(|(key, _)| **key > *after);
        }
        let left = items.len().saturating_sub(limit);
        items.truncate(limit);
        let last = items.last().filter(|_| left > 0);
        let next = last.map(|(key, _)| token(version, key));
        let remaining = next.as_ref().filter(|_| !is_selective).map(|_| left);
        Ok(Page { version, items, next, remaining })
    }

    /// The version that a list shows, and the key that it goes on after.
    fn start(&self, query: &Query) -> Result<(u64, Option<String>), Status> {
        let (wanted, matching) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
        let token = query.get("continue");
        if !token.is_empty() {
            if !wanted.is_empty() && wanted != "0" {
                let message = "specifying resource version is not allowed when using continue";
                return Err(Status::bad_request(message));
            }
            let (version, key) = read_token(token).ok_or_else(|| {
                Status::bad_request("continue key is not valid: encoded continue token is not valid")
            })?;
            return Ok((version, Some(key)));
        }
        let invalid = |detail: &str| {
            let message =
                format!("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: {detail}");
            Err(Status::new(422, "Invalid", message))
        };
        if !matching.is_empty() && wanted.is_empty() {
            return invalid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if matching == "Exact" && wanted == "0" {
            return invalid("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"");
        }
        let wanted = self.version_of(wanted)?;
        // An older version is asked for by `Exact`, or by a limit without any match, as clients of old did.
        let exact = matching == "Exact"
            || (matching.is_empty() && query.number("limit")?.is_some_and(|limit| limit > 0));
        Ok((if exact && wanted > 0 { wanted } else { self.version }, None))
    }

    /// Reads a resourceVersion; the server waits in vain for one that it has not reached.
    pub(super) fn version_of(&self, text: &str) -> Result<u64, Status> {
        if text.is_empty() {
            return Ok(0);
        }
        let version: u64 = text.parse().map_err(|_| {
            Status::bad_request(format!(
                "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ))
        })?;
        if version > self.version {
            let message = format!("Too large resource version: {version}, current: {}", self.version);
            return Err(Status::new(504, "Timeout", format!("Timeout: {message}"))
                .caused_by("ResourceVersionTooLarge", "Too large resource version", "")
                .retry_after(1));
        }
        Ok(version)
    }

    fn select_then(
        &self,
        place: Place,
        interest: &Interest,
        version: u64,
    ) -> Result<Vec<(Key, Object)>, Status> {
        let Some(collection) = self.collection(place) else {
            return Err(Status::no_such_path());
        };
        if version < self.history.forgotten(place) {
            return Err(Status::expired(TOO_OLD));
        }
        let then = self.history.differences(place, version, collection);
        let now = collection.select(interest);
        let unchanged = now.into_iter().filter(|(key, _)| !then.contains_key(*key));
        let mut items: Vec<(Key, Object)> =
            unchanged.map(|(key, entry)| (key.clone(), entry.object.clone())).collect();
        for (key, entry) in &then {
            if let Some(entry) = entry.as_ref().filter(|entry| interest.includes(key, &entry.facts)) {
                items.push((key.clone(), entry.object.clone()));
            }
        }
        items.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(items)
    }
}

impl Collection {
    fn select<'a>(&'a self, interest: &'a Interest) -> Vec<(&'a Key, &'a Entry)> {
        let includes = |key: &Key, entry: &Entry| interest.includes(key, &entry.facts);
        if let Some(name) = interest.selector.name() {
            let here = !self.kind.namespaced || !interest.namespace.is_empty();
            if here {
                let found = self.objects.get_key_value(key_of(&interest.namespace, name).as_str());
                return found.into_iter().filter(|(key, entry)| includes(key, entry)).collect();
            }
        }
        // The fact that fewest objects share; counting stops at the number that is worth it.
        let indexed = interest.selector.indexed();
        if let Some(number) = indexed.min_by_key(|number| self.with_fact(*number).take(64).count()) {
            let found = self.with_fact(number).filter_map(|key| self.objects.get_key_value(key));
            return found.filter(|(key, entry)| includes(key, entry)).collect();
        }
        if let Some(numbers) = interest.selector.one_of() {
            let keys: BTreeSet<&Key> = numbers.iter().flat_map(|number| self.with_fact(*number)).collect();
            let found = keys.into_iter().filter_map(|key| self.objects.get_key_value(key));
            return found.filter(|(key, entry)| includes(key, entry)).collect();
        }
        if interest.namespace.is_empty() {
            return self.objects.iter().filter(|(key, entry)| includes(key, entry)).collect();
        }
        let first = Key::from(format!("{}/", interest.namespace));
        let here = self.objects.range(first..).take_while(|(key, _)| parts(key).0 == interest.namespace);
        here.filter(|(key, entry)| includes(key, entry)).collect()
    }
}

impl Store {
    /// What [`super::ApiServer::list_objects`] gives.
    pub(super) fn list(&self, group: &str, plural: &str, namespace: &str, labels: &str) -> Vec<Object> {
        let Some((place, kind)) =
            self.place(group, plural).and_then(|place| Some((place, self.kind(place).ok()?)))
        else {
            return Vec::new();
        };
        let Ok(selector) = Selector::parse(&kind, labels, "") else {
            return Vec::new();
        };
        let interest = Interest { namespace: namespace.to_owned(), selector };
        self.select(place, &interest).into_iter().map(|(_, entry)| entry.object.apart()).collect()
    }

    /// What [`super::ApiServer::subscribe`] gives.
    pub(super) fn subscribe(&mut self, group: &str, plural: &str) -> Subscription {
        let mut subscription = self.follow(group, plural);
        let place = self.place(group, plural);
        let all = place.and_then(|place| self.collection(place)).into_iter();
        for entry in all.flat_map(|collection| collection.objects.values()) {
            subscription.first(Event::Added(entry.object.clone()));
        }
        subscription
    }

    /// What [`super::ApiServer::follow`] gives.
    pub(super) fn follow(&mut self, group: &str, plural: &str) -> Subscription {
        let (sink, events) = unbounded_channel();
        if let Some(place) = self.place(group, plural) {
            self.watchers.entry(place).or_default().add(Interest::default(), sink);
        }
        Subscription::new(events)
    }
}

impl Page {
    /// The list as an object.
    pub(super) fn value(&self, api_version: &str, kind: &str) -> Value {
        let items: Vec<Value> = self.items.iter().map(|(_, object)| object.value().clone()).collect();
        json!({"apiVersion": api_version, "kind": format!("{kind}List"), "metadata": self.metadata(), "items": items})
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if let (Some(next), Value::Object(fields)) = (&self.next, &mut metadata) {
            fields.insert("continue".to_owned(), next.as_str().into());
            if let Some(remaining) = self.remaining {
                fields.insert("remainingItemCount".to_owned(), json!(remaining));
            }
        }
        metadata
    }
}

/// A list's text, put together from the texts of its objects.
pub(super) fn list_text<'a>(
    kind: (&str, &str),
    page: &Page,
    texts: impl Iterator<Item = &'a [u8]> + Clone,
) -> Bytes {
    let (api_version, kind) = kind;
    let metadata = page.metadata();
    let head = format!(
        "{{\"apiVersion\":\"{api_version}\",\"kind\":\"{kind}List\",\"metadata\":{metadata},\"items\":["
    );
    let length: usize = texts.clone().map(|text| text.len() + 1).sum();
    let mut text = BytesMut::with_capacity(head.len() + length + 2);
    text.put_slice(head.as_bytes());
    for (index, item) in texts.enumerate() {
        if index > 0 {
            text.put_u8(b',');
        }
        text.put_slice(item);
    }
    text.put_slice(b"]}");
    text.freeze()
}

fn token(version: u64, key: &str) -> String {
    let bytes = key.bytes().map(|byte| format!("{byte:02x}"));
    format!("{version}.{}", bytes.collect::<String>())
}

fn read_token(token: &str) -> Option<(u64, String)> {
    let (version, key) = token.split_once('.')?;
    let bytes: Option<Vec<u8>> =
        (0..key.len()).step_by(2).map(|at| u8::from_str_radix(key.get(at..at + 2)?, 16).ok()).collect();
    Some((version.parse().ok()?, String::from_utf8(bytes?).ok()?))
}
