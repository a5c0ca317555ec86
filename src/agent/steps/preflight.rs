//! Preflight: every check, then one record of what was found. Reads only.

use crate::agent::checks::check_all;
use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::flow::record::Record;

/// Makes all checks and records what was found.
///
/// # Errors
/// Refuses, naming every check that did not pass.
pub async fn check_everything(run: &mut Run) -> Result<(), StepError> {
    let preflight = check_all(&run.host, &run.cluster, &run.plan, run.journal.state_dir()).await;
    let failed: Vec<String> =
        preflight.failed().map(|check| format!("{}: {}; {}", check.check, check.why, check.fix)).collect();
    if !failed.is_empty() {
        return Err(StepError::refuse(format!("preflight says no. {}", failed.join(". "))));
    }
    let Some(found) = preflight.found else {
        return Err(StepError::refuse("preflight found no RKE2 on this machine; start it first"));
    };
    let (role, unit, live, live_sha256) = (found.role, found.unit, found.live, found.live_sha256);
    Ok(run.record(Record::Preflighted { role, unit, live, live_sha256 })?)
}
