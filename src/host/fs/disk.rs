//! What a path is on, and how much fits there still.

use std::path::Path;

use nix::sys::statfs as magic;

use crate::host::fs::FsError;

const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// The kinds of file system that matter to us: what is written to the first two is gone after a reboot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FsKind {
    /// Memory (tmpfs or ramfs).
    Tmpfs,
    /// An overlay; its upper layer is often in memory.
    Overlay,
    /// Any other, by name, or by its magic number when we have no name for it.
    Other(String),
}

/// Bytes that root may still write to the file system of `path`.
///
/// # Errors
/// `path` does not exist or cannot be looked at.
pub fn free_bytes(path: &Path) -> Result<u64, FsError> {
    let stat = nix::sys::statvfs::statvfs(path)
        .map_err(|errno| FsError::on("look at the file system of", path)(errno.into()))?;
    Ok(stat.blocks_free().saturating_mul(stat.fragment_size()))
}

/// What kind of file system `path` is on.
///
/// # Errors
/// `path` does not exist or cannot be looked at.
pub fn filesystem(path: &Path) -> Result<FsKind, FsError> {
    let stat =
        magic::statfs(path).map_err(|errno| FsError::on("look at the file system of", path)(errno.into()))?;
    let found = stat.filesystem_type();
    Ok(if found == magic::TMPFS_MAGIC || found.0 == RAMFS_MAGIC {
        FsKind::Tmpfs
    } else if found == magic::OVERLAYFS_SUPER_MAGIC {
        FsKind::Overlay
    } else if found == magic::EXT4_SUPER_MAGIC {
        FsKind::Other("ext4".to_owned())
    } else if found == magic::XFS_SUPER_MAGIC {
        FsKind::Other("xfs".to_owned())
    } else if found == magic::BTRFS_SUPER_MAGIC {
        FsKind::Other("btrfs".to_owned())
    } else {
        FsKind::Other(format!("{:#x}", found.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_and_knows_memory_from_disk() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
        assert!(matches!(filesystem(Path::new("/proc")).unwrap(), FsKind::Other(_)));
        assert_eq!(filesystem(Path::new("/dev/shm")).unwrap(), FsKind::Tmpfs);
        let missing = free_bytes(Path::new("/no/such/place")).unwrap_err();
        assert!(missing.to_string().contains("/no/such/place"), "{missing}");
    }
}
