//! A real Kubernetes control plane for one test: etcd, kube-apiserver, kube-controller-manager.
//! Owns their processes and their files; plays no node, no scheduler and no product.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::children::Daemon;
use crate::pki::{Authority, ControlPlaneKeys};
use crate::places::{self, Loopback, Programs};

/// How long the API server may take to say that it is ready.
const READY_DEADLINE: Duration = Duration::from_mins(1);

/// What the admin presents; the API server listens on loopback only and is thrown away with the run.
const ADMIN_TOKEN: &str = "testbed-admin";

/// Who may ask at what price is what the log is read for; so one line per request, at its end.
const AUDIT_POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

/// The controllers whose work shows in the API: owner references, namespaces that end, service accounts, budgets,
/// aggregated roles. Named one by one, because the node life cycle controller must stay off: readiness and leases
/// are the business of the stand-in rke2, and a test that kills a machine decides itself what the cluster sees.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    serviceaccount-token-controller,root-ca-certificate-publisher-controller,disruption-controller,\
    clusterrole-aggregation-controller,resourcequota-controller";

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
        fs::write(
            dir.join("tokens.csv"),
            format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"),
        )?;

        let admin = dir.join("admin.kubeconfig");
        write_kubeconfig(
            &admin,
            &server_url(address),
            keys.authority(),
            "admin",
            ADMIN_TOKEN,
        )?;
        let client = client_of(&admin).await?;

        let etcd = start_etcd(dir, &programs.etcd, address)?;
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
        plane.start_controllers()?;
        plane.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: harvester-system}\n")?;
        Ok(plane)
    }

    /// Starts the API server again after [`Self::stop_api`], and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready within 60 s.
    pub async fn start_api(&mut self) -> Result<()> {
        let api_server = self.api_server.insert(start_api_server(
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
                bail!(
                    "kube-apiserver is not ready after 60 s ({answer:?}); {}",
                    api_server.last_words()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the API server: what a single-node cluster sees while its own RKE2 restarts.
    pub fn stop_api(&mut self) {
        self.api_server = None;
    }

    fn start_controllers(&mut self) -> Result<()> {
        let arguments = vec![
            self.programs.kube_controller_manager.display().to_string(),
            format!("--kubeconfig={}", self.admin_kubeconfig().display()),
            format!("--controllers={CONTROLLERS}"),
            format!("--service-account-private-key-file={}", self.keys.path("sa.key")),
            format!("--root-ca-file={}", self.keys.path("ca.crt")),
            "--leader-elect=false".to_owned(),
            // Nobody asks it for anything; without a port there is none to run into.
            "--secure-port=0".to_owned(),
        ];
        let log = self.dir.join("kube-controller-manager.log");
        self.controllers = Some(Daemon::start(
            "kube-controller-manager",
            &log,
            Signal::SIGKILL,
            &arguments,
        )?);
        Ok(())
    }

    /// A kubeconfig file of a member of `system:masters`.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
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

    /// A kubeconfig file with a token of this service account, which must exist; good for a day.
    ///
    /// # Errors
    /// When the API server refuses the token.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(86_400),
            ..Default::default()
        };
        let request = TokenRequest {
            spec,
            ..Default::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("no token for service account {namespace}/{name}"))?;
        let token = answer
            .status
            .context("the token request was answered without a token")?
            .token;
        let file = self.dir.join(format!("{namespace}.{name}.kubeconfig"));
        write_kubeconfig(&file, &self.server_url(), self.authority(), name, &token)?;
        Ok(file)
    }

    /// Applies a text of YAML documents, on the server's side.
    ///
    /// # Errors
    /// When kubectl fails: with what it said.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        use std::io::Write as _;
        let mut child = self
            .kubectl_command(&["apply", "--server-side", "--force-conflicts", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("kubectl has no standard input")?
            .write_all(yaml.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "kubectl apply failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Applies a file, or every YAML file of a directory, on the server's side.
    ///
    /// # Errors
    /// When kubectl fails: with what it said.
    pub fn apply_dir(&self, path: &Path) -> Result<()> {
        let file = path.display().to_string();
        self.run_kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file])
            .map(drop)
    }

    /// Runs kubectl as the admin and returns its standard output.
    ///
    /// # Errors
    /// When it fails: with its standard error.
    pub fn run_kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl_command(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!(
                "kubectl {} failed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.kubectl);
        command
            .arg("--kubeconfig")
            .arg(self.admin_kubeconfig())
            .args(arguments);
        // Its cache of what the server offers belongs to this run: every server has the same well-known port.
        command.arg("--cache-dir").arg(self.dir.join("kubectl-cache"));
        command
    }

    /// Installs the custom resource definitions and waits until they are served.
    ///
    /// # Errors
    /// When one is refused.
    pub fn install_crds(&self) -> Result<Crds> {
        let (source, crds) = find_crds();
        let mut arguments = vec!["apply", "--server-side", "--force-conflicts"];
        for dir in &source {
            arguments.extend(["-f", dir.as_str()]);
        }
        self.run_kubectl(&arguments)?;
        self.run_kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd",
            "--all",
        ])?;
        Ok(crds)
    }
}

/// Which definitions [`ControlPlane::install_crds`] used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crds {
    /// The real products' own, from this directory.
    Real(PathBuf),
    /// Ours: the same names, versions and subresources, but no schema.
    StandIn,
}

/// `$UPGRADE_AGENT_CRDS`, or else `../shared/crds` beside the checkout, or else the stand-ins.
fn find_crds() -> (Vec<String>, Crds) {
    let beside = places::workspace()
        .parent()
        .map(|parent| parent.join("shared/crds"));
    let real = std::env::var_os("UPGRADE_AGENT_CRDS")
        .map(PathBuf::from)
        .or(beside)
        .filter(|dir| dir.is_dir());
    match real {
        Some(dir) => {
            let products = ["kubevirt", "harvester", "longhorn"].map(|product| dir.join(product));
            let products = products.iter().filter(|product| product.is_dir());
            (
                products.map(|product| product.display().to_string()).collect(),
                Crds::Real(dir),
            )
        }
        None => (
            vec![concat!(env!("CARGO_MANIFEST_DIR"), "/crds").to_owned()],
            Crds::StandIn,
        ),
    }
}

fn server_url(address: Ipv4Addr) -> String {
    format!("https://{address}:6443")
}

async fn client_of(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Everything is inside the file, so that a copy of it works on a machine.
fn write_kubeconfig(file: &Path, server: &str, authority: &Authority, user: &str, token: &str) -> Result<()> {
    let certificate = ByteString(authority.certificate().as_bytes().to_vec());
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "testbed",
        "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority-data": certificate}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
    });
    fs::write(file, text.to_string()).with_context(|| format!("cannot write {}", file.display()))
}

fn start_etcd(dir: &Path, program: &Path, address: Ipv4Addr) -> Result<Daemon> {
    let mut arguments = vec![
        program.display().to_string(),
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls=http://{address}:2379"),
        format!("--advertise-client-urls=http://{address}:2379"),
        format!("--listen-peer-urls=http://{address}:2380"),
        format!("--initial-advertise-peer-urls=http://{address}:2380"),
        format!("--initial-cluster=default=http://{address}:2380"),
    ];
    // A run never outlives a power cut, so where etcd can do without fsync, it shall. 3.4 does not list the flag
    // in its help; so the flag is tried.
    let known = Command::new(program)
        .args(["--unsafe-no-fsync", "--version"])
        .output()?;
    if known.status.success() {
        arguments.push("--unsafe-no-fsync".to_owned());
    }
    Daemon::start("etcd", &dir.join("etcd.log"), Signal::SIGKILL, &arguments)
}

fn start_api_server(
    dir: &Path,
    program: &Path,
    keys: &ControlPlaneKeys,
    address: Ipv4Addr,
) -> Result<Daemon> {
    let file = |name: &str| dir.join(name).display().to_string();
    let arguments = vec![
        program.display().to_string(),
        format!("--etcd-servers=http://{address}:2379"),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        "--secure-port=6443".to_owned(),
        // There is no pod network in which somebody would look for the service `kubernetes`.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", keys.path("apiserver.crt")),
        format!("--tls-private-key-file={}", keys.path("apiserver.key")),
        format!("--client-ca-file={}", keys.path("ca.crt")),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        // A test makes a bare pod without having made its service account first.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", keys.path("sa.pub")),
        format!("--service-account-signing-key-file={}", keys.path("sa.key")),
        "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
        format!(
            "--requestheader-client-ca-file={}",
            keys.path("front-proxy-ca.crt")
        ),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        format!("--proxy-client-cert-file={}", keys.path("front-proxy-client.crt")),
        format!("--proxy-client-key-file={}", keys.path("front-proxy-client.key")),
        "--enable-aggregator-routing=false".to_owned(),
        format!("--audit-policy-file={}", file("audit-policy.yaml")),
        format!("--audit-log-path={}", file("audit.log")),
    ];
    Daemon::start(
        "kube-apiserver",
        &dir.join("kube-apiserver.log"),
        Signal::SIGKILL,
        &arguments,
    )
}
