//! `status`: what the journals of this machine say. Needs neither the API nor the lock.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::agent::narrate;
use crate::cli::terminal::Terminal;
use crate::cli::ways_on::ways_on;
use crate::cli::{Exit, Failure, Output};
use crate::config::Config;
use crate::flow::evacuate::{self, Seen};
use crate::flow::next::{Next, next};
use crate::flow::phase::Phase;
use crate::flow::progress::Progress;
use crate::flow::record::Outcome;
use crate::flow::report::{Blocker, NOBODY};
use crate::flow::step::Step;
use crate::host::clock::Clock;
use crate::host::fs::Fs;
use crate::journal;
use crate::shutdown;
use crate::telemetry::chain;

/// A journal is a local file that grows by whole lines: looking at it is cheap.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Seconds after which a watched countdown is told again.
const COUNTDOWN: i64 = 10;

/// Prints every upgrade of this machine. Exit code: 0 when the newest is done or under way, 4 when it holds. A journal that cannot be
/// read is named on standard error, and the code is 4 then, too.
///
/// # Errors
/// [`Failure`] when the state directory cannot be read.
pub async fn print(
    config: &Config,
    watch: bool,
    output: Output,
    terminal: &Terminal,
) -> Result<Exit, Failure> {
    let mut shown = String::new();
    let stop = if watch { Some(shutdown::install().map_err(Failure::failed)?) } else { None };
    loop {
        let (mut runs, unreadable) =
            journal::runs(&Fs::kernel(), &config.state_dir).map_err(Failure::failed)?;
        runs.sort_by_key(|run| run.started().unwrap_or(Timestamp::MIN));
        let now = Clock::system().now();
        // Who watches sees a countdown go on, and not a new page each second.
        let told = if watch { floor(now) } else { now };
        let text = match output {
            Output::Table => as_table(&runs, told),
            Output::Json => as_json(&runs, told).map_err(Failure::failed)?,
        };
        if text != shown {
            for error in &unreadable {
                terminal.complain(&chain(error));
            }
            terminal.line(text.trim_end());
            shown = text;
        }
        let Some(stop) = &stop else {
            let held = runs.last().is_some_and(|run| run.held().is_some()) || !unreadable.is_empty();
            return Ok(if held { Exit::Operator } else { Exit::Done });
        };
        tokio::select! {
            // Cancel-safe: both arms only wait.
            () = stop.cancelled() => return Ok(Exit::Done),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn as_table(runs: &[Progress], now: Timestamp) -> String {
    if runs.is_empty() {
        return "no upgrade was begun on this machine".to_owned();
    }
    let mut text = String::new();
    for run in runs {
        let Some(plan) = run.plan() else { continue };
        let step = match next(run) {
            Next::Step(step) => format!("next step {step}"),
            Next::Ended(Outcome::Succeeded) => "ended".to_owned(),
            Next::Ended(Outcome::Cancelled) => "cancelled".to_owned(),
            Next::Ended(Outcome::RolledBack { .. }) => "rolled back".to_owned(),
        };
        let counts = run.ledger().counts();
        said(
            &mut text,
            &format!(
                "{plan}\n  {} ({step}), journal line {}\n  VMs: {} in all, {} on the node, {} migrated, {} shut down, {} running again, {} owed\n",
                phase(run),
                run.seq(),
                counts.total,
                counts.left_on_node,
                counts.migrated,
                counts.shut_down,
                counts.restored,
                counts.owed,
            ),
        );
        if let Some(hold) = run.held() {
            said(&mut text, &format!("  HOLDS since {} in {}: {}\n", hold.since, hold.step, hold.reason));
            for way in ways_on(run) {
                said(&mut text, &format!("    {way}\n"));
            }
        }
        for wait in waits(run, now) {
            said(&mut text, &format!("  waiting: {}\n", wait.sentence(now)));
        }
        if counts.total > 0 {
            said(&mut text, &format!("\n{}", narrate::closing_table(run)));
        }
        text.push('\n');
    }
    text
}

/// Whom the agent waits for, as far as the journal says it: in the words in which the agent itself tells it.
fn waits(run: &Progress, now: Timestamp) -> Vec<Blocker> {
    let (Some(plan), None, Next::Step(step)) = (run.plan(), run.held(), next(run)) else {
        return Vec::new();
    };
    if step != Step::PreDrain {
        let since = run.last().unwrap_or(now);
        let deadline = since + step.deadline(plan);
        // What has not begun the swap may have been refused, and what is over its time has died: nobody is at it then.
        if !run.swap_begun() || now >= deadline {
            return Vec::new();
        }
        // After an intent the journal's next step is to find out what came of it: for whoever looks meanwhile it is under way.
        let doing = if step == Step::ProbeSwap {
            Step::Swap
        } else if step == Step::ProbeRestart {
            Step::Restart
        } else {
            step
        };
        return vec![Blocker {
            what: format!("step {doing} ({})", doing.explain()),
            since,
            owner: NOBODY.to_owned(),
            deadline: Some(deadline),
            then: "hold".to_owned(),
        }];
    }
    let seen = Seen::as_recorded(run.ledger(), now);
    let begun = run.started().unwrap_or(now);
    let decision = evacuate::decide(run.ledger(), &seen, &plan.evacuation, begun, now);
    decision.blockers.into_iter().chain(decision.holds).collect()
}

/// The last full [`COUNTDOWN`].
fn floor(now: Timestamp) -> Timestamp {
    let past = now.as_second().rem_euclid(COUNTDOWN);
    Timestamp::from_second(now.as_second() - past).unwrap_or(now)
}

/// One piece of the text.
fn said(text: &mut String, more: &str) {
    text.push_str(more);
}

fn phase(run: &Progress) -> Phase {
    match next(run) {
        Next::Step(step) => Phase::of(run, Some(step)),
        Next::Ended(_) => Phase::of(run, None),
    }
}

fn as_json(runs: &[Progress], now: Timestamp) -> serde_json::Result<String> {
    let runs: Vec<serde_json::Value> = runs
        .iter()
        .map(|run| {
            let step = match next(run) {
                Next::Step(step) => Some(step),
                Next::Ended(_) => None,
            };
            let held = run
                .held()
                .map(|hold| json!({ "since": hold.since, "step": hold.step, "reason": hold.reason }));
            let owed: Vec<String> = run.ledger().owed().map(|line| line.entry.vm.to_string()).collect();
            json!({
                "plan": run.plan(), "phase": phase(run).as_str(), "nextStep": step, "journalSeq": run.seq(),
                "vms": run.ledger().counts(), "owed": owed, "held": held, "waits": waits(run, now),
            })
        })
        .collect();
    serde_json::to_string_pretty(&runs)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::flow::progress::tests::{replay, whole_run};
    use crate::flow::record::Record;

    #[test]
    fn a_guest_that_shuts_down_is_counted_down_from_the_journal_alone() {
        // The stop is the eleventh line, and the eleventh second.
        let run = replay(&whole_run()[..11]);
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let told = as_table(std::slice::from_ref(&run), at(17));
        let line =
            "waiting: VM default/gpu is shutting down: 24 s of 30 s left, then KubeVirt cuts its power\n";
        assert!(told.contains(line), "{told}");
        assert!(
            told.contains(
                "waiting: VM default/web is being live-migrated (attempt 1): 29 min of 30 min left"
            )
        );
        assert!(
            !as_table(&[replay(&whole_run())], at(17)).contains("waiting"),
            "nobody is waited for at the end"
        );
    }

    #[test]
    fn a_restart_that_takes_long_is_counted_down_as_well() {
        let lines = whole_run();
        let at = lines.iter().position(|entry| matches!(entry.record, Record::RestartIntent { .. })).unwrap();
        let run = replay(&lines[..=at]);
        let now = run.last().unwrap() + SignedDuration::from_mins(5);
        let told = as_table(std::slice::from_ref(&run), now);
        let line = "waiting: step Restart (restart RKE2 on the new binary): 1 h 20 min of 1 h 25 min left, then hold";
        assert!(told.contains(line), "{told}");
        let later = run.last().unwrap() + SignedDuration::from_hours(2);
        assert!(!as_table(&[run], later).contains("waiting"), "nobody is at it");
    }
}
