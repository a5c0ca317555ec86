//! What a path is on, and how much fits there still.

use std::io;
use std::path::Path;

use nix::sys::statfs as magic;
use nix::sys::statvfs::FsFlags;

use crate::host::effects::MountFacts;

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

pub(in crate::host) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_free().saturating_mul(stat.fragment_size()))
}

pub(in crate::host) fn mount(path: &Path) -> io::Result<MountFacts> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    // btrfs makes files as it needs them and says zero.
    let free_files = (stat.files() > 0).then(|| stat.files_free());
    Ok(MountFacts { free_files, is_read_only: stat.flags().contains(FsFlags::ST_RDONLY) })
}

pub(in crate::host) fn filesystem(path: &Path) -> io::Result<FsKind> {
    let stat = magic::statfs(path)?;
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
        let shm = mount(Path::new("/dev/shm")).unwrap();
        assert!(shm.free_files.is_some_and(|files| files > 0) && !shm.is_read_only);
        assert_eq!(mount(Path::new("/proc")).unwrap().free_files, None, "it counts none");
        assert!(matches!(filesystem(Path::new("/proc")).unwrap(), FsKind::Other(_)));
        assert_eq!(filesystem(Path::new("/dev/shm")).unwrap(), FsKind::Tmpfs);
        assert_eq!(free_bytes(Path::new("/no/such/place")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
