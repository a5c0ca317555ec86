//! The machine as production code sees it: every change asks the life first, every look works only while it lives.

mod open_file;

use std::fmt;
use std::io::{self, Cursor, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use nix::errno::Errno;

use super::disk::Disk;
use super::life::{Life, Verdict};
use super::processes::is_proc;
use super::release::version_of;
use super::web;
use crate::host::command::{CommandError, Ended};
use crate::host::effects::{Effects, FileKind, Lock, MountFacts, OpenFile, Opening, Stat};
use crate::host::fs::FsKind;
use crate::host::grpc::{GrpcCall, GrpcError};
use crate::host::http::HttpAnswer;
use crate::host::probe::ProbeError;
use open_file::{SimFile, SimLock};

/// How long any program runs.
const RUN: Duration = Duration::from_millis(50);

/// What a dead agent gets for an answer.
pub(super) fn dead() -> io::Error {
    io::Error::other("the agent is dead")
}

pub(super) struct LifeEffects {
    life: Life,
}

impl fmt::Debug for LifeEffects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("LifeEffects").field(&self.life.number()).finish()
    }
}

/// One counted change of the disk.
pub(super) fn change<T>(
    life: &Life,
    kind: &'static str,
    what: &str,
    change: impl FnOnce(&mut Disk) -> Result<T, Errno>,
) -> io::Result<T> {
    match life.effect(kind, what) {
        Verdict::Dead => Err(dead()),
        Verdict::Fail(errno) => Err(errno.into()),
        Verdict::Go(pass) => {
            let done = life.machine().change_disk(change);
            if pass.spent() { Ok(done?) } else { Err(dead()) }
        }
    }
}

impl LifeEffects {
    pub(super) fn new(life: Life) -> Self {
        Self { life }
    }

    fn look<T>(&self, look: impl FnOnce(&Disk) -> Result<T, Errno>) -> io::Result<T> {
        self.alive()?;
        Ok(self.life.machine().look(|state| look(&state.disk))?)
    }

    fn alive(&self) -> io::Result<()> {
        if self.life.is_dead() { Err(dead()) } else { Ok(()) }
    }

    fn change<T>(
        &self,
        kind: &'static str,
        path: &Path,
        work: impl FnOnce(&mut Disk) -> Result<T, Errno>,
    ) -> io::Result<T> {
        change(&self.life, kind, &path.to_string_lossy(), work)
    }

    fn content(&self, path: &Path) -> io::Result<Arc<Vec<u8>>> {
        if is_proc(path) {
            self.alive()?;
            return Ok(self.life.machine().proc_entry(path)?.content()?);
        }
        self.look(|disk| disk.read(path))
    }

    fn look_at(&self, path: &Path, follow: bool) -> io::Result<Stat> {
        if is_proc(path) {
            self.alive()?;
            return Ok(self.life.machine().proc_entry(path)?.stat(follow));
        }
        self.look(|disk| disk.stat(path, follow))
    }

    /// What a program of this name would print, or why it cannot be started.
    fn program(&self, program: &Path) -> io::Result<String> {
        let content = self.content(program)?;
        if self.look_at(program, true)?.mode & 0o111 == 0 {
            return Err(Errno::EACCES.into());
        }
        let version = version_of(&content).ok_or_else(|| io::Error::from(Errno::ENOEXEC))?;
        Ok(format!("rke2 version {version} (0123456789abcdef)\ngo version go1.24.1 X:boringcrypto\n"))
    }
}

fn pair(from: &Path, to: &Path) -> String {
    format!("{} -> {}", from.display(), to.display())
}

impl Effects for LifeEffects {
    fn may_block(&self) -> bool {
        false
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.content(path)?.as_ref().clone())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        // As with a real file, what is opened is read to the end even when its name is gone meanwhile.
        Ok(Box::new(Cursor::new(Content(self.content(path)?))))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.look_at(path, true)
    }

    fn stat_link(&self, path: &Path) -> io::Result<Stat> {
        self.look_at(path, false)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        if is_proc(path) {
            self.alive()?;
            return Ok(self.life.machine().proc_entry(path)?.target()?);
        }
        self.look(|disk| disk.read_link(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        if is_proc(path) {
            self.alive()?;
            return self.life.machine().proc_entry(path)?.names(path);
        }
        self.look(|disk| disk.read_dir(path))
    }

    fn create(&self, path: &Path, how: Opening, mode: u32) -> io::Result<Box<dyn OpenFile>> {
        let is_there = self.look(|disk| match disk.stat(path, how == Opening::Append) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        })?;
        let opened = if is_there {
            // Nothing changes, so nothing is counted.
            self.life.machine().change_disk(|disk| disk.create(path, how, mode))?
        } else {
            self.change("create", path, |disk| disk.create(path, how, mode))?
        };
        Ok(Box::new(SimFile::new(self.life.clone(), path, opened.ino)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.change("mkdir", path, |disk| disk.make_dir(path).map(|_| ()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        change(&self.life, "rename", &pair(from, to), |disk| disk.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        change(&self.life, "link", &pair(from, to), |disk| disk.hard_link(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        // What is not there is no effect.
        self.look(|disk| disk.stat(path, false))?;
        self.change("unlink", path, |disk| disk.unlink(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        for inside in self.look(|disk| disk.read_dir(path))? {
            if self.stat_link(&inside)?.kind == FileKind::Dir {
                self.remove_dir_all(&inside)?;
            } else {
                self.remove_file(&inside)?;
            }
        }
        self.change("rmdir", path, |disk| disk.remove_dir(path))
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.change("chmod", path, |disk| disk.set_mode(path, mode))
    }

    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        self.change("chown", path, |disk| disk.set_owner(path, uid, gid))
    }

    fn label(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.look(|disk| disk.label(path))
    }

    fn set_label(&self, path: &Path, label: &[u8]) -> io::Result<()> {
        self.change("setxattr", path, |disk| disk.set_label(path, label))
    }

    fn is_immutable(&self, path: &Path) -> io::Result<bool> {
        self.look(|disk| disk.is_immutable(path))
    }

    fn set_immutable(&self, path: &Path, immutable: bool) -> io::Result<()> {
        self.change("ioctl", path, |disk| disk.set_immutable(path, immutable))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.change("sync", path, |disk| disk.sync(path))
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Result<Box<dyn Lock>, String>> {
        SimLock::take(&self.life, path, holder)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.look(|disk| disk.free_bytes(path))
    }

    fn mount(&self, path: &Path) -> io::Result<MountFacts> {
        self.look(|disk| disk.mount_facts(path))
    }

    fn file_system(&self, path: &Path) -> io::Result<FsKind> {
        self.look(|disk| disk.file_system(path))
    }

    fn run<'a>(
        &'a self,
        program: &'a Path,
        args: &'a [&'a str],
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Ended, CommandError>> {
        async move {
            let not_started = |source| CommandError::NotStarted { program: program.to_path_buf(), source };
            let version = self.program(program).map_err(not_started)?;
            tokio::time::sleep(RUN.min(deadline)).await;
            self.alive().map_err(not_started)?;
            let known = args == ["--version"];
            let (status, stdout, stderr) =
                if known { (0, version, "") } else { (1 << 8, String::new(), "unknown command") };
            Ok(Ended { status: ExitStatus::from_raw(status), stdout, stderr: stderr.to_owned() })
        }
        .boxed()
    }

    fn http_get<'a>(
        &'a self,
        address: SocketAddr,
        path: &'a str,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(u16, String), ProbeError>> {
        async move {
            let answer = self.life.machine().answer_get(address, path, deadline).await?;
            match self.alive() {
                Ok(()) => Ok(answer),
                Err(source) => Err(ProbeError::NoAnswer { addr: address, path: path.to_owned(), source }),
            }
        }
        .boxed()
    }

    fn http_open<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(&'static str, String)],
    ) -> BoxFuture<'a, io::Result<HttpAnswer>> {
        let answer = self.alive().and_then(|()| web::answer(&self.life, url, headers));
        std::future::ready(answer).boxed()
    }

    fn grpc<'a>(&'a self, call: &'a GrpcCall<'a>) -> BoxFuture<'a, Result<Bytes, GrpcError>> {
        async move {
            let server = || call.server.to_owned();
            self.alive().map_err(|error| GrpcError::NoAnswer { server: server(), source: error.into() })?;
            self.life.machine().answer_grpc(call)
        }
        .boxed()
    }

    fn connect(&self, address: SocketAddr, _deadline: Duration) -> BoxFuture<'_, io::Result<()>> {
        async move {
            self.alive()?;
            self.life.machine().answer_connect(address)
        }
        .boxed()
    }
}

struct Content(Arc<Vec<u8>>);

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
