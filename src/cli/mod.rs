//! The command line: what was typed, what it means, and the exit code.
//!
//! Prints through [`terminal`] only. Works with the API down as far as the journal allows.

pub mod carry_out;
pub mod guard;
pub mod node;
pub mod plan;
pub mod preflight;
pub mod rehearse;
pub mod rollback;
pub mod run;
pub mod source;
pub mod status;
pub mod terminal;
pub mod ways_on;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use kube::CustomResourceExt;

use crate::cli::terminal::Terminal;
use crate::cluster::crd::node_upgrade::NodeUpgrade;
use crate::config::{Config, FlagConfig};
use crate::telemetry;

/// Takes a Harvester node through an upgrade without losing a VM.
#[derive(Debug, Parser)]
#[command(name = "upgrade-agent", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 needs an operator.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    flags: GlobalFlags,
}

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Machine and cluster")]
pub struct GlobalFlags {
    #[command(flatten)]
    config: FlagConfig,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run as this machine's daemon: carry out the `NodeUpgrade`s of this node.
    Node {
        /// Exit after one upgrade has ended, with its exit code.
        #[arg(long)]
        once: bool,
    },
    /// Make all checks and print one table; changes nothing.
    Preflight {
        #[command(flatten)]
        source: PlanSource,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print what would be done, to whom, and why; changes nothing.
    Plan {
        #[command(flatten)]
        source: PlanSource,
        /// Say of each step what it does.
        #[arg(long)]
        explain: bool,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Upgrade this node now, or go on with an upgrade that was interrupted.
    Run {
        #[command(flatten)]
        source: PlanSource,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Perform this one step only; the journal and the gate still decide whether it may happen.
        #[arg(long, value_enum)]
        only: Option<OnlyStep>,
    },
    /// Put the old RKE2 back, where an upgrade of this machine stands still after its swap and the rules allow it.
    Rollback {
        /// Name of the `Upgrade`; needed only where several are unfinished.
        #[arg(long, value_name = "NAME")]
        upgrade: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Let an approved RKE2 start, and no other; systemd runs it before each start while an upgrade is under way.
    Guard {
        /// uid of the upgrade whose fence asks.
        #[arg(long)]
        upgrade: String,
    },
    /// Print how far the upgrades of this machine are.
    Status {
        /// Print again whenever it changes, until interrupted.
        #[arg(long)]
        watch: bool,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Rehearse the upgrade of a whole cluster in virtual time, on simulated machines; touches nothing.
    Rehearse(rehearse::RehearseArgs),
    /// Print the custom resource definition (it is `manifests/crd.yaml`).
    #[command(hide = true)]
    Crd,
}

/// Where the plan comes from.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct PlanSource {
    /// A plan, or a `NodeUpgrade`, as YAML or JSON.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Name of the `Upgrade`; the plan is this node's `NodeUpgrade`, or the journal when the API is away.
    #[arg(long, value_name = "NAME")]
    upgrade: Option<String>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For machines.
    Json,
}

/// Steps that may be asked for alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnlyStep {
    /// Gate and swap.
    Swap,
}

/// What a command came to (design §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Typed wrongly, or an input cannot be used.
    Usage,
    /// Refused; nothing of it was done.
    Refused,
    /// Needs an operator.
    Operator,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Operator => 4,
        }
    }
}

/// A command that could not do its work, and the exit code for it.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// Why, with its causes.
    pub error: anyhow::Error,
}

impl Failure {
    /// Typed wrongly, or an input that cannot be used.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Usage, error: error.into() }
    }

    /// The agent will not begin.
    pub fn refused(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Refused, error: error.into() }
    }

    /// It did not work.
    pub fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}

/// Parses, runs, prints the error chain once, and gives the exit code.
pub async fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors; clap knows where each goes.
            let code = if error.use_stderr() { Exit::Usage.code() } else { 0 };
            return if error.print().is_ok() { code.into() } else { Exit::Failed.code().into() };
        }
    };
    let terminal = Terminal::default();
    let exit = match Box::pin(dispatch(args, &terminal)).await {
        Ok(exit) => exit,
        Err(Failure { exit, error }) => {
            terminal.complain(&crate::agent::step_error::chain(error.as_ref()));
            exit
        }
    };
    exit.code().into()
}

async fn dispatch(args: Args, terminal: &Terminal) -> Result<Exit, Failure> {
    let Args { command, flags: GlobalFlags { config } } = args;
    if let Command::Guard { upgrade } = command {
        return Ok(guard::guard(&config, &upgrade, terminal));
    }
    telemetry::init(telemetry::Format::detect()).map_err(Failure::usage)?;
    let config = Config::load(config).map_err(Failure::usage)?;
    match command {
        Command::Node { once } => Box::pin(node::serve(config, once, terminal)).await,
        Command::Preflight { source, output } => preflight::print(&config, &source, output, terminal).await,
        Command::Plan { source, explain, output } => {
            plan::print(&config, &source, explain, output, terminal).await
        }
        Command::Run { source, yes, only } => Box::pin(run::run(&config, &source, yes, only, terminal)).await,
        Command::Rollback { upgrade, yes } => {
            Box::pin(rollback::roll_back(&config, upgrade.as_deref(), yes, terminal)).await
        }
        Command::Status { watch, output } => status::print(&config, watch, output, terminal).await,
        // Answered above.
        Command::Guard { .. } => Ok(Exit::Usage),
        Command::Rehearse(args) => aside(|| rehearse::print(&args, terminal)),
        Command::Crd => {
            let yaml = serde_saphyr::to_string(&NodeUpgrade::crd()).map_err(Failure::failed)?;
            terminal.line(yaml.trim_end());
            Ok(Exit::Done)
        }
    }
}

/// A rehearsal has a clock and a thread of its own, and parsers of large exports want room on the stack.
fn aside<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rehearsal".to_owned()).stack_size(16 << 20);
        let thread = thread.spawn_scoped(scope, work).map_err(Failure::failed)?;
        thread.join().unwrap_or_else(|_| {
            Err(Failure::failed(anyhow::anyhow!("the rehearsal has died; please report it")))
        })
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_readme_has_a_row_for_every_command() {
        let readme = include_str!("../../README.md");
        let program = Args::command();
        let shown = program.get_subcommands().filter(|command| !command.is_hide_set());
        let names: Vec<&str> = shown.map(clap::Command::get_name).collect();
        assert!(names.len() > 5, "{names:?}");
        for name in names {
            let is_row = |line: &str| {
                let rest = line.strip_prefix("| `upgrade-agent ").and_then(|rest| rest.strip_prefix(name));
                rest.is_some_and(|rest| rest.starts_with(['`', ' ']))
            };
            assert!(readme.lines().any(is_row), "README.md has no row for `upgrade-agent {name}`");
        }
    }
}
