//! Release tarballs of RKE2 with the stand-in in them, laid out and summed as the real ones are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{binary, hex_sha256, unit_name, unit_text};
use crate::stand_in::Role;

/// A release as it is downloaded.
#[derive(Clone, Debug)]
pub struct Release {
    /// `rke2.linux-amd64.tar.gz`
    pub tarball: PathBuf,
    /// `sha256sum-amd64.txt`, beside it
    pub sums: PathBuf,
    /// Of the tarball, in hex
    pub sha256: String,
    /// Of `bin/rke2` in it, in hex
    pub binary_sha256: String,
}

/// Makes a release of `version` in `<dir>`, which is created.
///
/// # Errors
/// When the stand-in cannot be built, or a file cannot be written.
pub fn rke2_release(dir: &Path, version: &str) -> Result<Release> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let binary = binary(version)?;
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    append(&mut archive, "bin/rke2", &binary, 0o755)?;
    for role in [Role::Server, Role::Agent] {
        // In the tarball the prefix is /usr/local; the installer writes its own into the unit.
        let unit = unit_text(role).replace("/opt/rke2", "/usr/local");
        append(&mut archive, &format!("lib/systemd/system/{}", unit_name(role)), unit.as_bytes(), 0o644)?;
        append(
            &mut archive,
            &format!("lib/systemd/system/rke2-{}.env", role.as_str()),
            b"HOME=/root\n",
            0o644,
        )?;
    }
    append(&mut archive, "share/rke2/LICENSE.txt", b"Apache License, Version 2.0\n", 0o644)?;
    let bytes = archive.into_inner()?.finish()?;

    let tarball = dir.join("rke2.linux-amd64.tar.gz");
    let sums = dir.join("sha256sum-amd64.txt");
    let sha256 = hex_sha256(&bytes);
    fs::write(&tarball, bytes)?;
    fs::write(&sums, format!("{sha256}  rke2.linux-amd64.tar.gz\n"))?;
    Ok(Release { tarball, sums, sha256, binary_sha256: hex_sha256(&binary) })
}

fn append<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    content: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(content.len())?);
    header.set_mode(mode);
    header.set_mtime(0);
    Ok(archive.append_data(&mut header, path, content)?)
}
