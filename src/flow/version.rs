//! `Rke2Version`: RKE2's own version grammar and order.
//!
//! Semantic versioning ignores what follows the `+`, so its libraries order `rke2r10` and `rke2r2` wrongly or not at all
//! (reference `rke2-and-rancher.md` §6).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A version such as `v1.35.6+rke2r1` or `v1.36.0-rc3+rke2r2`.
///
/// Ordered by major, minor, patch, release candidate (none is newest), RKE2 revision, all as numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rke2Version {
    major: u32,
    minor: u32,
    patch: u32,
    candidate: Option<u32>,
    revision: u32,
}

/// Text that is no RKE2 version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not an RKE2 version; write it as v1.35.6+rke2r1 or v1.35.6-rc1+rke2r1")]
pub struct NotAVersion(pub String);

impl Rke2Version {
    /// The first release of the next minor version.
    #[must_use]
    pub fn next_minor(&self) -> Self {
        let (major, minor) = self.minor();
        let text = format!("v{major}.{}.0+rke2r1", minor + 1);
        text.parse().unwrap_or_else(|_| self.clone())
    }

    /// `(major, minor)`: what Kubernetes' version skew policy counts in.
    #[must_use]
    pub fn minor(&self) -> (u32, u32) {
        (self.major, self.minor)
    }

    /// Without its release candidate, as a kubelet's version is.
    #[must_use]
    pub fn released(&self) -> Self {
        Self { candidate: None, ..self.clone() }
    }

    /// What a kubelet of this release reports in `status.nodeInfo.kubeletVersion`: the release candidate is dropped.
    #[must_use]
    pub fn kubelet_version(&self) -> String {
        format!("v{}.{}.{}+rke2r{}", self.major, self.minor, self.patch, self.revision)
    }

    fn rank(&self) -> (u32, u32, u32, u32, u32) {
        (self.major, self.minor, self.patch, self.candidate.unwrap_or(u32::MAX), self.revision)
    }
}

impl Ord for Rke2Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Rke2Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Rke2Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)?;
        if let Some(candidate) = self.candidate {
            write!(f, "-rc{candidate}")?;
        }
        write!(f, "+rke2r{}", self.revision)
    }
}

/// Digits only: `u32::from_str` alone would also take a sign.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse(text: &str) -> Option<Rke2Version> {
    let (kubernetes, revision) = text.strip_prefix('v')?.split_once("+rke2r")?;
    let (core, candidate) = match kubernetes.split_once("-rc") {
        Some((core, candidate)) => (core, Some(number(candidate)?)),
        None => (kubernetes, None),
    };
    let mut parts = core.split('.');
    let version = Rke2Version {
        major: number(parts.next()?)?,
        minor: number(parts.next()?)?,
        patch: number(parts.next()?)?,
        candidate,
        revision: number(revision)?,
    };
    parts.next().is_none().then_some(version)
}

impl FromStr for Rke2Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        parse(text).ok_or_else(|| NotAVersion(text.to_owned()))
    }
}

impl TryFrom<String> for Rke2Version {
    type Error = NotAVersion;

    fn try_from(text: String) -> Result<Self, NotAVersion> {
        text.parse()
    }
}

impl From<Rke2Version> for String {
    fn from(version: Rke2Version) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_number() {
        let ascending = [
            "v1.33.7+rke2r3",
            "v1.34.2-rc2+rke2r1",
            "v1.34.2-rc10+rke2r1",
            "v1.34.2+rke2r1",
            "v1.34.2+rke2r2",
            "v1.34.2+rke2r10",
            "v1.34.10+rke2r1",
            "v1.35.6+rke2r1",
        ];
        let parsed: Vec<Rke2Version> = ascending.iter().map(|text| text.parse().unwrap()).collect();
        for pair in parsed.windows(2) {
            assert!(pair[0] < pair[1], "{} should be older than {}", pair[0], pair[1]);
        }
        for (text, version) in ascending.iter().zip(&parsed) {
            assert_eq!(version.to_string(), *text);
        }
    }

    #[test]
    fn text_that_is_no_version_is_refused() {
        for text in [
            "",
            "v1.35.6",
            "1.35.6+rke2r1",
            "v1.35+rke2r1",
            "v1.35.6+rke2",
            "v1.35.6.1+rke2r1",
            "v1.+5.6+rke2r1",
            "v1.35.6-rc+rke2r1",
            "v1.35.6+k3s1",
            "v1.35.6+rke2r1 ",
            "v1.35.99999999999+rke2r1",
        ] {
            assert_eq!(text.parse::<Rke2Version>(), Err(NotAVersion(text.to_owned())));
        }
    }

    #[test]
    fn kubelets_do_not_report_the_release_candidate() {
        let version: Rke2Version = "v1.35.6-rc3+rke2r1".parse().unwrap();
        assert_eq!(version.kubelet_version(), "v1.35.6+rke2r1");
        assert_eq!(version.minor(), (1, 35));
    }
}
