//! What a file system holds: files, directories, symlinks, each with its mode and owner.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// All inodes of one layer by number.
pub(super) type Table = BTreeMap<u64, Arc<Inode>>;

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
    /// Index of the mount that it is on.
    pub(super) mount: usize,
}

impl Inode {
    pub(super) fn new(body: Body, mode: u32, mount: usize) -> Self {
        Self { body, mode, uid: 0, gid: 0, label: None, mount }
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
