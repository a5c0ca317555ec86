//! Entry point: one runtime, one dispatch, one exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Rehearsals make and drop small objects all the time; with glibc's allocator a quarter of their time is spent on that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    upgrade_agent::cli::main().await
}
