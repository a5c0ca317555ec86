//! `Observed`: the world read once for one decision. Each field is known, or it says why not; reads only.

use std::path::PathBuf;

use kube::Client;

use crate::agent::step_error::{StepError, chain};
use crate::cluster::{nodes, vms};
use crate::host::Host;
use crate::host::fence::{self, FenceState};
use crate::host::process;

/// One reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading<T> {
    /// This is how it is.
    Known(T),
    /// Nobody can say; the error in one line.
    CouldNotTell(String),
}

impl<T> Reading<T> {
    fn of<E: std::error::Error + 'static>(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Known(value),
            Err(error) => Self::CouldNotTell(chain(&error)),
        }
    }
}

/// What the gate looks at, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Instances that the API shows on the node and that have not ended.
    pub instances: Reading<Vec<String>>,
    /// Launcher pods on the node that have not finished.
    pub launchers: Reading<Vec<String>>,
    /// Processes of VMs on the machine itself, whatever the API says.
    pub processes: Reading<Vec<String>>,
    /// The node takes no new VM: it is cordoned, or carries our taint in a cordon's stead. Its drain taint only asks `KubeVirt`
    /// to move VMs away, and Harvester takes that off where it knows of no upgrade (`kubevirt.md` §4.1).
    pub closed: Reading<bool>,
    /// Our fence is loaded on the unit.
    pub fenced: Reading<bool>,
    /// sha256 of the binary at the live path.
    pub live_sha256: Reading<String>,
}

/// Reads all of it.
pub async fn observe(
    host: &Host,
    client: &Client,
    node: &str,
    unit: &str,
    upgrade_uid: &str,
    live: &str,
) -> Observed {
    let instances = vms::instances_on(client, node).await.map(|all| {
        all.iter().filter(|vmi| vms::ended(vmi).is_none()).map(|vmi| vms::key_of(vmi).to_string()).collect()
    });
    let closed = nodes::get(client, node).await.map(|found| found.as_ref().is_some_and(nodes::is_closed));
    let fenced = fence::state(host, unit, upgrade_uid).await.map(|state| match state {
        FenceState::Ours => true,
        FenceState::Absent
        | FenceState::Other(_)
        | FenceState::WrittenNotLoaded
        | FenceState::RemovedStillLoaded => false,
    });
    let root = host.root.clone();
    let processes = host
        .root
        .fs()
        .blocking(move |_| process::vm_processes(&root))
        .await
        .map(|all| all.iter().map(|process| format!("{} (pid {})", process.name, process.pid)).collect());
    let live_sha256 = sha256_of(host, host.root.at(live)).await;
    Observed {
        instances: Reading::of(instances),
        launchers: Reading::of(vms::launchers_on(client, node).await),
        processes: Reading::of(processes),
        closed: Reading::of(closed),
        fenced: Reading::of(fenced),
        live_sha256: Reading::of(live_sha256),
    }
}

/// sha256 of a file of the machine; our own path.
///
/// # Errors
/// It cannot be read.
pub async fn sha256_of(host: &Host, path: PathBuf) -> Result<String, StepError> {
    host.root.fs().blocking(move |fs| fs.sha256_file(&path).map_err(StepError::from)).await
}

/// sha256 of the program that a process of the machine runs.
///
/// # Errors
/// There is no such process, or it cannot be looked at.
pub async fn sha256_of_process(host: &Host, pid: u32) -> Result<String, StepError> {
    let root = host.root.clone();
    host.root.fs().blocking(move |_| process::exe_sha256(&root, pid).map_err(StepError::from)).await
}
