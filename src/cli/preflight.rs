//! `preflight`: every check in one table; changes nothing.

use crate::agent::checks::check_all;
use crate::agent::narrate::table;
use crate::cli::carry_out::machine;
use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure, Output, PlanSource, source};
use crate::config::Config;

/// Makes all checks and prints them; exit code 3 when one does not pass.
///
/// # Errors
/// [`Failure`] when there is no plan, no systemd or no kubeconfig to check with.
pub async fn print(
    config: &Config,
    from: &PlanSource,
    output: Output,
    terminal: &Terminal,
) -> Result<Exit, Failure> {
    let plan = source::plan(config, from).await?;
    let host = machine(config).await?;
    let cluster = source::cluster(config).await?;
    let preflight = check_all(&host, &cluster, &plan, &config.state_dir).await;
    match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(&preflight.checks).map_err(Failure::failed)?;
            terminal.line(&text);
        }
        Output::Table => {
            let header = ["VERDICT", "CHECK", "SCOPE", "WHY", "FIX"].map(str::to_owned);
            let rows: Vec<[String; 5]> = std::iter::once(header)
                .chain(preflight.checks.iter().map(|check| {
                    let (name, scope) = (check.check.to_owned(), check.scope.to_owned());
                    [check.verdict.to_string(), name, scope, check.why.clone(), check.fix.clone()]
                }))
                .collect();
            terminal.line(table(&rows).trim_end());
        }
    }
    match preflight.failed().count() {
        0 => Ok(Exit::Done),
        count => {
            terminal.complain(&format!("{count} checks did not pass; the upgrade would be refused"));
            Ok(Exit::Refused)
        }
    }
}
