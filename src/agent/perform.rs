//! Step -> function. Exhaustive, no logic.

use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::agent::steps::{
    cordon, drain, fence, finish, installer, post_drain, pre_drain, preflight, restart, restore, rollback,
    snapshot, stage, swap, verify,
};
use crate::flow::step::Step;

/// Performs one step. When it returns Ok, the step's record is durable.
///
/// # Errors
/// [`StepError`] with what to do about it.
pub async fn perform(run: &mut Run, step: Step) -> Result<(), StepError> {
    fence::own_guard(run).await?;
    match step {
        Step::Preflight => preflight::check_everything(run).await,
        Step::Stage => stage::stage_binary(run).await,
        Step::Fence => fence::raise_fences(run).await,
        Step::Cordon => cordon::cordon_node(run).await,
        Step::PreDrain => pre_drain::evacuate_vms(run).await,
        Step::Drain => drain::evict_pods(run).await,
        Step::Snapshot => snapshot::save_etcd(run).await,
        Step::Swap => swap::swap_binary(run).await,
        Step::ProbeSwap => swap::probe_swap(run).await,
        Step::Restart => restart::restart_rke2(run).await,
        Step::ProbeRestart => restart::probe_restart(run).await,
        Step::Verify => verify::verify_version(run).await,
        Step::Rollback => rollback::put_old_back(run).await,
        Step::PostDrain => post_drain::take_marks_away(run).await,
        Step::Restore => Box::pin(restore::start_owed_vms(run)).await,
        Step::Release => installer::release_installer(run).await,
        Step::Finish => finish::end_run(run).await,
    }
}
