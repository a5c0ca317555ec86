//! Swap: gate, intent, rename, fact. The only place where a new `RKE2` binary becomes live.

use std::path::Path;

use crate::agent::alien::{lies_at, put_in_place, undone};
use crate::agent::gate::{self, SwapPermit};
use crate::agent::observe::observe;
use crate::agent::quorum::{self, Beside};
use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::agent::steps::fence;
use crate::agent::steps::rollback::new_has_run;
use crate::agent::steps::stage::{StagedBinary, check_staged};
use crate::cluster::turn;
use crate::flow::guard::Kept;
use crate::flow::plan::Role;
use crate::flow::progress::{Preflighted, StagedFact, Work};
use crate::flow::record::Record;
use crate::host::fence::FenceState;
use crate::host::fs::Fs;
use crate::host::{self, Host, swap_file};

/// Renames the staged binary over the live one; the old one is kept at `previous` (machine's own view).
///
/// The permit is spent by value. Spending one twice does not compile:
///
/// ```compile_fail,E0382
/// use upgrade_agent::agent::gate::SwapPermit;
/// use upgrade_agent::agent::steps::{stage::StagedBinary, swap::swap};
/// async fn twice(host: &upgrade_agent::host::Host, permit: SwapPermit, a: StagedBinary, b: StagedBinary) {
///     let _first = swap(host, permit, a, "/opt/rke2/bin/rke2", "/opt/rke2/bin/rke2.prev").await;
///     let _second = swap(host, permit, b, "/opt/rke2/bin/rke2", "/opt/rke2/bin/rke2.prev").await;
/// }
/// ```
///
/// # Errors
/// Needs an operator; the live path then still holds the old binary, whole.
pub async fn swap(
    host: &Host,
    permit: SwapPermit,
    staged: StagedBinary,
    live: &str,
    previous: &str,
) -> Result<(), StepError> {
    // The permit says that this binary was live a moment ago; both proofs end here.
    tracing::debug!(from = permit.live_sha256(), to = staged.sha256(), "renaming the new rke2 into place");
    let (live, previous) = (host.root.at(live), host.root.at(previous));
    let rename = move |fs: &Fs| {
        let swapped = swap_file::swap(fs, &live, staged.path(), &previous);
        swapped.map_err(|error| StepError::operator(chain(&error)))
    };
    host.root.fs().blocking(rename).await
}

/// Asks the gate, then swaps.
///
/// # Errors
/// Refuses when the gate says no, and records that: pre-drain has to be done again.
pub async fn swap_binary(run: &mut Run) -> Result<(), StepError> {
    let (found, staged) = match (run.journal.progress().preflighted(), run.journal.progress().staged()) {
        (Some(found), Some(staged)) => (found.clone(), staged.clone()),
        _ => return Err(StepError::refuse(no_record(run))),
    };
    if run.journal.progress().swap_begun() {
        return Err(StepError::refuse(
            "no swap: this upgrade has swapped already; `run` without --only goes on",
        ));
    }
    let binary = check_staged(&run.host, &staged.binary, &staged.sha256).await?;
    ask_gate(run, &found).await?;
    if !run.journal.progress().drained() {
        let what =
            "no swap: the other pods have not been drained; run the whole upgrade instead of this step";
        return Err(StepError::refuse(what));
    }
    if !run.journal.progress().snapshot_settled() {
        return Err(StepError::refuse(
            "no swap: there is no etcd snapshot; run the whole upgrade instead of this step",
        ));
    }
    let led = match lead_to_swap(run, &found, &staged).await {
        Ok(led) => led,
        Err(error) => {
            // The old RKE2 runs on: whoever waits for its turn need not wait for this one.
            if found.role == Role::Server
                && let Err(kept) = turn::give_back(&run.cluster, &run.plan.node_name).await
            {
                tracing::warn!(error = chain(&kept), "the turn is kept until the next attempt");
            }
            return Err(error);
        }
    };
    let (permit, is_only_server) = led;
    let previous = Kept::of(&found.live, &run.plan.rke2).old;
    run.record(Record::SwapIntent {
        from_sha256: found.live_sha256.clone(),
        to_sha256: staged.sha256,
        is_only_server,
        previous: previous.clone(),
    })?;
    swap(&run.host, permit, binary, &found.live, &previous).await?;
    run.record(Record::Swapped)?;
    if run.plan.immutable_binary {
        let live = run.host.root.at(&found.live);
        run.host.root.fs().blocking(move |fs| swap_file::lock(fs, &live).map_err(StepError::from)).await?;
    }
    Ok(())
}

/// All that may take a while, and then the leave, which is to be from right before the rename; and whether there is no other server.
async fn lead_to_swap(
    run: &mut Run,
    found: &Preflighted,
    staged: &StagedFact,
) -> Result<(SwapPermit, bool), StepError> {
    let is_only_server =
        found.role == Role::Server && quorum::spared_on_the_way(run).await? == Beside::Nobody;
    keep_new(run, found, staged).await?;
    keep_old_whole(run, found).await?;
    Ok((ask_gate(run, found).await?, is_only_server))
}

fn no_record(run: &Run) -> String {
    let upgrade = run.plan.upgrade_uid.clone();
    gate::Refusal::NoReceipt { upgrade }.to_string()
}

async fn ask_gate(run: &mut Run, found: &Preflighted) -> Result<SwapPermit, StepError> {
    let receipt = run.journal.pre_drain_receipt();
    if receipt.is_some() {
        reload_fence(run, found).await?;
    }
    let (node, uid) = (run.plan.node_name.clone(), run.plan.upgrade_uid.clone());
    let observed = observe(&run.host, &run.cluster.client, &node, &found.unit, &uid, &found.live).await;
    match gate::check(&uid, receipt.as_ref(), &found.live_sha256, &observed) {
        Ok(permit) => Ok(permit),
        // Nothing could be asked: the pre-drain record is not void, the question is just still open.
        Err(gate::Refusal::CouldNotTell { what, why }) if receipt.is_some() => {
            Err(StepError::retry(format!("the gate could not tell {what}: {why}")))
        }
        Err(refusal) => {
            let text = refusal.to_string();
            if receipt.is_some() {
                run.record(Record::GateRefused { refusal: text.clone() })?;
            }
            Err(StepError::refuse(format!("no swap: {text}")))
        }
    }
}

/// Somebody's later drop-in may have changed how RKE2 is called, which is theirs to do, or what is called, which is named; one who has
/// taken the fence away has had a hand free, and the gate says so, as it says what cannot be told.
async fn reload_fence(run: &Run, found: &Preflighted) -> Result<(), StepError> {
    match host::fence::state(&run.host, &found.unit, &run.plan.upgrade_uid).await {
        Ok(FenceState::WrittenNotLoaded) => fence::raise_again(run).await,
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The way back is as good as what is kept for it, and after the swap nobody has another one.
async fn keep_old_whole(run: &Run, found: &Preflighted) -> Result<(), StepError> {
    let kept = run.host.root.at(Kept::of(&found.live, &run.plan.rke2).old);
    let sha256 = lies_at(&run.host, kept.clone()).await?;
    if sha256 == found.live_sha256 {
        return Ok(());
    }
    tracing::warn!(path = %kept.display(), sha256, "the kept rke2 was another one; it is kept anew");
    fence::keep_old(run, found).await
}

/// Once it has run there may be no way back: then the boot guard puts this one in the place of whatever else lies there.
async fn keep_new(run: &Run, found: &Preflighted, staged: &StagedFact) -> Result<(), StepError> {
    let kept = run.host.root.at(Kept::of(&found.live, &run.plan.rke2).new);
    let (live, source) = (run.host.root.at(&found.live), run.host.root.at(&staged.binary));
    let sha256 = staged.sha256.clone();
    let keep = move |fs: &Fs| {
        let kept = swap_file::keep(fs, &live, &source, &sha256, &kept);
        kept.map_err(|error| StepError::operator(chain(&error)))
    };
    run.host.root.fs().blocking(keep).await
}

/// After a crash inside the swap: which binary is live?
///
/// # Errors
/// Needs an operator when it is neither the old nor the new one: the approved one is put back then.
pub async fn probe_swap(run: &mut Run) -> Result<(), StepError> {
    let fact = match run.journal.progress().swap() {
        Work::Intended(fact) => fact.clone(),
        Work::Not | Work::Done(_) => return Err(StepError::operator("no swap is open; nothing to probe")),
    };
    let Some(found) = run.journal.progress().preflighted().cloned() else {
        return Err(StepError::operator("the journal has a swap but no preflight; ask for help"));
    };
    let fs = run.host.root.fs();
    let live = lies_at(&run.host, run.host.root.at(&found.live)).await?;
    if live == fact.to_sha256 {
        // The rename happened; that its directory is on disk is not known after a crash.
        let folder = run.host.root.at(&found.live).parent().map(Path::to_path_buf).unwrap_or_default();
        fs.blocking(move |fs| fs.sync_dir(&folder).map_err(StepError::from)).await?;
        Ok(run.record(Record::Swapped)?)
    } else if live == fact.from_sha256 && new_has_run(run).await? {
        // Somebody put the old one there after the boot guard had let the new one run for good.
        let kept = Kept::of(&found.live, &run.plan.rke2).new;
        put_in_place(run, &found.live, &kept, &fact.to_sha256).await?;
        Ok(run.record(Record::Swapped)?)
    } else if live == fact.from_sha256 {
        Ok(run.record(Record::SwapAbsent)?)
    } else {
        let (kept, sha256) = if new_has_run(run).await? {
            (Kept::of(&found.live, &run.plan.rke2).new, &fact.to_sha256)
        } else {
            (fact.previous.clone(), &fact.from_sha256)
        };
        put_in_place(run, &found.live, &kept, sha256).await?;
        run.record(Record::AlienFound { sha256: live.clone(), put_back: true })?;
        let back = "the approved one is in place again";
        Err(StepError::operator(undone(&found.live, &live, back)))
    }
}
