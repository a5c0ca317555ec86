//! One run from the command line's side: the machine, what is told on the way, and the exit code that it came to.

use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::agent::carry_out::{self, Carried, Part, Site};
use crate::agent::driver::Ended;
use crate::agent::narrate;
use crate::agent::run::Published;
use crate::cli::terminal::Terminal;
use crate::cli::ways_on::ways_on;
use crate::cli::{Exit, Failure};
use crate::cluster::Cluster;
use crate::cluster::crd::node_upgrade::Control;
use crate::config::Config;
use crate::flow::plan::NodePlan;
use crate::flow::progress::Progress;
use crate::flow::record::Outcome;
use crate::host::Host;
use crate::host::clock::Clock;
use crate::host::root::HostRoot;
use crate::host::systemd::{BusAddress, Systemd};
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
    let site = Site {
        host: machine(config).await?,
        cluster: cluster.clone(),
        state_dir: config.state_dir.clone(),
        program: "/proc/self/exe".into(),
        local_address: config.local_address,
        soak: config.soak,
        clock: Clock::system(),
        shutdown: shutdown.clone(),
    };
    let narrate = {
        let terminal = terminal.clone();
        |Published { report, entries }| narrate_run(entries, report, terminal)
    };
    let carried = carry_out::carry_out(site, plan, part, word, narrate).await;
    let Carried { ended, progress } = carried.map_err(Failure::refused)?;
    conclude(&ended, &progress, terminal)
}

fn conclude(ended: &Ended, progress: &Progress, terminal: &Terminal) -> Result<Exit, Failure> {
    let table = narrate::closing_table(progress);
    Ok(match ended {
        Ended::Done(outcome) => {
            if table.lines().count() > 1 {
                terminal.line(&format!("\n{}", table.trim_end()));
            }
            match outcome {
                Outcome::Succeeded => Exit::Done,
                Outcome::Cancelled => Exit::Failed,
                Outcome::RolledBack { why } => {
                    terminal.complain(&format!("rolled back, the node runs the old version: {why}"));
                    Exit::Failed
                }
            }
        }
        Ended::Held(reason) => {
            terminal.line(&format!("\n{}", table.trim_end()));
            let owed = progress.ledger().owed().count();
            terminal.complain(&format!("an operator is needed ({owed} VMs are owed a start): {reason}"));
            for way in ways_on(progress) {
                terminal.complain(&way);
            }
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
                let now = Clock::system().now();
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
