//! The machine itself: each operation of [`Effects`] as the system call it stands for. Adds nothing of its own.

#![expect(clippy::disallowed_methods, reason = "the only door to the machine")]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::makedev;
use rustix::fs::{IFlags, XattrFlags};
use rustix::io::Errno as Rustix;

use crate::host::command::{self, CommandError, Ended};
use crate::host::effects::{Effects, FileKind, Lock, MountFacts, OpenFile, Opening, Stat};
use crate::host::fs::{FsKind, disk};
use crate::host::grpc::{self, GrpcCall, GrpcError};
use crate::host::http::{self, HttpAnswer};
use crate::host::probe::{self, ProbeError};

const SELINUX: &str = "security.selinux";

/// The kernel that this process runs on.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// The certificates that servers are trusted by (PEM); without it, those of this process's own root.
    trusted: Option<PathBuf>,
}

impl Kernel {
    /// With a bundle of certificates of its own.
    #[must_use]
    pub fn trusting(bundle: PathBuf) -> Self {
        Self { trusted: Some(bundle) }
    }
}

impl OpenFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn set_mode(&mut self, mode: u32) -> io::Result<()> {
        self.set_permissions(Permissions::from_mode(mode))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

#[derive(Debug)]
struct Locked {
    _file: Flock<File>,
}

impl Lock for Locked {}

/// Opens a file, and nothing else: a pipe would be waited for until somebody writes into it.
fn open_at_once(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let found = file.metadata()?;
    let kind = found.file_type();
    // One that is masked by a link to `/dev/null` is empty, for RKE2 as well.
    let is_null = kind.is_char_device() && found.rdev() == makedev(1, 3);
    if kind.is_file() || kind.is_dir() || is_null {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "a pipe, socket or device, and no plain file"))
}

/// What somebody at a shell has named, which may be a pipe (`/dev/stdin`, `<(…)`) that is waited for: `most` bytes of it and one, so that
/// the caller sees that it is longer.
pub(super) fn read_named(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut content)?;
    Ok(content)
}

impl Effects for Kernel {
    fn may_block(&self) -> bool {
        true
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        open_at_once(path)?.read_to_end(&mut content)?;
        Ok(content)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(open_at_once(path)?))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        fs::metadata(path).map(|found| stat(&found))
    }

    fn stat_link(&self, path: &Path) -> io::Result<Stat> {
        fs::symlink_metadata(path).map(|found| stat(&found))
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    fn create(&self, path: &Path, how: Opening, mode: u32) -> io::Result<Box<dyn OpenFile>> {
        let mut options = OpenOptions::new();
        match how {
            Opening::New => options.write(true).create_new(true),
            Opening::Append => options.append(true).create(true),
        };
        Ok(Box::new(options.mode(mode).open(path)?))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
    }

    fn label(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        // A label is some ten bytes; 4096 is the most that the kernel takes.
        let mut label = vec![0; 4096];
        match rustix::fs::getxattr(path, SELINUX, &mut label) {
            Ok(length) => {
                label.truncate(length);
                Ok(Some(label))
            }
            Err(Rustix::NODATA | Rustix::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn set_label(&self, path: &Path, label: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::setxattr(path, SELINUX, label, XattrFlags::empty())?)
    }

    fn is_immutable(&self, path: &Path) -> io::Result<bool> {
        match rustix::fs::ioctl_getflags(open_at_once(path)?) {
            Ok(flags) => Ok(flags.contains(IFlags::IMMUTABLE)),
            Err(Rustix::NOTTY | Rustix::OPNOTSUPP | Rustix::NOSYS) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn set_immutable(&self, path: &Path, immutable: bool) -> io::Result<()> {
        let file = open_at_once(path)?;
        let mut flags = rustix::fs::ioctl_getflags(&file)?;
        flags.set(IFlags::IMMUTABLE, immutable);
        Ok(rustix::fs::ioctl_setflags(&file, flags)?)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        open_at_once(path)?.sync_all()
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Result<Box<dyn Lock>, String>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                held.set_len(0)?;
                held.rewind()?;
                writeln!(held, "{holder}")?;
                Ok(Ok(Box::new(Locked { _file: held })))
            }
            Err((file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                file.take(32).read_to_string(&mut text)?;
                Ok(Err(text.trim().to_owned()))
            }
            Err((_, errno)) => Err(errno.into()),
        }
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        disk::free_bytes(path)
    }

    fn mount(&self, path: &Path) -> io::Result<MountFacts> {
        disk::mount(path)
    }

    fn file_system(&self, path: &Path) -> io::Result<FsKind> {
        disk::filesystem(path)
    }

    fn run<'a>(
        &'a self,
        program: &'a Path,
        args: &'a [&'a str],
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Ended, CommandError>> {
        command::spawn(program, args, deadline).boxed()
    }

    fn http_get<'a>(
        &'a self,
        address: SocketAddr,
        path: &'a str,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(u16, String), ProbeError>> {
        probe::http_get(address, path, deadline).boxed()
    }

    fn http_open<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(&'static str, String)],
    ) -> BoxFuture<'a, io::Result<HttpAnswer>> {
        http::open(url, headers, self.trusted.as_deref()).boxed()
    }

    fn grpc<'a>(&'a self, call: &'a GrpcCall<'a>) -> BoxFuture<'a, Result<Bytes, GrpcError>> {
        grpc::call(call).boxed()
    }

    fn connect(&self, address: SocketAddr, deadline: Duration) -> BoxFuture<'_, io::Result<()>> {
        probe::connect(address, deadline).boxed()
    }
}

fn stat(found: &fs::Metadata) -> Stat {
    let kind = if found.is_file() {
        FileKind::File
    } else if found.is_dir() {
        FileKind::Dir
    } else if found.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    };
    let (mode, uid, gid) = (found.mode() & 0o7777, found.uid(), found.gid());
    // Nanoseconds of the last change, whatever the epoch: compared, never counted with.
    let changed = found.ctime().wrapping_mul(1_000_000_000).wrapping_add(found.ctime_nsec()).cast_unsigned();
    Stat { kind, len: found.len(), mode, uid, gid, device: found.dev(), ino: found.ino(), changed }
}
