//! The stand-in for the `rke2` binary: see [`testbed::stand_in`].

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the product, and this only stands in for rke2"
)]

use std::process::ExitCode;

use anyhow::Result;
use testbed::stand_in::{self, Role};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    let result = match command.as_str() {
        "server" => stand_in::run(Role::Server).await,
        "agent" => stand_in::run(Role::Agent).await,
        "etcd-snapshot" => stand_in::save_snapshot(&std::env::args().skip(2).collect::<Vec<_>>()),
        "--version" | "-v" => print_version(),
        _ => Err(anyhow::anyhow!("usage: rke2 server|agent|etcd-snapshot save|--version")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rke2 stand-in: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The same two lines as the real one's.
#[expect(clippy::print_stdout, reason = "that is what `--version` is for")]
fn print_version() -> Result<()> {
    println!("rke2 version {} (deadbeef)\ngo version go1.25.0", stand_in::own_version()?);
    Ok(())
}
