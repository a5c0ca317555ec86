//! Label and field selectors: read from their text, matched against [`Facts`].

use super::facts::{Facts, hash};
use super::kinds::Kind;
use super::status::Status;

const NAME: &str = ".metadata.name";
const NAMESPACE: &str = ".metadata.namespace";

/// All requirements of a request, on labels and on fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Is(String),
    IsNot(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

/// Whether the `spec.selector` of a budget selects an object with the labels of this one; none at all selects nothing.
pub(in crate::sim) fn selects(selector: &serde_json::Value, object: &serde_json::Value) -> bool {
    selector.is_object() && Selector::of_label_selector(selector).matches("", "", &Facts::of_labels(object))
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector`.
    pub(super) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, Status> {
        let mut requirements = Vec::new();
        for part in split(labels) {
            let unreadable = || {
                Status::bad_request(format!(
                    "unable to parse requirement: couldn't parse the selector string \"{part}\""
                ))
            };
            requirements.push(label_requirement(part).ok_or_else(unreadable)?);
        }
        for part in fields.split(',').filter(|part| !part.is_empty()) {
            let unreadable =
                || Status::bad_request(format!("invalid selector: '{fields}'; can't understand '{part}'"));
            let (key, test) = equality(part).ok_or_else(unreadable)?;
            let known = ["metadata.name", "metadata.namespace"].contains(&key)
                || kind.fields.iter().any(|field| field == key);
            if !known {
                return Err(Status::bad_request(unsupported(kind, key)));
            }
            requirements.push(Requirement { key: format!(".{key}"), test });
        }
        Ok(Self { requirements })
    }

    /// The objects with all of these labels, as in `spec.selector` of a budget; one that asks for nothing selects all.
    pub(super) fn of_label_selector(selector: &serde_json::Value) -> Self {
        use super::json::text;
        let labels = selector.get("matchLabels").and_then(serde_json::Value::as_object).into_iter().flatten();
        let mut requirements: Vec<Requirement> = labels
            .map(|(key, value)| Requirement {
                key: key.clone(),
                test: Test::Is(value.as_str().unwrap_or_default().to_owned()),
            })
            .collect();
        let expressions = selector.get("matchExpressions").and_then(serde_json::Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let values = expression.get("values").and_then(serde_json::Value::as_array).into_iter().flatten();
            let values = values.filter_map(serde_json::Value::as_str).map(str::to_owned).collect();
            let test = match text(expression, "/operator") {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                _ => Test::Missing,
            };
            requirements.push(Requirement { key: text(expression, "/key").to_owned(), test });
        }
        Self { requirements }
    }

    /// Only the object of this name.
    pub(super) fn with_name(mut self, name: &str) -> Self {
        self.requirements.push(Requirement { key: NAME.to_owned(), test: Test::Is(name.to_owned()) });
        self
    }

    pub(super) fn matches(&self, namespace: &str, name: &str, facts: &Facts) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = match requirement.key.as_str() {
                NAME => Some(name),
                NAMESPACE => Some(namespace),
                key => facts.get(key),
            };
            match (&requirement.test, value) {
                (Test::Is(wanted), value) => value == Some(wanted),
                (Test::IsNot(unwanted), value) => value != Some(unwanted),
                (Test::In(wanted), value) => value.is_some_and(|value| wanted.iter().any(|one| one == value)),
                (Test::NotIn(unwanted), value) => {
                    value.is_none_or(|value| unwanted.iter().all(|one| one != value))
                }
                (Test::Exists, value) => value.is_some(),
                (Test::Missing, value) => value.is_none(),
            }
        })
    }

    /// The one name that can match.
    pub(super) fn name(&self) -> Option<&str> {
        self.equalities().find_map(|(key, value)| (key == NAME).then_some(value))
    }

    /// Number of a fact that every match has, the rarer of several as far as one can tell; not for the name.
    pub(super) fn indexed(&self) -> impl Iterator<Item = u64> {
        let indexed = self.equalities().filter(|(key, _)| *key != NAME && *key != NAMESPACE);
        indexed.map(|(key, value)| hash(&[key, "=", value]))
    }

    /// Numbers of facts of which every match has one, where the selector names some values of a key.
    pub(super) fn one_of(&self) -> Option<Vec<u64>> {
        self.requirements.iter().find_map(|requirement| match &requirement.test {
            Test::In(values) => {
                Some(values.iter().map(|value| hash(&[&requirement.key, "=", value])).collect())
            }
            Test::Is(_) | Test::IsNot(_) | Test::NotIn(_) | Test::Exists | Test::Missing => None,
        })
    }

    /// Where a watch with this selector waits: a number that each object it can ever match brings along.
    pub(super) fn anchor(&self) -> Option<u64> {
        self.name().map(name_anchor).or_else(|| self.indexed().last())
    }

    fn equalities(&self) -> impl Iterator<Item = (&str, &str)> {
        self.requirements.iter().filter_map(|requirement| match &requirement.test {
            Test::Is(value) => Some((requirement.key.as_str(), value.as_str())),
            Test::IsNot(_) | Test::In(_) | Test::NotIn(_) | Test::Exists | Test::Missing => None,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

/// What objects of this name bring along for watches on one name.
pub(super) fn name_anchor(name: &str) -> u64 {
    hash(&[NAME, "=", name])
}

fn unsupported(kind: &Kind, key: &str) -> String {
    if kind.custom || !kind.fields.is_empty() {
        format!("field label not supported: {key}")
    } else {
        format!("\"{key}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    }
}

/// At commas that are not inside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    let parts = text.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

fn equality(part: &str) -> Option<(&str, Test)> {
    if let Some((key, value)) = part.split_once("!=") {
        return Some((key.trim(), Test::IsNot(value.trim().to_owned())));
    }
    let (key, value) = part.split_once("==").or_else(|| part.split_once('='))?;
    Some((key.trim(), Test::Is(value.trim().to_owned())))
}

fn label_requirement(part: &str) -> Option<Requirement> {
    if let Some((head, values)) = part.split_once('(') {
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next()?, words.next()?);
        let values = values.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect();
        let test = match operator {
            "in" => Test::In(values),
            "notin" => Test::NotIn(values),
            _ => return None,
        };
        return is_key(key).then(|| Requirement { key: key.to_owned(), test });
    }
    if let Some((key, test)) = equality(part) {
        return is_key(key).then(|| Requirement { key: key.to_owned(), test });
    }
    let (key, test) = match part.strip_prefix('!') {
        Some(key) => (key.trim(), Test::Missing),
        None => (part, Test::Exists),
    };
    is_key(key).then(|| Requirement { key: key.to_owned(), test })
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./".contains(letter))
}
