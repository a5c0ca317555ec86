//! Runs a program of the machine to its end as a transient unit of its own: it sees the machine's files and not ours, and goes on
//! when we are killed. The unit stays until it is forgotten, so that whoever comes after a crash learns how it ended.

use tokio::time::Instant;
use zbus::Variant;

use crate::host::systemd::state::Verdict;
use crate::host::systemd::{Systemd, SystemdError, UnitState, call};

impl Systemd {
    /// Runs `program` (the machine's own absolute path) once as `unit`, and waits until it has ended well. A unit of that name
    /// that runs, or has ended, is the one that is asked for: it is waited for, not started again.
    ///
    /// # Errors
    /// [`SystemdError::Failed`] when it ended badly, [`SystemdError::TimedOut`], the bus's errors.
    pub async fn run_once(
        &self,
        unit: &str,
        purpose: &str,
        program: &str,
        arguments: &[&str],
        deadline: Instant,
    ) -> Result<(), SystemdError> {
        if !self.is_there(unit).await? {
            let argv: Vec<&str> = std::iter::once(program).chain(arguments.iter().copied()).collect();
            let settings = [
                ("Description", Variant::new(purpose)),
                ("Type", Variant::new("oneshot")),
                ("RemainAfterExit", Variant::new(true)),
                ("ExecStart", Variant::new(vec![(program, argv, false)])),
            ];
            call(unit, "StartTransientUnit", self.transient(unit, &settings)).await?;
        }
        self.wait(unit, "to end", deadline, ended).await.map(|_| ())
    }

    /// Takes the unit away, and with it how it ended. One that is gone already is fine.
    ///
    /// # Errors
    /// The bus's errors.
    pub async fn forget(&self, unit: &str) -> Result<(), SystemdError> {
        if !self.is_there(unit).await? {
            return Ok(());
        }
        match call(unit, "StopUnit", self.manager.stop_unit(unit, "replace")).await {
            Ok(_) | Err(SystemdError::NoSuchUnit { .. }) => self.reset_failed(unit).await,
            Err(error) => Err(error),
        }
    }

    async fn is_there(&self, unit: &str) -> Result<bool, SystemdError> {
        match self.unit(unit).await {
            Ok(_) => Ok(true),
            Err(SystemdError::NoSuchUnit { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A oneshot unit that remains is `active` only after its program ended with 0.
fn ended(state: &UnitState) -> Verdict {
    match state.active_state.as_str() {
        "active" => Verdict::Reached,
        "failed" => Verdict::Hopeless,
        "inactive" if state.job_id == 0 => Verdict::Hopeless,
        _ => Verdict::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_without_a_failure_is_one() {
        let state = |active: &str, job_id: u32| UnitState {
            active_state: active.to_owned(),
            job_id,
            ..UnitState::default()
        };
        for (active, job, expected) in [
            ("inactive", 3, Verdict::Wait),
            ("activating", 3, Verdict::Wait),
            ("active", 0, Verdict::Reached),
            ("failed", 0, Verdict::Hopeless),
            ("deactivating", 4, Verdict::Wait),
            ("inactive", 0, Verdict::Hopeless),
        ] {
            assert_eq!(ended(&state(active, job)), expected, "{active} {job}");
        }
    }
}
