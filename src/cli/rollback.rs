//! `rollback`: the old RKE2 again, for an upgrade of this machine that stands still after its swap.

use anyhow::anyhow;

use crate::agent::carry_out::Part;
use crate::cli::carry_out::carry_out;
use crate::cli::run::confirmed;
use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure, source};
use crate::config::Config;
use crate::flow::plan::{NodePlan, VersionChange};
use crate::flow::progress::Progress;
use crate::host::fs::Fs;
use crate::journal;
use crate::shutdown;

/// Puts the old binary back and takes the run to its end from there: started, verified, marks away, VMs started.
///
/// # Errors
/// [`Failure`] when there is no such upgrade, nobody confirms, or it could not even begin. A way back that is closed is
/// refused by the run itself.
pub async fn roll_back(
    config: &Config,
    upgrade: Option<&str>,
    yes: bool,
    terminal: &Terminal,
) -> Result<Exit, Failure> {
    let plan = unfinished(config, upgrade)?;
    let VersionChange { from, to } = &plan.rke2;
    confirmed(
        terminal,
        yes,
        &format!("put rke2 {from} back on {} in place of {to}: go on?", plan.node_name),
    )?;
    let cluster = source::cluster(config).await?;
    let shutdown = shutdown::install().map_err(Failure::failed)?;
    carry_out(config, &cluster, plan, Part::Back, None, &shutdown, terminal).await
}

/// The one upgrade of this machine that has begun its swap and has no last line.
fn unfinished(config: &Config, upgrade: Option<&str>) -> Result<NodePlan, Failure> {
    let (runs, unreadable) = journal::runs(&Fs::kernel(), &config.state_dir).map_err(Failure::failed)?;
    let open = runs.iter().filter(|run| run.outcome().is_none() && run.swap_begun());
    let is_meant = |plan: &&NodePlan| upgrade.is_none_or(|name| plan.upgrade_name == name);
    let mut plans = open.filter_map(Progress::plan).filter(is_meant).cloned().peekable();
    // It may be the one that is meant, unless that one was named and found.
    if let Some(error) = unreadable.into_iter().next()
        && (upgrade.is_none() || plans.peek().is_none())
    {
        return Err(Failure::failed(error));
    }
    match (plans.next(), plans.next()) {
        (Some(plan), None) => Ok(plan),
        (None, _) => {
            let what =
                "no unfinished upgrade of this machine has put a new rke2 in place; `status` lists them";
            Err(Failure::refused(anyhow!(what)))
        }
        (Some(_), Some(_)) => Err(Failure::usage(anyhow!(
            "several upgrades of this machine stand still; name one with --upgrade"
        ))),
    }
}
