//! A file system in memory that may lose, at a power cut, whatever a journalling file system of Linux may lose. It keeps
//! two layers: what the running kernel shows, and what is on the platter.
//!
//! - A file's content, length, mode and owner reach the platter with its own sync.
//! - A name reaches it with the sync of its directory. A name change within one directory is all or nothing; across
//!   two, the new name may be there without the old one being gone, never the other way round.
//! - Changes of one name keep their order; others are independent of each other.
//!
//! Not played: `fsync` that fails once and claims success later, in-place writes, timestamps, access checks (we are root).

mod change;
mod cut;
mod inode;
mod look;
mod pending;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

pub use cut::CutMode;
use inode::{Inode, Table};
pub use look::DiskStat;
use pending::Pending;

use crate::host::fs::FsKind;

/// What the permission bits of new files and directories are narrowed by.
pub const UMASK: u32 = 0o022;

/// One mounted file system.
#[derive(Debug, Clone)]
pub struct MountSpec {
    /// `st_dev`; bind mounts of one file system share it, and still answer `EXDEV` to each other.
    pub device: u64,
    /// What `statfs` says.
    pub kind: FsKind,
    /// Is it memory, empty after each boot?
    pub volatile: bool,
}

impl MountSpec {
    /// A disk partition.
    #[must_use]
    pub fn ext4(device: u64) -> Self {
        Self { device, kind: FsKind::Other("ext4".to_owned()), volatile: false }
    }

    /// Memory.
    #[must_use]
    pub fn tmpfs(device: u64) -> Self {
        Self { device, kind: FsKind::Tmpfs, volatile: true }
    }
}

#[derive(Debug, Clone)]
struct Mount {
    spec: MountSpec,
    /// The directory that it covers; none for the root.
    point: Option<u64>,
    root: u64,
}

/// How much fits on a device, and whether it can be written.
#[derive(Debug, Clone, Copy)]
struct Device {
    capacity: u64,
    /// Only told, not counted: nothing here makes so many files.
    free_files: Option<u64>,
    read_only: bool,
}

impl Device {
    const NEW: Self = Self { capacity: CAPACITY, free_files: Some(1 << 20), read_only: false };
}

/// The disks of one machine. Cheap to clone; the clones part ways at the first change.
#[derive(Debug, Clone)]
pub struct Disk {
    mounts: Arc<Vec<Mount>>,
    devices: BTreeMap<u64, Device>,
    cache: Arc<Table>,
    platter: Arc<Table>,
    pending: Pending,
    next: u64,
    changes: u64,
    names_changes: u64,
    /// Bytes by which files ever grew: no file system can hold more.
    written: u64,
}

const ROOT: u64 = 1;
/// 64 GiB, so that nothing is full unless it is made so.
const CAPACITY: u64 = 64 << 30;

impl Disk {
    /// An empty root file system.
    #[must_use]
    pub fn new(root: MountSpec) -> Self {
        let mut table = Table::default();
        table.insert(ROOT, Arc::new(Inode::dir(0o755, 0)));
        let table = Arc::new(table);
        let device = (root.device, Device::NEW);
        Self {
            mounts: Arc::new(vec![Mount { spec: root, point: None, root: ROOT }]),
            devices: BTreeMap::from([device]),
            cache: Arc::clone(&table),
            platter: table,
            pending: Pending::default(),
            next: ROOT + 1,
            changes: 0,
            names_changes: 0,
            written: 0,
        }
    }

    /// Mounts an empty file system on `path`, which is made when it is not there; durable, as if it had been so ever since.
    ///
    /// # Errors
    /// A non-directory on the way.
    pub fn mount(&mut self, path: impl AsRef<Path>, spec: MountSpec) -> Result<(), Errno> {
        let point = self.install_dir(path.as_ref())?;
        let root = self.next;
        self.next += 1;
        let inode = Arc::new(Inode::dir(0o755, self.mounts.len()));
        Arc::make_mut(&mut self.cache).insert(root, Arc::clone(&inode));
        Arc::make_mut(&mut self.platter).insert(root, inode);
        self.devices.entry(spec.device).or_insert(Device::NEW);
        Arc::make_mut(&mut self.mounts).push(Mount { spec, point: Some(point), root });
        Ok(())
    }

    /// A file with all directories above it, durable, as if it had been there ever since.
    ///
    /// # Errors
    /// A non-directory on the way, or a directory at its place.
    pub fn install(
        &mut self,
        path: impl AsRef<Path>,
        content: impl Into<Vec<u8>>,
        mode: u32,
    ) -> Result<(), Errno> {
        let path = path.as_ref();
        self.install_dir(path.parent().unwrap_or(Path::new("/")))?;
        let file = self.create(path, crate::host::effects::Opening::Append, mode)?;
        let content: Vec<u8> = content.into();
        self.fill(file.ino, content)?;
        self.change(file.ino, |inode| inode.mode = mode)?;
        self.settle();
        Ok(())
    }

    /// A symlink with all directories above it, durable.
    ///
    /// # Errors
    /// Something is there already, or a non-directory is on the way.
    pub fn install_link(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<(), Errno> {
        let path = path.as_ref();
        self.install_dir(path.parent().unwrap_or(Path::new("/")))?;
        self.symlink(target.as_ref(), path)?;
        self.settle();
        Ok(())
    }

    /// `mkdir -p`, durable.
    ///
    /// # Errors
    /// A non-directory on the way.
    pub fn install_dir(&mut self, path: &Path) -> Result<u64, Errno> {
        match self.find(path, true) {
            Ok(found) if found.ino.is_some() => {
                let ino = found.ino.ok_or(Errno::ENOENT)?;
                self.names(ino)?;
                return Ok(ino);
            }
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        self.install_dir(path.parent().unwrap_or(Path::new("/")))?;
        let ino = self.make_dir(path)?;
        self.settle();
        Ok(ino)
    }

    /// Everything reaches the platter, as at a clean shutdown.
    pub fn settle(&mut self) {
        self.pending = Pending::default();
        self.platter = Arc::clone(&self.cache);
    }

    /// A number that is another one after each change of what is shown, and after each sync.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The same, of what is shown by the names alone: after a file was made, renamed, linked or removed, and after a boot.
    #[must_use]
    pub fn names_changes(&self) -> u64 {
        self.names_changes
    }

    /// How much the device holds, in bytes; what is there already counts.
    pub fn set_capacity(&mut self, device: u64, bytes: u64) {
        if let Some(device) = self.devices.get_mut(&device) {
            device.capacity = bytes;
        }
    }

    /// Leaves exactly so many bytes free on the device of `path`.
    ///
    /// # Errors
    /// There is no such path.
    pub fn set_free(&mut self, path: impl AsRef<Path>, bytes: u64) -> Result<(), Errno> {
        let device = self.stat(path.as_ref(), true)?.device;
        let used = self.used(device);
        self.set_capacity(device, used.saturating_add(bytes));
        Ok(())
    }

    /// How many files the device of `path` says that it can still hold; none where it does not count them.
    ///
    /// # Errors
    /// There is no such path.
    pub fn set_free_files(&mut self, path: impl AsRef<Path>, files: Option<u64>) -> Result<(), Errno> {
        let device = self.stat(path.as_ref(), true)?.device;
        self.devices.get_mut(&device).ok_or(Errno::EIO)?.free_files = files;
        Ok(())
    }

    /// From now on every change of the device answers `EROFS`, as after an I/O error, or no longer.
    pub fn set_read_only(&mut self, device: u64, read_only: bool) {
        if let Some(device) = self.devices.get_mut(&device) {
            device.read_only = read_only;
        }
    }
}
