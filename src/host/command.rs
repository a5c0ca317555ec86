//! Runs programs of the machine: absolute path under the root, deadline, bounded output, nothing left behind. Never goes
//! through a shell and passes on none of our environment.

#![expect(clippy::disallowed_methods, reason = "the only door to the machine")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::host::root::HostRoot;

/// More output than this is read and dropped, so that a chatty program cannot block or fill our memory.
const MAX_OUTPUT: usize = 64 * 1024;
const VERSION_DEADLINE: Duration = Duration::from_secs(30);

/// What a program left when it ended by itself.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How it ended; a failure is for the caller to judge.
    pub status: ExitStatus,
    /// The first 64 KiB it wrote.
    pub stdout: String,
    /// The first 64 KiB it complained.
    pub stderr: String,
}

/// Why there is no answer from a program.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started or followed.
    #[error("cannot run {}; it must be an executable file for this machine", program.display())]
    NotStarted {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was still running at the deadline and was killed.
    #[error("{} was killed after {deadline:?}; run it by hand to see what it waits for", program.display())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// How long it had.
        deadline: Duration,
    },
    /// It ended, but its output is not what the caller asked for.
    #[error("{} answered {answer:?}, a line like \"rke2 version v1.35.6+rke2r1 (…)\" was expected; check the artifact", program.display())]
    NotRke2 {
        /// The program.
        program: PathBuf,
        /// The beginning of what it said.
        answer: String,
    },
}

/// Runs `program` (the machine's own absolute path) and waits for its end, at most `deadline`.
///
/// The program is started from here, not inside a chroot: below a foreign root only static binaries will find all they
/// need. Its whole process group is killed at the deadline and when the future is dropped, the program itself is killed.
///
/// # Errors
/// See [`CommandError`]; a non-zero exit is not one of them.
pub async fn run(
    root: &HostRoot,
    program: &Path,
    args: &[&str],
    deadline: Duration,
) -> Result<Ended, CommandError> {
    let not_started = |source| CommandError::NotStarted { program: program.to_path_buf(), source };
    if !program.is_absolute() {
        return Err(not_started(io::Error::other("the path is not absolute")));
    }
    let outside = root.resolve(program).map_err(not_started)?;
    root.fs().effects().run(&outside, args, deadline).await
}

/// Starts a program of this very machine and follows it.
pub(super) async fn spawn(program: &Path, args: &[&str], deadline: Duration) -> Result<Ended, CommandError> {
    let not_started = |source| CommandError::NotStarted { program: program.to_path_buf(), source };
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(not_started)?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let everything = async { tokio::try_join!(child.wait(), read_bounded(stdout), read_bounded(stderr)) };
    match tokio::time::timeout(deadline, everything).await {
        Ok(Ok((status, stdout, stderr))) => Ok(Ended { status, stdout, stderr }),
        Ok(Err(error)) => Err(not_started(error)),
        Err(_elapsed) => {
            if let Some(Err(error)) = group.map(|pid| killpg(Pid::from_raw(pid), Signal::SIGKILL)) {
                tracing::debug!(%error, program = %program.display(), "its process group is gone already");
            }
            Err(CommandError::TimedOut { program: program.to_path_buf(), deadline })
        }
    }
}

/// The version an `rke2` binary gives for itself, such as `v1.35.6+rke2r1`.
///
/// # Errors
/// It does not run on this machine, or is something else than RKE2.
pub async fn rke2_version(root: &HostRoot, binary: &Path) -> Result<String, CommandError> {
    let ended = run(root, binary, &["--version"], VERSION_DEADLINE).await?;
    let found = ended.stdout.lines().find_map(parse_version).filter(|_| ended.status.success());
    found.ok_or_else(|| CommandError::NotRke2 {
        program: binary.to_path_buf(),
        answer: ended.stdout.lines().chain(ended.stderr.lines()).next().unwrap_or_default().to_owned(),
    })
}

fn parse_version(line: &str) -> Option<String> {
    let version = line.strip_prefix("rke2 version ")?.split_ascii_whitespace().next()?;
    (version.starts_with('v') && version.contains("+rke2r")).then(|| version.to_owned())
}

async fn read_bounded(stream: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let Some(mut stream) = stream else {
        return Ok(String::new());
    };
    let mut kept = Vec::new();
    let mut piece = vec![0; 8 * 1024];
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        let room = MAX_OUTPUT.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(piece.get(..room).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine_with(script: &str) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        let program = root.at("/rke2");
        // Written by another process: a child that a test beside this one has just begun would hold ours open for writing.
        let text = root.at("/text");
        std::fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        let made = std::process::Command::new("install").arg("-m755").args([&text, &program]).status();
        assert!(made.unwrap().success());
        (dir, root)
    }

    #[tokio::test]
    async fn reads_the_version_and_refuses_another_program() {
        let (_dir, root) =
            machine_with("echo 'rke2 version v1.35.6+rke2r1 (0123abcd)'; echo 'go version go1.25'");
        assert_eq!(rke2_version(&root, Path::new("/rke2")).await.unwrap(), "v1.35.6+rke2r1");
        let (_dir, root) = machine_with("echo 'k3s version v1.35.6+k3s1'");
        let error = rke2_version(&root, Path::new("/rke2")).await.unwrap_err();
        assert!(error.to_string().contains("k3s version"), "{error}");
    }

    #[tokio::test]
    async fn kills_at_the_deadline() {
        let (_dir, root) = machine_with("sleep 60 & wait");
        let error = run(&root, Path::new("/rke2"), &[], Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }));
    }

    #[tokio::test]
    async fn drains_more_output_than_it_keeps_and_hides_our_environment() {
        let (_dir, root) = machine_with("head -c 300000 /dev/zero; env >&2; exit 3");
        let ended = run(&root, Path::new("/rke2"), &["x"], Duration::from_secs(20)).await.unwrap();
        assert_eq!((ended.status.code(), ended.stdout.len()), (Some(3), MAX_OUTPUT));
        assert!(!ended.stderr.contains("CARGO"), "{}", ended.stderr);
    }

    #[tokio::test]
    async fn names_a_missing_program_and_wants_an_absolute_one() {
        let root = HostRoot::new("/".into());
        for program in ["/no/such/program", "true"] {
            let error = run(&root, Path::new(program), &["x"], VERSION_DEADLINE).await.unwrap_err();
            assert!(error.to_string().contains(program), "{error}");
        }
    }
}
