//! How a step is performed: watched, left at the operator's word where that is allowed, tried again until its deadline. Decides
//! nothing about which step it is, and nothing about what becomes of an error.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::agent::alien::{Alien, Looks, Watch, look_once, stop_the_line};
use crate::agent::perform::perform;
use crate::agent::run::Run;
use crate::agent::step_error::{Reaction, StepError};
use crate::cluster::crd::node_upgrade::Control;
use crate::flow::report::{Blocker, NOBODY};
use crate::flow::step::Step;

/// First pause before a step is tried again; doubles up to [`LONGEST_BACKOFF`] while the step does not come further.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause before a step is tried again.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Ends when somebody else's binary appears at the live path of a run that stands still before `step`.
pub(super) async fn appears_meanwhile(run: &Run, step: Step) -> Alien {
    match Watch::of(run, step) {
        Some(mut watched) => match watched.look().await {
            Ok(Some(alien)) => alien,
            Ok(None) | Err(_) => watched.appears().await,
        },
        None => std::future::pending().await,
    }
}

/// Performs a step, and leaves it when somebody else's binary appears at the live path meanwhile, or the operator's word comes.
///
/// # Errors
/// The step's own; needs an operator when such a binary appeared.
pub(super) async fn perform_watched(
    run: &mut Run,
    step: Step,
    control: &mut watch::Receiver<Control>,
) -> Result<(), StepError> {
    let looks = Looks::at(step);
    if looks == Looks::Before {
        look_once(run, step).await?;
        let done = perform_unless_told(run, step, control).await;
        if done.is_err() {
            // Is that why? Then it is undone at once, and the reason said.
            look_once(run, step).await?;
        }
        return done;
    }
    // Before anything is done on the strength of what lies there and runs; what cannot be read now, the watch below goes on with.
    look_once(run, step).await?;
    let watched = Watch::of(run, step).map(|watched| watched.only_path(looks == Looks::AtThePath));
    let Some(mut watched) = watched else {
        return perform_unless_told(run, step, control).await;
    };
    if looks == Looks::Throughout
        && let Ok(Some(alien)) = watched.look().await
    {
        return Err(stop_the_line(run, alien).await);
    }
    let ended = tokio::select! {
        biased;
        // Cancel-safe: it only looks.
        alien = watched.appears() => Err(alien),
        // These steps may be left at any await, which is the same as a crash there.
        done = perform_unless_told(run, step, control) => Ok(done),
    };
    match ended {
        Ok(done) => {
            run.seen_live = watched.seen();
            done
        }
        Err(alien) => Err(stop_the_line(run, alien).await),
    }
}

/// Performs a step. Those that wait for VMs and pods may take hours and leave an intent before each act: they are left for
/// the operator's word at any await, which is the same as a crash there.
async fn perform_unless_told(
    run: &mut Run,
    step: Step,
    control: &mut watch::Receiver<Control>,
) -> Result<(), StepError> {
    match step {
        Step::PreDrain | Step::Drain | Step::Restore => {}
        Step::Preflight
        | Step::Stage
        | Step::Fence
        | Step::Cordon
        | Step::Snapshot
        | Step::Swap
        | Step::ProbeSwap
        | Step::Restart
        | Step::ProbeRestart
        | Step::Verify
        | Step::Rollback
        | Step::PostDrain
        | Step::Release
        | Step::Finish => return perform_until_deadline(run, step).await,
    }
    let (cancelled, swapped) = (run.journal.progress().is_cancelled(), run.journal.progress().swap_begun());
    let told = async {
        let word = control.wait_for(|control| match control {
            Control::Run => false,
            Control::Pause => true,
            Control::Cancel => !cancelled && !swapped,
        });
        // Nobody is left to say anything: the step goes on.
        if word.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        // Cancel-safe for the channel; the step is one of those that may be left.
        () = told => Ok(()),
        done = perform_until_deadline(run, step) => done,
    }
}

/// Performs a step, again and again where that may help, until its deadline.
///
/// # Errors
/// The last one, when its time is over or trying again does not help.
pub(super) async fn perform_until_deadline(run: &mut Run, step: Step) -> Result<(), StepError> {
    let deadline = Instant::now() + step.deadline(&run.plan);
    let begun = run.now();
    let mut backoff = FIRST_BACKOFF;
    let mut attempt = 1;
    loop {
        run.publish_step(Some(step), attempt);
        let before = run.journal.progress().ledger().counts();
        if attempt > 1 {
            look_once(run, step).await?;
        }
        let error = match tokio::time::timeout_at(deadline, perform(run, step)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => {
                let minutes = step.deadline(&run.plan).as_secs() / 60;
                let what = format!(
                    "step {step} took longer than {minutes} min; look at its last lines, then resume"
                );
                return Err(StepError::operator(what));
            }
        };
        if error.reaction != Reaction::Retry {
            return Err(error);
        }
        // More VMs were settled before it failed, so this is another trouble than the time before: patience begins anew.
        // That something was asked for once more is no progress.
        if run.journal.progress().ledger().counts() != before {
            backoff = FIRST_BACKOFF;
        }
        if Instant::now() + backoff >= deadline {
            let what =
                format!("step {step} did not work in its time; {}; mend that, then resume", error.sentence());
            return Err(StepError::operator(what));
        }
        warn!(%step, attempt, error = error.sentence(), "the step is tried again");
        run.publish_trouble("Retrying", error.sentence());
        run.publish_blockers(vec![Blocker {
            what: format!("step {step} is tried again: {}", error.sentence()),
            since: begun,
            owner: NOBODY.to_owned(),
            deadline: Some(begun + step.deadline(&run.plan)),
            then: "hold".to_owned(),
        }]);
        run.pause(backoff).await?;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
        attempt += 1;
    }
}
