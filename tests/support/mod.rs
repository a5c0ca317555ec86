//! First light's stage: a real API server, a real systemd machine as `node1`, simulators of `KubeVirt` and kubelet, eight
//! VMs. Used by `tests/first_light.rs` and by `examples/demo.rs`; starts in its own folder, on its own addresses.

#![expect(unreachable_pub, reason = "one module for several programs")]

mod audit;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testbed::control_plane::{ControlPlane, Crds};
use testbed::machine::{Machine, MachineSpec};
use testbed::places::RunDir;
use testbed::rke2::{Release, Rke2Spec, rke2_release};
use testbed::stand_in::Role;
use testbed::virt_api::{AggregatedApi, serve_aggregated};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use upgrade_agent::cluster::crd::node_upgrade::{Control, NodeUpgrade, NodeUpgradeSpec};
use upgrade_agent::cluster::names::safe_concat;
use upgrade_agent::flow::plan::{Artifacts, Evacuation, NodePlan, SwapMode, VersionChange};
use upgrade_agent::flow::vms::VmKey;
use upgrade_agent::sim::virt_api::VirtApi;
use upgrade_agent::sim::world::{self, PCI_DEVICE, VGPU};
use upgrade_agent::sim::{self, Timing};

/// Version that the machine runs at first.
pub const FROM: &str = "v1.34.2+rke2r1";
/// Version that it is upgraded to.
pub const TO: &str = "v1.35.6+rke2r1";
/// The node that is the real machine.
pub const NODE: &str = "node1";
/// Harvester's namespace.
pub const NAMESPACE: &str = "harvester-system";
/// Where the release lies on the machine.
pub const RELEASE: &str = "/var/lib/rancher/release";
/// The live binary on the machine.
pub const LIVE: &str = "/opt/rke2/bin/rke2";

/// Everything, in the order in which it has to go.
pub struct Stage {
    /// For objects.
    pub client: Client,
    /// The node's machine.
    pub machine: Machine,
    /// sha256 of the new binary.
    pub new_sha256: String,
    /// Kubeconfig with the rights of `manifests/rbac.yaml`, no more.
    pub kubeconfig: PathBuf,
    /// The upgrade's uid.
    pub upgrade_uid: String,
    /// The API server.
    pub control_plane: ControlPlane,
    release: Release,
    _virt_api: AggregatedApi,
    stop_simulators: CancellationToken,
    dir: RunDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop_simulators.cancel();
    }
}

/// Name of the upgrade.
pub const UPGRADE: &str = "hvst-upgrade-first";

impl Stage {
    /// Sets everything up until eight VMs run on `node1`, saying each part with `say`.
    pub async fn set(timing: fn(Timestamp) -> Timing, say: impl Fn(&str)) -> Result<Self> {
        let dir = RunDir::new()?;
        say("a Kubernetes API server with the products' CRDs");
        let control_plane = ControlPlane::start(dir.path()).await?;
        let crds = control_plane.install_crds()?;
        // A user's checkout has no real CRDs beside it and tests against stand-ins; CI has them and must use them.
        let real = matches!(crds, Crds::Real(_));
        ensure!(
            real || std::env::var_os("CI").is_none(),
            "CI tests against the real CRDs: put them at ../shared/crds or name them with UPGRADE_AGENT_CRDS"
        );
        for file in ["crd.yaml", "serviceaccount.yaml", "rbac.yaml"] {
            control_plane.run_kubectl(&["apply", "--server-side", "-f", &manifest(file)])?;
        }
        let kubeconfig = control_plane.kubeconfig_for_service_account(NAMESPACE, "upgrade-agent").await?;
        let client = control_plane.client();

        say("simulators of KubeVirt, kubelet and scheduler");
        let timing = timing(Timestamp::now());
        let stop_simulators = CancellationToken::new();
        tokio::spawn(sim::run(client.clone(), timing.clone(), stop_simulators.clone()));
        let virt = VirtApi { wire: client.clone().into(), timing };
        let virt_api = serve_aggregated(&control_plane, move |request| {
            let virt = virt.clone();
            async move { virt.respond(request).await }
        })
        .await?;

        say("a systemd machine with RKE2, and two more nodes");
        let machine = Machine::boot(dir.path(), MachineSpec::named(NODE)).await?;
        let mut rke2 = Rke2Spec::new(Role::Server, FROM, &control_plane.admin_kubeconfig(), NODE);
        rke2.extra_allocatable = vec![(PCI_DEVICE.into(), "2".into()), (VGPU.into(), "1".into())];
        machine.install_rke2(&rke2).await?;
        lift_birth_taint(&client).await?;
        let release = rke2_release(dir.path(), TO)?;
        let inside = machine.root().join(RELEASE.trim_start_matches('/'));
        std::fs::create_dir_all(&inside)?;
        std::fs::copy(&release.tarball, inside.join("rke2.linux-amd64.tar.gz"))?;
        world::register_demo_nodes(&client, &["node2", "node3"], FROM, Timestamp::now()).await?;

        say("eight VMs on node1: five that can move, two with a PCI device, one with a vGPU");
        wait_for_default_account(&client).await?;
        let vms = world::demo_vms(NODE);
        world::create_and_wait_running(&client, &vms, NODE, Instant::now() + Duration::from_mins(1)).await?;
        create_bystander(&client).await?;
        let upgrade = world::upgrade(UPGRADE, "v1.8.1", "v1.7.0", &[NODE, "node2", "node3"]);
        let upgrades: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), NAMESPACE, &world::upgrade_resource());
        let upgrade = upgrades.create(&PostParams::default(), &upgrade).await?;
        Ok(Self {
            upgrade_uid: upgrade.uid().context("the Upgrade has no uid")?,
            new_sha256: release.binary_sha256.clone(),
            client,
            machine,
            kubeconfig,
            control_plane,
            release,
            _virt_api: virt_api,
            stop_simulators,
            dir,
        })
    }

    /// The plan of the one upgrade.
    pub fn plan(&self) -> NodePlan {
        NodePlan {
            upgrade_name: UPGRADE.into(),
            upgrade_uid: self.upgrade_uid.clone(),
            node_name: NODE.into(),
            role: None,
            rke2: VersionChange {
                from: FROM.parse().expect("a version"),
                to: TO.parse().expect("a version"),
            },
            artifacts: Artifacts { source: format!("file://{RELEASE}"), sha256: self.release.sha256.clone() },
            swap: SwapMode::Direct,
            evacuation: Evacuation::default(),
            os: None,
        }
    }

    /// Writes a plan file, changed as the caller likes; gives its path.
    pub fn plan_file(&self, name: &str, change: impl FnOnce(&mut NodePlan)) -> Result<PathBuf> {
        let mut plan = self.plan();
        change(&mut plan);
        let path = self.dir.path().join(name);
        std::fs::write(&path, serde_json::to_string_pretty(&plan)?)?;
        Ok(path)
    }

    /// Creates the `NodeUpgrade` of the plan.
    pub async fn order(&self, control: Control) -> Result<()> {
        let name = safe_concat(&[UPGRADE, NODE]);
        let order = NodeUpgrade::new(&name, NodeUpgradeSpec::of(&self.plan(), control));
        self.orders().create(&PostParams::default(), &order).await?;
        Ok(())
    }

    /// The `NodeUpgrade`s.
    pub fn orders(&self) -> Api<NodeUpgrade> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The agent, run from outside the machine.
    pub fn agent(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .arg("--host-root")
            .arg(self.machine.root())
            .arg("--system-bus")
            .arg(self.machine.bus())
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--local-address", &self.machine.address().to_string(), "--node-name", NODE])
            .env_remove("KUBECONFIG")
            .env_remove("RUST_LOG")
            .kill_on_drop(true);
        command
    }

    /// Runs the agent to its end.
    pub async fn run_agent(&self, binary: &Path, arguments: &[&str]) -> Result<Output> {
        let output = self.agent(binary, arguments).output();
        Ok(tokio::time::timeout(Duration::from_mins(3), output).await.context("the agent does not end")??)
    }

    /// Starts the agent and leaves it running.
    pub fn start_agent(&self, binary: &Path, arguments: &[&str]) -> Result<Child> {
        Ok(self.agent(binary, arguments).stdout(std::process::Stdio::null()).spawn()?)
    }

    /// The journal as it is on disk; empty before it is there.
    pub fn journal(&self) -> String {
        let path = format!("var/lib/rancher/upgrade-agent/{}/journal.jsonl", self.upgrade_uid);
        std::fs::read_to_string(self.machine.root().join(path)).unwrap_or_default()
    }

    /// How many lines of the journal are this record.
    pub fn records(&self, record: &str) -> usize {
        self.journal().matches(&format!("\"record\":\"{record}\"")).count()
    }

    /// pid of the running RKE2 as systemd on the machine sees it.
    pub async fn rke2_pid(&self) -> Result<String> {
        let pid =
            self.machine.must_run(&["systemctl", "show", "-P", "MainPID", "rke2-server.service"]).await?;
        let pid = pid.trim().to_owned();
        ensure!(pid != "0", "rke2-server does not run");
        Ok(pid)
    }

    /// sha256 of the live binary.
    pub async fn live_sha256(&self) -> Result<String> {
        let text = self.machine.must_run(&["sha256sum", LIVE]).await?;
        Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// uid and node of every running instance, by name.
    pub async fn instances(&self) -> Result<std::collections::BTreeMap<VmKey, (String, String)>> {
        let api = self.all(&world::vmi_resource());
        let list = api.list(&ListParams::default()).await?;
        Ok(list
            .iter()
            .filter(|vmi| vmi.data["status"]["phase"] == "Running")
            .map(|vmi| {
                let key = VmKey::new(&vmi.namespace().unwrap_or_default(), &vmi.name_any());
                let node = vmi.data["status"]["nodeName"].as_str().unwrap_or_default().to_owned();
                (key, (vmi.uid().unwrap_or_default(), node))
            })
            .collect())
    }

    /// An API over all namespaces.
    pub fn all(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), resource)
    }

    /// Kills the agent with SIGKILL as soon as its journal holds the record this often, and not one of `later`. The agent is
    /// let run in slices shorter than any effect that could follow, so the moment is exact.
    pub async fn kill_at(&self, mut agent: Child, record: &str, count: usize, later: &str) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(agent.id().context("the agent has ended")?)?);
        let deadline = Instant::now() + Duration::from_mins(2);
        loop {
            kill(pid, Signal::SIGSTOP)?;
            let reached = self.records(record) >= count;
            if reached {
                ensure!(self.records(later) == 0, "{record} was passed before the agent could be killed");
                agent.kill().await?;
                return Ok(());
            }
            kill(pid, Signal::SIGCONT)?;
            if let Some(status) = agent.try_wait()? {
                bail!("the agent ended ({status}) before {record}; journal:\n{}", self.journal());
            }
            ensure!(Instant::now() < deadline, "no {record} in time; journal:\n{}", self.journal());
            // Far from it there is time; near it every millisecond counts.
            let slice = if self.journal().is_empty() { 5 } else { 1 };
            tokio::time::sleep(Duration::from_millis(slice)).await;
        }
    }

    /// Waits until `ready` says so.
    pub async fn wait(&self, what: &str, seconds: u64, mut ready: impl AsyncFnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !ready().await {
            if Instant::now() > deadline {
                bail!("waited {seconds} s in vain for {what}; journal:\n{}", self.journal());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// The API server taints every new Node as not ready; the controller that would take that away is off in the test bed.
async fn lift_birth_taint(client: &Client) -> Result<()> {
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    let patch = serde_json::json!({ "spec": { "taints": null } });
    nodes.patch(NODE, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A pod on the node that is no VM: the drain has to evict it.
async fn create_bystander(client: &Client) -> Result<()> {
    let api: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), "default");
    let pod = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "bystander" },
        "spec": {
            "nodeName": NODE, "automountServiceAccountToken": false,
            "containers": [{ "name": "main", "image": "bystander" }],
        },
    }))?;
    api.create(&PostParams::default(), &pod).await?;
    Ok(())
}

fn manifest(file: &str) -> String {
    format!("{}/manifests/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// Pods need the namespace's default account, which a controller makes some moments after the namespace.
async fn wait_for_default_account(client: &Client) -> Result<()> {
    let api: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), "default");
    for _ in 0..300 {
        if api.get_opt("default").await?.is_some() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the controller manager made no default service account in 30 s")
}
