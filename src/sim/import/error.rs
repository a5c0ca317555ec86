//! Why files are no cluster. Each message names the file, the document and the object as far as they are known, the
//! cause, and the cure.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where something is in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as the caller named it.
    pub file: Arc<PathBuf>,
    /// Its document, from 1.
    pub document: u32,
    /// The object in the document's list, from 1.
    pub item: Option<u32>,
    /// The line in the file, from 1; not known in JSON.
    pub line: Option<u32>,
    /// Kind, namespace and name.
    pub object: Option<Box<str>>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file.display(), self.document)?;
        if let Some(item) = self.item {
            write!(f, ", item {item}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        match &self.object {
            Some(object) => write!(f, " ({object})"),
            None => Ok(()),
        }
    }
}

/// What is wrong with the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// More than is read.
    #[error(
        "{}: {} MiB, and {} MiB is the most that is read; leave out kinds or namespaces, or export in several files \
         and give --cluster for each", file.display(), size.div_ceil(1 << 20), limit >> 20
    )]
    TooLarge {
        /// The file at which it was noticed.
        file: PathBuf,
        /// Bytes of the file, or of all files up to it.
        size: u64,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// Bytes that are no UTF-8 text.
    #[error("{}{} {what}; {cure}", file.display(), line.map(|line| format!(", line {line}:")).unwrap_or_default())]
    NotText {
        /// The file.
        file: PathBuf,
        /// Where, when it begins well.
        line: Option<u32>,
        /// What it is instead.
        what: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// Nothing in it.
    #[error(
        "{}: there is nothing in the file; export it again, and look for kubectl's message on the terminal",
        file.display()
    )]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// Neither YAML nor JSON, or a kind of it that kubectl never writes.
    #[error("{at}: {cause}; {cure}")]
    Syntax {
        /// Where.
        at: Place,
        /// The parser's words.
        cause: String,
        /// What to do.
        cure: &'static str,
    },
    /// Something else than exported objects.
    #[error("{at}: {what}; {cure}")]
    Foreign {
        /// Where.
        at: Place,
        /// What it is.
        what: String,
        /// What to do.
        cure: &'static str,
    },
    /// A field that a simulator needs is missing or of another type.
    #[error("{at}, {field}: {cause}; {cure}")]
    Field {
        /// The object.
        at: Place,
        /// Its field, as a path with dots.
        field: String,
        /// What is wrong.
        cause: String,
        /// What to do.
        cure: &'static str,
    },
    /// The same object twice.
    #[error("{at} is in {first} as well; leave one of them out")]
    Duplicate {
        /// The second.
        at: Place,
        /// The first.
        first: Place,
    },
    /// No node at all.
    #[error("{files}: there is no Node in it{found}; export nodes too, as docs/rehearse.md shows")]
    NoNodes {
        /// All files.
        files: String,
        /// What there is instead.
        found: String,
    },
}

/// The cure for most.
pub(super) const AGAIN: &str = "export the file again with kubectl";
/// The cure for what is no export.
pub(super) const EXPORT: &str = "export a cluster with kubectl as docs/rehearse.md shows";
/// At most this much of a foreign text is repeated.
const LONGEST: usize = 120;

/// One line of a text that was written by others.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if line.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short.replace("\\\"", "\"").replace("\\'", "'")
}
