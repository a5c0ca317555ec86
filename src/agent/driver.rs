//! The driver: replay, next, perform, record, publish, until the run ends or needs somebody.

use std::collections::BTreeSet;

use tokio::sync::watch;
use tracing::{Instrument, info, info_span, warn};

use crate::agent::alien::stop_the_line;
use crate::agent::attempt::{appears_meanwhile, perform_until_deadline, perform_watched};
use crate::agent::run::Run;
use crate::agent::step_error::{Reaction, StepError};
use crate::agent::steps::{let_go, rollback};
use crate::cluster::crd::node_upgrade::Control;
use crate::flow::next::{Next, next};
use crate::flow::record::{Outcome, Record};
use crate::flow::report::Blocker;
use crate::flow::step::Step;
use crate::flow::vms::VmLedger;
use crate::mutation::{self, Mutation};

/// How driving ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The run has its last line.
    Done(Outcome),
    /// An operator has to do something; the sentence says what.
    Held(String),
    /// The agent refused; the sentence says why and what to do.
    Refused(String),
    /// The agent was told to stop; the next start goes on.
    Interrupted,
    /// The journal cannot be written.
    Fatal(String),
}

/// Drives a run until it ends or needs somebody. Obeys `control` between steps, and inside those that wait for hours.
pub async fn drive(run: &mut Run, mut control: watch::Receiver<Control>) -> Ended {
    loop {
        let step = match next(run.journal.progress()) {
            Next::Ended(outcome) => {
                run.publish_step(None, 1);
                if let Outcome::RolledBack { why } = &outcome {
                    let what = format!("rolled back to {}: {why}", run.plan.rke2.from);
                    run.publish_trouble("RolledBack", what);
                }
                return Ended::Done(outcome);
            }
            Next::Step(step) => step,
        };
        match obey(run, &mut control, step).await {
            Ok(Obeyed::GoOn) => {}
            Ok(Obeyed::LookAgain) => continue,
            Err(error) => return stop(run, step, &error),
        }
        // Somebody started the agent again, or told it to go on.
        if run.journal.progress().held().is_some() {
            if let Err(error) = run.record(Record::Resumed) {
                return fatal(&error.into());
            }
            // Nobody knows for how long it stood still: another step may be due now, as a snapshot from right before the swap.
            continue;
        }
        let span = info_span!("step", step = %step, upgrade = %run.plan.upgrade_name);
        match perform_watched(run, step, &mut control).instrument(span).await {
            Ok(()) => {}
            Err(error) if error.reaction == Reaction::AskOperator && must_obey(run, &control) => {}
            Err(error) => {
                let error = let_go::before_hold(run, error).await;
                return stop(run, step, &error);
            }
        }
    }
}

/// Does the operator want something else than going on, and can it still be done?
fn must_obey(run: &Run, control: &watch::Receiver<Control>) -> bool {
    let progress = run.journal.progress();
    match *control.borrow() {
        Control::Run => false,
        Control::Pause => true,
        Control::Cancel => !progress.is_cancelled() && !progress.swap_begun(),
    }
}

/// Performs just one step, whatever comes next by the records. The records still decide whether it may happen.
pub async fn drive_one(run: &mut Run, step: Step) -> Ended {
    match perform_until_deadline(run, step).await {
        Ok(()) => Ended::Done(Outcome::Succeeded),
        Err(error) => {
            let error = let_go::before_hold(run, error).await;
            stop(run, step, &error)
        }
    }
}

/// Takes the way back, if it is open, and drives on from there.
pub async fn drive_back(run: &mut Run, control: watch::Receiver<Control>) -> Ended {
    match rollback::ask(run).await {
        Ok(()) => drive(run, control).await,
        // What it stands still for is still true; only this wish is refused.
        Err(error) if error.reaction == Reaction::Refuse => Ended::Refused(error.sentence()),
        Err(error) => stop(run, Step::Rollback, &error),
    }
}

enum Obeyed {
    GoOn,
    LookAgain,
}

async fn obey(
    run: &mut Run,
    control: &mut watch::Receiver<Control>,
    step: Step,
) -> Result<Obeyed, StepError> {
    if run.shutdown.is_cancelled() {
        return Err(StepError::interrupted());
    }
    let wanted = *control.borrow_and_update();
    match wanted {
        Control::Run => Ok(Obeyed::GoOn),
        Control::Cancel => {
            let progress = run.journal.progress();
            if progress.is_cancelled() {
                return Ok(Obeyed::GoOn);
            }
            if progress.swap_begun() {
                warn!(%step, "cancel comes too late: the new binary is in place, the run goes on to its end");
                return Ok(Obeyed::GoOn);
            }
            run.record(Record::CancelRequested)?;
            Ok(Obeyed::LookAgain)
        }
        Control::Pause => {
            info!(%step, "paused by the operator before this step");
            let left = let_go::before_pause(run).await?;
            run.publish_step(Some(step), 1);
            run.publish_pause();
            run.publish_blockers(vec![Blocker {
                what: format!("the run is paused before step {step}{left}"),
                since: run.now(),
                owner: "an operator: set spec.control to Run or Cancel".to_owned(),
                deadline: None,
                then: "it stays paused".to_owned(),
            }]);
            let shutdown = run.shutdown.clone();
            tokio::select! {
                biased;
                // Cancel-safe: all of them only wait.
                () = shutdown.cancelled() => Err(StepError::interrupted()),
                alien = appears_meanwhile(run, step) => Err(stop_the_line(run, alien).await),
                changed = control.changed() => match changed {
                    // Whoever has not left yet gets all of its time again: nobody was at work for it meanwhile.
                    Ok(()) => {
                        if run.journal.progress().ledger().on_node().next().is_some() {
                            run.record(Record::Resumed)?;
                        }
                        Ok(Obeyed::LookAgain)
                    }
                    Err(_) => Err(StepError::interrupted()),
                },
            }
        }
    }
}

fn stop(run: &mut Run, step: Step, error: &StepError) -> Ended {
    let sentence = with_owed(error.sentence(), run.journal.progress().ledger());
    let untouched = !run.journal.progress().touched_node();
    match error.reaction {
        Reaction::Interrupted => Ended::Interrupted,
        Reaction::Fatal => fatal(error),
        Reaction::Refuse => {
            // With the node cordoned and VMs off it has to be seen by everybody who looks.
            if !untouched
                && run.journal.progress().outcome().is_none()
                && let Err(error) = run.record(Record::Held { step, reason: sentence.clone() })
            {
                return fatal(&error.into());
            }
            run.publish_trouble("Refused", sentence.clone());
            publish_hold(run, &sentence);
            Ended::Refused(sentence)
        }
        // Before the first change there is nothing to hold: the agent just does not begin.
        Reaction::Retry | Reaction::AskOperator if untouched => {
            run.publish_trouble("Refused", sentence.clone());
            publish_hold(run, &sentence);
            Ended::Refused(sentence)
        }
        Reaction::Retry | Reaction::AskOperator => {
            if let Err(error) = run.record(Record::Held { step, reason: sentence.clone() }) {
                return fatal(&error.into());
            }
            run.publish_trouble("NeedsOperator", sentence.clone());
            publish_hold(run, &sentence);
            Ended::Held(sentence)
        }
    }
}

/// Whoever is asked has to hear of every VM that is off because of this run, whatever it waits for.
fn with_owed(sentence: String, ledger: &VmLedger) -> String {
    let owed = ledger.owed().map(|line| line.entry.vm.to_string());
    let words: BTreeSet<&str> = sentence
        .split(|c: char| !c.is_alphanumeric() && !"/-.".contains(c))
        .map(|word| word.trim_end_matches('.'))
        .collect();
    let unnamed: Vec<String> = owed.filter(|vm| !words.contains(vm.as_str())).collect();
    if unnamed.is_empty() || mutation::is_on(Mutation::NameNobodyOwed) {
        return sentence;
    }
    format!("{sentence}. Shut down for this upgrade and still owed a start: {}", unnamed.join(", "))
}

/// The same words where people look for what is waited for.
fn publish_hold(run: &mut Run, sentence: &str) {
    run.publish_blockers(vec![Blocker {
        what: sentence.to_owned(),
        since: run.now(),
        owner: "an operator".to_owned(),
        deadline: None,
        then: "it stays so until somebody acts".to_owned(),
    }]);
}

fn fatal(error: &StepError) -> Ended {
    Ended::Fatal(error.sentence())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::{replay, whole_run};

    #[test]
    fn a_hold_names_every_vm_that_is_off_because_of_the_run() {
        let run = whole_run();
        let stopping =
            run.iter().position(|entry| matches!(entry.record, Record::StopIntent { .. })).unwrap();
        let (before, after) = (replay(&run[..stopping]), replay(&run[..=stopping]));
        let said = |progress: &crate::flow::progress::Progress, sentence: &str| {
            with_owed(sentence.to_owned(), progress.ledger())
        };
        assert_eq!(said(&before, "it waits"), "it waits");
        assert!(
            said(&after, "it waits").contains("owed a start: default/gpu"),
            "{}",
            said(&after, "it waits")
        );
        assert_eq!(said(&after, "VM default/gpu waits"), "VM default/gpu waits");
        assert_eq!(said(&after, "free default/gpu."), "free default/gpu.");
        let longer = said(&after, "VM default/gpu-2 waits");
        assert!(longer.ends_with("owed a start: default/gpu"), "{longer}");
    }
}
