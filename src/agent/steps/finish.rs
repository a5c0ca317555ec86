//! Finish: what the run has put on the disk for its own use goes, then the outcome is written.

use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::agent::steps::stage;
use crate::flow::guard::Kept;
use crate::flow::progress::Work;
use crate::flow::record::{Outcome, Record};
use crate::host::fs::Fs;
use crate::host::rke2_config::Rke2Config;
use crate::host::swap_file::{self, SwapError};
use crate::host::{images, kept_runtime, release};

/// Ends the run.
///
/// # Errors
/// Needs an operator when something of ours cannot be removed.
pub async fn end_run(run: &mut Run) -> Result<(), StepError> {
    remove_what_was_staged(run).await?;
    forget_copies(run).await?;
    let progress = run.journal.progress();
    let outcome = match progress.rollback() {
        Work::Done(why) | Work::Intended(why) => Outcome::RolledBack { why: why.clone() },
        Work::Not if progress.is_cancelled() => Outcome::Cancelled,
        Work::Not => Outcome::Succeeded,
    };
    Ok(run.record(Record::Finished { outcome })?)
}

/// The rest of the release, what of it or of the images was fetched and not used, and the old runtime, which nobody goes back to.
async fn remove_what_was_staged(run: &Run) -> Result<(), StepError> {
    let Some(found) = run.journal.progress().preflighted() else { return Ok(()) };
    let (root, rke2) = (run.host.root.clone(), run.plan.rke2.clone());
    let staged = stage::folder(&found.live, &rke2.to);
    let remove = move |_: &_| {
        release::remove(&root, &staged)?;
        let config = Rke2Config::read(&root).map_err(|error| StepError::operator(chain(&error)))?;
        images::tidy(&root, &config)?;
        Ok(kept_runtime::let_go(&root, &config, &rke2.from)?)
    };
    run.host.root.fs().blocking(remove).await
}

/// The old binary is kept beside a new one; where nothing was swapped it needs no second name. The new one's copy goes in any case.
async fn forget_copies(run: &Run) -> Result<(), StepError> {
    let Some(found) = run.journal.progress().preflighted() else { return Ok(()) };
    let is_swapped = run.journal.progress().swap_begun();
    let kept = Kept::of(&found.live, &run.plan.rke2);
    let [live, old, new] = [&found.live, &kept.old, &kept.new].map(|name| run.host.root.at(name));
    let bad = live.with_file_name(format!("rke2.bad-{}", run.plan.rke2.to));
    let forget = move |fs: &Fs| -> Result<(), SwapError> {
        for path in [&live, &old, &bad, &live.with_file_name("rke2.barred")] {
            swap_file::sweep(fs, path)?;
        }
        swap_file::discard(fs, &new)?;
        if is_swapped { Ok(()) } else { swap_file::discard(fs, &old) }
    };
    let forget = move |fs: &Fs| forget(fs).map_err(|error| StepError::operator(chain(&error)));
    run.host.root.fs().blocking(forget).await
}
