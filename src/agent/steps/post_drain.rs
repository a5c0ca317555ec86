//! Post-drain: fence, taints and cordon go, exactly as they were found.

use kube::ResourceExt;

use crate::agent::guard::mark_of;
use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::agent::steps::{let_go, rollback};
use crate::cluster::nodes::{self, OWNER_ANNOTATION};
use crate::cluster::{ClusterError, turn};
use crate::flow::guard::Kept;
use crate::flow::plan::Role;
use crate::flow::progress::Work;
use crate::flow::record::Record;
use crate::host::fs::Fs;
use crate::host::{fence, own_program, swap_file};
use crate::mutation::{self, Mutation};

/// Takes our marks away. Doing it twice is harmless.
///
/// # Errors
/// Retries while the API is away; needs an operator when the marks are another upgrade's.
pub async fn take_marks_away(run: &mut Run) -> Result<(), StepError> {
    // Somebody may have been at the binary since it was verified.
    if matches!(run.journal.progress().swap(), Work::Done(_)) && rollback::goes_back_unasked(run).await? {
        return Ok(());
    }
    give_turn_back(run).await?;
    // Called off: nobody is moved any more. One that does not end is left to KubeVirt, which harms nobody.
    let unended = let_go::abort_migrations(run, "the run was called off").await?;
    if !unended.is_empty() {
        tracing::warn!(migrations = unended.join(", "), "aborted, and not ended yet");
    }
    let units: Vec<String> = run.journal.progress().fenced_units().to_vec();
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    if let Some(live) = run.journal.progress().preflighted().map(|found| found.live.clone()) {
        fence::lower(&run.host, &names, &run.plan.upgrade_uid, &live).await?;
    }
    if let Some(before) = run.journal.progress().cordon_before() {
        let (client, name, uid) = (&run.cluster.client, &run.plan.node_name, &run.plan.upgrade_uid);
        // A node that is gone carries no marks.
        if let Some(node) = nodes::get(client, name).await? {
            let owner = node.annotations().get(OWNER_ANNOTATION);
            match owner {
                Some(owner) if owner != uid => {
                    let what = format!(
                        "node {name} carries marks of upgrade {owner} by now; look who runs it, then resume"
                    );
                    return Err(StepError::operator(what));
                }
                // Somebody, or an earlier attempt, took our marks away already: what is there now is not ours, but for the taint
                // that says so.
                None => opened(nodes::open_unsigned(client, &node, before.was_tainted, uid).await)?,
                Some(_) if mutation::is_on(Mutation::LeaveTheMarks) => {}
                Some(_) => opened(nodes::open(client, &node, before.was_cordoned, before.was_tainted).await)?,
            }
        }
    }
    take_guard_away(run).await?;
    // KubeVirt refuses this as long as the drain taint is on the node.
    let_go::unmark_evictions(run).await;
    Ok(run.record(Record::PostDrained)?)
}

/// What Harvester's webhook refuses of a node, as while a job changes its CPU manager, passes.
fn opened(written: Result<(), ClusterError>) -> Result<(), StepError> {
    match written {
        Err(error @ ClusterError::Rejected { .. }) => Err(StepError::retry(chain(&error))),
        written => Ok(written?),
    }
}

/// Verified, or called off before the swap: the next server may go.
async fn give_turn_back(run: &Run) -> Result<(), StepError> {
    let is_server = run.journal.progress().preflighted().is_some_and(|found| found.role == Role::Server);
    if !is_server || mutation::is_on(Mutation::KeepTheTurn) {
        return Ok(());
    }
    match turn::give_back(&run.cluster, &run.plan.node_name).await {
        // Who may not even look at it has not taken it, and VMs wait for their start.
        Err(error @ ClusterError::Denied { .. }) => {
            tracing::warn!(error = chain(&error), "whether this server has its turn could not be told");
            Ok(())
        }
        given => Ok(given?),
    }
}

/// Nobody asks the guard any more. The copies of both binaries stay until the run ends: as long as this step may be tried again, what
/// somebody else installs can be undone.
async fn take_guard_away(run: &Run) -> Result<(), StepError> {
    let state_dir = run.journal.state_dir().to_path_buf();
    let mark = mark_of(&state_dir, &run.plan.upgrade_uid);
    let locked = run.journal.progress().preflighted().map(|found| {
        let kept = Kept::of(&found.live, &run.plan.rke2);
        [&found.live, &kept.old].map(|name| run.host.root.at(name))
    });
    let remove = move |fs: &Fs| {
        for path in locked.iter().flatten() {
            swap_file::unlock(fs, path).map_err(|error| StepError::operator(chain(&error)))?;
        }
        own_program::remove(fs, &state_dir)?;
        fs.remove_opt(&mark)?;
        Ok::<(), StepError>(())
    };
    run.host.root.fs().blocking(remove).await
}
