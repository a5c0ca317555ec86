//! Long-lived programs that die with the test bed. Owns their processes; never restarts one by itself.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// A running program with a log file.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts `arguments` so that the kernel sends it `at_our_death` when this process dies, however that happens.
    pub(crate) fn start(name: &str, log: &Path, at_our_death: Signal, arguments: &[String]) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let signal = at_our_death.as_str().trim_start_matches("SIG");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", signal, "--"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C in a terminal reaches the test bed alone, which then ends its children in order.
            .process_group(0);
        let child =
            spawn_from_keeper(command).with_context(|| format!("cannot start {name}; is setpriv there?"))?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end, in small steps because a test bed waits seldom and briefly.
    pub(crate) fn wait_end(&mut self, patience: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if began.elapsed() > patience {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn kill(&mut self) {
        if self.ended().is_none()
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait())
        {
            eprintln!("testbed: cannot end {}: {error}", self.name);
        }
    }

    /// What it said last, to be shown with an error.
    pub(crate) fn last_words(&self) -> String {
        last_lines(&self.log, 15)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of a log file.
pub(crate) fn last_lines(log: &Path, count: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(count)..).unwrap_or_default();
    format!("{}:\n{}", log.display(), tail.join("\n"))
}

/// Starts the command from a thread that lives as long as the process: the kernel's death signal follows the
/// *thread* that started a child, and a test's thread or a runtime's worker ends earlier than the test bed.
fn spawn_from_keeper(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                if answer.send(command.spawn()).is_err() {
                    eprintln!("testbed: nobody waits for the child that was started");
                }
            }
        });
        orders
    });
    let (answer, result) = mpsc::channel();
    keeper.send((command, answer)).map_err(io::Error::other)?;
    result.recv().map_err(io::Error::other)?
}
