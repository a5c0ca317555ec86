//! The mark on a VM that we shut down: for which upgrade. It goes before the stop, in the same order as its journal line,
//! and is taken off once the VM runs again, or is its user's. Whoever takes it off before that has taken the VM over.

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::json;

use crate::cluster::crd::kubevirt::VirtualMachine;
use crate::cluster::vms::Answer;
use crate::cluster::{ClusterError, ask};
use crate::flow::vms::VmKey;

/// Annotation on a VM: uid of the upgrade that it was shut down for.
pub const STOPPED_FOR: &str = "agent.harvesterhci.io/stopped-for";

/// What came of a mark.
#[derive(Debug, Clone)]
pub enum Marked {
    /// It is there, and this is the VM now.
    Yes(Box<DynamicObject>),
    /// It is not.
    No(Answer),
}

/// Marks a VM, but only the one of this uid: another one of the same name is nobody's to stop.
///
/// # Errors
/// [`ClusterError`] for anything that is no answer about this VM.
pub async fn put(client: &Client, key: &VmKey, uid: &str, upgrade_uid: &str) -> Result<Marked, ClusterError> {
    write(client, key, uid, Some(upgrade_uid)).await
}

/// Takes the mark off again.
///
/// # Errors
/// [`ClusterError`] for anything that is no answer about this VM.
pub async fn take_off(client: &Client, key: &VmKey, uid: &str) -> Result<Answer, ClusterError> {
    Ok(match write(client, key, uid, None).await? {
        Marked::Yes(_) => Answer::Accepted,
        Marked::No(answer) => answer,
    })
}

async fn write(client: &Client, key: &VmKey, uid: &str, mark: Option<&str>) -> Result<Marked, ClusterError> {
    let kind = ApiResource::erase::<VirtualMachine>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &kind);
    let patch = json!({ "metadata": { "uid": uid, "annotations": { STOPPED_FOR: mark } } });
    let what = match mark {
        Some(_) => format!("mark VM {key} as shut down for the upgrade"),
        None => format!("take the mark of the upgrade off VM {key}"),
    };
    match ask(what, api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))).await {
        Ok(vm) => Ok(Marked::Yes(Box::new(vm))),
        Err(ClusterError::Gone { .. }) => Ok(Marked::No(Answer::NoSuchVm)),
        // Another uid is refused with 422, a backup under way by Harvester's webhook with 400.
        Err(ClusterError::Conflict { source, .. } | ClusterError::Rejected { source, .. }) => {
            Ok(Marked::No(Answer::LookAgain { why: source.text }))
        }
        Err(ClusterError::Unavailable { source, .. }) if source.code == Some(500) => {
            Ok(Marked::No(Answer::LookAgain { why: source.text }))
        }
        Err(error) => Err(error),
    }
}
