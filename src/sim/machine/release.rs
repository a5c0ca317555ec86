//! Programs and release tarballs that simulated machines run: small, real archives whose `rke2` says its version.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::host::fs::hex;

const MAGIC: &str = "#!sim rke2 ";

/// A release as its publisher offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// `rke2.linux-amd64.tar.gz`.
    pub tarball: Vec<u8>,
    /// Its digest in hex, as a plan names it.
    pub sha256: String,
    /// Digest of `bin/rke2` in it.
    pub binary_sha256: String,
}

static BUILT: LazyLock<Mutex<BTreeMap<String, Arc<Release>>>> = LazyLock::new(Mutex::default);

/// The release tarball of a version, such as `v1.35.6+rke2r1`. Built once in a process.
///
/// # Errors
/// None in practice: it is packed in memory.
pub fn release(version: &str) -> io::Result<Arc<Release>> {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(release) = built.get(version) {
        return Ok(Arc::clone(release));
    }
    let tarball = pack(version)?;
    let release = Release { sha256: sha256(&tarball), binary_sha256: sha256(&binary(version)), tarball };
    let release = Arc::new(release);
    built.insert(version.to_owned(), Arc::clone(&release));
    Ok(release)
}

/// The `rke2` program of a version.
#[must_use]
pub fn binary(version: &str) -> Vec<u8> {
    format!("{MAGIC}{version}\nthe rest of the program, which nobody reads\n").into_bytes()
}

/// The version that a program says it is; none when it is no whole `rke2`.
#[must_use]
pub fn version_of(program: &[u8]) -> Option<String> {
    let (line, rest) = std::str::from_utf8(program).ok()?.split_once('\n')?;
    let version = line.strip_prefix(MAGIC)?;
    rest.ends_with("nobody reads\n").then(|| version.to_owned())
}

/// In hex.
#[must_use]
pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn pack(version: &str) -> io::Result<Vec<u8>> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    let unit = super::image::unit_text("/usr/local", "server");
    let files: [(&str, u32, Vec<u8>); 3] = [
        ("bin/rke2", 0o755, binary(version)),
        ("lib/systemd/system/rke2-server.service", 0o644, unit.into_bytes()),
        ("share/rke2/LICENSE.txt", 0o644, b"Apache-2.0\n".to_vec()),
    ];
    for (name, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_cksum();
        archive.append_data(&mut header, name, content.as_slice())?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_release_is_a_real_archive_and_its_program_knows_its_version() {
        let release = release("v1.35.6+rke2r1").unwrap();
        assert_eq!(sha256(&release.tarball), release.sha256);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(release.tarball.as_slice()));
        let mut program = Vec::new();
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("bin/rke2"));
        entry.read_to_end(&mut program).unwrap();
        assert_eq!(version_of(&program).as_deref(), Some("v1.35.6+rke2r1"));
        assert_eq!(sha256(&program), release.binary_sha256);
        program.pop();
        assert_eq!(version_of(&program), None);
    }
}
