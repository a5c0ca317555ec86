//! `node`: the daemon. Finishes what the journals say is unfinished, then carries out this node's `NodeUpgrade`s.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;
use kube::ResourceExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::carry_out::Part;
use crate::agent::checks::{CheckVerdict, armed_node};
use crate::agent::report;
use crate::agent::step_error::chain;
use crate::agent::watch_order::watch_orders;
use crate::cli::carry_out::{carry_out, machine};
use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure, source};
use crate::cluster::Cluster;
use crate::cluster::crd::node_upgrade::Control;
use crate::config::Config;
use crate::flow::plan::NodePlan;
use crate::flow::progress::Progress;
use crate::host::clock::Clock;
use crate::host::fs::Fs;
use crate::journal;
use crate::{notify, shutdown};

/// Serves until told to stop, or with `once` until one upgrade has ended.
///
/// # Errors
/// [`Failure`] when the daemon cannot start.
pub async fn serve(config: Config, once: bool, terminal: &Terminal) -> Result<Exit, Failure> {
    let node = source::node_name(&config)?;
    let cluster = source::cluster(&config).await?;
    let shutdown = shutdown::install().map_err(Failure::failed)?;
    // Pings go on while the last step finishes: this token ends with the function, not with the signal.
    let alive = CancellationToken::new();
    let _alive_until_here = alive.clone().drop_guard();
    let pings = tokio::spawn(notify::keep_alive(alive));
    notify::ready();
    let mut daemon =
        Daemon { config, cluster, shutdown, terminal: terminal.clone(), settled: BTreeMap::new() };
    let exit = Box::pin(daemon.serve(&node, once)).await;
    notify::stopping();
    pings.abort();
    exit
}

/// After something that kept a run from beginning.
const TRY_AGAIN: Duration = Duration::from_secs(15);

/// An order as it was at one moment: the object's uid and the generation of its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version(Option<String>, Option<i64>);

struct Daemon {
    config: Config,
    cluster: Cluster,
    shutdown: CancellationToken,
    terminal: Terminal,
    /// Orders that ended, by upgrade uid, with the version that they ended at: only another one is looked at again. None for
    /// a run that was found unfinished at the start, before its order was seen.
    settled: BTreeMap<String, Option<Version>>,
}

impl Daemon {
    async fn serve(&mut self, node: &str, once: bool) -> Result<Exit, Failure> {
        let unfinished = self.unfinished(node)?;
        let is_idle = unfinished.is_empty();
        for plan in unfinished {
            self.terminal.dated(Clock::system().now(), &format!("going on with {plan}"));
            let exit = self.carry_out(plan, None, None, once).await?;
            if let Some(exit) = self.ends(once, exit) {
                return Ok(exit);
            }
        }
        let (sender, mut orders) = mpsc::channel(16);
        let mut watcher = tokio::spawn(watch_orders(self.cluster.clone(), node.to_owned(), sender));
        wait_for_orders();
        if is_idle {
            self.name_armed_node().await;
        }
        loop {
            let order = tokio::select! {
                // Cancel-safe: a received order is carried out at once.
                () = self.shutdown.cancelled() => return Ok(Exit::Done),
                ended = &mut watcher => {
                    return Err(Failure::failed(anyhow!("the watch on orders ended: {ended:?}")));
                }
                order = orders.recv() => match order {
                    Some(order) => order,
                    None => return Err(Failure::failed(anyhow!("the watch on orders ended"))),
                },
            };
            // Another object of the same name is another order.
            let version = Version(order.uid(), order.metadata.generation);
            let plan = order.spec.plan();
            if self.settled.get(&plan.upgrade_uid) == Some(&Some(version.clone())) {
                continue;
            }
            if let Err(error) = plan.check() {
                self.terminal.complain(&format!("NodeUpgrade {}: {error}", order.name_any()));
                notify::status(&format!("refused: {error}"));
                report::refuse(&self.cluster, &order, &error.to_string(), Clock::system().now()).await;
                self.settled.insert(plan.upgrade_uid, Some(version));
                if once {
                    return Ok(Exit::Usage);
                }
                continue;
            }
            // Standing still since the start of the process: the order is seen for the first time, and is no news.
            if self.settled.get(&plan.upgrade_uid) == Some(&None) {
                self.settled.insert(plan.upgrade_uid, Some(version));
                continue;
            }
            let uid = plan.upgrade_uid.clone();
            let exit = self.carry_out(plan, Some(version), Some(order.spec.control), once).await?;
            // What was said meanwhile has been heard by the run itself.
            while let Ok(newer) = orders.try_recv() {
                if newer.spec.upgrade_uid == uid {
                    let version = Version(newer.uid(), newer.metadata.generation);
                    self.settled.insert(uid.clone(), Some(version));
                }
            }
            if let Some(exit) = self.ends(once, exit) {
                return Ok(exit);
            }
            wait_for_orders();
        }
    }

    /// Nobody has ordered anything, and yet a restart would upgrade the node under its VMs: whoever reads the log should know. A run
    /// that goes on looks for itself.
    async fn name_armed_node(&self) {
        let check = match machine(&self.config).await {
            Ok(host) => armed_node(&host).await,
            Err(failure) => {
                let why = chain(failure.error.as_ref());
                self.terminal.complain(&format!("whether this node is armed could not be told: {why}"));
                return;
            }
        };
        match check.verdict {
            CheckVerdict::Pass => {}
            CheckVerdict::Fail => {
                self.terminal.complain(&format!("this node is armed: {}; {}", check.why, check.fix));
            }
            CheckVerdict::CouldNotTell => {
                self.terminal
                    .complain(&format!("whether this node is armed could not be told: {}", check.why));
            }
        }
    }

    /// A daemon that was told to stop has done its work, however far the run is.
    fn ends(&self, once: bool, exit: Exit) -> Option<Exit> {
        if once { Some(exit) } else { self.shutdown.is_cancelled().then_some(Exit::Done) }
    }

    /// Carries a plan out. What kept it from beginning, or its journal from being written, may pass (a lock, the bus, a full
    /// disk): it is tried again until told to stop.
    async fn carry_out(
        &mut self,
        plan: NodePlan,
        version: Option<Version>,
        word: Option<Control>,
        once: bool,
    ) -> Result<Exit, Failure> {
        let uid = plan.upgrade_uid.clone();
        let exit = loop {
            let (part, plan) = (Part::Everything, plan.clone());
            let (config, cluster) = (&self.config, &self.cluster);
            let run = carry_out(config, cluster, plan, part, word, &self.shutdown, &self.terminal);
            match Box::pin(run).await {
                Ok(exit) => break exit,
                Err(failure) if once || self.shutdown.is_cancelled() => return Err(failure),
                Err(Failure { error, .. }) => {
                    let sentence = chain(error.as_ref());
                    self.terminal.complain(&format!("{sentence}; trying again in {} s", TRY_AGAIN.as_secs()));
                    tokio::select! {
                        // Cancel-safe: both arms only wait.
                        () = self.shutdown.cancelled() => return Ok(Exit::Done),
                        () = tokio::time::sleep(TRY_AGAIN) => {}
                    }
                }
            }
        };
        match exit {
            Exit::Done => {}
            Exit::Failed | Exit::Usage | Exit::Refused | Exit::Operator => {
                notify::status(
                    "standing still: change spec.control of the NodeUpgrade, or restart this agent, to go on",
                );
            }
        }
        self.settled.insert(uid, version);
        Ok(exit)
    }

    /// Plans of the runs on this machine that have no last line yet. A journal that cannot be read stops the daemon:
    /// what it says is owed must not be forgotten.
    fn unfinished(&self, node: &str) -> Result<Vec<NodePlan>, Failure> {
        let (runs, unreadable) =
            journal::runs(&Fs::kernel(), &self.config.state_dir).map_err(Failure::failed)?;
        if let Some(error) = unreadable.into_iter().next() {
            return Err(Failure::failed(error));
        }
        // One that was refused before it changed anything is not owed a continuation: the order counts, and may be another.
        let open = runs.iter().filter(|run| run.outcome().is_none() && !run.is_untouched());
        Ok(open.filter_map(Progress::plan).filter(|plan| plan.node_name == node).cloned().collect())
    }
}

fn wait_for_orders() {
    notify::status("waiting for a NodeUpgrade of this node");
}
