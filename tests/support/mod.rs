//! A stage for the agent: a real API server, a real systemd machine as the node under test, simulators of `KubeVirt` and
//! kubelet, VMs. Used by the tests and by `examples/demo.rs`; starts in its own folder, on its own addresses.

#![expect(unreachable_pub, reason = "one module for several programs")]

mod audit;
pub mod cast;
pub mod cluster;
mod kill_at;
mod observe;
pub mod saved;
pub mod script;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cast::Cast;
use cluster::Cluster;
use http::{Method, Uri};
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use serde_json::json;
use testbed::control_plane::ControlPlane;
use testbed::machine::{Machine, MachineSpec};
use testbed::places::RunDir;
use testbed::proxy::{Fate, Proxy};
use testbed::rke2::{Release, Rke2Spec, rke2_release, unit_name};
use testbed::stand_in::Role;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use upgrade_agent::cluster::crd::node_upgrade::{Control, NodeUpgrade, NodeUpgradeSpec};
use upgrade_agent::cluster::names::safe_concat;
use upgrade_agent::flow::plan::{Artifacts, Evacuation, NodePlan, SwapMode, VersionChange};
use upgrade_agent::sim::kubelet::register_node;
use upgrade_agent::sim::{Timing, world};

/// Version that the machine runs at first.
pub const FROM: &str = "v1.34.2+rke2r1";
/// Version that it is upgraded to.
pub const TO: &str = "v1.35.6+rke2r1";
/// The node that is the real machine in first light's cast.
pub const NODE: &str = "node1";
/// Name of the upgrade in first light's cast.
pub const UPGRADE: &str = "hvst-upgrade-first";
/// Harvester's namespace.
pub const NAMESPACE: &str = "harvester-system";
/// Where the release lies on the machine.
pub const RELEASE: &str = "/var/lib/rancher/release";
/// The live binary on the machine.
pub const LIVE: &str = "/opt/rke2/bin/rke2";

/// One line for `scripts/bench`: what, how much, and the target.
#[expect(clippy::print_stdout, reason = "figures are for whoever runs the test to read")]
pub fn measured(what: &str, value: &str, target: &str) {
    println!("measured: {what:<64} {value:>12}   {target}");
}

/// Everything, in the order in which it has to go.
pub struct Stage {
    /// For objects.
    pub client: Client,
    /// The node's machine.
    pub machine: Machine,
    /// sha256 of the new binary.
    pub new_sha256: String,
    /// Kubeconfig that the agent gets.
    pub kubeconfig: PathBuf,
    /// The upgrade's uid.
    pub upgrade_uid: String,
    /// The API server.
    pub control_plane: Arc<ControlPlane>,
    /// For how long the agent watches the new RKE2.
    pub soak_seconds: u32,
    /// The node under test.
    pub node: String,
    /// Server or agent.
    pub role: Role,
    /// The version that its machine ran at first.
    pub from: String,
    /// The upgrade's name.
    pub upgrade: String,
    /// The namespace of its VMs.
    pub namespace: String,
    release: Release,
    dir: RunDir,
    /// What other stages may share.
    pub cluster: Arc<Cluster>,
}

impl Stage {
    /// Sets everything up until eight VMs run on `node1`, saying each part with `say`.
    pub async fn set(timing: fn(Timestamp) -> Timing, say: impl Fn(&str)) -> Result<Self> {
        let cluster = Cluster::start(timing, &say).await?;
        Self::raise(Arc::new(cluster), Cast::first_light(), &say).await
    }

    /// On a cluster of its own.
    pub async fn alone(cast: Cast) -> Result<Self> {
        let cluster = Cluster::start(Timing::fast, &|_: &str| {}).await?;
        Self::raise(Arc::new(cluster), cast, &|_| {}).await
    }

    /// On the cluster that the tests of a program share.
    pub async fn shared(cast: Cast) -> Result<Self> {
        let cluster = tokio::task::spawn_blocking(Cluster::shared).await??;
        Self::raise(cluster, cast, &|_| {}).await
    }

    /// Adds machine, nodes and VMs of a cast to a cluster.
    pub async fn raise(cluster: Arc<Cluster>, cast: Cast, say: &impl Fn(&str)) -> Result<Self> {
        let dir = RunDir::new()?;
        let (client, control_plane) = (cluster.client.clone(), cluster.control_plane.clone());
        say("a systemd machine with RKE2, and two more nodes");
        let machine = Machine::boot(dir.path(), MachineSpec::named(&cast.node)).await?;
        let mut rke2 = Rke2Spec::new(cast.role, &cast.from, &control_plane.admin_kubeconfig(), &cast.node);
        rke2.extra_allocatable.clone_from(&cast.devices);
        rke2.labels = cast.labels.clone().into_iter().collect();
        rke2.memory.clone_from(&cast.memory);
        machine.install_rke2(&rke2).await?;
        lift_birth_taint(&client, &cast.node).await?;
        let release = rke2_release(dir.path(), TO)?;
        let inside = machine.root().join(RELEASE.trim_start_matches('/'));
        std::fs::create_dir_all(&inside)?;
        std::fs::copy(&release.tarball, inside.join("rke2.linux-amd64.tar.gz"))?;
        let none = cast.devices.iter().map(|(device, _)| (device.clone(), "0".to_owned())).collect();
        for spare in &cast.spares {
            register_node(&client.clone().into(), spare, &cast.from, &cast.labels, &none, Timestamp::now())
                .await?;
        }

        say("eight VMs on node1: five that can move, two with a PCI device, one with a vGPU");
        namespace_with_account(&client, &cast.namespace).await?;
        let in_time = Instant::now() + Duration::from_mins(15);
        world::create_and_wait_running(&client, &cast.vms, &cast.node, in_time).await?;
        if let Some(other) = cast.spares.first() {
            world::create_and_wait_running(&client, &cast.elsewhere, other, in_time).await?;
        }
        create_bystander(&client, &cast).await?;
        let mut nodes: Vec<&str> = cast.spares.iter().map(String::as_str).collect();
        nodes.insert(0, &cast.node);
        let upgrade = world::upgrade(&cast.upgrade, "v1.8.1", "v1.7.0", &nodes);
        let upgrades: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), NAMESPACE, &world::upgrade_resource());
        let upgrade = upgrades.create(&PostParams::default(), &upgrade).await?;
        Ok(Self {
            upgrade_uid: upgrade.uid().context("the Upgrade has no uid")?,
            new_sha256: release.binary_sha256.clone(),
            kubeconfig: cluster.kubeconfig.clone(),
            client,
            machine,
            control_plane,
            soak_seconds: 5,
            node: cast.node,
            role: cast.role,
            from: cast.from,
            upgrade: cast.upgrade,
            namespace: cast.namespace,
            release,
            dir,
            cluster,
        })
    }

    /// RKE2's unit on the machine.
    pub fn unit(&self) -> String {
        unit_name(self.role)
    }

    /// The plan of the one upgrade.
    pub fn plan(&self) -> NodePlan {
        NodePlan {
            upgrade_name: self.upgrade.clone(),
            upgrade_uid: self.upgrade_uid.clone(),
            node_name: self.node.clone(),
            role: None,
            rke2: VersionChange {
                from: self.from.parse().expect("a version"),
                to: TO.parse().expect("a version"),
            },
            artifacts: Artifacts {
                source: format!("file://{RELEASE}"),
                sha256: self.release.sha256.clone(),
                sums: None,
                images: Vec::new(),
            },
            swap: SwapMode::Direct,
            evacuation: Evacuation::default(),
            immutable_binary: false,
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
        self.order_with(control, |_| {}).await
    }

    /// Creates a `NodeUpgrade` with another policy.
    pub async fn order_with(&self, control: Control, policy: impl FnOnce(&mut Evacuation)) -> Result<()> {
        self.order_plan(control, |plan| policy(&mut plan.evacuation)).await
    }

    /// Creates a `NodeUpgrade` of another plan.
    pub async fn order_plan(&self, control: Control, change: impl FnOnce(&mut NodePlan)) -> Result<()> {
        let mut plan = self.plan();
        change(&mut plan);
        let name = safe_concat(&[&self.upgrade, &self.node]);
        let order = NodeUpgrade::new(&name, NodeUpgradeSpec::of(&plan, control));
        self.orders().create(&PostParams::default(), &order).await?;
        Ok(())
    }

    /// The operator changes their mind.
    pub async fn set_control(&self, control: Control) -> Result<()> {
        let patch = json!({ "spec": { "control": control } });
        let name = safe_concat(&[&self.upgrade, &self.node]);
        self.orders().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// The release's tarball, as it lies on this computer.
    pub fn tarball(&self) -> &Path {
        &self.release.tarball
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
            .args(["--local-address", &self.machine.address().to_string(), "--node-name", &self.node])
            .env("UPGRADE_AGENT_SOAK_SECONDS", self.soak_seconds.to_string())
            .env_remove("KUBECONFIG")
            .env_remove("RUST_LOG")
            .kill_on_drop(true);
        command
    }

    /// From now on the agent asks a proxy, with the rights it has.
    pub async fn behind_proxy(
        &mut self,
        pattern: impl Fn(&Method, &Uri, usize) -> Fate + Send + Sync + 'static,
    ) -> Result<Proxy> {
        let rights = Kubeconfig::read_from(&self.kubeconfig)?;
        let rights = kube::Config::from_custom_kubeconfig(rights, &KubeConfigOptions::default()).await?;
        let proxy = Proxy::start(Client::try_from(rights)?, pattern).await?;
        self.kubeconfig = proxy.kubeconfig(self.dir.path())?;
        Ok(proxy)
    }

    /// Runs the agent to its end, which comes within half an hour on any machine.
    pub async fn run_agent(&self, binary: &Path, arguments: &[&str]) -> Result<Output> {
        self.run_agent_within(Duration::from_mins(30), binary, arguments).await
    }

    /// The same with another limit.
    pub async fn run_agent_within(
        &self,
        limit: Duration,
        binary: &Path,
        arguments: &[&str],
    ) -> Result<Output> {
        let output = self.agent(binary, arguments).output();
        let ended = tokio::time::timeout(limit, output).await;
        Ok(ended.with_context(|| format!("the agent does not end; journal:\n{}", self.journal()))??)
    }

    /// Starts the agent and leaves it running.
    pub fn start_agent(&self, binary: &Path, arguments: &[&str]) -> Result<Child> {
        Ok(self.agent(binary, arguments).stdout(std::process::Stdio::null()).spawn()?)
    }
}

/// The API server taints every new Node as not ready; the controller that would take that away is off in the test bed.
async fn lift_birth_taint(client: &Client, node: &str) -> Result<()> {
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    let patch = json!({ "spec": { "taints": null } });
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A pod on the node that is no VM: the drain has to evict it.
async fn create_bystander(client: &Client, cast: &Cast) -> Result<()> {
    let api: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), &cast.namespace);
    let pod = serde_json::from_value(json!({
        "metadata": { "name": "bystander" },
        "spec": {
            "nodeName": cast.node, "automountServiceAccountToken": false,
            "containers": [{ "name": "main", "image": "bystander" }],
        },
    }))?;
    api.create(&PostParams::default(), &pod).await?;
    Ok(())
}

/// Pods need the namespace's default account, which a controller makes some moments after the namespace.
async fn namespace_with_account(client: &Client, namespace: &str) -> Result<()> {
    if namespace != "default" {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
        let made = serde_json::from_value(json!({ "metadata": { "name": namespace } }))?;
        namespaces.create(&PostParams::default(), &made).await?;
    }
    let api: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), namespace);
    for _ in 0..3000 {
        if api.get_opt("default").await?.is_some() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the controller manager made no default service account in five minutes")
}
