//! One run from the command line's side: lock, journal, driver, reporter, narrator, and what it came to.

use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::agent::driver::{Ended, drive, drive_one};
use crate::agent::narrate;
use crate::agent::report::Reporter;
use crate::agent::run::{Published, Publisher, Run};
use crate::agent::watch_order::{follow_control, present_control};
use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure};
use crate::cluster::Cluster;
use crate::cluster::crd::node_upgrade::Control;
use crate::config::Config;
use crate::flow::plan::NodePlan;
use crate::flow::record::Outcome;
use crate::flow::step::Step;
use crate::host::Host;
use crate::host::boot::BootId;
use crate::host::lock::MachineLock;
use crate::host::root::HostRoot;
use crate::host::systemd::{BusAddress, Systemd};
use crate::journal::{Journal, system_clock};
use crate::notify;

/// What is waited for is said again this often.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// This machine, its systemd included.
///
/// # Errors
/// Exit code 3 when systemd cannot be reached: nothing can be done safely then.
pub async fn machine(config: &Config) -> Result<Host, Failure> {
    let root = HostRoot::new(config.host_root.clone());
    let bus = match &config.system_bus {
        Some(socket) => BusAddress::Socket(socket.clone()),
        None => BusAddress::System,
    };
    let systemd = Systemd::connect(&bus).await.map_err(Failure::refused)?;
    Ok(Host { root, systemd })
}

/// Which part of a run is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From where the journal says to the end.
    Everything,
    /// One step, if the journal and the gate allow it.
    Only(Step),
}

/// Carries one plan out, telling the terminal, the cluster and systemd how it goes.
///
/// # Errors
/// [`Failure`] when it could not even begin.
pub async fn carry_out(
    config: &Config,
    cluster: &Cluster,
    plan: NodePlan,
    part: Part,
    word: Option<Control>,
    shutdown: &CancellationToken,
    terminal: &Terminal,
) -> Result<Exit, Failure> {
    let host = machine(config).await?;
    crate::host::fs::create_dir_sync(&config.state_dir).map_err(Failure::refused)?;
    let _lock = MachineLock::acquire(&config.state_dir.join("lock")).map_err(Failure::refused)?;
    let boot =
        BootId::read(&host.root).context("the machine's boot id cannot be read").map_err(Failure::refused)?;
    let journal = match part {
        Part::Everything => Journal::open(&config.state_dir, &plan, boot.as_str(), system_clock),
        // A step alone never begins a run.
        Part::Only(_) => Journal::reopen(&config.state_dir, &plan.upgrade_uid, boot.as_str(), system_clock),
    }
    .map_err(Failure::refused)?;
    // The operator's word from before the start counts: a run must not go a step further than a pause or cancel allows.
    let first_word = match word {
        Some(word) => word,
        None => present_control(cluster, &plan).await,
    };
    let (publisher, receivers) = Publisher::new();
    let Published { report: newest, entries } = receivers;
    let reporter = Reporter::new(cluster.clone(), plan.clone(), system_clock).mirror(newest.clone());
    let reporting = tokio::spawn(reporter);
    let narrator = tokio::spawn(narrate_run(entries, newest, terminal.clone()));
    let (control, orders) = watch::channel(first_word);
    let follower = tokio::spawn(follow_control(cluster.clone(), plan.clone(), control));
    let mut run = Run {
        host,
        cluster: cluster.clone(),
        plan,
        journal,
        local_address: config.local_address,
        shutdown: shutdown.clone(),
        publisher,
    };
    let ended = match part {
        Part::Everything => drive(&mut run, orders).await,
        Part::Only(step) => drive_one(&mut run, step).await,
    };
    let table = narrate::closing_table(run.journal.progress());
    let owed = run.journal.progress().ledger().owed().count();
    // Dropping the run closes the publisher: narrator and reporter say their last word and end.
    drop(run);
    follower.abort();
    for (name, task) in [("narrator", narrator), ("reporter", reporting)] {
        if let Err(error) = task.await {
            tracing::warn!(%error, "the {name} ended badly");
        }
    }
    conclude(&ended, &table, owed, terminal)
}

fn conclude(ended: &Ended, table: &str, owed: usize, terminal: &Terminal) -> Result<Exit, Failure> {
    Ok(match ended {
        Ended::Done(outcome) => {
            if table.lines().count() > 1 {
                terminal.line(&format!("\n{}", table.trim_end()));
            }
            match outcome {
                Outcome::Succeeded => Exit::Done,
                Outcome::Cancelled => Exit::Failed,
            }
        }
        Ended::Held(reason) => {
            terminal.line(&format!("\n{}", table.trim_end()));
            terminal.complain(&format!("an operator is needed ({owed} VMs are owed a start): {reason}"));
            Exit::Operator
        }
        Ended::Refused(reason) => {
            terminal.complain(&format!("refused: {reason}"));
            Exit::Refused
        }
        Ended::Interrupted => {
            terminal.complain("interrupted; the next start goes on from here");
            Exit::Failed
        }
        Ended::Fatal(reason) => return Err(Failure::failed(anyhow!("{reason}"))),
    })
}

/// Says every line once it is durable, and from time to time what is waited for.
async fn narrate_run(
    mut entries: tokio::sync::mpsc::UnboundedReceiver<crate::flow::record::Entry>,
    report: watch::Receiver<crate::flow::report::NodeReport>,
    terminal: Terminal,
) {
    let mut again = tokio::time::interval(SAY_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    again.reset();
    loop {
        tokio::select! {
            // Cancel-safe: a received entry is printed at once.
            entry = entries.recv() => {
                let Some(entry) = entry else { return };
                if let Some(sentence) = narrate::sentence(&entry) {
                    terminal.dated(entry.at, &sentence);
                    notify::status(&sentence);
                }
                again.reset();
            }
            _ = again.tick() => {
                let now = system_clock();
                let (blockers, message) = {
                    let report = report.borrow();
                    (report.blockers.clone(), report.message.clone())
                };
                for blocker in blockers.iter().take(5) {
                    terminal.dated(now, &format!("waiting: {}", blocker.sentence(now)));
                }
                if blockers.len() > 5 {
                    terminal.dated(now, &format!("waiting: and {} more", blockers.len() - 5));
                }
                if let Some(message) = message {
                    terminal.dated(now, &message);
                }
            }
        }
    }
}
