//! Names that other products compute in the same way.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// wrangler's `SafeConcatName`: parts joined by `-`; what is longer than 63 is cut and gets a piece of its own digest.
#[must_use]
pub fn safe_concat(parts: &[&str]) -> String {
    let full = parts.join("-");
    if full.len() < 64 {
        return full;
    }
    let digest = digest(full.as_bytes());
    let ends_well =
        full.as_bytes().get(56).is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    // Kubernetes names are ASCII, so bytes are characters here; anything else falls back to whole characters.
    let (keep, digits) = if ends_well { (57, 5) } else { (56, 6) };
    let head: String = full.chars().take(keep).collect();
    let tail: String = digest.chars().take(digits).collect();
    format!("{head}-{tail}")
}

/// The sha256 of something, in hex digits.
#[must_use]
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_to_63() {
        assert_eq!(safe_concat(&["hvst-upgrade-abcde", "node1"]), "hvst-upgrade-abcde-node1");
        let long = safe_concat(&["hvst-upgrade-abcde", &"n".repeat(60)]);
        assert_eq!(long.len(), 63);
        assert!(long.starts_with("hvst-upgrade-abcde-nnn"));
        let dotted = safe_concat(&[&"a".repeat(56), "b.example.org"]);
        assert_eq!(dotted.len(), 63);
        assert_ne!(safe_concat(&["x", &"n".repeat(80)]), safe_concat(&["x", &"n".repeat(81)]));
    }
}
