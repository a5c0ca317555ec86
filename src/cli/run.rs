//! `run`: one upgrade by hand, through the same driver as the daemon.

use anyhow::anyhow;

use crate::agent::carry_out::Part;
use crate::cli::carry_out::carry_out;
use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure, OnlyStep, PlanSource, source};
use crate::config::Config;
use crate::flow::step::Step;
use crate::shutdown;

/// Upgrades this node, or goes on where an earlier run stopped.
///
/// # Errors
/// [`Failure`] when it could not even begin.
pub async fn run(
    config: &Config,
    from: &PlanSource,
    yes: bool,
    only: Option<OnlyStep>,
    terminal: &Terminal,
) -> Result<Exit, Failure> {
    let plan = source::plan(config, from).await?;
    confirmed(terminal, yes, &format!("upgrade {plan}: go on?"))?;
    let cluster = source::cluster(config).await?;
    let shutdown = shutdown::install().map_err(Failure::failed)?;
    let part = match only {
        None => Part::Everything,
        Some(OnlyStep::Swap) => Part::Only(Step::Swap),
    };
    carry_out(config, &cluster, plan, part, None, &shutdown, terminal).await
}

/// Asks, unless `yes` was said already.
///
/// # Errors
/// Nobody is there to ask, or they said no: nothing may be done then.
pub(super) fn confirmed(terminal: &Terminal, yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    match terminal.confirm(question).map_err(Failure::failed)? {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::refused(anyhow!("not confirmed; nothing was done"))),
        None => Err(Failure::usage(anyhow!("nobody can confirm here; give --yes"))),
    }
}
