//! Fence: keeps everybody else from restarting `RKE2`. Intent first, so that a crash cannot leave an unknown fence.

use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::flow::record::Record;
use crate::host::fence;

/// Raises the fence on the `RKE2` unit and sees that systemd has loaded it.
///
/// # Errors
/// Needs an operator when systemd does not load it.
pub async fn raise_fences(run: &mut Run) -> Result<(), StepError> {
    let Some(found) = run.journal.progress().preflighted().cloned() else {
        return Err(StepError::operator("fencing was asked for before preflight; run the whole upgrade"));
    };
    run.record(Record::FenceIntent { units: vec![found.unit.clone()] })?;
    fence::raise(&run.host, &[&found.unit], &run.plan.upgrade_uid).await?;
    Ok(run.record(Record::Fenced)?)
}
