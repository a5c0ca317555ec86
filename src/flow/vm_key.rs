//! `VmKey`: the name of a virtual machine.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A virtual machine by `namespace/name`; its running instance has the same name (`KubeVirt`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct VmKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Text that names no virtual machine.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` does not name a virtual machine; write it as namespace/name")]
pub struct NotAVm(pub String);

impl VmKey {
    /// A key from its two parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for VmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for VmKey {
    type Err = NotAVm;

    fn from_str(text: &str) -> Result<Self, NotAVm> {
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(Self::new(namespace, name)),
            _ => Err(NotAVm(text.to_owned())),
        }
    }
}

/// What Kubernetes takes for the name of anything like it (RFC 1123); nothing else may come into a request's path.
fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let (first, last) = (text.bytes().next(), text.bytes().last());
    text.len() <= 253
        && first.is_some_and(plain)
        && last.is_some_and(plain)
        && text.bytes().all(|c| plain(c) || c == b'-' || c == b'.')
}

impl TryFrom<String> for VmKey {
    type Error = NotAVm;

    fn try_from(text: String) -> Result<Self, NotAVm> {
        text.parse()
    }
}

impl From<VmKey> for String {
    fn from(key: VmKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names_need_both_parts() {
        assert_eq!("default/db".parse(), Ok(VmKey::new("default", "db")));
        for text in [
            "",
            "db",
            "/db",
            "default/",
            "a/b/c",
            "prod/a b",
            "pr od/web",
            "prod/a\tb",
            "prod/#x",
            "prod/?x=1",
            "prod/..",
            "a/B",
        ] {
            assert!(text.parse::<VmKey>().is_err(), "{text} should be refused");
        }
    }
}
