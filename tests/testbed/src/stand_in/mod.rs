//! The stand-in for `rke2`: what systemd, an upgrade agent and the API server see of the real one, and no more.
//! Owns its health ports and its Node; runs no kubelet, no etcd and no container.

mod identity;
mod node;
mod servers;
mod snapshot;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

pub use identity::{Fault, VERSION_TRAILER, own_version};
pub use snapshot::save_snapshot;

/// Where the stand-in is told who it is.
pub const SETTINGS: &str = "/etc/rancher/rke2/stand-in.json";

/// Where it is told to misbehave, read at each start; see [`Fault`].
pub const FAULT: &str = "/etc/rancher/rke2/stand-in-fault";

/// How often it reports its Node and renews its lease.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Server or agent, as RKE2 means it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs the control plane and etcd
    Server,
    /// Runs pods only
    Agent,
}

impl Role {
    /// `server` or `agent`: rke2's sub-command.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// Who the stand-in is; the content of [`SETTINGS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Name of its Node
    pub node_name: String,
    /// Kubeconfig file, as a path on the machine
    pub kubeconfig: String,
    /// Address of its health ports
    pub bind: Ipv4Addr,
    /// CPUs of the Node
    pub cpu: String,
    /// Memory of the Node
    pub memory: String,
    /// More labels of the Node
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Node
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// More allocatable resources of the Node, for example devices
    #[serde(default)]
    pub extra_allocatable: BTreeMap<String, String>,
}

/// Runs as `rke2 server` or `rke2 agent` until SIGTERM.
///
/// # Errors
/// When the settings cannot be read, a port is taken, or a fault says so. Never because the API server is away.
pub async fn run(role: Role) -> Result<()> {
    let version = own_version()?;
    let fault = Fault::read(&version);
    if fault == Some(Fault::Crash) {
        anyhow::bail!("stand-in fault: crash");
    }
    let text = fs::read_to_string(SETTINGS).with_context(|| format!("cannot read {SETTINGS}"))?;
    let mut settings: Settings =
        serde_json::from_str(&text).with_context(|| format!("{SETTINGS} is not understood"))?;

    if let Some(fault) = &fault {
        for (device, count) in &mut settings.extra_allocatable {
            *count = fault.leaves(device, count);
        }
    }

    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        // Cancel-safe: the process ends in either case, and nothing of it is kept but the Node.
        _ = terminate.recv() => Ok(()),
        result = work(role, &version, fault, settings) => result,
    }
}

async fn work(role: Role, version: &str, fault: Option<Fault>, settings: Settings) -> Result<()> {
    if fault == Some(Fault::Hang) {
        std::future::pending::<()>().await;
    }
    servers::start(role, settings.bind).await?;

    let kubelet_version = match &fault {
        Some(Fault::WrongVersion(version)) => version.clone(),
        _ => identity::kubelet_version(version),
    };
    let mut node = node::Reporter::new(role, settings, kubelet_version);
    // As the real one, it retries for ever: on a single node, the API server it waits for may be its own.
    while let Err(error) = node.register().await {
        eprintln!("cannot register the node, trying again: {error:#}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    sd_notify::notify(&[NotifyState::Ready]).context("cannot tell systemd that it is ready")?;
    if let Some(Fault::DieAfter(patience)) = fault {
        tokio::time::sleep(patience).await;
        anyhow::bail!("stand-in fault: die after {patience:?}");
    }
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        if let Err(error) = node.beat().await {
            eprintln!("cannot report the node, trying again: {error:#}");
        }
    }
}
