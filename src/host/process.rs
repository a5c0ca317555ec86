//! The machine's own processes, read from its proc file system: is a VM still running here, and which binary does a pid
//! run. Never signals anything. "Could not tell" is an error, never an empty list.

use std::io;
use std::path::Path;

use crate::host::effects::Effects;
use crate::host::fs::FsError;
use crate::host::root::HostRoot;

/// A process that is a VM, or holds one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmProcess {
    /// Its pid as the machine sees it.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
    /// Its arguments, separated by blanks.
    pub cmdline: String,
}

/// Every process of the machine that is QEMU or one of `KubeVirt`'s launchers.
///
/// # Errors
/// The proc file system is not there, is not the machine's, or cannot be read: nobody may conclude "none" from that.
pub fn vm_processes(root: &HostRoot) -> io::Result<Vec<VmProcess>> {
    let proc = root.at("/proc");
    let mut found = Vec::new();
    let mut looked_at = 0_usize;
    let effects = root.fs().effects();
    for entry in effects.read_dir(&proc)? {
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        looked_at += 1;
        match look_at(effects, &entry, pid) {
            Ok(Some(process)) => found.push(process),
            Ok(None) => {}
            Err(error) if vanished(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if looked_at == 0 {
        return Err(io::Error::other(format!(
            "{} shows no process at all; mount the machine's proc file system under the host root",
            proc.display()
        )));
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// SHA-256 of the program that `pid` runs, also when its file was replaced or removed since.
///
/// # Errors
/// No such process, or not allowed to look.
pub fn exe_sha256(root: &HostRoot, pid: u32) -> Result<String, FsError> {
    root.fs().sha256_file(&root.at(format!("/proc/{pid}/exe")))
}

fn look_at(effects: &dyn Effects, dir: &Path, pid: u32) -> io::Result<Option<VmProcess>> {
    let stat = effects.read(&dir.join("stat"))?;
    let stat = String::from_utf8_lossy(&stat);
    let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else {
        return Err(io::Error::other(format!(
            "{} is not in the kernel's format",
            dir.join("stat").display()
        )));
    };
    let comm = stat.get(open + 1..close).unwrap_or_default();
    let cmdline = effects.read(&dir.join("cmdline"))?;
    let argv0 = cmdline.split(|byte| *byte == 0).next().unwrap_or_default();
    let argv0 = String::from_utf8_lossy(argv0);
    let base = argv0.rsplit('/').next().unwrap_or_default();
    let Some(name) = [base, comm].into_iter().find(|name| is_vm_program(name)) else {
        return Ok(None);
    };
    if is_dead(stat.get(close + 1..).unwrap_or_default()) {
        return Ok(None);
    }
    let cmdline = cmdline.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
    Ok(Some(VmProcess { pid, name: name.to_owned(), cmdline: cmdline.trim_end().to_owned() }))
}

/// `comm` is cut at 15 characters, hence prefixes.
fn is_vm_program(name: &str) -> bool {
    ["qemu-system-", "qemu-kvm", "virt-launcher"].iter().any(|prefix| name.starts_with(prefix))
}

/// A zombie whose other threads still run is alive: only its first thread has ended. Fields after the name: state is
/// the first, the number of threads the eighteenth.
fn is_dead(after_name: &str) -> bool {
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next().unwrap_or_default();
    let threads = fields.nth(16).and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
    matches!(state, "Z" | "X" | "x") && threads <= 1
}

/// What the kernel answers about a process that ended while we looked.
fn vanished(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test plays the kernel")]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::host::fs::Fs;

    fn machine(processes: &[(u32, &str, &str, &str)]) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        fs::create_dir_all(root.at("/proc/sys")).unwrap();
        for (pid, comm, state, cmdline) in processes {
            let dir = root.at(format!("/proc/{pid}"));
            fs::create_dir_all(&dir).unwrap();
            let stat = format!("{pid} ({comm}) {state} 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5");
            fs::write(dir.join("stat"), stat).unwrap();
            fs::write(dir.join("cmdline"), cmdline.replace(' ', "\0")).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn finds_vms_by_program_or_comm_and_skips_zombies() {
        let (_dir, root) = machine(&[
            (1, "systemd", "S", "/sbin/init"),
            (2, "kthreadd", "S", ""),
            (40, "qemu-system-x86", "S", "/usr/bin/qemu-system-x86_64 -name guest"),
            (41, "CPU 0/KVM (x)", "R", "/usr/libexec/qemu-kvm -m 1"),
            (42, "virt-launcher-m", "S", ""),
            (43, "qemu-system-x86", "Z", ""),
            (44, "grep", "S", "grep qemu-system-x86_64"),
        ]);
        let found = vm_processes(&root).unwrap();
        assert_eq!(found.iter().map(|process| process.pid).collect::<Vec<_>>(), [40, 41, 42]);
        assert_eq!(found[0].cmdline, "/usr/bin/qemu-system-x86_64 -name guest");
        assert_eq!(found[1].name, "qemu-kvm");
    }

    #[test]
    fn a_zombie_leader_with_running_threads_is_alive() {
        assert!(is_dead(" Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5"));
        assert!(!is_dead(" Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 4 0 5"));
    }

    #[test]
    fn a_vanished_process_is_skipped_and_an_unreadable_one_is_an_error() {
        let (_dir, root) = machine(&[(1, "systemd", "S", "/sbin/init")]);
        fs::create_dir_all(root.at("/proc/99")).unwrap();
        assert_eq!(vm_processes(&root).unwrap(), []);
        fs::create_dir_all(root.at("/proc/99/stat")).unwrap();
        vm_processes(&root).unwrap_err();
    }

    #[test]
    fn no_proc_is_an_error_and_not_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        vm_processes(&root).unwrap_err();
        fs::create_dir_all(root.at("/proc")).unwrap();
        vm_processes(&root).unwrap_err();
    }

    #[test]
    fn hashes_a_running_program_after_its_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("sleep");
        // By another process: a child that a test beside this one has just begun would hold ours open for writing.
        assert!(std::process::Command::new("cp").arg("/bin/sleep").arg(&copy).status().unwrap().success());
        let expected = Fs::kernel().sha256_file(&copy).unwrap();
        let mut child = std::process::Command::new(&copy).arg("60").spawn().unwrap();
        fs::remove_file(&copy).unwrap();
        let found = exe_sha256(&HostRoot::new(PathBuf::from("/")), child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap(), expected);
    }
}
