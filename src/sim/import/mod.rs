//! Reads the clusters of a rehearsal: Kubernetes objects as kubectl exports them, in YAML or JSON, one list or many
//! documents. It checks what the simulators rely on and says what is wrong, where, and how to cure it.
//!
//! It never opens a file (the caller does, through `host::fs`) and never talks to a cluster. What is confidential or
//! heavy and of no use to a rehearsal is left out while reading: see `strip`.
//!
//! Bytes become text in `text`, text becomes documents in `split`, a document becomes objects in `parse` and
//! `document`; `names`, `rules` and `typed` check each object alone, `references` all of them together.

mod document;
mod error;
mod kinds;
mod names;
mod parse;
mod references;
mod rules;
mod split;
mod strip;
#[cfg(test)]
mod tests;
mod text;
mod typed;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use self::error::{ImportError, Place};
use self::kinds::Kind;

/// Larger files are not read.
pub const LARGEST_FILE: u64 = 64 << 20;
/// All files together.
pub const LARGEST_IMPORT: u64 = 256 << 20;

/// What the files hold.
#[derive(Debug, Default)]
pub struct Imported {
    /// The objects of the kinds that the simulators use, in the order of the files.
    pub objects: Vec<Value>,
    /// One line for each kind that is not used, with how many there were.
    pub ignored: Vec<String>,
    /// What an operator should know before trusting the rehearsal; none of it stops one.
    pub warnings: Vec<String>,
}

/// One object: where it was, and which.
type Key = (Kind, String, String);

/// Reads file after file, so that only one of them has to be in memory.
///
/// ```
/// # use std::path::Path;
/// use upgrade_agent::sim::import::{Import, ImportError};
///
/// let mut import = Import::default();
/// let error = import.add(Path::new("cluster.yaml"), b"replicaCount: 1\n").unwrap_err();
/// assert!(matches!(error, ImportError::Foreign { .. }));
/// ```
#[derive(Debug, Default)]
pub struct Import {
    files: Vec<PathBuf>,
    total: u64,
    objects: Vec<(Key, Value)>,
    places: BTreeMap<Key, Place>,
    ignored: BTreeMap<String, u64>,
    warnings: Vec<String>,
}

/// Says no to a file that is too large, before it is read.
///
/// # Errors
/// [`ImportError::TooLarge`].
pub fn check_size(file: &Path, size: u64) -> Result<(), ImportError> {
    if size > LARGEST_FILE {
        return Err(ImportError::TooLarge { file: file.to_owned(), size, limit: LARGEST_FILE });
    }
    Ok(())
}

/// One file that holds the whole cluster.
///
/// # Errors
/// Whatever keeps the file from being a cluster.
pub fn read(file: &Path, bytes: &[u8]) -> Result<Imported, ImportError> {
    read_all([(file, bytes)])
}

/// Several files that hold the cluster together. Use [`Import`] to have one of them in memory at a time.
///
/// # Errors
/// The first thing that keeps the files from being a cluster.
pub fn read_all<'a>(files: impl IntoIterator<Item = (&'a Path, &'a [u8])>) -> Result<Imported, ImportError> {
    let mut import = Import::default();
    for (file, bytes) in files {
        import.add(file, bytes)?;
    }
    import.finish()
}

impl Import {
    /// Reads one more file.
    ///
    /// # Errors
    /// What is wrong with this file, or an object that an earlier one holds too.
    pub fn add(&mut self, file: &Path, bytes: &[u8]) -> Result<(), ImportError> {
        let size = bytes.len() as u64;
        check_size(file, size)?;
        self.total = self.total.saturating_add(size);
        if self.total > LARGEST_IMPORT {
            return Err(ImportError::TooLarge {
                file: file.to_owned(),
                size: self.total,
                limit: LARGEST_IMPORT,
            });
        }
        self.files.push(file.to_owned());
        parse::file(file, text::of(file, bytes)?, self)
    }

    /// Everything, once all files were read and fit together.
    ///
    /// # Errors
    /// A cluster without nodes, or a guest on a node that is not among them.
    pub fn finish(mut self) -> Result<Imported, ImportError> {
        let ignored: Vec<String> =
            self.ignored.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
        references::check(&self.files, &self.objects, &self.places, &ignored, &mut self.warnings)?;
        let objects = self.objects.into_iter().map(|(_, object)| object).collect();
        Ok(Imported { objects, ignored, warnings: self.warnings })
    }

    fn ignore(&mut self, kind: String) {
        *self.ignored.entry(kind).or_default() += 1;
    }

    fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Takes an object in; `at` does not name it yet.
    fn take(&mut self, kind: Kind, mut object: Value, mut at: Place) -> Result<(), ImportError> {
        strip::strip_object(kind, &mut object);
        strip::nulls(&mut object);
        let (namespace, name) = names::identity(kind, &object, &mut at)?;
        rules::check(kind, &object, &at)?;
        rules::write_quantities(kind, &mut object);
        typed::check(kind, &object, &at)?;
        let key = (kind, namespace, name);
        if let Some(first) = self.places.get(&key) {
            return Err(ImportError::Duplicate { at, first: first.clone() });
        }
        self.places.insert(key.clone(), at);
        self.objects.push((key, object));
        Ok(())
    }
}
