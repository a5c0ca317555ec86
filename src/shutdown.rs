//! Signals to one cancellation token.
//!
//! The first `SIGTERM` or `SIGINT` asks every task to stop after its current step; the second ends the process at once,
//! which the journal makes harmless. Never decides what "after the current step" means: the driver does.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Installs the signal handlers; the token is cancelled by the first signal. Needs a running tokio runtime.
///
/// The second signal ends the process through [`std::process::abort`] after one log line: destructors could wait for
/// the very thing that hangs, and what matters is already on disk.
///
/// # Errors
/// When the kernel refuses a handler.
pub fn install() -> io::Result<CancellationToken> {
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        obey(&mut signals, &asked).await;
        #[expect(clippy::disallowed_methods, reason = "the second signal means: now, whatever hangs")]
        std::process::abort();
    });
    Ok(token)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Cancel-safe: a signal that arrived stays pending in its stream.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Cancels `token` at the first signal and returns at the second.
async fn obey(signals: &mut Signals, token: &CancellationToken) {
    let first = signals.next().await;
    tracing::info!(signal = first, "stopping after the current step; a second signal stops at once");
    token.cancel();
    let second = signals.next().await;
    tracing::error!(signal = second, "stopping at once; the next start resumes from the journal");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use nix::sys::signal::{Signal, raise};

    /// Signals reach a whole process, so each case plays in a copy of this test program, named by this variable.
    const CHILD: &str = "UPGRADE_AGENT_SHUTDOWN_TEST";

    #[tokio::test]
    async fn plays_the_daemon_when_asked() {
        #[expect(clippy::disallowed_methods, reason = "how the parent test asks")]
        let Ok(signals) = std::env::var(CHILD) else { return };
        let token = install().unwrap();
        for name in signals.split(',') {
            raise(name.parse::<Signal>().unwrap()).unwrap();
            tokio::time::timeout(Duration::from_secs(10), token.cancelled()).await.unwrap();
            tokio::task::yield_now().await;
        }
        // Time for an abort that must come, or must not.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    #[test]
    fn the_first_signal_asks_and_the_second_ends() {
        let abort = Some(nix::libc::SIGABRT);
        for (signals, ended_by) in [
            ("SIGTERM", None),
            ("SIGINT", None),
            ("SIGTERM,SIGTERM", abort),
            ("SIGINT,SIGTERM", abort),
            ("SIGTERM,SIGINT", abort),
        ] {
            #[expect(clippy::disallowed_methods, reason = "the copy that plays the daemon")]
            let mut copy = Command::new(std::env::current_exe().unwrap());
            copy.args(["--exact", "shutdown::tests::plays_the_daemon_when_asked"]).env(CHILD, signals);
            let status = copy.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            assert_eq!(status.signal(), ended_by, "{signals}: {status}");
            assert_eq!(status.success(), ended_by.is_none(), "{signals}: {status}");
        }
    }
}
