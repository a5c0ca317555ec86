//! Kills an agent at one line of its journal, before it does what comes next.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, gettid};
use tokio::process::Child;

use super::Stage;
use super::observe::records_in;

/// Longer than any run takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(15);

impl Stage {
    /// Kills the agent with SIGKILL as soon as its journal holds the record this often, and not one of `later`. The agent is
    /// let run in slices shorter than any effect that could follow, and whoever cuts them goes before everybody else on
    /// the machine, so the moment is exact.
    pub async fn kill_at(&self, mut agent: Child, record: &str, count: usize, later: &str) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(agent.id().context("the agent has ended")?)?);
        let (journal, wanted) = (self.journal_path(), record.to_owned());
        let halted = tokio::task::spawn_blocking(move || halt_at(pid, &journal, &wanted, count)).await?;
        if halted.is_ok() {
            let passed = self.records(later) > 0;
            agent.kill().await?;
            ensure!(!passed, "{record} was passed before the agent could be killed");
        }
        halted.with_context(|| format!("no {record}; journal:\n{}", self.journal()))
    }
}

/// Leaves the agent stopped where its journal holds the record.
fn halt_at(pid: Pid, journal: &Path, record: &str, count: usize) -> Result<()> {
    // It does nothing before this thread is ready.
    kill(pid, Signal::SIGSTOP)?;
    let urgent = Urgent::begin();
    let deadline = Instant::now() + PATIENCE;
    loop {
        kill(pid, Signal::SIGSTOP)?;
        let text = std::fs::read_to_string(journal).unwrap_or_default();
        if records_in(&text, record) >= count {
            drop(urgent);
            return Ok(());
        }
        kill(pid, Signal::SIGCONT)?;
        let ended = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT)?;
        if !matches!(ended, WaitStatus::StillAlive) {
            bail!("the agent has ended ({ended:?})");
        }
        ensure!(Instant::now() < deadline, "waited {PATIENCE:?}");
        // Far from it there is time; near it every millisecond counts.
        std::thread::sleep(Duration::from_millis(if text.is_empty() { 5 } else { 1 }));
    }
}

/// For as long as it lives, this thread runs whenever it wants to. A thread of its own ends with its class; one of a pool
/// gets its old one back.
struct Urgent(String);

impl Urgent {
    fn begin() -> Self {
        let thread = Self(gettid().to_string());
        thread.class(&["--fifo", "--pid", "10"]);
        thread
    }

    /// Where it is not allowed the slices are as exact as the machine is idle.
    fn class(&self, args: &[&str]) {
        let set = Command::new("chrt").args(args).arg(&self.0).stderr(Stdio::null()).status();
        if !set.is_ok_and(|status| status.success()) {
            eprintln!("chrt {} {} did not work", args.join(" "), self.0);
        }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.class(&["--other", "--pid", "0"]);
    }
}
