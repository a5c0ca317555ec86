//! Where the machine's `/` is: `/` itself, `/host` in a pod, `/proc/<leader>/root` for a container seen from outside,
//! a temporary folder in tests. Turns the machine's own paths into ours; never reads or writes a file's content.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::host::fs::Fs;
use crate::host::kernel::Kernel;

/// As many as the kernel follows before it answers `ELOOP`.
const MAX_SYMLINKS: usize = 40;

/// Where machines keep the certificates that they trust: SUSE, Debian, Red Hat, Alpine.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// The prefix under which all paths of one machine are found.
#[derive(Debug, Clone)]
pub struct HostRoot {
    prefix: PathBuf,
    fs: Fs,
}

impl HostRoot {
    /// The machine whose `/` is at `prefix` of the machine that this process runs on. Below another root than its own this process
    /// trusts whom that machine trusts: an image that holds nothing else has no certificates.
    #[must_use]
    pub fn new(prefix: PathBuf) -> Self {
        let root = Self::on(Fs::kernel(), prefix);
        if root.prefix == Path::new("/") {
            return root;
        }
        let there = |bundle: &&str| root.resolve(bundle).ok().filter(|bundle| root.fs.length(bundle).is_ok());
        match BUNDLES.iter().find_map(there) {
            Some(bundle) => Self::on(Fs::new(Arc::new(Kernel::trusting(bundle))), root.prefix),
            None => root,
        }
    }

    /// The machine whose `/` is at `prefix` of these files.
    #[must_use]
    pub fn on(fs: Fs, prefix: PathBuf) -> Self {
        Self { prefix, fs }
    }

    /// Its files.
    #[must_use]
    pub fn fs(&self) -> &Fs {
        &self.fs
    }

    /// The prefix itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.prefix
    }

    /// `path` of the machine as a path of ours. Lexical: `..` is folded away and stops at the root, links are not
    /// followed; use [`HostRoot::resolve`] where the machine may have put a symlink on the way.
    #[must_use]
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let mut inside = PathBuf::new();
        for component in path.as_ref().components() {
            match component {
                Component::Normal(name) => inside.push(name),
                Component::ParentDir => {
                    inside.pop();
                }
                Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            }
        }
        self.prefix.join(inside)
    }

    /// The machine's own name for one of our paths, for messages. A path that is not under the root comes back as it is.
    #[must_use]
    pub fn strip(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.prefix).map_or_else(|_| path.to_path_buf(), |rest| Path::new("/").join(rest))
    }

    /// Follows every symlink of `path` the way the machine itself would: an absolute target starts again at the root,
    /// which the kernel does not do below `/host` or `/proc/<pid>/root`. What does not exist yet is kept as it stands, so
    /// that a file about to be created can be resolved too.
    ///
    /// # Errors
    /// More than 40 links, or a directory on the way that cannot be read.
    pub fn resolve(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let mut todo = components(path.as_ref());
        let mut inside = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                inside.pop();
                continue;
            }
            let next = self.prefix.join(&inside).join(&name);
            match self.fs.effects().read_link(&next) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(io::Error::other(format!(
                            "{} leads through more than {MAX_SYMLINKS} symlinks; break the loop",
                            path.as_ref().display()
                        )));
                    }
                    if target.is_absolute() {
                        inside = PathBuf::new();
                    }
                    for part in components(&target).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                // EINVAL is the kernel's "not a symlink".
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) =>
                {
                    inside.push(name);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.prefix.join(inside))
    }
}

/// The parts of a path as a lookup takes them, one after the other; `..` stays for it to follow.
pub(crate) fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test makes the links that it follows")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn joins_below_the_root_and_never_climbs_out() {
        let root = HostRoot::new(PathBuf::from("/host"));
        for (given, expected) in [
            ("/etc/rancher", "/host/etc/rancher"),
            ("etc", "/host/etc"),
            ("/../../etc/shadow", "/host/etc/shadow"),
            ("/a/./b/../../../c", "/host/c"),
            ("/", "/host"),
        ] {
            assert_eq!(root.at(given), Path::new(expected), "{given}");
        }
        assert_eq!(HostRoot::new(PathBuf::from("/")).at("/etc"), Path::new("/etc"));
    }

    #[test]
    fn strips_back_to_the_machines_own_view() {
        let root = HostRoot::new(PathBuf::from("/host"));
        assert_eq!(root.strip(Path::new("/host/opt/rke2")), Path::new("/opt/rke2"));
        assert_eq!(root.strip(Path::new("/elsewhere")), Path::new("/elsewhere"));
    }

    #[test]
    fn re_roots_absolute_symlinks_and_keeps_relative_ones_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        std::fs::create_dir_all(root.at("/usr/local/lib")).unwrap();
        symlink("/usr/local", root.at("/opt")).unwrap();
        symlink("../../../../../../usr", root.at("/usr/local/up")).unwrap();
        assert_eq!(root.resolve("/opt/lib/new-file").unwrap(), root.at("/usr/local/lib/new-file"));
        assert_eq!(root.resolve("/opt/up/local").unwrap(), root.at("/usr/local"));
    }

    #[test]
    fn gives_up_on_a_loop() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        symlink("/b", root.at("/a")).unwrap();
        symlink("/a", root.at("/b")).unwrap();
        assert!(root.resolve("/a/x").unwrap_err().to_string().contains("break the loop"));
    }
}
