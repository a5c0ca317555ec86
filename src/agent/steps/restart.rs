//! Restart: `RKE2` on the new binary, through systemd, without opening the fence.

use tokio::time::Instant;

use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::flow::progress::Work;
use crate::flow::record::Record;
use crate::flow::step::Step;

/// Restarts `RKE2` and waits until another process serves.
///
/// # Errors
/// Needs an operator when it does not come up in time; the old binary is kept beside the live one.
pub async fn restart_rke2(run: &mut Run) -> Result<(), StepError> {
    let unit = unit(run)?;
    let before = run.host.systemd.unit(&unit).await?;
    run.record(Record::RestartIntent { invocation: before.invocation_id })?;
    restart_and_record(run, &unit).await
}

async fn restart_and_record(run: &mut Run, unit: &str) -> Result<(), StepError> {
    // Half a minute less than the step has, so that the reason is systemd's and not the driver's.
    let time = Step::Restart.deadline(&run.plan).saturating_sub(std::time::Duration::from_secs(30));
    let up = run.host.systemd.restart_fenced(unit, Instant::now() + time).await?;
    Ok(run.record(Record::Restarted { invocation: up.invocation_id, pid: up.main_pid })?)
}

/// After a crash inside the restart: did another process start?
///
/// # Errors
/// As [`restart_rke2`].
pub async fn probe_restart(run: &mut Run) -> Result<(), StepError> {
    let unit = unit(run)?;
    let before = match run.journal.progress().restart() {
        Work::Intended(invocation) => invocation.clone(),
        Work::Not | Work::Done(_) => return Err(StepError::operator("no restart is open; nothing to probe")),
    };
    let state = run.host.systemd.unit(&unit).await?;
    // The same process as before, or none at all: the restart did not happen, or stopped half way.
    if state.invocation_id == before || state.is_at_rest() {
        return restart_and_record(run, &unit).await;
    }
    let time = Step::Restart.deadline(&run.plan).saturating_sub(std::time::Duration::from_secs(30));
    let up = run.host.systemd.wait_active(&unit, Some(&before), Instant::now() + time).await?;
    Ok(run.record(Record::Restarted { invocation: up.invocation_id, pid: up.main_pid })?)
}

fn unit(run: &Run) -> Result<String, StepError> {
    match run.journal.progress().preflighted() {
        Some(found) => Ok(found.unit.clone()),
        None => Err(StepError::operator("the journal names no RKE2 unit; ask for help")),
    }
}
