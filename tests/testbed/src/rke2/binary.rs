//! The stand-in as a file: built, made small, and given a version. Knows nothing of machines.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::places;
use crate::stand_in::VERSION_TRAILER;

/// The stand-in of this version, as the bytes of an executable file.
///
/// # Errors
/// When the stand-in cannot be built.
pub fn binary(version: &str) -> Result<Vec<u8>> {
    let mut bytes = stand_in_binary()?.to_vec();
    bytes.extend(format!("{VERSION_TRAILER}{version}\n").into_bytes());
    Ok(bytes)
}

/// The digest of some bytes as `sha256sum` prints it.
#[must_use]
pub fn hex_sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

/// The stand-in without symbols, read once.
fn stand_in_binary() -> Result<&'static [u8]> {
    static BINARY: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(bytes) = BINARY.get() {
        return Ok(bytes);
    }
    let built = build_stand_in()?;
    let run = places::RunDir::new()?;
    let stripped = run.path().join("rke2");
    // A debug build is 20 times the size of its code; without `strip` it works all the same.
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(&built).output();
    let smaller = strip.is_ok_and(|output| output.status.success());
    let bytes = fs::read(if smaller { &stripped } else { &built })?;
    Ok(BINARY.get_or_init(|| bytes))
}

/// Beside the running program when it is one of ours, and brought up to date when cargo is at hand: cargo builds
/// the programs of this package for its own tests, but not for those of a package that only uses its library.
fn build_stand_in() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("UPGRADE_AGENT_TESTBED_RKE2") {
        return Ok(PathBuf::from(binary));
    }
    let running = std::env::current_exe()?;
    let mut profile_dir = running.parent().context("the running program has no directory")?;
    if profile_dir.ends_with("deps") || profile_dir.ends_with("examples") {
        profile_dir = profile_dir.parent().context("target directory expected")?;
    }
    if let Some(cargo) = std::env::var_os("CARGO") {
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let target = profile_dir.parent().context("target directory expected")?;
        let mut command = Command::new(cargo);
        // What cargo tells a running test about its package would look like a change to ring's build script:
        // ring, and all that is built upon it, would be built anew each time.
        for (name, _) in std::env::vars_os() {
            let told = name.to_string_lossy();
            if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        let build = command
            .current_dir(places::workspace())
            .args([
                "build",
                "--quiet",
                "-p",
                "testbed",
                "--bin",
                "rke2",
                "--profile",
                profile,
                "--target-dir",
            ])
            .arg(target)
            .output()?;
        ensure!(
            build.status.success(),
            "cannot build the stand-in: {}",
            String::from_utf8_lossy(&build.stderr)
        );
    }
    let binary = profile_dir.join("rke2");
    ensure!(binary.is_file(), "{} is not built; run `cargo build -p testbed`", binary.display());
    Ok(binary)
}
