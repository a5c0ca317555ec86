//! `guard`: what systemd runs before each start of a fenced RKE2. Looks at nothing but the machine's disk and processes.

use std::path::{Path, PathBuf};

use crate::agent::guard::{Stood, stand};
use crate::agent::step_error::chain;
use crate::cli::Exit;
use crate::cli::terminal::Terminal;
use crate::config::FlagConfig;
use crate::host::root::HostRoot;

/// Lets RKE2 start, or not. Settings come from the flags alone: a broken file must not keep a node from starting.
#[must_use]
pub fn guard(flags: &FlagConfig, upgrade: &str, terminal: &Terminal) -> Exit {
    let root = HostRoot::new(flags.host_root.clone().unwrap_or_else(|| PathBuf::from("/")));
    let usual = root.at("/var/lib/rancher/upgrade-agent");
    let state_dir: &Path = flags.state_dir.as_deref().unwrap_or(&usual);
    match stand(&root, state_dir, upgrade) {
        Ok(Stood::Starts) => Exit::Done,
        Ok(Stood::PutBack { kept, why }) => {
            terminal.complain(&format!("{kept} was put in place: {why}"));
            Exit::Done
        }
        Err(barred) => {
            terminal.complain(&chain(&barred));
            Exit::Failed
        }
    }
}
