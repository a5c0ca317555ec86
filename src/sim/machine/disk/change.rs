//! Changing: every operation shows at once and is durable only after its sync.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::inode::{Body, Inode};
use super::pending::Edit;
use super::{Disk, UMASK};
use crate::host::effects::Opening;

/// A file that was opened for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its number, which stays the same whatever happens to its names.
    pub ino: u64,
    /// There was none before.
    pub is_new: bool,
}

impl Disk {
    /// Opens a file for writing.
    ///
    /// # Errors
    /// `EEXIST` for [`Opening::New`], `EISDIR`, `ENOENT`, `ENOTDIR`, `EROFS`.
    pub fn create(&mut self, path: &Path, how: Opening, mode: u32) -> Result<Opened, Errno> {
        let found = self.find(path, how == Opening::Append)?;
        match (found.ino, how) {
            (Some(_), Opening::New) => Err(Errno::EEXIST),
            (Some(ino), Opening::Append) => {
                self.content(ino)?;
                self.writable(ino)?;
                Ok(Opened { ino, is_new: false })
            }
            (None, Opening::New | Opening::Append) => {
                let body = Body::File(Arc::default());
                let ino = self.give_birth(found.parent()?, found.name, body, mode & !UMASK)?;
                Ok(Opened { ino, is_new: true })
            }
        }
    }

    /// Adds to the end of an open file as much as fits; returns how much that was.
    ///
    /// # Errors
    /// `ENOSPC` when nothing fits, `EROFS`.
    pub fn append(&mut self, ino: u64, bytes: &[u8]) -> Result<usize, Errno> {
        self.writable(ino)?;
        let device = self.mount_of(self.inode(ino)?)?.spec.device;
        let fits = if self.has_room(device, bytes.len() as u64) {
            bytes.len()
        } else {
            usize::try_from(self.free(device)).unwrap_or(usize::MAX).min(bytes.len())
        };
        if fits == 0 && !bytes.is_empty() {
            return Err(Errno::ENOSPC);
        }
        let old = self.content(ino)?;
        let mut content = Vec::with_capacity(old.len() + fits);
        content.extend_from_slice(&old);
        content.extend_from_slice(bytes.get(..fits).unwrap_or_default());
        self.fill(ino, content)?;
        Ok(fits)
    }

    /// Cuts an open file, or fills it with zeros.
    ///
    /// # Errors
    /// `EROFS`, `EISDIR`.
    pub fn set_length(&mut self, ino: u64, bytes: u64) -> Result<(), Errno> {
        self.writable(ino)?;
        let mut content = self.content(ino)?.as_ref().clone();
        content.resize(usize::try_from(bytes).map_err(|_| Errno::EFBIG)?, 0);
        self.fill(ino, content)
    }

    /// Permission bits of an open file.
    ///
    /// # Errors
    /// `EROFS`.
    pub fn set_mode_of(&mut self, ino: u64, mode: u32) -> Result<(), Errno> {
        self.writable(ino)?;
        self.change(ino, |inode| inode.mode = mode & 0o7777)
    }

    /// Bytes of an open file.
    ///
    /// # Errors
    /// None while it is open.
    pub fn length(&self, ino: u64) -> Result<u64, Errno> {
        Ok(self.inode(ino)?.len())
    }

    /// `fsync(2)` of an open file, or of a directory's names.
    ///
    /// # Errors
    /// `ENOENT` for what a power cut took.
    pub fn sync_ino(&mut self, ino: u64) -> Result<(), Errno> {
        let shown = Arc::clone(self.cache.get(ino).ok_or(Errno::ENOENT)?);
        self.changes += 1;
        let platter = Arc::make_mut(&mut self.platter);
        if matches!(shown.body, Body::Dir(_)) {
            if let Some(kept) = platter.get_mut(ino) {
                let kept = Arc::make_mut(kept);
                (kept.mode, kept.uid, kept.gid) = (shown.mode, shown.uid, shown.gid);
            }
            self.pending.write_dir(ino, platter);
        } else {
            platter.insert(ino, shown);
        }
        Ok(())
    }

    /// `fsync(2)` by path.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn sync(&mut self, path: &Path) -> Result<(), Errno> {
        self.sync_ino(self.ino(path, true)?)
    }

    /// `mkdir(2)`; returns its number.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `ENOTDIR`, `EROFS`.
    pub fn make_dir(&mut self, path: &Path) -> Result<u64, Errno> {
        let found = self.find(path, false)?;
        if found.ino.is_some() {
            return Err(Errno::EEXIST);
        }
        self.give_birth(found.parent()?, found.name, Body::Dir(std::collections::BTreeMap::new()), 0o755)
    }

    /// `symlink(2)`.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `ENOTDIR`, `EROFS`.
    pub fn symlink(&mut self, target: &Path, path: &Path) -> Result<(), Errno> {
        let found = self.find(path, false)?;
        if found.ino.is_some() {
            return Err(Errno::EEXIST);
        }
        let body = Body::Symlink(target.to_path_buf());
        self.give_birth(found.parent()?, found.name, body, 0o777).map(|_| ())
    }

    /// `link(2)`.
    ///
    /// # Errors
    /// `EEXIST`, `EXDEV`, `EPERM` for a directory, `ENOENT`, `EROFS`.
    pub fn hard_link(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let ino = self.ino(from, false)?;
        self.mutable(ino)?;
        let found = self.find(to, false)?;
        let dir = found.parent()?;
        if found.ino.is_some() {
            Err(Errno::EEXIST)
        } else if self.inode(ino)?.mount != self.inode(dir)?.mount {
            Err(Errno::EXDEV)
        } else if self.names(ino).is_ok() {
            Err(Errno::EPERM)
        } else {
            self.edit(vec![Edit { dir, name: found.name, to: Some(ino) }], None, None).map(|_| ())
        }
    }

    /// `rename(2)`.
    ///
    /// # Errors
    /// `ENOENT`, `EXDEV`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EINVAL`, `EBUSY`, `EROFS`.
    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let (old, new) = (self.find(from, false)?, self.find(to, false)?);
        let ino = old.ino.ok_or(Errno::ENOENT)?;
        let (old_dir, dir) = (old.parent()?, new.parent()?);
        if self.is_mount_point(ino) || new.ino.is_some_and(|over| self.is_mount_point(over)) {
            return Err(Errno::EBUSY);
        }
        if self.inode(old_dir)?.mount != self.inode(dir)?.mount {
            return Err(Errno::EXDEV);
        }
        self.mutable(ino)?;
        if let Some(over) = new.ino {
            self.mutable(over)?;
        }
        let is_dir = self.names(ino).is_ok();
        if is_dir && new.dirs.contains(&ino) {
            return Err(Errno::EINVAL);
        }
        if new.ino == Some(ino) {
            // POSIX: two names of one file; nothing happens at all.
            return self.writable(dir);
        }
        let mut emptied = None;
        if let Some(over) = new.ino {
            match (is_dir, self.names(over)) {
                (false, Ok(_)) => return Err(Errno::EISDIR),
                (true, Err(_)) => return Err(Errno::ENOTDIR),
                (true, Ok(names)) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
                (true, Ok(_)) => emptied = Some(over),
                (false, Err(_)) => {}
            }
        }
        let arrives = Edit { dir, name: new.name, to: Some(ino) };
        let leaves = Edit { dir: old_dir, name: old.name, to: None };
        if old_dir == dir || is_dir {
            self.edit(vec![arrives, leaves], emptied, None)?;
        } else {
            let first = self.edit(vec![arrives], None, None)?;
            self.edit(vec![leaves], None, Some(first))?;
        }
        Ok(())
    }

    /// `unlink(2)`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EISDIR`, `EROFS`.
    pub fn unlink(&mut self, path: &Path) -> Result<(), Errno> {
        let found = self.find(path, false)?;
        self.mutable(found.ino.ok_or(Errno::ENOENT)?)?;
        if self.names(found.ino.ok_or(Errno::ENOENT)?).is_ok() {
            return Err(Errno::EISDIR);
        }
        self.edit(vec![Edit { dir: found.parent()?, name: found.name, to: None }], None, None).map(|_| ())
    }

    /// `rmdir(2)`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EBUSY`, `EROFS`.
    pub fn remove_dir(&mut self, path: &Path) -> Result<(), Errno> {
        let found = self.find(path, false)?;
        let ino = found.ino.ok_or(Errno::ENOENT)?;
        if self.is_mount_point(ino) {
            return Err(Errno::EBUSY);
        }
        if !self.names(ino)?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        let gone = Edit { dir: found.parent()?, name: found.name, to: None };
        self.edit(vec![gone], Some(ino), None).map(|_| ())
    }

    /// `chmod(2)`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EROFS`.
    pub fn set_mode(&mut self, path: &Path, mode: u32) -> Result<(), Errno> {
        self.set_mode_of(self.ino(path, true)?, mode)
    }

    /// `chown(2)`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EROFS`.
    pub fn set_owner(&mut self, path: &Path, uid: u32, gid: u32) -> Result<(), Errno> {
        let ino = self.ino(path, true)?;
        self.writable(ino)?;
        self.change(ino, |inode| (inode.uid, inode.gid) = (uid, gid))
    }

    /// `setxattr(2)` of the `SELinux` label.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EROFS`.
    pub fn set_label(&mut self, path: &Path, label: &[u8]) -> Result<(), Errno> {
        let ino = self.ino(path, true)?;
        self.writable(ino)?;
        self.change(ino, |inode| inode.label = Some(label.into()))
    }

    /// `chattr +i` and `-i`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EROFS`.
    pub fn set_immutable(&mut self, path: &Path, immutable: bool) -> Result<(), Errno> {
        let ino = self.ino(path, true)?;
        self.writable(ino)?;
        self.change(ino, |inode| inode.immutable = immutable)
    }

    fn mutable(&self, ino: u64) -> Result<(), Errno> {
        if self.inode(ino)?.immutable { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Gives a file its content.
    pub(super) fn fill(&mut self, ino: u64, content: Vec<u8>) -> Result<(), Errno> {
        self.written += (content.len() as u64).saturating_sub(self.inode(ino)?.len());
        self.change(ino, |inode| inode.body = Body::File(Arc::new(content)))
    }

    pub(super) fn change(&mut self, ino: u64, change: impl FnOnce(&mut Inode)) -> Result<(), Errno> {
        self.changes += 1;
        let inode = Arc::make_mut(&mut self.cache).get_mut(ino).ok_or(Errno::ENOENT)?;
        change(Arc::make_mut(inode));
        Ok(())
    }

    fn writable(&self, ino: u64) -> Result<(), Errno> {
        let device = self.mount_of(self.inode(ino)?)?.spec.device;
        match self.devices.get(&device) {
            Some(device) if device.read_only => Err(Errno::EROFS),
            Some(_) | None => Ok(()),
        }
    }

    /// A new inode; the platter has it too, blank and without a name.
    fn give_birth(&mut self, dir: u64, name: OsString, body: Body, mode: u32) -> Result<u64, Errno> {
        self.writable(dir)?;
        let ino = self.next;
        self.next += 1;
        let inode = Arc::new(Inode::new(body, mode, self.inode(dir)?.mount));
        Arc::make_mut(&mut self.cache).insert(ino, Arc::clone(&inode));
        Arc::make_mut(&mut self.platter).insert(ino, inode);
        self.edit(vec![Edit { dir, name, to: Some(ino) }], None, None)?;
        Ok(ino)
    }

    fn edit(&mut self, edits: Vec<Edit>, emptied: Option<u64>, after: Option<u64>) -> Result<u64, Errno> {
        for edit in &edits {
            self.writable(edit.dir)?;
        }
        self.names_changes += 1;
        for edit in &edits {
            self.change(edit.dir, |inode| {
                if let Body::Dir(names) = &mut inode.body {
                    match edit.to {
                        Some(ino) => names.insert(edit.name.clone(), ino),
                        None => names.remove(&edit.name),
                    };
                }
            })?;
        }
        Ok(self.pending.add(edits, emptied, after))
    }
}
