//! The main job on real parts: `scripts/demo` runs this. The agent's own output is what is shown.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a demonstration prints, and starts the agent"
)]
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a demonstration may just stop")]

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::sim::Timing;

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod support;

use support::Stage;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let binary = PathBuf::from(
        std::env::var("UPGRADE_AGENT_BIN").context("UPGRADE_AGENT_BIN names no agent; use scripts/demo")?,
    );
    println!("Setting the stage:");
    let stage = Stage::set(Timing::fast, |part| println!("  - {part}")).await?;
    stage.order(Control::Run).await?;
    println!("\n$ upgrade-agent node --once --host-root <machine> --system-bus <machine's bus>\n");
    let mut agent = stage.agent(&binary, &["node", "--once"]);
    let status = agent.stdin(Stdio::null()).status().await?;
    for arguments in [&["get", "nu", "-A"][..], &["get", "nodes"], &["get", "vmi", "-A"]] {
        println!("\n$ kubectl {}", arguments.join(" "));
        println!("{}", stage.control_plane.run_kubectl(arguments)?.trim_end());
    }
    let code = status.code().unwrap_or(1);
    println!("\nupgrade-agent ended with exit code {code}");
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
