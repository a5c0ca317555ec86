//! A real Kubernetes control plane for one test: etcd, kube-apiserver, kube-controller-manager.
//! Owns their processes and their files; plays no node, no scheduler and no product.

mod definitions;
mod kubeconfig;
mod kubectl;
mod processes;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kube::Client;

use crate::children::Daemon;
use crate::pki::{Authority, ControlPlaneKeys};
use crate::places::{Loopback, Programs};

pub use definitions::Crds;

/// The kubeconfig file of the admin, in the directory of the control plane.
const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";

/// How long the API server may take to say that it is ready.
const READY_DEADLINE: Duration = Duration::from_mins(10);

/// What the admin presents; the API server listens on loopback only and is thrown away with the run.
const ADMIN_TOKEN: &str = "testbed-admin";

/// Who may ask at what price is what the log is read for; so one line per request, at its end.
const AUDIT_POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

/// A running control plane; everything ends when it is dropped.
pub struct ControlPlane {
    // Fields are dropped in this order: clients of a server before the server.
    controllers: Option<Daemon>,
    api_server: Option<Daemon>,
    _etcd: Daemon,
    dir: PathBuf,
    programs: Programs,
    keys: ControlPlaneKeys,
    loopback: Loopback,
    client: Client,
}

impl ControlPlane {
    /// Starts one with all its files in `dir` and waits until it is ready; namespace `harvester-system` exists.
    ///
    /// # Errors
    /// When a program is missing, or the API server is not ready within 60 s: then with the end of its log.
    pub async fn start(dir: &Path) -> Result<Self> {
        let programs = Programs::find()?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let loopback = Loopback::claim()?;
        let address = loopback.address();
        let keys = ControlPlaneKeys::write(&dir.join("pki"), address.into())?;
        fs::write(dir.join("audit-policy.yaml"), AUDIT_POLICY)?;
        fs::write(dir.join("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"))?;

        let admin = dir.join(ADMIN_KUBECONFIG);
        kubeconfig::write(&admin, &server_url(address), keys.authority(), "admin", ADMIN_TOKEN)?;
        let client = kubeconfig::client_of(&admin).await?;

        let etcd = processes::start_etcd(dir, &programs.etcd, address)?;
        let mut plane = Self {
            controllers: None,
            api_server: None,
            _etcd: etcd,
            dir: dir.to_owned(),
            programs,
            keys,
            loopback,
            client,
        };
        plane.start_api().await?;
        plane.controllers = Some(processes::start_controllers(
            &plane.dir,
            &plane.programs.kube_controller_manager,
            &plane.keys,
        )?);
        plane.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: harvester-system}\n")?;
        Ok(plane)
    }

    /// Starts the API server again after [`Self::stop_api`], and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready within 60 s.
    pub async fn start_api(&mut self) -> Result<()> {
        let api_server = self.api_server.insert(processes::start_api_server(
            &self.dir,
            &self.programs.kube_apiserver,
            &self.keys,
            self.loopback.address(),
        )?);
        let began = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let answer = self.client.request_text(request).await;
            if answer.as_deref().is_ok_and(|text| text == "ok") {
                return Ok(());
            }
            if let Some(status) = api_server.ended() {
                bail!("kube-apiserver ended with {status}; {}", api_server.last_words());
            }
            if began.elapsed() > READY_DEADLINE {
                bail!("kube-apiserver is not ready after 60 s ({answer:?}); {}", api_server.last_words());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the API server: what a single-node cluster sees while its own RKE2 restarts.
    pub fn stop_api(&mut self) {
        self.api_server = None;
    }

    /// A kubeconfig file of a member of `system:masters`.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join(ADMIN_KUBECONFIG)
    }

    /// A client with the admin's rights.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// `https://127.x.x.x:6443`
    #[must_use]
    pub fn server_url(&self) -> String {
        server_url(self.loopback.address())
    }

    /// The audit log: one JSON line per finished request, level Metadata.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// The directory with the logs of etcd, kube-apiserver and kube-controller-manager.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.dir
    }

    /// The `kubectl` of the same version.
    #[must_use]
    pub fn kubectl(&self) -> &Path {
        &self.programs.kubectl
    }

    /// The authority that signed the API server's certificate.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        self.keys.authority()
    }
}

fn server_url(address: Ipv4Addr) -> String {
    format!("https://{address}:6443")
}
