//! What the agent asks of the machine below it: raw file operations as the kernel offers them, programs, loopback ports. The
//! one trait with two implementations: [`Kernel`](super::kernel::Kernel) in production, a machine in memory in rehearsals,
//! which counts every effect, forgets what was not synced, and can end the agent between any two of them.
//!
//! Nothing here is durable or atomic by itself, and nothing retries; [`Fs`](super::fs::Fs) builds that on top.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::host::command::{CommandError, Ended};
use crate::host::fs::FsKind;
use crate::host::grpc::{GrpcCall, GrpcError};
use crate::host::http::HttpAnswer;
use crate::host::probe::ProbeError;

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A plain file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe.
    Other,
}

/// What `stat(2)` says about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub len: u64,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The file system that it is on.
    pub device: u64,
    /// The number of the file on it.
    pub ino: u64,
    /// Another number after each change of its content or of what else is said here.
    pub changed: u64,
}

/// What `statvfs(2)` says beside the free bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountFacts {
    /// Files that may still be made; none where the file system does not count them.
    pub free_files: Option<u64>,
    /// Mounted read-only.
    pub is_read_only: bool,
}

/// How a file is opened for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It must not exist yet.
    New,
    /// At its end; it is made when there is none.
    Append,
}

/// A file that is open for writing.
pub trait OpenFile: Write + Send {
    /// Bytes it has now.
    ///
    /// # Errors
    /// The kernel's.
    fn length(&self) -> io::Result<u64>;

    /// Cuts it, or fills it with zeros.
    ///
    /// # Errors
    /// The kernel's.
    fn set_length(&mut self, bytes: u64) -> io::Result<()>;

    /// Permission bits, past the umask.
    ///
    /// # Errors
    /// The kernel's.
    fn set_mode(&mut self, mode: u32) -> io::Result<()>;

    /// Content and length are on disk when this returns. The name is not: that is the directory's.
    ///
    /// # Errors
    /// The kernel's; what was written may be lost then.
    fn sync(&mut self) -> io::Result<()>;
}

/// What somebody has locked; dropped, the next one gets it. The kernel drops it for a process that dies.
pub trait Lock: Send + fmt::Debug {}

/// The machine below us. Paths are this process's own; every operation is one system call or a plain sequence of them.
///
/// # Errors
/// All of them answer what the kernel answers, unchanged.
#[expect(clippy::missing_errors_doc, reason = "said once, above, for all of them")]
pub trait Effects: Send + Sync + fmt::Debug {
    /// Can a call keep its thread waiting for a disk? Then async callers go to a thread of their own.
    fn may_block(&self) -> bool;

    /// The whole content.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The content piece by piece.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;
    /// What the path is, after symlinks.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// What the path itself is.
    fn stat_link(&self, path: &Path) -> io::Result<Stat>;
    /// Where a symlink points; `EINVAL` when it is none.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;
    /// Full paths of what is in a directory, in no order.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Opens a file for writing; `mode` holds for a new one, less the umask.
    fn create(&self, path: &Path, how: Opening, mode: u32) -> io::Result<Box<dyn OpenFile>>;
    /// One directory.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// `rename(2)`: replaces `to` in one instant.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// `link(2)`: a second name; `to` must not exist.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// `unlink(2)`.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// A directory and all below it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// `chmod(2)`.
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// `chown(2)`.
    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()>;
    /// The file's `SELinux` label (`security.selinux`), after symlinks; none where it has none or the file system keeps none.
    fn label(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// Gives the file that label.
    fn set_label(&self, path: &Path, label: &[u8]) -> io::Result<()>;
    /// Has the file the flag that nobody, root included, may replace, change or remove it (`chattr +i`)? Not where the file system
    /// knows no such flag.
    fn is_immutable(&self, path: &Path) -> io::Result<bool>;
    /// Sets or takes that flag.
    fn set_immutable(&self, path: &Path, immutable: bool) -> io::Result<()>;
    /// `fsync(2)` of a file's content, or of the names in a directory.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Locks the file (made when there is none) for this process and writes `holder` into it; `Err` of the inner result
    /// is what the present holder wrote.
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Result<Box<dyn Lock>, String>>;

    /// Bytes that root may still write to the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// What else counts of the file system of `path`.
    fn mount(&self, path: &Path) -> io::Result<MountFacts>;
    /// What `path` is on.
    fn file_system(&self, path: &Path) -> io::Result<FsKind>;

    /// Runs a program to its end, at most `deadline`.
    fn run<'a>(
        &'a self,
        program: &'a Path,
        args: &'a [&'a str],
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Ended, CommandError>>;
    /// `GET` over plain HTTP: status code and body.
    fn http_get<'a>(
        &'a self,
        address: SocketAddr,
        path: &'a str,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(u16, String), ProbeError>>;
    /// `GET` of an address anywhere, over HTTP or HTTPS, answered as it comes.
    fn http_open<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(&'static str, String)],
    ) -> BoxFuture<'a, io::Result<HttpAnswer>>;
    /// One unary gRPC call over TLS: the answer's message.
    fn grpc<'a>(&'a self, call: &'a GrpcCall<'a>) -> BoxFuture<'a, Result<Bytes, GrpcError>>;
    /// Does somebody accept a TCP connection?
    fn connect(&self, address: SocketAddr, deadline: Duration) -> BoxFuture<'_, io::Result<()>>;
}
