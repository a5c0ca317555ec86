//! Which version the running file is, and how it shall misbehave. Reads only.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What stands before the version at the end of the file. Two versions are two different files, as real ones are.
pub const VERSION_TRAILER: &str = "\nRKE2-STAND-IN-VERSION=";

/// Longer than any trailer.
const TAIL: i64 = 256;

/// The version that is appended to the running file.
///
/// # Errors
/// When nothing is appended.
pub fn own_version() -> Result<String> {
    let mut file = File::open("/proc/self/exe").context("cannot open the running file")?;
    file.seek(SeekFrom::End(-TAIL))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    version_in(&tail).context("no version is appended to this file; lay it out with testbed::rke2")
}

fn version_in(tail: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(tail);
    let (_, version) = text.rsplit_once(VERSION_TRAILER)?;
    Some(version.trim_end().to_owned())
}

/// What the kubelet of this RKE2 reports: `v1.35.6-rc1+rke2r1` is built from Kubernetes' `v1.35.6+rke2r1`.
pub(crate) fn kubelet_version(version: &str) -> String {
    let Some((before, after)) = version.split_once("-rc") else {
        return version.to_owned();
    };
    format!("{before}{}", after.trim_start_matches(|digit: char| digit.is_ascii_digit()))
}

/// A way to fail; a line of the fault file, optionally after the only version that it is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `crash`: ends at once with 1
    Crash,
    /// `hang`: never ready, no port
    Hang,
    /// `wrong-version:v1.34.2+rke2r1`: reports that kubelet version
    WrongVersion(String),
    /// `die-after:3`: ends with 1 so many seconds after it was ready
    DieAfter(Duration),
    /// `no-devices`: none of its devices comes back
    NoDevices,
    /// `no-device:vendor.example/A10`: that one does not
    NoDevice(String),
    /// `fewer-devices`: one of each is missing
    FewerDevices,
    /// `no-snapshot`: it refuses to save etcd
    NoSnapshot,
    /// `torn-snapshot`: what it saves is cut off
    TornSnapshot,
}

impl Fault {
    /// The first fault in the fault file that is meant for `version`.
    pub(crate) fn read(version: &str) -> Option<Self> {
        let text = std::fs::read_to_string(super::FAULT).ok()?;
        Self::for_version(&text, version)
    }

    fn for_version(text: &str, version: &str) -> Option<Self> {
        text.lines().find_map(|line| match line.trim().split_once(' ') {
            Some((only, fault)) if only == version => Self::parse(fault.trim()),
            Some(_) => None,
            None => Self::parse(line.trim()),
        })
    }

    fn parse(fault: &str) -> Option<Self> {
        match fault.split_once(':') {
            None if fault == "crash" => Some(Self::Crash),
            None if fault == "hang" => Some(Self::Hang),
            None if fault == "no-snapshot" => Some(Self::NoSnapshot),
            None if fault == "torn-snapshot" => Some(Self::TornSnapshot),
            None if fault == "no-devices" => Some(Self::NoDevices),
            None if fault == "fewer-devices" => Some(Self::FewerDevices),
            Some(("no-device", name)) => Some(Self::NoDevice(name.to_owned())),
            Some(("wrong-version", version)) => Some(Self::WrongVersion(version.to_owned())),
            Some(("die-after", seconds)) => Some(Self::DieAfter(Duration::from_secs(seconds.parse().ok()?))),
            _ => None,
        }
    }
}

impl Fault {
    /// How many of a device there are, of those that the node had.
    pub(crate) fn leaves(&self, device: &str, had: &str) -> String {
        let none = || "0".to_owned();
        match self {
            Self::NoDevices => none(),
            Self::NoDevice(gone) if gone == device => none(),
            Self::FewerDevices => {
                had.parse::<u32>().map_or_else(|_| none(), |had| had.saturating_sub(1).to_string())
            }
            Self::NoDevice(_)
            | Self::Crash
            | Self::Hang
            | Self::WrongVersion(_)
            | Self::DieAfter(_)
            | Self::NoSnapshot
            | Self::TornSnapshot => had.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_do_not_come_back_are_offered_no_more() {
        let left = |fault: &str| Fault::parse(fault).unwrap().leaves("vendor.example/A10", "2");
        assert_eq!(left("no-devices"), "0");
        assert_eq!(left("fewer-devices"), "1");
        assert_eq!((left("no-device:vendor.example/A10"), left("no-device:other")), ("0".into(), "2".into()));
        assert_eq!(left("crash"), "2");
    }

    #[test]
    fn a_fault_may_be_meant_for_one_version() {
        let text = "v1.35.6+rke2r1 crash\nwrong-version:v1.0.0\n";
        assert_eq!(Fault::for_version(text, "v1.35.6+rke2r1"), Some(Fault::Crash));
        assert_eq!(
            Fault::for_version(text, "v1.34.2+rke2r1"),
            Some(Fault::WrongVersion("v1.0.0".to_owned()))
        );
        assert_eq!(Fault::for_version("v1.35.6+rke2r1 hang", "v1.34.2+rke2r1"), None);
        assert_eq!(Fault::for_version("die-after:3", "v1"), Some(Fault::DieAfter(Duration::from_secs(3))));
    }

    #[test]
    fn a_release_candidate_reports_the_release() {
        assert_eq!(kubelet_version("v1.35.6-rc12+rke2r1"), "v1.35.6+rke2r1");
        assert_eq!(kubelet_version("v1.35.6+rke2r1"), "v1.35.6+rke2r1");
    }

    #[test]
    fn the_version_is_what_was_appended_last() {
        let tail = format!("\0\u{1}{VERSION_TRAILER}v1.35.6+rke2r1\n");
        assert_eq!(version_in(tail.as_bytes()).as_deref(), Some("v1.35.6+rke2r1"));
        assert_eq!(version_in(b"an ELF file"), None);
    }
}
