//! What an object may be called: Kubernetes refuses all other names, and requests for one would reach something else.

use serde_json::Value;

use super::error::{ImportError, Place, excerpt};
use super::kinds::Kind;
use super::rules::{field, must};
use super::walk::{self, Fault, Want};

/// The longest name, and the longest name of a namespace.
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Namespace and name; `at` names the object from here on.
pub(super) fn identity(kind: Kind, object: &Value, at: &mut Place) -> Result<(String, String), ImportError> {
    at.object = Some(kind.name().into());
    let name =
        named(object, "metadata.name", is_subdomain, "is no name").map_err(|fault| field(at, fault))?;
    at.object = Some(format!("{} {name}", kind.name()).into());
    if !kind.is_namespaced() {
        return Ok((String::new(), name));
    }
    let namespace = named(object, "metadata.namespace", is_namespace, "is no name of a namespace")
        .map_err(|fault| field(at, fault))?;
    at.object = Some(format!("{} {namespace}/{name}", kind.name()).into());
    Ok((namespace, name))
}

fn named(object: &Value, path: &'static str, is_met: fn(&str) -> bool, what: &str) -> Result<String, Fault> {
    walk::check(object, &must(path, Want::Text))?;
    let pointer = format!("/{}", path.replace('.', "/"));
    let text = object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default();
    if is_met(text) {
        return Ok(text.to_owned());
    }
    let cause = format!("\"{}\" {what} that Kubernetes takes", excerpt(text));
    Err(Fault { field: path.to_owned(), cause })
}

/// A subdomain of RFC 1123, as all kinds that are read have it.
fn is_subdomain(text: &str) -> bool {
    text.len() <= LONGEST && text.split('.').all(is_label)
}

fn is_namespace(text: &str) -> bool {
    text.len() <= LONGEST_LABEL && is_label(text)
}

/// Small letters, digits and, within them, hyphens.
fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::{is_namespace, is_subdomain};

    #[test]
    fn knows_the_names_of_kubernetes() {
        for name in ["a", "web-0", "10.0.0.1", "node1.example.org", "a--b", &"v".repeat(253)] {
            assert!(is_subdomain(name), "{name}");
        }
        let none = [
            "",
            "Web-0",
            "web_0",
            "a/b",
            "a?b",
            "a%b",
            "-a",
            "a-",
            "a.",
            ".a",
            "a..b",
            "ä",
            "a b",
            "a\u{202e}b",
        ];
        for name in none.into_iter().chain([&*"v".repeat(254)]) {
            assert!(!is_subdomain(name), "{name}");
        }
        assert!(is_namespace("team-a") && !is_namespace("team.a") && !is_namespace(&"v".repeat(64)));
    }
}
