//! A world for rehearsals and tests, made of ordinary Kubernetes clients: they run against a real `kube-apiserver` with
//! the real CRDs just as well as against an API server in memory. Nobody but the command line and the tests imports it.
//!
//! - [`virt_api`] answers the subresource calls (start, stop, migrate) as `KubeVirt`'s aggregated API does.
//! - [`virt_controller`] makes VMIs of VMs, launcher pods of VMIs, moves migrations on and evacuates tainted nodes.
//! - [`kubelet`] binds pods, runs them, and plays `virt-handler` and the guests.
//! - [`api`] is an API server in memory; [`object`] is what it keeps and hands out.
//! - [`import`] reads objects from files that kubectl wrote.
//! - [`people`] use the API as users and operators do, [`troubles`] says what is wrong with the servers for a while.
//! - `longhorn` and `workloads` play storage and the other pods, as far as a drain notices them; in memory only.
//! - [`fate`] tells what becomes of a guest whatever anybody does about it.
//! - [`world`] builds the objects that a rehearsal starts from: whole clusters at rest, or somebody's exported one.
//! - [`Known`] is what simulators know of a cluster that [`seed`] has just made, so that they need not read it.
//! - [`Guests`] tells which guest runs on which machine, [`Wire`] is how the simulators reach an API server.
//!
//! `turns` is the loop under the last two: it watches, asks a pure `decide` for each object that something happened to,
//! and alone writes. All time is tokio's, so a paused clock drives everything.

pub mod api;
pub mod fate;
mod fields;
mod guests;
pub mod import;
mod kind;
mod known;
pub mod kubelet;
mod longhorn;
pub mod machine;
pub mod object;
pub mod people;
mod script;
pub mod seed;
#[cfg(test)]
mod stage;
mod switch;
pub mod troubles;
mod turns;
mod view;
pub mod virt_api;
pub mod virt_controller;
mod wire;
mod workloads;
pub mod world;

pub use guests::Guests;
pub use known::{Begun, Known};
pub use switch::Switch;
pub use wire::Wire;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Why a simulator could not go on; everything that a retry may cure is retried instead.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// All watches ended, which happens only when the client is gone for good.
    #[error("every watch has ended; start the simulators again with a new client")]
    WatchesEnded,
    /// The simulators answer each other's writes for ever.
    #[error("the simulators do not come to rest over {what}: it is written again and again at {at}")]
    NoRest {
        /// The object that was to be written next.
        what: String,
        /// The moment that does not end.
        at: Timestamp,
    },
    /// The API refused an object that a caller asked for.
    #[error("the API refused {what}; compare it with the CRD of the cluster")]
    Refused {
        /// The object.
        what: String,
        /// The API's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// A VM did not reach the wanted state in time.
    #[error("{vm} is not running on {node} in time; look at its pod and its conditions")]
    NotRunning {
        /// The VM.
        vm: String,
        /// Where it should run.
        node: String,
    },
}

/// How long things take. Fields in milliseconds are as long as they say; seconds that come from objects or from
/// `KubeVirt`'s constants (guest shutdowns, grace periods, back-offs) are divided by `scale`.
#[derive(Debug, Clone)]
pub struct Timing {
    /// What `seconds` from objects are divided by; 1 is real life.
    pub scale: f64,
    /// Launcher ready to guest running.
    pub boot_ms: u64,
    /// Pod bound to pod ready.
    pub pod_ready_ms: u64,
    /// Guest ended to launcher pod removed.
    pub t_pod_ms: u64,
    /// Deletion of any other pod to its removal, at most its grace period.
    pub plain_pod_stop_ms: u64,
    /// Migration accepted to target pod created.
    pub migration_start_ms: u64,
    /// Part of the copy phase that does not depend on memory.
    pub migration_base_ms: u64,
    /// Speed of the copy phase.
    pub migration_mib_per_second: u64,
    /// Shutdown time of guests that do not name one.
    pub guest_shutdown_seconds: u64,
    /// Node booted to devices registered again.
    pub plugin_ms: u64,
    /// Speed at which a lost replica of a volume is built again.
    pub rebuild_mib_per_second: u64,
    /// Between two lease renewals of a simulated node; 0 for none.
    pub heartbeat_ms: u64,
    /// Between two looks at everything, the safety net under the watches; 0 for none, where no watch loses anything.
    pub resync_ms: u64,
    /// Whether Events are written, which nobody but people reads.
    pub events: bool,
    /// The wall time at `origin`.
    pub start: Timestamp,
    /// The instant that `start` belongs to.
    pub origin: Instant,
}

impl Timing {
    /// Timing of a small real cluster, from `start` on.
    #[must_use]
    pub fn real(start: Timestamp) -> Self {
        Self {
            scale: 1.0,
            boot_ms: 3_000,
            pod_ready_ms: 2_000,
            t_pod_ms: 1_000,
            plain_pod_stop_ms: 1_000,
            migration_start_ms: 200,
            migration_base_ms: 2_000,
            migration_mib_per_second: 1_000,
            guest_shutdown_seconds: 10,
            plugin_ms: 30_000,
            rebuild_mib_per_second: 100,
            heartbeat_ms: 10_000,
            resync_ms: 10_000,
            events: true,
            start,
            origin: Instant::now(),
        }
    }

    /// Timing for tests on a real clock: milliseconds where `real` has seconds.
    #[must_use]
    pub fn fast(start: Timestamp) -> Self {
        Self {
            scale: 20.0,
            boot_ms: 50,
            pod_ready_ms: 50,
            t_pod_ms: 50,
            plain_pod_stop_ms: 50,
            migration_start_ms: 20,
            migration_base_ms: 100,
            migration_mib_per_second: 20_000,
            resync_ms: 3_000,
            ..Self::real(start)
        }
    }

    /// Real life's delays for an API server in memory on a paused clock: nothing happens there but what is caused.
    #[must_use]
    pub fn virtual_time(start: Timestamp) -> Self {
        Self { heartbeat_ms: 0, resync_ms: 0, events: false, ..Self::real(start) }
    }

    /// The wall time at an instant of tokio's clock.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Timestamp {
        let passed =
            SignedDuration::try_from(instant.duration_since(self.origin)).unwrap_or(SignedDuration::ZERO);
        self.start.checked_add(passed).unwrap_or(self.start)
    }

    /// The instant that a wall time belongs to; `origin` for those before it.
    fn instant_of(&self, at: Timestamp) -> Instant {
        self.origin + Duration::try_from(at.duration_since(self.start)).unwrap_or_default()
    }

    /// Seconds of the simulated world as time of tokio's clock.
    fn seconds(&self, seconds: u64) -> Duration {
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        Duration::from_secs_f64(f64::from(seconds) / self.scale.max(0.001))
    }

    /// How long the copy phase of a guest takes that dirties so much of its memory in a second; `None` when it never ends.
    fn copying(&self, memory_mib: u64, dirty_mib_per_second: u64) -> Option<Duration> {
        let speed =
            self.migration_mib_per_second.checked_sub(dirty_mib_per_second).filter(|speed| *speed > 0)?;
        let copy = memory_mib.saturating_mul(1000) / speed;
        Some(Duration::from_millis(self.migration_base_ms.saturating_add(copy)))
    }
}

/// Runs controller, scheduler, kubelets and virt-handlers until `shutdown`.
///
/// # Errors
/// Only when every watch has ended, and in memory when there is no rest; refused writes are retried with back-off.
pub async fn run(wire: impl Into<Wire>, timing: Timing, shutdown: CancellationToken) -> Result<(), SimError> {
    turns::run((wire.into(), None), timing, Guests::default(), &Switch::default(), shutdown).await
}

/// The same, and tells in `guests` which guest runs where.
///
/// # Errors
/// Only when every watch has ended, and in memory when there is no rest; refused writes are retried with back-off.
pub async fn run_with_guests(
    wire: impl Into<Wire>,
    timing: Timing,
    guests: Guests,
    shutdown: CancellationToken,
) -> Result<(), SimError> {
    turns::run((wire.into(), None), timing, guests, &Switch::default(), shutdown).await
}

/// The same with a virt-controller that is away while its switch is off; what was asked of it meanwhile it does afterwards.
///
/// # Errors
/// Only when every watch has ended, and in memory when there is no rest; refused writes are retried with back-off.
pub async fn run_with_switch(
    wire: impl Into<Wire>,
    timing: Timing,
    guests: Guests,
    virt_controller: Switch,
    shutdown: CancellationToken,
) -> Result<(), SimError> {
    run_on(wire, None, timing, guests, virt_controller, shutdown).await
}

/// The same in a cluster of which everything is known already, and not read again, where `begun` says so.
///
/// # Errors
/// Only when every watch has ended, and in memory when there is no rest; refused writes are retried with back-off.
pub async fn run_on(
    wire: impl Into<Wire>,
    begun: Option<Begun>,
    timing: Timing,
    guests: Guests,
    virt_controller: Switch,
    shutdown: CancellationToken,
) -> Result<(), SimError> {
    turns::run((wire.into(), begun), timing, guests, &virt_controller, shutdown).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_follows_the_clock_of_tokio() {
        let timing = Timing::real(Timestamp::UNIX_EPOCH);
        let later = timing.origin + Duration::from_secs(90);
        assert_eq!(timing.at(later).to_string(), "1970-01-01T00:01:30Z");
        assert_eq!(Timing { scale: 20.0, ..timing }.seconds(10), Duration::from_millis(500));
    }
}
