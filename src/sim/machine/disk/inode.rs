//! What a file system holds: files, directories, symlinks, each with its mode and owner.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// All inodes of one layer. Their numbers are given out one after the other, so a number says where in the list it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Vec<Option<Arc<Inode>>>);

impl Table {
    pub(super) fn get(&self, ino: u64) -> Option<&Arc<Inode>> {
        self.0.get(usize::try_from(ino).ok()?)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, ino: u64) -> Option<&mut Arc<Inode>> {
        self.0.get_mut(usize::try_from(ino).ok()?)?.as_mut()
    }

    pub(super) fn insert(&mut self, ino: u64, inode: Arc<Inode>) {
        let Ok(at) = usize::try_from(ino) else { return };
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        if let Some(slot) = self.0.get_mut(at) {
            *slot = Some(inode);
        }
    }

    /// In the order of the numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Inode>)> {
        (0..).zip(&self.0).filter_map(|(ino, inode)| Some((ino, inode.as_ref()?)))
    }

    /// Forgets all but those with these numbers.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        for (ino, slot) in (0..).zip(&mut self.0) {
            if !keep(ino) {
                *slot = None;
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    File(Arc<Vec<u8>>),
    Dir(BTreeMap<OsString, u64>),
    Symlink(PathBuf),
}

#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Its `SELinux` label.
    pub(super) label: Option<Arc<[u8]>>,
    /// Nobody may replace, change or remove it.
    pub(super) immutable: bool,
    /// Index of the mount that it is on.
    pub(super) mount: usize,
}

impl Inode {
    pub(super) fn new(body: Body, mode: u32, mount: usize) -> Self {
        Self { body, mode, uid: 0, gid: 0, label: None, immutable: false, mount }
    }

    pub(super) fn dir(mode: u32, mount: usize) -> Self {
        Self::new(Body::Dir(BTreeMap::new()), mode, mount)
    }

    pub(super) fn len(&self) -> u64 {
        match &self.body {
            Body::File(content) => content.len() as u64,
            Body::Dir(_) => 4096,
            Body::Symlink(target) => target.as_os_str().len() as u64,
        }
    }
}
