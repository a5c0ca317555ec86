//! A VM that was being stopped when the run was called off: is it off by now, or was it never told? Writes nothing.

use std::time::Duration;

use jiff::SignedDuration;
use kube::api::Api;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use tokio::time::{sleep, timeout};

use crate::agent::step_error::chain;
use crate::cluster::crd::kubevirt::VirtualMachineInstance;
use crate::cluster::{ClusterError, vms};
use crate::flow::vms::LedgerLine;

/// So long a request may be on its way after we have given it up.
const ON_ITS_WAY: SignedDuration = SignedDuration::from_secs(35);
/// Between two tries while the API is away.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How that ended.
pub(super) enum Settled {
    /// It is off.
    Off,
    /// Its stop was never heard.
    RunsOn,
    /// It does not go, or nobody could tell: why, and what helps.
    Not(String),
}

/// Waits until it is settled, for `time` at most; its stop was asked for `asked` ago.
pub(super) async fn settle_stop(
    client: &Client,
    line: &LedgerLine,
    asked: SignedDuration,
    time: Duration,
) -> Settled {
    let vm = &line.entry.vm;
    let mut early = Duration::try_from(ON_ITS_WAY - asked).unwrap_or_default();
    let mut trouble = String::new();
    let settled = async {
        loop {
            trouble = match heard(client, line).await {
                Ok(false) if early.is_zero() => return Settled::RunsOn,
                Ok(false) => {
                    sleep(std::mem::take(&mut early)).await;
                    continue;
                }
                Ok(true) => match gone(client, line).await {
                    Ok(()) => return Settled::Off,
                    Err(why) => why,
                },
                Err(error) => chain(&error),
            };
            sleep(ASK_AGAIN).await;
        }
    };
    match timeout(time, settled).await {
        Ok(settled) => settled,
        Err(_) if trouble.is_empty() => {
            Settled::Not(format!("VM {vm} was told to shut down and does not; look at its guest"))
        }
        Err(_) => Settled::Not(format!("nobody could tell whether VM {vm} has shut down: {trouble}")),
    }
}

/// Was the stop heard, or is it off already?
async fn heard(client: &Client, line: &LedgerLine) -> Result<bool, ClusterError> {
    match vms::instance(client, &line.entry.vm).await?.filter(|vmi| runs_on(vmi, line)) {
        Some(vmi) => vms::stop_was_heard(client, &vmi).await,
        None => Ok(true),
    }
}

async fn gone(client: &Client, line: &LedgerLine) -> Result<(), String> {
    let vm = &line.entry.vm;
    let api: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), &vm.namespace);
    let gone = |vmi: Option<&VirtualMachineInstance>| !vmi.is_some_and(|vmi| runs_on(vmi, line));
    await_condition(api, &vm.name, gone)
        .await
        .map(drop)
        .map_err(|error| format!("could not watch VM {vm}: {error}"))
}

/// The old instance, and more of it than what `KubeVirt` keeps of a guest that has ended.
fn runs_on(vmi: &VirtualMachineInstance, line: &LedgerLine) -> bool {
    let is_left = vms::ended(vmi).is_some() && vmi.metadata.deletion_timestamp.is_none();
    vmi.uid().as_deref() == Some(&line.entry.vmi_uid) && !is_left
}
