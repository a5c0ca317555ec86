//! Preflight's checks: all of them are made, each has a verdict, a reason and a cure. Reads only.

mod etcd;
mod install;
mod on_cluster;
mod on_machine;

pub use on_machine::armed_node;

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::cluster::Cluster;
use crate::flow::plan::{NodePlan, Role};
use crate::flow::progress::Preflighted;
use crate::host::Host;

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CheckVerdict {
    /// Fine.
    Pass,
    /// The upgrade must not begin.
    Fail,
    /// It could not be read, which counts as no.
    CouldNotTell,
}

impl fmt::Display for CheckVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::CouldNotTell => "COULD NOT TELL",
        })
    }
}

/// One line of preflight's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// `machine`, `node` or `cluster`.
    pub scope: &'static str,
    /// What it says.
    pub verdict: CheckVerdict,
    /// What was found.
    pub why: String,
    /// What to do; empty when it passes.
    pub fix: String,
}

impl Check {
    fn pass(check: &'static str, scope: &'static str, why: impl Into<String>) -> Self {
        Self { check, scope, verdict: CheckVerdict::Pass, why: why.into(), fix: String::new() }
    }

    fn fail(
        check: &'static str,
        scope: &'static str,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { check, scope, verdict: CheckVerdict::Fail, why: why.into(), fix: fix.into() }
    }

    fn unknown(check: &'static str, scope: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            check,
            scope,
            verdict: CheckVerdict::CouldNotTell,
            why: crate::agent::step_error::chain(error),
            fix: "mend what the reason names, then run it again".to_owned(),
        }
    }
}

/// All checks, and what was found out on the way.
#[derive(Debug, Clone, Default)]
pub struct Preflight {
    /// The table.
    pub checks: Vec<Check>,
    /// Unit, role and live binary; none when they could not be found.
    pub found: Option<Preflighted>,
}

impl Preflight {
    /// Those that keep the upgrade from beginning.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.verdict != CheckVerdict::Pass)
    }
}

/// Makes every check, whatever the others say.
pub async fn check_all(host: &Host, cluster: &Cluster, plan: &NodePlan, state_dir: &Path) -> Preflight {
    let mut preflight = Preflight::default();
    on_machine::check(&mut preflight, host, plan, state_dir).await;
    let machine_id = host.root.fs().read_opt(&host.root.at("/etc/machine-id"));
    on_cluster::check(&mut preflight, cluster, plan, machine_id).await;
    if preflight.found.as_ref().map(|found| found.role).or(plan.role) == Some(Role::Server) {
        preflight.checks.push(etcd::members(&host.root).await);
    }
    preflight
}
