//! The machine's service manager over D-Bus: what state a unit is in, start, stop and restart it, and wait for what
//! really became of it. A job's "done" is never taken for an answer: conclusions come from the unit's properties.
//! Decides nothing about when; never shells out to `systemctl`.

mod bus;
mod error;
#[cfg(test)]
pub(in crate::host) mod fake;
mod fenced;
mod program;
mod state;

use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use zbus::fdo::PropertiesProxy;
use zbus::proxy::CacheProperties;

pub use bus::BusAddress;
use bus::ManagerProxy;
pub use error::SystemdError;
use state::Verdict;
pub use state::{ExecCommand, UnitState};

/// No call of ours takes systemd longer than this, but reloading.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// A reload runs every generator; other clients wait for minutes as well.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(90);
/// Signals wake us; this is for those that were lost, as when systemd re-executes itself.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same where systemd sends us no signals at all.
const LOOK_OFTEN: Duration = Duration::from_millis(500);

/// A connection to one machine's service manager. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Systemd {
    manager: ManagerProxy<'static>,
    look_again: Duration,
}

/// The new life of a unit that was started or restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarted {
    /// Different at each start.
    pub invocation_id: String,
    /// The new main process.
    pub main_pid: u32,
}

impl Systemd {
    /// Connects and asks systemd for its signals.
    ///
    /// # Errors
    /// [`SystemdError::NoBus`].
    pub async fn connect(bus: &BusAddress) -> Result<Self, SystemdError> {
        let no_bus = |source| SystemdError::NoBus { address: bus.to_string(), source };
        let connected = tokio::time::timeout(CALL_TIMEOUT, async {
            let connection = bus.connect().await?;
            ManagerProxy::builder(&connection).cache_properties(CacheProperties::No).build().await
        });
        let manager = connected.await.map_err(|_| no_bus(bus::silent()))?.map_err(no_bus)?;
        // Refused when this connection has subscribed already; waiting works without signals, with more looks.
        let subscribed = call("manager", "Subscribe", manager.subscribe()).await;
        if let Err(error) = &subscribed {
            tracing::debug!(error = error as &dyn std::error::Error, "no signals from systemd");
        }
        Ok(Self { manager, look_again: if subscribed.is_ok() { LOOK_AGAIN } else { LOOK_OFTEN } })
    }

    /// The connection, for another service on the same bus.
    pub fn connection(&self) -> &zbus::Connection {
        self.manager.inner().connection()
    }

    /// What systemd knows about a unit, loading it if need be.
    ///
    /// # Errors
    /// [`SystemdError::NoSuchUnit`] when there is no unit file of that name; the bus's errors.
    pub async fn unit(&self, unit: &str) -> Result<UnitState, SystemdError> {
        look(unit, &self.properties(unit).await?).await
    }

    /// The main process of a service, zero for none: all that is asked where a unit is looked at every few seconds.
    ///
    /// # Errors
    /// The bus's errors.
    pub async fn main_pid(&self, unit: &str) -> Result<u32, SystemdError> {
        let properties = self.properties(unit).await?;
        let asked = async {
            let interface = zbus::names::InterfaceName::from_static_str(bus::SERVICE)?;
            u32::try_from(properties.get(interface, "MainPID").await?)
        };
        call(unit, "Get", asked).await
    }

    /// Makes systemd read all unit files again. Until then a written drop-in does nothing, and a removed one still works.
    ///
    /// # Errors
    /// The bus's errors.
    pub async fn reload(&self) -> Result<(), SystemdError> {
        call_within(RELOAD_TIMEOUT, "all units", "Reload", self.manager.reload()).await
    }

    /// Forgets that the unit has failed before. Nothing to forget is fine.
    ///
    /// # Errors
    /// The bus's errors.
    pub async fn reset_failed(&self, unit: &str) -> Result<(), SystemdError> {
        match call(unit, "ResetFailedUnit", self.manager.reset_failed_unit(unit)).await {
            Err(SystemdError::NoSuchUnit { .. }) => Ok(()),
            answer => answer,
        }
    }

    /// Restarts a unit that nobody fenced, and waits until its new life is up.
    ///
    /// # Errors
    /// [`SystemdError::Refused`] for a fenced unit; see also [`Systemd::wait_active`].
    pub async fn restart(&self, unit: &str, deadline: Instant) -> Result<Restarted, SystemdError> {
        let before = self.unit(unit).await?;
        call(unit, "RestartUnit", self.manager.restart_unit(unit, "replace")).await?;
        self.wait_active(unit, Some(&before.invocation_id), deadline).await
    }

    /// Starts a unit that nobody fenced; one that is active already is left alone.
    ///
    /// # Errors
    /// See [`Systemd::restart`].
    pub async fn start(&self, unit: &str, deadline: Instant) -> Result<Restarted, SystemdError> {
        self.unit(unit).await?;
        call(unit, "StartUnit", self.manager.start_unit(unit, "replace")).await?;
        self.wait_active(unit, None, deadline).await
    }

    /// Stops a unit that nobody fenced, also one that hangs in its start, and waits until its main process is gone.
    ///
    /// # Errors
    /// [`SystemdError::Refused`], [`SystemdError::TimedOut`], the bus's errors.
    pub async fn stop(&self, unit: &str, deadline: Instant) -> Result<(), SystemdError> {
        self.unit(unit).await?;
        call(unit, "StopUnit", self.manager.stop_unit(unit, "replace")).await?;
        self.wait_stopped(unit, deadline).await
    }

    /// Waits until the unit runs with another invocation id than `not_invocation` (any, when `None`). `activating` may
    /// last for minutes: RKE2's units have no start timeout of their own.
    ///
    /// # Errors
    /// [`SystemdError::Failed`] as soon as it is clear that it will not come up: failed, inactive with no job left, its
    /// program cannot be executed, or three automatic restarts. [`SystemdError::TimedOut`] at the deadline.
    pub async fn wait_active(
        &self,
        unit: &str,
        not_invocation: Option<&str>,
        deadline: Instant,
    ) -> Result<Restarted, SystemdError> {
        // An ordered start begins to count anew; what systemd has restarted before counts on.
        let mut restarts = u32::MAX;
        let verdict = |state: &UnitState| {
            restarts = restarts.min(state.n_restarts);
            state.verdict(not_invocation, restarts)
        };
        let state = self.wait(unit, "to be running", deadline, verdict).await?;
        Ok(Restarted { invocation_id: state.invocation_id, main_pid: state.main_pid })
    }

    /// Waits until the unit is at rest and its main process is gone.
    ///
    /// # Errors
    /// [`SystemdError::TimedOut`], the bus's errors.
    pub async fn wait_stopped(&self, unit: &str, deadline: Instant) -> Result<(), SystemdError> {
        let verdict = |state: &UnitState| {
            if state.is_at_rest() { Verdict::Reached } else { Verdict::Wait }
        };
        self.wait(unit, "to be stopped", deadline, verdict).await.map(|_| ())
    }

    async fn wait(
        &self,
        unit: &str,
        what: &'static str,
        deadline: Instant,
        mut verdict: impl FnMut(&UnitState) -> Verdict,
    ) -> Result<UnitState, SystemdError> {
        let properties = self.properties(unit).await?;
        // Before the first look, so that no change between a look and a wait is missed.
        let mut changes =
            call(unit, "AddMatch", async { properties.receive_properties_changed().await }).await?;
        loop {
            let state = look(unit, &properties).await?;
            match verdict(&state) {
                Verdict::Reached => return Ok(state),
                Verdict::Hopeless => {
                    return Err(SystemdError::Failed { unit: unit.to_owned(), state: Box::new(state) });
                }
                Verdict::Wait if Instant::now() >= deadline => {
                    return Err(SystemdError::TimedOut {
                        unit: unit.to_owned(),
                        what,
                        last_state: state.summary(),
                    });
                }
                Verdict::Wait => {
                    let nap = (Instant::now() + self.look_again).min(deadline);
                    // A stream that has ended answers at once and must not make this loop spin.
                    if let Ok(None) = tokio::time::timeout_at(nap, changes.next()).await {
                        tokio::time::sleep_until(nap).await;
                    }
                }
            }
        }
    }

    async fn properties(&self, unit: &str) -> Result<PropertiesProxy<'static>, SystemdError> {
        let proxy = async {
            PropertiesProxy::builder(self.connection())
                .destination(bus::SYSTEMD)
                .path(bus::unit_path(unit))
                .cache_properties(CacheProperties::No)
                .build()
                .await
        };
        call(unit, "Properties", proxy).await
    }
}

/// One look at a unit; systemd loads one that is not loaded as soon as its object is asked.
async fn look(unit: &str, properties: &PropertiesProxy<'_>) -> Result<UnitState, SystemdError> {
    let general = call(unit, "GetAll", get_all(properties, bus::UNIT)).await?;
    let service = match call(unit, "GetAll", get_all(properties, bus::SERVICE)).await {
        // Targets, sockets and missing units have no such interface.
        Err(_) if !is_service(unit) => std::collections::HashMap::new(),
        answer => answer?,
    };
    let state = UnitState::from_properties(unit, &general, &service);
    if state.load_state == "not-found" {
        return Err(SystemdError::NoSuchUnit { unit: unit.to_owned() });
    }
    Ok(state)
}

type Properties = std::collections::HashMap<String, zbus::OwnedVariant>;

async fn get_all(properties: &PropertiesProxy<'_>, interface: &'static str) -> zbus::Result<Properties> {
    let interface = zbus::names::InterfaceName::from_static_str(interface)?;
    Ok(properties.get_all(interface).await?)
}

fn is_service(unit: &str) -> bool {
    unit.rsplit_once('.').is_some_and(|(_, kind)| kind == "service")
}

async fn call<T>(
    unit: &str,
    method: &'static str,
    answer: impl Future<Output = zbus::Result<T>>,
) -> Result<T, SystemdError> {
    call_within(CALL_TIMEOUT, unit, method, answer).await
}

async fn call_within<T>(
    limit: Duration,
    unit: &str,
    method: &'static str,
    answer: impl Future<Output = zbus::Result<T>>,
) -> Result<T, SystemdError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| error::explain(unit, method, error)),
        Err(_elapsed) => Err(SystemdError::Bus { method, unit: unit.to_owned(), source: bus::silent() }),
    }
}

#[cfg(test)]
mod tests {
    use super::fake::{Behaviour, UNIT, machine};
    use super::*;

    fn within(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    #[tokio::test]
    async fn restarts_and_reports_the_new_life() {
        let (systemd, fake) = machine(Behaviour::ComesUp).await;
        let before = systemd.unit(UNIT).await.unwrap();
        assert_eq!(before.program(), Some("/opt/rke2/bin/rke2"));
        assert_eq!((before.main_pid, before.invocation_id.len()), (100, 32));
        assert_eq!(systemd.main_pid(UNIT).await.unwrap(), 100);
        let after = systemd.restart(UNIT, within(5000)).await.unwrap();
        assert_ne!(after.invocation_id, before.invocation_id);
        assert_eq!((after.main_pid, systemd.main_pid(UNIT).await.unwrap()), (101, 101));
        assert_eq!(fake.calls(), ["RestartUnit"]);
    }

    #[tokio::test]
    async fn says_which_unit_is_missing() {
        let (systemd, _fake) = machine(Behaviour::ComesUp).await;
        let error = systemd.unit("absent.service").await.unwrap_err();
        assert!(matches!(&error, SystemdError::NoSuchUnit { unit } if unit == "absent.service"), "{error}");
    }

    #[tokio::test]
    async fn a_hanging_start_ends_at_the_deadline_with_its_last_state() {
        let (systemd, _fake) = machine(Behaviour::Hangs).await;
        let error = systemd.restart(UNIT, within(700)).await.unwrap_err();
        assert!(error.to_string().contains("activating"), "{error}");
        assert!(matches!(error, SystemdError::TimedOut { .. }));
    }

    #[tokio::test]
    async fn a_finished_job_with_an_inactive_unit_is_a_failure() {
        let (systemd, _fake) = machine(Behaviour::DoneButInactive).await;
        let error = systemd.restart(UNIT, within(5000)).await.unwrap_err();
        assert!(matches!(error, SystemdError::Failed { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_fenced_unit_refuses_and_is_untouched() {
        let (systemd, fake) = machine(Behaviour::ComesUp).await;
        fake.fence(true);
        let error = systemd.restart(UNIT, within(5000)).await.unwrap_err();
        assert!(matches!(error, SystemdError::Refused { .. }), "{error}");
        assert_eq!(systemd.unit(UNIT).await.unwrap().main_pid, 100);
    }

    #[tokio::test]
    async fn says_where_it_found_no_bus() {
        let nowhere = BusAddress::Socket("/no/such/socket".into());
        let error = Systemd::connect(&nowhere).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/socket"), "{error}");
    }
}
