//! Which boot of the machine this is. A reboot is witnessed by a changed boot id, never by a clock or a marker file.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::host::root::HostRoot;

/// The kernel's random name for one boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

impl BootId {
    /// The boot that the machine at `root` is in now.
    ///
    /// # Errors
    /// No proc file system is mounted there, or what it says is no boot id.
    pub fn read(root: &HostRoot) -> io::Result<Self> {
        let path = root.at("/proc/sys/kernel/random/boot_id");
        let text = String::from_utf8(root.fs().effects().read(&path)?).map_err(io::Error::other)?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// As the kernel writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for BootId {
    type Err = NotABootId;

    fn from_str(text: &str) -> Result<Self, NotABootId> {
        let shaped = text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if shaped { Ok(Self(text.to_owned())) } else { Err(NotABootId(text.to_owned())) }
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A text that is not 36 characters of hex and dashes.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a boot id; mount the machine's proc file system under the host root")]
pub struct NotABootId(String);

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test plays the kernel")]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn reads_this_boot_and_refuses_nonsense() {
        let here = BootId::read(&HostRoot::new(PathBuf::from("/"))).unwrap();
        assert_eq!(here.as_str().len(), 36);
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        assert_eq!(BootId::read(&root).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir_all(root.at("/proc/sys/kernel/random")).unwrap();
        std::fs::write(root.at("/proc/sys/kernel/random/boot_id"), "\n").unwrap();
        assert!(BootId::read(&root).unwrap_err().to_string().contains("not a boot id"));
    }
}
