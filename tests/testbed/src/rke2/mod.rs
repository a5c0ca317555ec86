//! Lays RKE2 out on a machine as Harvester does, with the stand-in as its binary, and makes release tarballs of it.
//! Owns the layout; how the stand-in behaves is in [`crate::stand_in`].

mod binary;
mod release;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::machine::Machine;
use crate::stand_in::{self, Role, Settings};

pub use binary::{binary, hex_sha256};
pub use release::{Release, rke2_release};

/// How long `systemctl start` may take: the stand-in is ready after its first report to the API server.
const START_DEADLINE: Duration = Duration::from_mins(10);

/// What to lay out.
#[derive(Clone, Debug)]
pub struct Rke2Spec {
    /// Server or agent
    pub role: Role,
    /// The version installed, for example `v1.34.2+rke2r1`
    pub version: String,
    /// A kubeconfig file on this computer; the machine gets a copy
    pub kubeconfig: PathBuf,
    /// Name of the Node
    pub node_name: String,
    /// CPUs of the Node
    pub cpu: String,
    /// Memory of the Node
    pub memory: String,
    /// More labels of the Node
    pub labels: Vec<(String, String)>,
    /// Annotations of the Node
    pub annotations: Vec<(String, String)>,
    /// More allocatable resources of the Node: `("nvidia.com/TU104GL", "2")`
    pub extra_allocatable: Vec<(String, String)>,
}

impl Rke2Spec {
    /// A node with 16 CPUs and 64 GiB.
    #[must_use]
    pub fn new(role: Role, version: &str, kubeconfig: &Path, node_name: &str) -> Self {
        Self {
            role,
            version: version.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            node_name: node_name.to_owned(),
            cpu: "16".to_owned(),
            memory: "64Gi".to_owned(),
            labels: Vec::new(),
            annotations: Vec::new(),
            extra_allocatable: Vec::new(),
        }
    }
}

impl Machine {
    /// Lays RKE2 out, enables and starts its unit, and waits until it is active: then the Node is Ready.
    ///
    /// # Errors
    /// When the unit is not active within 60 s: with its journal.
    pub async fn install_rke2(&self, spec: &Rke2Spec) -> Result<()> {
        self.lay_out_rke2(spec)?;
        let unit = unit_name(spec.role);
        self.must_run(&["systemctl", "daemon-reload"]).await?;
        self.must_run(&["systemctl", "enable", "--quiet", &unit]).await?;
        self.must_run(&["systemctl", "start", "--no-block", &unit]).await?;
        self.wait_active(&unit, START_DEADLINE).await
    }

    /// Writes RKE2's files and starts nothing.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn lay_out_rke2(&self, spec: &Rke2Spec) -> Result<()> {
        let root = self.disk();
        let unit = unit_name(spec.role);
        for dir in [
            "agent/images",
            "agent/pod-manifests",
            "agent/logs",
            "server/manifests",
            "system-agent-installer",
        ] {
            fs::create_dir_all(root.join("var/lib/rancher/rke2").join(dir))?;
        }
        let kubeconfig = match spec.role {
            Role::Server => "/etc/rancher/rke2/rke2.yaml",
            Role::Agent => "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
        };
        let settings = Settings {
            node_name: spec.node_name.clone(),
            kubeconfig: kubeconfig.to_owned(),
            bind: self.address(),
            cpu: spec.cpu.clone(),
            memory: spec.memory.clone(),
            labels: spec.labels.iter().cloned().collect(),
            annotations: spec.annotations.iter().cloned().collect(),
            extra_allocatable: spec.extra_allocatable.iter().cloned().collect(),
        };
        put(root, kubeconfig, &fs::read(&spec.kubeconfig)?, 0o600)?;
        put(root, stand_in::SETTINGS, &serde_json::to_vec_pretty(&settings)?, 0o644)?;
        let config = format!("node-name: {}\nnode-ip: {}\n", spec.node_name, self.address());
        put(root, "/etc/rancher/rke2/config.yaml", config.as_bytes(), 0o600)?;
        put(root, "/opt/rke2/bin/rke2", &binary(&spec.version)?, 0o755)?;
        put(root, &format!("/etc/systemd/system/{unit}"), unit_text(spec.role).as_bytes(), 0o644)?;
        // Harvester's drop-in also runs a script before the start, which finds the server's address: not needed here.
        let drop_in = format!("/etc/systemd/system/{unit}.d/override.conf");
        put(root, &drop_in, b"[Unit]\nAfter=time-sync.target\nWants=time-sync.target\n", 0o644)
    }

    /// Tells the stand-in how to misbehave from its next start on; an empty text ends it. See [`stand_in::Fault`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_rke2_fault(&self, fault: &str) -> Result<()> {
        put(self.disk(), stand_in::FAULT, fault.as_bytes(), 0o644)
    }

    /// Waits until a unit is active.
    ///
    /// # Errors
    /// When it is not within `patience`: with its journal.
    pub async fn wait_active(&self, unit: &str, patience: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let output = self.run(&["systemctl", "is-active", unit]).await?;
            if output.status.success() {
                return Ok(());
            }
            if began.elapsed() > patience {
                let journal = self.run(&["journalctl", "-u", unit, "-n", "20", "--no-pager"]).await?;
                bail!(
                    "{unit} is not active after {patience:?}:\n{}",
                    String::from_utf8_lossy(&journal.stdout)
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The unit of a role: `rke2-server.service` or `rke2-agent.service`.
#[must_use]
pub fn unit_name(role: Role) -> String {
    format!("rke2-{}.service", role.as_str())
}

/// RKE2's own unit without the loading of kernel modules, which a machine of the test bed cannot do, and without
/// the sweep for leftover kubelets and containerds, of which the stand-in has none.
fn unit_text(role: Role) -> String {
    let role = role.as_str();
    format!(
        "[Unit]\n\
         Description=Rancher Kubernetes Engine v2 ({role})\n\
         Documentation=https://github.com/rancher/rke2#readme\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         EnvironmentFile=-/etc/default/%N\n\
         EnvironmentFile=-/etc/sysconfig/%N\n\
         EnvironmentFile=-/opt/rke2/lib/systemd/system/%N.env\n\
         KillMode=process\n\
         Delegate=yes\n\
         LimitNOFILE=1048576\n\
         LimitNPROC=infinity\n\
         LimitCORE=infinity\n\
         TasksMax=infinity\n\
         TimeoutStartSec=0\n\
         Restart=always\n\
         RestartSec=5s\n\
         ExecStart=/opt/rke2/bin/rke2 {role}\n\
         EnvironmentFile=-/var/lib/rancher/rke2/system-agent-installer/rke2-sa.env\n"
    )
}

/// Writes a file below the root of a machine, with its directories.
fn put(root: &Path, path: &str, content: &[u8], mode: u32) -> Result<()> {
    let file = root.join(path.trim_start_matches('/'));
    let dir = file.parent().context("a file has a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Another file takes its place: an executable that runs cannot be written to.
    let temp = file.with_extension("testbed-new");
    fs::write(&temp, content).with_context(|| format!("cannot write {}", temp.display()))?;
    fs::set_permissions(&temp, fs::Permissions::from_mode(mode))?;
    fs::rename(&temp, &file).with_context(|| format!("cannot write {}", file.display()))
}
