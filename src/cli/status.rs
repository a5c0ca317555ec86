//! `status`: what the journals of this machine say. Needs neither the API nor the lock.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::agent::narrate;
use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure, Output};
use crate::config::Config;
use crate::flow::next::{Next, next};
use crate::flow::phase::Phase;
use crate::flow::progress::Progress;
use crate::flow::record::Outcome;
use crate::host::fs::Fs;
use crate::journal::{self, Journal};
use crate::shutdown;

/// A journal is a local file that grows by whole lines: looking at it is cheap.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Prints every upgrade of this machine. Exit code: 0 when the newest is done or under way, 4 when it holds.
///
/// # Errors
/// [`Failure`] when a journal cannot be read.
pub async fn print(
    config: &Config,
    watch: bool,
    output: Output,
    terminal: &Terminal,
) -> Result<Exit, Failure> {
    let mut shown = String::new();
    let stop = if watch { Some(shutdown::install().map_err(Failure::failed)?) } else { None };
    loop {
        let runs = read(config)?;
        let text = match output {
            Output::Table => as_table(&runs),
            Output::Json => as_json(&runs).map_err(Failure::failed)?,
        };
        if text != shown {
            terminal.line(text.trim_end());
            shown = text;
        }
        let Some(stop) = &stop else {
            let held = runs.last().is_some_and(|run| run.held().is_some());
            return Ok(if held { Exit::Operator } else { Exit::Done });
        };
        tokio::select! {
            // Cancel-safe: both arms only wait.
            () = stop.cancelled() => return Ok(Exit::Done),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn read(config: &Config) -> Result<Vec<Progress>, Failure> {
    let mut runs = Vec::new();
    for uid in journal::upgrades(&Fs::kernel(), &config.state_dir).map_err(Failure::failed)? {
        let path = journal::path_of(&config.state_dir, &uid);
        runs.push(Journal::peek(&Fs::kernel(), &path).map_err(Failure::failed)?);
    }
    runs.sort_by_key(|run: &Progress| run.started().unwrap_or(Timestamp::MIN));
    Ok(runs)
}

fn as_table(runs: &[Progress]) -> String {
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
        }
        if counts.total > 0 {
            said(&mut text, &format!("\n{}", narrate::closing_table(run)));
        }
        text.push('\n');
    }
    text
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

fn as_json(runs: &[Progress]) -> serde_json::Result<String> {
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
                "vms": run.ledger().counts(), "owed": owed, "held": held,
            })
        })
        .collect();
    serde_json::to_string_pretty(&runs)
}
