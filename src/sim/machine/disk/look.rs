//! Reading: the way from a path to what it names, and what can be said about that. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use super::inode::{Body, Inode, Table};
use super::{Disk, Mount, ROOT};
use crate::host::effects::{FileKind, MountFacts, Stat};
use crate::host::fs::FsKind;

const MAX_SYMLINKS: usize = 40;

/// What `stat(2)` says.
pub type DiskStat = Stat;

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Found {
    /// The directory that holds the name, and all above it, from the root.
    pub(super) dirs: Vec<u64>,
    /// The last component; empty for the root itself.
    pub(super) name: OsString,
    /// What it names now.
    pub(super) ino: Option<u64>,
}

impl Found {
    pub(super) fn parent(&self) -> Result<u64, Errno> {
        self.dirs.last().copied().ok_or(Errno::ENOENT)
    }
}

/// The same, with the name where it stands.
struct Way<'a> {
    dirs: Vec<u64>,
    name: &'a OsStr,
    ino: Option<u64>,
}

fn inode(table: &Table, ino: u64) -> Result<&Inode, Errno> {
    table.get(ino).map(Arc::as_ref).ok_or(Errno::ENOENT)
}

fn content(inode: &Inode) -> Result<Arc<Vec<u8>>, Errno> {
    match &inode.body {
        Body::File(content) => Ok(Arc::clone(content)),
        Body::Dir(_) => Err(Errno::EISDIR),
        Body::Symlink(_) => Err(Errno::EINVAL),
    }
}

/// The components of a path that a lookup has still to follow, the next one last.
fn steps<'a>(path: &'a Path, todo: &mut Vec<&'a OsStr>) {
    let all = path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/');
    todo.extend(all.filter(|name| !matches!(name, [] | [b'.'])).map(OsStr::from_bytes));
}

impl Disk {
    /// The content of a file.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EISDIR`, `ELOOP`.
    pub fn read(&self, path: &Path) -> Result<Arc<Vec<u8>>, Errno> {
        self.content(self.ino(path, true)?)
    }

    /// The content of a file as a power cut now would leave it, if it loses all that it can.
    ///
    /// # Errors
    /// As [`Disk::read`].
    pub fn read_durable(&self, path: &Path) -> Result<Arc<Vec<u8>>, Errno> {
        let ino = self.walk(&self.platter, path, true)?.ino.ok_or(Errno::ENOENT)?;
        content(inode(&self.platter, ino)?)
    }

    /// What a path is; of a symlink itself unless `follow`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`.
    pub fn stat(&self, path: &Path, follow: bool) -> Result<DiskStat, Errno> {
        let ino = self.ino(path, follow)?;
        let inode = self.inode(ino)?;
        let kind = match inode.body {
            Body::File(_) => FileKind::File,
            Body::Dir(_) => FileKind::Dir,
            Body::Symlink(_) => FileKind::Symlink,
        };
        let device = self.mount_of(inode)?.spec.device;
        let Inode { mode, uid, gid, .. } = *inode;
        Ok(Stat { kind, len: inode.len(), mode, uid, gid, device, ino, changed: self.changes })
    }

    /// Where a symlink points.
    ///
    /// # Errors
    /// `EINVAL` for anything else.
    pub fn read_link(&self, path: &Path) -> Result<PathBuf, Errno> {
        match &self.inode(self.ino(path, false)?)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            Body::File(_) | Body::Dir(_) => Err(Errno::EINVAL),
        }
    }

    /// Full paths of what is in a directory.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT`.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<PathBuf>, Errno> {
        let names = self.names(self.ino(path, true)?)?;
        Ok(names.keys().map(|name| path.join(name)).collect())
    }

    /// Bytes that fit still.
    ///
    /// # Errors
    /// There is no such path.
    pub fn free_bytes(&self, path: &Path) -> Result<u64, Errno> {
        Ok(self.free(self.stat(path, true)?.device))
    }

    /// How many files fit still, and whether any may be written.
    ///
    /// # Errors
    /// There is no such path.
    pub fn mount_facts(&self, path: &Path) -> Result<MountFacts, Errno> {
        let device = self.devices.get(&self.stat(path, true)?.device).ok_or(Errno::EIO)?;
        Ok(MountFacts { free_files: device.free_files, is_read_only: device.read_only })
    }

    /// Has the file the flag of `chattr +i`?
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`.
    pub fn is_immutable(&self, path: &Path) -> Result<bool, Errno> {
        Ok(self.inode(self.ino(path, true)?)?.immutable)
    }

    /// The `SELinux` label of a file.
    ///
    /// # Errors
    /// There is no such path.
    pub fn label(&self, path: &Path) -> Result<Option<Vec<u8>>, Errno> {
        Ok(self.inode(self.ino(path, true)?)?.label.as_ref().map(|label| label.to_vec()))
    }

    /// What kind of file system a path is on.
    ///
    /// # Errors
    /// There is no such path.
    pub fn file_system(&self, path: &Path) -> Result<FsKind, Errno> {
        let inode = self.inode(self.ino(path, true)?)?;
        Ok(self.mount_of(inode)?.spec.kind.clone())
    }

    pub(super) fn free(&self, device: u64) -> u64 {
        self.capacity(device).saturating_sub(self.used(device))
    }

    /// Is there room for so many bytes more? Files are only counted when all that was ever written might not fit.
    pub(super) fn has_room(&self, device: u64, bytes: u64) -> bool {
        let capacity = self.capacity(device);
        capacity.saturating_sub(self.written) >= bytes || capacity.saturating_sub(self.used(device)) >= bytes
    }

    fn capacity(&self, device: u64) -> u64 {
        self.devices.get(&device).map_or(0, |device| device.capacity)
    }

    pub(super) fn used(&self, device: u64) -> u64 {
        let named = self.reachable(&self.cache);
        let on_device = |inode: &&Arc<Inode>| {
            self.mounts.get(inode.mount).is_some_and(|mount| mount.spec.device == device)
        };
        let inodes = named.iter().filter_map(|ino| self.cache.get(*ino)).filter(on_device);
        inodes.filter(|inode| matches!(inode.body, Body::File(_))).map(|inode| inode.len()).sum()
    }

    /// Everything that has a name in `table`.
    pub(super) fn reachable(&self, table: &Table) -> BTreeSet<u64> {
        let mut todo: Vec<u64> = self.mounts.iter().map(|mount| mount.root).collect();
        let mut seen = BTreeSet::new();
        while let Some(ino) = todo.pop() {
            if let Some(inode) = table.get(ino)
                && seen.insert(ino)
                && let Body::Dir(names) = &inode.body
            {
                todo.extend(names.values());
            }
        }
        seen
    }

    pub(super) fn inode(&self, ino: u64) -> Result<&Inode, Errno> {
        inode(&self.cache, ino)
    }

    pub(super) fn content(&self, ino: u64) -> Result<Arc<Vec<u8>>, Errno> {
        content(self.inode(ino)?)
    }

    pub(super) fn names(&self, ino: u64) -> Result<&BTreeMap<OsString, u64>, Errno> {
        match &self.inode(ino)?.body {
            Body::Dir(names) => Ok(names),
            Body::File(_) | Body::Symlink(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn mount_of(&self, inode: &Inode) -> Result<&Mount, Errno> {
        self.mounts.get(inode.mount).ok_or(Errno::EIO)
    }

    pub(super) fn is_mount_point(&self, ino: u64) -> bool {
        self.mounts.iter().any(|mount| mount.root == ino)
    }

    /// What exists at `path`.
    pub(super) fn ino(&self, path: &Path, follow: bool) -> Result<u64, Errno> {
        self.walk(&self.cache, path, follow)?.ino.ok_or(Errno::ENOENT)
    }

    /// Where `path` leads; its last component need not exist.
    pub(super) fn find(&self, path: &Path, follow: bool) -> Result<Found, Errno> {
        let Way { dirs, name, ino } = self.walk(&self.cache, path, follow)?;
        Ok(Found { dirs, name: name.to_owned(), ino })
    }

    /// Goes along `path` in one of the two layers.
    fn walk<'a>(&'a self, table: &'a Table, path: &'a Path, follow: bool) -> Result<Way<'a>, Errno> {
        let mut todo = Vec::with_capacity(8);
        steps(path, &mut todo);
        let mut dirs = Vec::with_capacity(8);
        dirs.push(ROOT);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let here = dirs.last().copied().ok_or(Errno::EIO)?;
            let Body::Dir(names) = &inode(table, here)?.body else { return Err(Errno::ENOTDIR) };
            if name == ".." {
                if dirs.len() > 1 {
                    dirs.pop();
                }
                continue;
            }
            let Some(ino) = names.get(name).map(|ino| self.over_mounts(*ino)) else {
                return if todo.is_empty() { Ok(Way { dirs, name, ino: None }) } else { Err(Errno::ENOENT) };
            };
            if let Body::Symlink(target) = &inode(table, ino)?.body
                && (follow || !todo.is_empty())
            {
                links += 1;
                if links > MAX_SYMLINKS {
                    return Err(Errno::ELOOP);
                }
                if target.is_absolute() {
                    dirs.truncate(1);
                }
                steps(target, &mut todo);
                continue;
            }
            if todo.is_empty() {
                return Ok(Way { dirs, name, ino: Some(ino) });
            }
            dirs.push(ino);
        }
        // The path ended in the root, in `..`, or in a symlink to one of them.
        let ino = dirs.last().copied();
        Ok(Way { dirs, name: OsStr::new(""), ino })
    }

    fn over_mounts(&self, ino: u64) -> u64 {
        self.mounts.iter().rev().find(|mount| mount.point == Some(ino)).map_or(ino, |mount| mount.root)
    }
}
