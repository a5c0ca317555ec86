//! What a download that was interrupted leaves beside its file: whose bytes they are. Without that they are worth nothing.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::host::fs::{Fs, FsError};

/// No name or tag is longer than this.
const LONGEST: u64 = 64 << 10;
/// Read at once.
const PIECE: usize = 1 << 20;

/// The server's file that some bytes on the disk are the beginning of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Where it was asked for.
    pub url: String,
    /// What tells that it is still the same file: its entity tag, or when it was changed.
    pub same: String,
    /// Its length, as the server says.
    pub total: Option<u64>,
}

/// Where the origin of the file `dest` is written.
pub(super) fn beside(dest: &Path) -> PathBuf {
    let mut name = dest.as_os_str().to_owned();
    name.push(".origin");
    PathBuf::from(name)
}

/// The origin of `dest` and the hash of what is there of it; none when nothing usable is there.
pub(super) fn kept(fs: &Fs, dest: &Path, url: &str) -> Result<Option<(Origin, u64, Sha256)>, FsError> {
    let side = beside(dest);
    let is_small = fs.effects().stat(&side).is_ok_and(|found| found.len <= LONGEST);
    let text = if is_small { fs.read_opt(&side)? } else { None };
    let origin = text.and_then(|text| serde_json::from_slice::<Origin>(&text).ok());
    let Some(origin) = origin.filter(|origin| origin.url == url) else { return Ok(None) };
    let mut file = match fs.effects().open(dest) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FsError::on("open", dest)(error)),
    };
    let (mut hash, mut got) = (Sha256::new(), 0);
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hash.update(buffer.get(..count).unwrap_or_default());
                got += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FsError::on("read", dest)(error)),
        }
    }
    Ok(Some((origin, got, hash)))
}

/// Writes down whose bytes `dest` is about to get.
pub(super) fn keep(fs: &Fs, dest: &Path, origin: &Origin) -> Result<(), FsError> {
    let side = beside(dest);
    let text = serde_json::to_vec(origin).map_err(io::Error::from).map_err(FsError::on("write", &side))?;
    fs.write_atomic(&side, &text, 0o600)
}
