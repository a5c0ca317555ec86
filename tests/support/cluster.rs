//! What several nodes share: a real API server with the products' CRDs, the agent's rights, and simulators of `KubeVirt`,
//! kubelet and scheduler as its ordinary clients. One for a test alone, or one for all tests of a program.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::Client;
use testbed::control_plane::{ControlPlane, Crds};
use testbed::places::RunDir;
use testbed::virt_api::{AggregatedApi, serve_aggregated};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use upgrade_agent::flow::vms::VmKey;
use upgrade_agent::sim::troubles::Troubles;
use upgrade_agent::sim::virt_api::{self, VirtApi};
use upgrade_agent::sim::{self, Guests, Timing};

use super::NAMESPACE;

/// VMs in the order in which virt-api accepted their shutdown.
type Stops = Arc<Mutex<Vec<VmKey>>>;

/// The cluster without the node under test.
pub struct Cluster {
    /// For objects.
    pub client: Client,
    /// Kubeconfig with the rights of `manifests/rbac.yaml`, no more.
    pub kubeconfig: PathBuf,
    /// The API server.
    pub control_plane: Arc<ControlPlane>,
    /// The simulators' clock.
    pub timing: Timing,
    /// What is wrong with its servers for a while; to its agents, only those behind a proxy meet all of it.
    pub troubles: Troubles,
    /// The VMs whose shutdown virt-api has accepted.
    stops: Stops,
    _virt_api: AggregatedApi,
    stop_simulators: CancellationToken,
    /// Dropped last: the files of everything above.
    pub dir: RunDir,
    /// Ends the runtime that all this lives on, when it has one of its own.
    runtime: Option<oneshot::Sender<()>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop_simulators.cancel();
    }
}

impl Cluster {
    /// How often virt-api accepted a shutdown of this VM, also where whoever asked did not live to hear it.
    pub fn stops_of(&self, vm: &VmKey) -> usize {
        let stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        stops.iter().filter(|stopped| *stopped == vm).count()
    }

    /// Starts everything, saying each part with `say`.
    pub async fn start(timing: fn(Timestamp) -> Timing, say: &impl Fn(&str)) -> Result<Self> {
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
            let file = format!("{}/manifests/{file}", env!("CARGO_MANIFEST_DIR"));
            control_plane.run_kubectl(&["apply", "--server-side", "-f", &file])?;
        }
        let kubeconfig = control_plane.kubeconfig_for_service_account(NAMESPACE, "upgrade-agent").await?;
        let client = control_plane.client();

        say("simulators of KubeVirt, kubelet and scheduler");
        let timing = timing(Timestamp::now());
        let stop_simulators = CancellationToken::new();
        let troubles = Troubles::default();
        tokio::spawn(sim::run_with_switch(
            client.clone(),
            timing.clone(),
            Guests::default(),
            troubles.virt_controller.clone(),
            stop_simulators.clone(),
        ));
        let (virt, up) =
            (VirtApi { wire: client.clone().into(), timing: timing.clone() }, troubles.virt_api.clone());
        let stops = Stops::default();
        let accepted = stops.clone();
        let virt_api = serve_aggregated(&control_plane, move |request| {
            let (virt, up, accepted) = (virt.clone(), up.clone(), accepted.clone());
            async move {
                if !up.is_on() {
                    return virt_api::unreachable();
                }
                let path = request.uri().path().to_owned();
                let response = virt.respond(request).await;
                if let Some(vm) = vm_of_stop(&path)
                    && response.status().is_success()
                {
                    accepted.lock().unwrap_or_else(PoisonError::into_inner).push(vm);
                }
                response
            }
        })
        .await?;
        let control_plane = Arc::new(control_plane);
        Ok(Self {
            client,
            kubeconfig,
            control_plane,
            timing,
            troubles,
            stops,
            _virt_api: virt_api,
            stop_simulators,
            dir,
            runtime: None,
        })
    }

    /// The one that all tests of this program share while at least one of them uses it. It has a runtime of its own, because
    /// each test ends the one that it runs on.
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return Ok(cluster);
        }
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let started = tokio::runtime::Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
                let cluster = runtime.block_on(Self::start(Timing::fast, &|_| {}))?;
                Ok((runtime, cluster))
            });
            match started {
                Ok((runtime, mut cluster)) => {
                    let (keep, dropped) = oneshot::channel();
                    cluster.runtime = Some(keep);
                    drop(tell.send(Ok(cluster)));
                    drop(runtime.block_on(dropped));
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        });
        let cluster = Arc::new(told.recv().context("the thread that starts the cluster died")??);
        *shared = Arc::downgrade(&cluster);
        Ok(cluster)
    }
}

/// The VM that a call shuts down.
fn vm_of_stop(path: &str) -> Option<VmKey> {
    let vm = path.strip_suffix("/stop")?.strip_prefix("/apis/subresources.kubevirt.io/v1/namespaces/")?;
    let (namespace, name) = vm.split_once("/virtualmachines/")?;
    Some(VmKey::new(namespace, name))
}
