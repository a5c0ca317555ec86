//! One document as it streams by: a list's objects are looked at one by one, and those of kinds that nobody uses are
//! dropped on the spot, so that a second copy of the list never exists.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use super::text::is_message;
use super::{kinds, strip};

/// Fields that only kinds have which nobody uses here, among them Secret: never kept, not even for a moment.
const NEVER_KEPT: [&str; 3] = ["data", "stringData", "binaryData"];

/// What a document, or an item of a list, is.
#[derive(Debug)]
pub(super) enum Found {
    /// An object or a list of objects.
    Body(Box<Body>),
    /// An object of a kind that nobody uses: its kind.
    Unused(String),
    /// Something that is no object.
    Other(&'static str),
    /// Nothing.
    Empty,
}

/// A mapping.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// Everything but `items`.
    pub(super) fields: Map<String, Value>,
    /// `items`, with where each begins.
    pub(super) items: Option<Vec<Spanned<Found>>>,
    /// `kind` came after `items`, as kubectl writes lists: then the list is whole.
    pub(super) is_closed: bool,
}

impl Body {
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }

    /// A line of kubectl's about what it could not get, which looks like a field.
    pub(super) fn message(&self) -> Option<(&String, &Value)> {
        self.fields.iter().find(|(key, _)| is_message(&format!("{key}:")))
    }
}

impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FoundVisitor)
    }
}

struct FoundVisitor;

impl<'de> Visitor<'de> for FoundVisitor {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut body = Body::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                if body.items.is_some() {
                    return Err(duplicate(&key));
                }
                body.items = Some(map.next_value::<Items>()?.0);
                body.is_closed = !body.fields.contains_key("kind");
            } else if NEVER_KEPT.contains(&key.as_str()) {
                map.next_value::<IgnoredAny>()?;
            } else {
                let value = map.next_value::<Strict>()?.0;
                if body.fields.contains_key(&key) {
                    return Err(duplicate(&key));
                }
                body.fields.insert(key, value);
            }
        }
        if body.items.is_none() {
            strip::strip(&mut body);
            if let Some(kind) = kinds::unused(&body).filter(|_| body.message().is_none()) {
                return Ok(Found::Unused(kind));
            }
        }
        Ok(Found::Body(Box::new(body)))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Empty)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Other("a list without a kind"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::Other("plain text"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Other("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }
}

/// `items`: a list, or null as Go writes an empty one.
struct Items(Vec<Spanned<Found>>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<Vec<Spanned<Found>>>::deserialize(deserializer).map(|items| Self(items.unwrap_or_default()))
    }
}

fn duplicate<E: Error>(key: &str) -> E {
    E::custom(format_args!("the key {key} is there twice"))
}

/// A JSON value whose mappings have no key twice; `serde_json` alone would silently take the last.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value::<Strict>()?.0;
            if fields.contains_key(&key) {
                return Err(duplicate(&key));
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            all.push(value);
        }
        all.shrink_to_fit();
        Ok(Value::Array(all))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("the number is too large"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, mut value: String) -> Result<Value, E> {
        value.shrink_to_fit();
        Ok(Value::String(value))
    }
}
