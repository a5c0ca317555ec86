//! Follows a path into an object and says what is there instead of what should be.

use serde_json::{Map, Value};

use super::error::excerpt;
use crate::flow::quantity::thousandths;

/// What a field has to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Want {
    /// A text.
    Text,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// True or false.
    Flag,
    /// A whole number from 0, far below where sums of it could overflow.
    Count,
    /// A whole number from 0, also as text.
    Size,
    /// A whole number or a percentage.
    Portion,
    /// A quantity.
    Quantity,
    /// A mapping of quantities.
    Quantities,
    /// A mapping of texts.
    Texts,
    /// A list of texts.
    TextList,
    /// A mapping.
    Object,
}

/// A field and what it has to be. In `path`, `[]` stands for each element of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) path: &'static str,
    pub(super) want: Want,
    /// It may not be missing; within a list: not in any element.
    pub(super) must: bool,
}

/// A field, and what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) field: String,
    pub(super) cause: String,
}

impl Fault {
    fn new(cause: String) -> Self {
        Self { field: String::new(), cause }
    }

    /// The same fault, seen from what `key` is a part of.
    fn under(mut self, key: &str) -> Self {
        let between = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{key}{between}{}", self.field);
        self
    }
}

/// Checks one rule.
pub(super) fn check(object: &Value, rule: &Rule) -> Result<(), Fault> {
    follow(object, rule.path, rule)
}

fn follow(value: &Value, path: &str, rule: &Rule) -> Result<(), Fault> {
    let (segment, rest) = path.split_once('.').map_or((path, None), |(segment, rest)| (segment, Some(rest)));
    let (key, is_list) = segment.strip_suffix("[]").map_or((segment, false), |key| (key, true));
    let Some(fields) = value.as_object() else {
        return Err(Fault::new(not("a mapping", value)));
    };
    let result = match (fields.get(key), rest) {
        // What a list's elements must have says nothing about a list that is not there.
        (None, rest) if !rule.must || is_list || rest.is_some_and(|rest| rest.contains("[]")) => Ok(()),
        (None, rest) => {
            Err(Fault { field: rest.unwrap_or_default().to_owned(), cause: "it is missing".to_owned() })
        }
        (Some(value), rest) if is_list => each(value, rest, rule),
        (Some(value), Some(rest)) => follow(value, rest, rule),
        (Some(value), None) => meets(value, rule.want),
    };
    result.map_err(|fault| fault.under(key))
}

fn each(list: &Value, rest: Option<&str>, rule: &Rule) -> Result<(), Fault> {
    let elements = list.as_array().ok_or_else(|| Fault::new(not("a list", list)))?;
    for (index, element) in elements.iter().enumerate() {
        let result = rest.map_or_else(|| meets(element, rule.want), |rest| follow(element, rest, rule));
        result.map_err(|fault| fault.under(&format!("[{index}]")))?;
    }
    Ok(())
}

fn meets(value: &Value, want: Want) -> Result<(), Fault> {
    let or = |is_met: bool, what: &str| if is_met { Ok(()) } else { Err(Fault::new(not(what, value))) };
    match want {
        Want::Text => or(value.is_string(), "a text"),
        Want::OneOf(known) => {
            let is_met = value.as_str().is_some_and(|text| known.contains(&text));
            or(is_met, &format!("one of {}", known.join(", ")))
        }
        Want::Flag => or(value.is_boolean(), "true or false"),
        Want::Count => {
            let is_met = value.as_u64().is_some_and(|number| u32::try_from(number).is_ok());
            or(is_met, "a whole number below 2^32")
        }
        Want::Size => {
            let is_text = value.as_str().is_some_and(|text| text.is_empty() || text.parse::<u64>().is_ok());
            or(is_text || value.is_u64(), "a whole number")
        }
        Want::Portion => {
            let percent = value.as_str().and_then(|text| text.strip_suffix('%'));
            let is_percent = percent.is_some_and(|number| number.parse::<u16>().is_ok());
            or(is_percent || value.is_u64(), "a whole number or a percentage")
        }
        Want::Quantity => or(is_amount(value), "a quantity"),
        Want::Quantities => entries(value, is_amount, "a quantity"),
        Want::Texts => entries(value, Value::is_string, "a text"),
        Want::TextList => {
            let elements = value.as_array().ok_or_else(|| Fault::new(not("a list", value)))?;
            let wrong = elements.iter().zip(0..).find(|(element, _)| !element.is_string());
            wrong.map_or(Ok(()), |(element, at)| {
                Err(Fault::new(not("a text", element)).under(&format!("[{at}]")))
            })
        }
        Want::Object => or(value.is_object(), "a mapping"),
    }
}

fn entries(value: &Value, is_met: fn(&Value) -> bool, what: &str) -> Result<(), Fault> {
    let fields = value.as_object().ok_or_else(|| Fault::new(not("a mapping", value)))?;
    let wrong = fields.iter().find(|(_, value)| !is_met(value));
    wrong.map_or(Ok(()), |(key, value)| Err(Fault::new(not(what, value)).under(&excerpt(key))))
}

fn is_amount(value: &Value) -> bool {
    match value {
        Value::String(text) => thousandths(text).is_some(),
        Value::Number(number) => thousandths(&number.to_string()).is_some(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Quantities that were written as numbers become texts, as Kubernetes reads them and everybody else asks for them.
pub(super) fn write_quantities(object: &mut Value, rule: &Rule) {
    if matches!(rule.want, Want::Quantity | Want::Quantities) {
        reach(object, rule.path, &mut |value| match value {
            Value::Object(entries) => entries.values_mut().for_each(write_amount),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                write_amount(value);
            }
        });
    }
}

fn write_amount(value: &mut Value) {
    if let Value::Number(number) = value {
        *value = Value::String(number.to_string());
    }
}

/// Does something with whatever is at a path.
fn reach(value: &mut Value, path: &str, change: &mut impl FnMut(&mut Value)) {
    let (segment, rest) = path.split_once('.').map_or((path, None), |(segment, rest)| (segment, Some(rest)));
    let Some(found) = value.get_mut(segment.trim_end_matches("[]")) else { return };
    let mut go_on = |value: &mut Value| match rest {
        Some(rest) => reach(value, rest, change),
        None => change(value),
    };
    if let Some(elements) = found.as_array_mut().filter(|_| segment.ends_with("[]")) {
        elements.iter_mut().for_each(go_on);
    } else {
        go_on(found);
    }
}

/// `"2Gx" is no quantity`.
fn not(wanted: &str, value: &Value) -> String {
    let wanted = wanted.strip_prefix("a ").map_or(format!("not {wanted}"), |noun| format!("no {noun}"));
    format!("{} is {wanted}", shown(value))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", excerpt(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// The fields of a mapping within an object.
pub(super) fn mapping<'a>(object: &'a mut Value, pointer: &str) -> Option<&'a mut Map<String, Value>> {
    object.pointer_mut(pointer).and_then(Value::as_object_mut)
}
