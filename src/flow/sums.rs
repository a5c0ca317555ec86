//! A release's file of sums, as `sha256sum` prints it: parsed exactly. It may contradict a plan, never stand in for it.

use std::collections::BTreeMap;

use thiserror::Error;

/// Why a file of sums does not bear a plan out.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum SumsError {
    /// A line that `sha256sum` does not print.
    #[error(
        "{file}, line {line}, is no line of sha256sum (64 hexadecimal digits, two spaces, file name); fetch that file again"
    )]
    BadLine {
        /// The file of sums.
        file: String,
        /// From 1.
        line: usize,
    },
    /// One name with two digests.
    #[error("{file} has two digests for {name}; use the file of one release")]
    Ambiguous {
        /// The file of sums.
        file: String,
        /// What it names.
        name: String,
    },
    /// The artifact is not in it.
    #[error(
        "{file} has no line for {name}; use the file of the same release, and the names that its files have there"
    )]
    Absent {
        /// The file of sums.
        file: String,
        /// What it does not name.
        name: String,
    },
    /// It says something else than the plan.
    #[error(
        "{file} says {found} for {name}, the plan orders {expected}; correct artifacts.sha256, or use the files of one release"
    )]
    Disagrees {
        /// The file of sums.
        file: String,
        /// The artifact.
        name: String,
        /// What the file says.
        found: String,
        /// What the plan says.
        expected: String,
    },
}

/// Whether `text`, the content of `file`, says about `name` what the plan does.
///
/// # Errors
/// [`SumsError`]: it does not, or cannot be read.
pub fn agree(file: &str, text: &str, name: &str, expected: &str) -> Result<(), SumsError> {
    let mut sums: BTreeMap<&str, &str> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let bad = || SumsError::BadLine { file: file.to_owned(), line: number + 1 };
        let (digest, named) = line.split_once(' ').ok_or_else(bad)?;
        let listed = named.strip_prefix([' ', '*']).filter(|listed| !listed.is_empty()).ok_or_else(bad)?;
        if digest.len() != 64
            || !digest.bytes().all(|byte| byte.is_ascii_hexdigit())
            || listed != listed.trim()
        {
            return Err(bad());
        }
        if sums.insert(listed, digest).is_some_and(|other| !other.eq_ignore_ascii_case(digest)) {
            return Err(SumsError::Ambiguous { file: file.to_owned(), name: listed.to_owned() });
        }
    }
    match sums.get(name) {
        Some(found) if found.eq_ignore_ascii_case(expected) => Ok(()),
        Some(found) => Err(SumsError::Disagrees {
            file: file.to_owned(),
            name: name.to_owned(),
            found: (*found).to_owned(),
            expected: expected.to_owned(),
        }),
        None => Err(SumsError::Absent { file: file.to_owned(), name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "rke2.linux-amd64.tar.gz";

    #[test]
    fn only_the_exact_line_bears_the_plan_out() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let upper = "A".repeat(64);
        let absent = "no line for rke2.linux-amd64.tar.gz";
        for (text, says) in [
            (format!("{b}  other\n{a}  {NAME}\n"), None),
            (format!("{upper} *{NAME}"), None),
            (format!("{b}  {NAME}\n"), Some("the plan orders aaaa")),
            (format!("{a}  {NAME}.old\n{a}  x-{NAME}\n{a}  dist/{NAME}\n"), Some(absent)),
            (String::new(), Some(absent)),
            (format!("{a}  {NAME}\n{b}  {NAME}\n"), Some("two digests")),
            (format!("{a} {NAME}\n"), Some("line 1")),
            (format!("{a}  {NAME}\r\n"), None),
            (format!("{a}  {NAME} \n"), Some("line 1")),
            (format!("{a}  other\n\n"), Some("line 2")),
            (format!("{}  {NAME}\n", "a".repeat(63)), Some("line 1")),
            (format!("{}  {NAME}\n", "g".repeat(64)), Some("line 1")),
            (format!("\\{a}  {NAME}\n"), Some("line 1")),
            ("<html>not found</html>".to_owned(), Some("line 1")),
        ] {
            let said = agree("sha256sum-amd64.txt", &text, NAME, &a);
            match says {
                None => assert_eq!(said, Ok(()), "{text}"),
                Some(says) => {
                    assert!(said.clone().unwrap_err().to_string().contains(says), "{text}: {said:?}");
                }
            }
        }
    }
}
