//! Finish: what the run has put on the disk for its own use goes, and what earlier ones have kept; then the outcome is written.

use std::path::Path;

use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::agent::steps::stage;
use crate::flow::guard::Kept;
use crate::flow::progress::Work;
use crate::flow::record::{Outcome, Record};
use crate::flow::version::Rke2Version;
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
    if outcome == Outcome::Succeeded {
        prune_older(run).await?;
    }
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

/// The way back of an upgrade leads to its own old version only: what earlier ones have kept, or given up, would fill the disk in time.
async fn prune_older(run: &Run) -> Result<(), StepError> {
    let Some(found) = run.journal.progress().preflighted() else { return Ok(()) };
    let live = run.host.root.at(&found.live);
    let own = run.host.root.at(Kept::of(&found.live, &run.plan.rke2).old);
    let staged = run.host.root.at(stage::folder(&found.live, &run.plan.rke2.to));
    let prune = move |fs: &Fs| {
        // Of a plan that was corrected after it had staged, or of an upgrade that nobody went on with: from here on it cannot.
        if let Some(stage) = staged.parent() {
            fs.remove_tree(stage)?;
        }
        for path in fs.list_dir(live.parent().unwrap_or(&live))? {
            if path != own && is_left_of_an_upgrade(&path) {
                swap_file::discard(fs, &path).map_err(|error| StepError::operator(chain(&error)))?;
            }
        }
        Ok(())
    };
    run.host.root.fs().blocking(prune).await
}

/// A binary that an upgrade has kept or given up, by its name; whatever else people keep there is theirs.
fn is_left_of_an_upgrade(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let version = name.strip_prefix("rke2.prev-").or_else(|| name.strip_prefix("rke2.bad-"));
    version.is_some_and(|version| version.parse::<Rke2Version>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_upgrades_have_left_is_pruned() {
        for (name, is_left) in [
            ("rke2.prev-v1.34.2+rke2r1", true),
            ("rke2.bad-v1.35.6-rc1+rke2r1", true),
            ("rke2", false),
            ("rke2.prev-mine", false),
            ("rke2.prev-v1.34.2+rke2r1.orig", false),
            ("rke2.barred", false),
            ("rke2-killall.sh", false),
        ] {
            assert_eq!(is_left_of_an_upgrade(&Path::new("/opt/rke2/bin").join(name)), is_left, "{name}");
        }
    }
}
