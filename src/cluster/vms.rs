//! Virtual machines: read facts, stop, start; their migrations are next door. Each call says what it wrote or why not.

use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::cluster::brief::BriefPod;
use crate::cluster::crd::kubevirt::{
    LAUNCHER_SELECTOR, NODE_NAME_LABEL, VirtualMachine, VirtualMachineInstance,
};
use crate::cluster::write::delete;
use crate::cluster::{ClusterError, ask, ask_opt};
use crate::flow::vms::VmKey;

/// What virt-api said to a stop or start, or the API server to a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 202: it will happen.
    Accepted,
    /// 404: there is no such VM any more.
    NoSuchVm,
    /// 409 or 500: the state does not allow it, or two writers raced. Look again before asking again
    /// (reference `kubevirt.md` §2.3: a 500 there is no failure of the goal).
    LookAgain {
        /// virt-api's word.
        why: String,
    },
}

/// Who an instance is.
#[must_use]
pub fn key_of(vmi: &impl ResourceExt) -> VmKey {
    VmKey { namespace: vmi.namespace().unwrap_or_default(), name: vmi.name_any() }
}

/// None while the guest lives, else how it ended.
#[must_use]
pub fn ended(vmi: &VirtualMachineInstance) -> Option<bool> {
    match vmi.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => Some(true),
        Some("Failed") => Some(false),
        _ => None,
    }
}

/// Label selector of the instances on a node.
#[must_use]
pub fn on_node_selector(node: &str) -> String {
    format!("{NODE_NAME_LABEL}={node}")
}

/// All instances on a node, ended ones too.
///
/// # Errors
/// [`ClusterError`].
pub async fn instances_on(client: &Client, node: &str) -> Result<Vec<VirtualMachineInstance>, ClusterError> {
    let api: Api<VirtualMachineInstance> = Api::all(client.clone());
    let params = ListParams::default().labels(&on_node_selector(node));
    Ok(ask(format!("list the VMs of node {node}"), api.list(&params)).await?.items)
}

/// Launcher pods on a node that have not finished, as `namespace/name`: an instance that is still being scheduled has no
/// node label yet, but its pod has a node (reference `kubevirt.md` §1.3).
///
/// # Errors
/// [`ClusterError`].
pub async fn launchers_on(client: &Client, node: &str) -> Result<Vec<String>, ClusterError> {
    let api: Api<BriefPod> = Api::all(client.clone());
    let params = ListParams::default().labels(LAUNCHER_SELECTOR).fields(&format!("spec.nodeName={node}"));
    let pods = ask(format!("list the launcher pods of node {node}"), api.list(&params)).await?;
    Ok(pods.iter().filter(|pod| !pod.has_finished()).map(|pod| key_of(pod).to_string()).collect())
}

/// One VM; none when it is gone.
///
/// # Errors
/// [`ClusterError`].
pub async fn vm(client: &Client, key: &VmKey) -> Result<Option<VirtualMachine>, ClusterError> {
    let api: Api<VirtualMachine> = Api::namespaced(client.clone(), &key.namespace);
    ask_opt(format!("read VM {key}"), api.get(&key.name)).await
}

/// One instance; none when it is gone.
///
/// # Errors
/// [`ClusterError`].
pub async fn instance(client: &Client, key: &VmKey) -> Result<Option<VirtualMachineInstance>, ClusterError> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), &key.namespace);
    ask_opt(format!("read VM instance {key}"), api.get(&key.name)).await
}

/// Asks virt-api to shut the guest down; `grace_seconds: Some(0)` cuts its power.
///
/// # Errors
/// [`ClusterError`] for anything that is no answer about this VM.
pub async fn stop(client: &Client, key: &VmKey, grace_seconds: Option<u32>) -> Result<Answer, ClusterError> {
    let body = grace_seconds.map_or_else(|| json!({}), |grace| json!({ "gracePeriod": grace }));
    subresource(client, key, "stop", &body).await
}

/// Has anybody heard a request to stop this instance? Its deletion, a queued request and a halted strategy all say so.
///
/// # Errors
/// [`ClusterError`].
pub async fn stop_was_heard(client: &Client, vmi: &VirtualMachineInstance) -> Result<bool, ClusterError> {
    if vmi.metadata.deletion_timestamp.is_some() || ended(vmi).is_some() {
        return Ok(true);
    }
    let Some(owner) = vm(client, &key_of(vmi)).await? else { return Ok(true) };
    let uid = vmi.uid().unwrap_or_default();
    let queued =
        owner.status.iter().flat_map(|status| &status.state_change_requests).any(|request| {
            request.action == "Stop" && request.uid.as_deref().is_none_or(|queued| queued == uid)
        });
    Ok(queued || owner.spec.effective_strategy() == Some("Halted"))
}

/// Asks virt-api to start the VM.
///
/// # Errors
/// [`ClusterError`] for anything that is no answer about this VM.
pub async fn start(client: &Client, key: &VmKey) -> Result<Answer, ClusterError> {
    subresource(client, key, "start", &json!({})).await
}

/// Removes what is left of a guest that has ended, so that `KubeVirt` starts the VM anew; harmless when it is another one by
/// now. A VM of run strategy Once is started again by nothing else (reference `kubevirt.md` §3, §8).
///
/// # Errors
/// [`ClusterError`].
pub async fn clear_ended(client: &Client, key: &VmKey, uid: &str) -> Result<(), ClusterError> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), &key.namespace);
    delete(&api, &key.name, Some(uid.to_owned()), format!("remove the ended instance of VM {key}")).await
}

/// virt-api answers. Not a word about whether it is healthy inside.
///
/// # Errors
/// [`ClusterError`].
pub async fn healthz(client: &Client) -> Result<(), ClusterError> {
    let what = "ask virt-api's healthz".to_owned();
    let request = http::Request::get("/apis/subresources.kubevirt.io/v1/healthz")
        .body(Vec::new())
        .map_err(|error| ClusterError::of(what.clone(), &kube::Error::HttpError(error)))?;
    ask(what, client.request_text(request)).await.map(|_| ())
}

async fn subresource(
    client: &Client,
    key: &VmKey,
    verb: &str,
    body: &serde_json::Value,
) -> Result<Answer, ClusterError> {
    let VmKey { namespace, name } = key;
    let path =
        format!("/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachines/{name}/{verb}");
    let what = format!("{verb} VM {key}");
    let request = http::Request::put(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .map_err(|error| ClusterError::of(what.clone(), &kube::Error::HttpError(error)))?;
    match ask(what, client.request_text(request)).await {
        Ok(_) => Ok(Answer::Accepted),
        Err(ClusterError::Gone { .. }) => Ok(Answer::NoSuchVm),
        Err(ClusterError::Conflict { source, .. }) => Ok(Answer::LookAgain { why: source.to_string() }),
        Err(ClusterError::Unavailable { source, .. }) if source.code == Some(500) => {
            Ok(Answer::LookAgain { why: source.text })
        }
        Err(error) => Err(error),
    }
}

/// Writes a run strategy back, but only over the one that is expected: a user's later choice stays.
///
/// # Errors
/// [`ClusterError`]; a conflict or rejection when the strategy is another one by now.
pub async fn set_run_strategy(
    client: &Client,
    key: &VmKey,
    from: &str,
    to: &str,
) -> Result<(), ClusterError> {
    let api: Api<VirtualMachine> = Api::namespaced(client.clone(), &key.namespace);
    let what = format!("set the run strategy of VM {key}");
    let patch = serde_json::from_value(json!([
        { "op": "test", "path": "/spec/runStrategy", "value": from },
        { "op": "replace", "path": "/spec/runStrategy", "value": to },
    ]))
    .map_err(|error| ClusterError::of(what.clone(), &kube::Error::SerdeError(error)))?;
    let params = PatchParams::default();
    ask(what, api.patch(&key.name, &params, &Patch::<()>::Json(patch))).await.map(|_| ())
}
