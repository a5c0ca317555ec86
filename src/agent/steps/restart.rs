//! Restart: `RKE2` on the new binary, through systemd, without opening the fence.

use std::time::Duration;

use tokio::time::Instant;

use crate::agent::gate;
use crate::agent::observe::observe;
use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::flow::progress::Work;
use crate::flow::record::Record;
use crate::flow::report::Blocker;
use crate::flow::step::Step;

/// Restarts `RKE2` and waits until another process serves.
///
/// # Errors
/// Needs an operator when it does not come up in time; the old binary is kept beside the live one.
pub async fn restart_rke2(run: &mut Run) -> Result<(), StepError> {
    let unit = unit(run)?;
    let before = run.host.systemd.unit(&unit).await?;
    ask_gate(run, &unit, before.is_at_rest()).await?;
    run.record(Record::RestartIntent { invocation: before.invocation_id })?;
    restart_and_record(run, &unit).await
}

async fn restart_and_record(run: &mut Run, unit: &str) -> Result<(), StepError> {
    wait_for(run, unit);
    let up = run.host.systemd.restart_fenced(unit, deadline(run)).await?;
    Ok(run.record(Record::Restarted { invocation: up.invocation_id, pid: up.main_pid })?)
}

/// A restart kills the guests of VMs that came back since the swap (reference `kubevirt.md` §5): look again.
async fn ask_gate(run: &Run, unit: &str, rke2_at_rest: bool) -> Result<(), StepError> {
    let live = run.journal.progress().preflighted().map(|found| found.live.clone()).unwrap_or_default();
    let (node, uid) = (&run.plan.node_name, &run.plan.upgrade_uid);
    let observed = observe(&run.host, &run.cluster.client, node, unit, uid, &live).await;
    match gate::check_restart(&observed, rke2_at_rest) {
        Ok(()) => Ok(()),
        Err(gate::Refusal::CouldNotTell { what, why }) => {
            Err(StepError::retry(format!("before the restart it could not be told {what}: {why}")))
        }
        Err(refusal) => {
            let what = "the new rke2 is in place and waits for its restart, but";
            Err(StepError::operator(format!("{what} {refusal}")))
        }
    }
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
        ask_gate(run, &unit, state.is_at_rest()).await?;
        return restart_and_record(run, &unit).await;
    }
    wait_for(run, &unit);
    let up = run.host.systemd.wait_active(&unit, Some(&before), deadline(run)).await?;
    Ok(run.record(Record::Restarted { invocation: up.invocation_id, pid: up.main_pid })?)
}

/// The restart takes minutes, and people look.
fn wait_for(run: &mut Run, unit: &str) {
    let since = run.now();
    run.publish_blockers(vec![Blocker {
        what: format!("{unit} is restarting on {}", run.plan.rke2.to),
        since,
        owner: "nobody has to act yet".to_owned(),
        deadline: Some(since + Step::Restart.deadline(&run.plan)),
        then: "hold".to_owned(),
    }]);
}

/// Half a minute less than the step has, so that the reason is systemd's and not the driver's.
fn deadline(run: &Run) -> Instant {
    Instant::now() + Step::Restart.deadline(&run.plan).saturating_sub(Duration::from_secs(30))
}

fn unit(run: &Run) -> Result<String, StepError> {
    match run.journal.progress().preflighted() {
        Some(found) => Ok(found.unit.clone()),
        None => Err(StepError::operator("the journal names no RKE2 unit; ask for help")),
    }
}
