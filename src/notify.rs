//! What systemd hears from the daemon: ready, one line of status, stopping, and the watchdog's ping.
//!
//! Owns nothing and decides nothing. Without `NOTIFY_SOCKET` (a shell, a pod) every call is a quiet no-op; a socket
//! that does not answer is logged and never stops an upgrade. Called by `agent` and `controller`.

use std::error::Error;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Says that start-up is complete: `systemctl start` returns now.
pub fn ready() {
    report(sd_notify::notify(&[NotifyState::Ready]));
}

/// Sets the status line that `systemctl status` shows. Line breaks become spaces, since systemd takes one line.
pub fn status(text: &str) {
    let line = one_line(text);
    report(sd_notify::notify(&[NotifyState::Status(&line)]));
}

/// Says that the daemon is on its way out, so that systemd counts the stop time-out from here.
pub fn stopping() {
    report(sd_notify::notify(&[NotifyState::Stopping]));
}

/// Tells systemd's watchdog once that the daemon is alive.
pub fn ping() {
    report(sd_notify::notify(&[NotifyState::Watchdog]));
}

/// How often [`ping`] is due: half of the unit's `WatchdogSec`, as systemd advises.
/// `None` when no watchdog watches this process.
#[must_use]
pub fn ping_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|half| !half.is_zero())
}

/// Pings the watchdog until `stop` is cancelled; returns at once when no watchdog watches this process.
///
/// It shares the runtime with the driver, so a runtime that no longer runs tasks is noticed.
pub async fn keep_alive(stop: CancellationToken) {
    let Some(every) = ping_interval() else { return };
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Both arms may be dropped at any await: a tick that is lost is made up for by the next one.
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        ping();
    }
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

fn report(sent: io::Result<()>) {
    if let Err(error) = sent {
        // The unit keeps running on what systemd last heard; stopping an upgrade for it would be worse.
        tracing::warn!(error = &error as &dyn Error, "systemd does not take the notification");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    /// Set for the copy of this test program that plays the daemon: the environment of a running test
    /// program is shared by its threads, so it is never changed in place.
    const CHILD: &str = "UPGRADE_AGENT_NOTIFY_TEST";

    #[test]
    fn line_breaks_never_reach_systemd() {
        assert_eq!(one_line("waiting for vm-1\n  since 12:00\r\n"), "waiting for vm-1 since 12:00");
    }

    #[tokio::test]
    async fn plays_the_daemon_when_asked() {
        #[expect(clippy::disallowed_methods, reason = "how the parent test asks")]
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        ready();
        status("pre-draining:\n2 left");
        let stop = CancellationToken::new();
        let alive = tokio::spawn(keep_alive(stop.clone()));
        tokio::time::sleep(Duration::from_millis(200)).await;
        // Until whoever listens has heard enough.
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()))
            .await
            .unwrap()
            .unwrap();
        stop.cancel();
        alive.await.unwrap();
        stopping();
    }

    fn play(envs: &[(&str, &str)]) -> std::process::Child {
        #[expect(clippy::disallowed_methods, reason = "the copy that plays the daemon")]
        let mut copy = Command::new(std::env::current_exe().unwrap());
        copy.args(["--exact", "notify::tests::plays_the_daemon_when_asked"]).env(CHILD, "1");
        copy.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        copy.envs(envs.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn systemd_hears_ready_status_pings_and_stopping() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let envs = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "20000")];
        let mut copy = play(&envs);
        let mut heard: Vec<String> = Vec::new();
        let (mut last, mut shortest) = (None, Duration::MAX);
        let mut buffer = [0; 256];
        // Read while it plays: a full queue of datagrams would hold it up.
        while heard.last().is_none_or(|line| line != "STOPPING=1") {
            let length = socket.recv(&mut buffer).unwrap();
            heard.push(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned());
            if heard.last().is_some_and(|line| line == "WATCHDOG=1")
                && let Some(before) = last.replace(Instant::now())
            {
                shortest = shortest.min(before.elapsed());
            }
            if heard.iter().filter(|line| *line == "WATCHDOG=1").count() > 2 {
                drop(copy.stdin.take());
            }
        }
        assert!(copy.wait().unwrap().success());
        assert_eq!(heard[..2], ["READY=1", "STATUS=pre-draining: 2 left"]);
        assert!(shortest < Duration::from_secs(1), "systemd wants one every 20 ms: {shortest:?}, {heard:?}");
    }

    #[test]
    fn without_a_socket_or_a_listener_nothing_fails() {
        assert!(play(&[]).wait().unwrap().success());
        assert!(
            play(&[("NOTIFY_SOCKET", "/nowhere/notify"), ("WATCHDOG_USEC", "20000")])
                .wait()
                .unwrap()
                .success()
        );
    }
}
