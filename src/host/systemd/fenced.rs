//! Stops and starts a unit behind its fence. `RefuseManualStart=` and `RefuseManualStop=` refuse everybody who names the
//! unit, but not a dependency, so our orders go through short-lived units that conflict with it or want it. The fence
//! stays up all the time: taking it down for the restart would open a gap for others. What is stopped is started again by systemd
//! itself, should the agent not live to do it: in a pod it may not, for without RKE2 there is no kubelet to start it.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;
use zbus::Variant;

use crate::host::systemd::{Restarted, Systemd, SystemdError, call};

/// Longer than a stop takes (`TimeoutStopSec=` is 90 s) and what is done between a stop and a start.
const REVIVAL: Duration = Duration::from_mins(3);

/// So long systemd may take to unload a unit that it has stopped.
const FORGETS: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Does nothing; the dependencies of the unit that runs it are what matters.
const PROGRAM: &str = "/bin/true";

impl Systemd {
    /// Restarts a fenced unit: [`Systemd::stop_fenced`], then [`Systemd::start_fenced`], one deadline for both. Works on
    /// a unit without a fence as well, and may be called again after a crash half-way.
    ///
    /// # Errors
    /// See those two.
    pub async fn restart_fenced(&self, unit: &str, deadline: Instant) -> Result<Restarted, SystemdError> {
        self.stop_fenced(unit, deadline).await?;
        self.start_fenced(unit, deadline).await
    }

    /// Stops a fenced unit, also one that loops or hangs in its start, and waits until its main process is gone. systemd starts it again
    /// after 3 minutes, unless [`Systemd::start_fenced`] comes first.
    ///
    /// # Errors
    /// [`SystemdError::NoSuchUnit`], [`SystemdError::TimedOut`], the bus's errors.
    pub async fn stop_fenced(&self, unit: &str, deadline: Instant) -> Result<(), SystemdError> {
        self.unit(unit).await?;
        self.arm_revival(unit).await?;
        let brake = unique("stop");
        // It conflicts and comes after: by the time it runs, the unit has stopped. It stays until we have looked.
        let settings = [
            ("Description", Variant::new(format!("upgrade-agent stops {unit}"))),
            ("Type", Variant::new("oneshot")),
            ("RemainAfterExit", Variant::new(true)),
            ("Conflicts", Variant::new(vec![unit])),
            ("After", Variant::new(vec![unit])),
            ("ExecStart", command()),
            ("CollectMode", Variant::new("inactive-or-failed")),
        ];
        call(unit, "StartTransientUnit", self.transient(&brake, &settings)).await?;
        let stopped = self.wait_stopped(unit, deadline).await;
        self.discard(&brake).await;
        stopped
    }

    /// Starts a fenced unit and waits until it is up; one that is active already is left alone.
    ///
    /// # Errors
    /// As [`Systemd::wait_active`].
    pub async fn start_fenced(&self, unit: &str, deadline: Instant) -> Result<Restarted, SystemdError> {
        let before = self.unit(unit).await?;
        if before.active_state == "failed" {
            self.reset_failed(unit).await?;
        }
        let wish = unique("start");
        // No order between the two: it is done at once, and the unit takes its minutes.
        let settings = [
            ("Description", Variant::new(format!("upgrade-agent starts {unit}"))),
            ("Type", Variant::new("oneshot")),
            ("Wants", Variant::new(vec![unit])),
            ("ExecStart", command()),
            ("CollectMode", Variant::new("inactive-or-failed")),
        ];
        call(unit, "StartTransientUnit", self.transient(&wish, &settings)).await?;
        // The start is systemd's affair by now.
        self.discard(&revival(unit, "timer")).await;
        // A unit that is on its way up, as after a crash of ours half-way, comes up under the id that it has already.
        let ended = matches!(before.active_state.as_str(), "inactive" | "failed" | "deactivating");
        let old = (ended && !before.invocation_id.is_empty()).then_some(before.invocation_id.as_str());
        let started = self.wait_active(unit, old, deadline).await;
        self.discard(&wish).await;
        started
    }

    /// A timer on the machine that outlives the agent.
    async fn arm_revival(&self, unit: &str) -> Result<(), SystemdError> {
        let (timer, service) = (revival(unit, "timer"), revival(unit, "service"));
        let why = format!("starts {unit}, which upgrade-agent has stopped");
        let after = u64::try_from(REVIVAL.as_micros()).unwrap_or(u64::MAX);
        let settings = [
            ("Description", Variant::new(why.clone())),
            ("TimersMonotonic", Variant::new(vec![("OnActiveSec", after)])),
            ("AccuracyUSec", Variant::new(1_000_000_u64)),
            ("RemainAfterElapse", Variant::new(false)),
            ("CollectMode", Variant::new("inactive-or-failed")),
        ];
        let started = [
            ("Description", Variant::new(why)),
            ("Type", Variant::new("oneshot")),
            ("Wants", Variant::new(vec![unit])),
            ("ExecStart", command()),
            ("CollectMode", Variant::new("inactive-or-failed")),
        ];
        let arm = || async {
            let aux: [(&str, &[(&str, Variant<'_>)]); 1] = [(service.as_str(), &started)];
            self.manager.start_transient_unit(&timer, "replace", &settings, &aux).await.map(|_| ())
        };
        let until = Instant::now() + FORGETS;
        loop {
            match arm().await {
                Ok(()) => return Ok(()),
                // One of an earlier stop, whose time has run for a while; that it is stopped does not mean that it is unloaded yet.
                Err(_) if Instant::now() < until => self.discard(&timer).await,
                Err(error) => return call(unit, "StartTransientUnit", async { Err(error) }).await,
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub(super) async fn transient(&self, name: &str, settings: &[(&str, Variant<'_>)]) -> zbus::Result<()> {
        self.manager.start_transient_unit(name, "replace", settings, &[]).await.map(|_| ())
    }

    /// A unit of ours that is gone already is as good; one that stays would only show up in `systemctl`.
    async fn discard(&self, name: &str) {
        match call(name, "StopUnit", self.manager.stop_unit(name, "replace")).await {
            Ok(_) | Err(SystemdError::NoSuchUnit { .. }) => {}
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, unit = name, "left a spent unit");
            }
        }
    }
}

/// `a(sasb)`: program, arguments with the name first, whether a failure counts.
fn command() -> Variant<'static> {
    Variant::new(vec![(PROGRAM, vec![PROGRAM], false)])
}

fn revival(unit: &str, kind: &str) -> String {
    format!("upgrade-agent-revives-{}.{kind}", unit.strip_suffix(".service").unwrap_or(unit))
}

fn unique(purpose: &str) -> String {
    // The hasher's keys are random; nothing here needs more than "not the same twice".
    let id = RandomState::new().hash_one(purpose);
    format!("upgrade-agent-{purpose}-{id:016x}.service")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::systemd::fake::{Behaviour, UNIT, machine};

    #[tokio::test]
    async fn restarts_behind_the_fence_and_cleans_up() {
        let (systemd, fake) = machine(Behaviour::ComesUp).await;
        fake.fence(true);
        let before = systemd.unit(UNIT).await.unwrap();
        let after = systemd.restart_fenced(UNIT, Instant::now() + Duration::from_secs(5)).await.unwrap();
        assert_ne!(after.invocation_id, before.invocation_id);
        assert_eq!(after.main_pid, 101);
        let calls = fake.calls();
        let orders = [
            "Timer",
            "Transient Conflicts",
            "StopUnit own",
            "Transient Wants",
            "StopUnit own",
            "StopUnit own",
        ];
        assert_eq!(calls, orders);
        assert!(systemd.unit(UNIT).await.unwrap().refuse_manual_start);
    }

    #[tokio::test]
    async fn a_start_that_hangs_or_comes_to_nothing_is_an_error() {
        let (systemd, _fake) = machine(Behaviour::Hangs).await;
        let soon = Instant::now() + Duration::from_millis(700);
        assert!(matches!(systemd.restart_fenced(UNIT, soon).await, Err(SystemdError::TimedOut { .. })));
        let (systemd, _fake) = machine(Behaviour::DoneButInactive).await;
        let later = Instant::now() + Duration::from_secs(5);
        assert!(matches!(systemd.restart_fenced(UNIT, later).await, Err(SystemdError::Failed { .. })));
    }

    #[tokio::test]
    async fn a_start_that_somebody_began_already_is_waited_for() {
        let (systemd, fake) = machine(Behaviour::ComesUpLater).await;
        fake.begin_start();
        let before = systemd.unit(UNIT).await.unwrap();
        assert_eq!(before.active_state, "activating");
        let after = systemd.start_fenced(UNIT, Instant::now() + Duration::from_secs(5)).await.unwrap();
        assert_eq!(after.invocation_id, before.invocation_id);
    }
}
