//! The machine's proc file system: its boot id, init, RKE2, and the guests that run there. Made up at each look, so that
//! it is never stale.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use super::SimMachine;
use super::image::role_word;
use crate::host::effects::{FileKind, Stat};

const PROC: u64 = 5;
/// Guests' pids are made of their names, so that one keeps its pid from look to look.
const FIRST_GUEST_PID: u32 = 100_000;

/// What a path below `/proc` is.
#[derive(Debug)]
pub(super) enum Entry {
    Dir(Vec<String>),
    File(Arc<Vec<u8>>),
    /// A link that is read through: what it points to may have lost its name.
    Exe(Arc<Vec<u8>>, String),
}

/// Is it `/proc` or below?
pub(super) fn is_proc(path: &Path) -> bool {
    path.starts_with("/proc")
}

struct Process {
    pid: u32,
    comm: String,
    cmdline: Vec<String>,
    exe: Option<(Arc<Vec<u8>>, String)>,
}

impl SimMachine {
    pub(super) fn proc_entry(&self, path: &Path) -> Result<Entry, Errno> {
        let names: Vec<&str> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => name.to_str(),
                Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
            })
            .skip(1)
            .collect();
        let dir = |names: &[&str]| Ok(Entry::Dir(names.iter().map(|name| (*name).to_owned()).collect()));
        match names.as_slice() {
            [] => {
                let mut all: Vec<String> =
                    self.processes().iter().map(|process| process.pid.to_string()).collect();
                all.push("sys".to_owned());
                Ok(Entry::Dir(all))
            }
            ["sys"] => dir(&["kernel"]),
            ["sys", "kernel"] => dir(&["random"]),
            ["sys", "kernel", "random"] => dir(&["boot_id"]),
            ["sys", "kernel", "random", "boot_id"] => Ok(file(&format!("{}\n", self.boot_id()))),
            [pid, rest @ ..] => {
                let processes = self.processes();
                let process = processes.iter().find(|process| process.pid.to_string() == *pid);
                process.ok_or(Errno::ENOENT)?.entry(rest)
            }
        }
    }

    fn processes(&self) -> Vec<Process> {
        let mut found = vec![Process {
            pid: 1,
            comm: "systemd".to_owned(),
            cmdline: vec!["/sbin/init".to_owned()],
            exe: None,
        }];
        self.look(|state| {
            let service = &state.service;
            if let (pid, Some((content, path))) = (service.main_pid, &service.exe)
                && pid != 0
            {
                found.push(Process {
                    pid,
                    comm: "rke2".to_owned(),
                    cmdline: vec![path.clone(), role_word(state.spec.role).to_owned()],
                    exe: Some((Arc::clone(content), path.clone())),
                });
            }
        });
        let mut guests = self.guests();
        guests.sort();
        for guest in guests {
            let program = "/usr/bin/qemu-system-x86_64".to_owned();
            found.push(Process {
                pid: guest_pid(&guest),
                comm: "qemu-system-x86".to_owned(),
                cmdline: vec![program, "-name".to_owned(), format!("guest={guest}")],
                exe: None,
            });
        }
        found
    }
}

impl Process {
    fn entry(&self, names: &[&str]) -> Result<Entry, Errno> {
        match names {
            [] => Ok(Entry::Dir(["stat", "cmdline", "exe"].into_iter().map(str::to_owned).collect())),
            ["stat"] => {
                let fields = "S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5";
                Ok(file(&format!("{} ({}) {fields}\n", self.pid, self.comm)))
            }
            ["cmdline"] => Ok(file(&self.cmdline.iter().fold(String::new(), |all, part| all + part + "\0"))),
            ["exe"] => {
                let (content, path) = self.exe.as_ref().ok_or(Errno::ENOENT)?;
                Ok(Entry::Exe(Arc::clone(content), path.clone()))
            }
            _ => Err(Errno::ENOENT),
        }
    }
}

impl Entry {
    pub(super) fn content(self) -> Result<Arc<Vec<u8>>, Errno> {
        match self {
            Self::File(content) | Self::Exe(content, _) => Ok(content),
            Self::Dir(_) => Err(Errno::EISDIR),
        }
    }

    pub(super) fn target(self) -> Result<PathBuf, Errno> {
        match self {
            Self::Exe(_, path) => Ok(PathBuf::from(path)),
            Self::File(_) | Self::Dir(_) => Err(Errno::EINVAL),
        }
    }

    pub(super) fn names(self, path: &Path) -> io::Result<Vec<PathBuf>> {
        match self {
            Self::Dir(names) => Ok(names.iter().map(|name| path.join(name)).collect()),
            Self::File(_) | Self::Exe(..) => Err(Errno::ENOTDIR.into()),
        }
    }

    pub(super) fn stat(&self, follow: bool) -> Stat {
        let (kind, mode) = match self {
            Self::Dir(_) => (FileKind::Dir, 0o555),
            Self::Exe(..) if !follow => (FileKind::Symlink, 0o777),
            Self::Exe(..) => (FileKind::File, 0o755),
            Self::File(_) => (FileKind::File, 0o444),
        };
        Stat { kind, len: 0, mode, uid: 0, gid: 0, device: PROC, ino: 0, changed: 0 }
    }
}

fn guest_pid(name: &str) -> u32 {
    let mixed = name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(131).wrapping_add(u32::from(byte)));
    FIRST_GUEST_PID + mixed % 1_000_000
}

fn file(text: &str) -> Entry {
    Entry::File(Arc::new(text.as_bytes().to_vec()))
}
