//! Entry point: one runtime, one dispatch, one exit code.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    upgrade_agent::cli::main().await
}
