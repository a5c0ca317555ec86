//! sha256 of files and streams, in pieces.

use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Fs, FsError};
use crate::host::effects::FileKind;

impl Fs {
    /// SHA-256 of the content in lower-case hex, read in pieces.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn sha256_file(&self, path: &Path) -> Result<String, FsError> {
        let file = self.effects.open(path).map_err(FsError::on("open", path))?;
        let length = self.effects.stat(path).map_or(MOST_READ, |found| found.len);
        digest(file, length).map(|sum| hex(&sum)).map_err(FsError::on("read", path))
    }

    /// The same; none when there is no plain file.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn sha256_opt(&self, path: &Path) -> Result<Option<String>, FsError> {
        if self.effects.stat(path).is_ok_and(|found| found.kind != FileKind::File) {
            return Ok(None);
        }
        match self.sha256_file(path) {
            Ok(sha256) => Ok(Some(sha256)),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The largest piece that is read at once.
const MOST_READ: u64 = 1 << 20;

/// SHA-256 of what `input` has, read in pieces of `piece` bytes as far as that is sensible.
pub(in crate::host) fn digest(mut input: impl Read, piece: u64) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; usize::try_from(piece.clamp(4096, MOST_READ)).unwrap_or(4096)];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().to_vec()),
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lower-case hex of some bytes.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}
