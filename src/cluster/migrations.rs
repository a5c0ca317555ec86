//! Live migrations: ask for one, find ours again, abort one, take an eviction's mark off a VM. Each call says what it wrote
//! or why not.

use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::cluster::crd::kubevirt::{
    VMI_NAME_LABEL, VirtualMachineInstanceMigration, VirtualMachineInstanceMigrationSpec,
};
use crate::cluster::names::{digest, safe_concat};
use crate::cluster::vms::Answer;
use crate::cluster::write::delete;
use crate::cluster::{ClusterError, ask, ask_opt};
use crate::flow::vms::VmKey;

/// Label on our migrations: the upgrade's uid.
const UID_LABEL: &str = "agent.harvesterhci.io/upgrade-uid";
/// Label on our migrations: the journal line that asked for it.
const ATTEMPT_LABEL: &str = "agent.harvesterhci.io/attempt-id";
/// Label on our migrations: the node whose journal that is. Lines of two journals have the same numbers.
const FROM_LABEL: &str = "agent.harvesterhci.io/from-node";
/// The label that names a node.
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// A longer name cannot be the value of a label.
const LONGEST_LABEL: usize = 63;

/// One attempt to move one VM.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Who.
    pub vm: &'a VmKey,
    /// The journal line that asks for it: with the node it makes the name unique and finds it again.
    pub id: u64,
    /// The node that it is to leave.
    pub node: &'a str,
    /// The upgrade's name.
    pub upgrade: &'a str,
    /// Its uid.
    pub upgrade_uid: &'a str,
    /// Only to this node. A `KubeVirt` that does not know the field drops it and chooses for itself.
    pub to: Option<&'a str>,
}

/// Asks for a migration.
///
/// # Errors
/// [`ClusterError`] for anything that is no answer about this VM.
pub async fn create(client: &Client, attempt: Attempt<'_>) -> Result<Answer, ClusterError> {
    let Attempt { vm, id, node, upgrade, upgrade_uid, to } = attempt;
    let api: Api<VirtualMachineInstanceMigration> = Api::namespaced(client.clone(), &vm.namespace);
    let selector = to.map(|node| (HOSTNAME_LABEL.to_owned(), node.to_owned()));
    let spec = VirtualMachineInstanceMigrationSpec {
        vmi_name: vm.name.clone(),
        added_node_selector: selector.into_iter().collect(),
    };
    let short: String = upgrade_uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let name = safe_concat(&["upgrade", &short.to_ascii_lowercase(), node, &vm.name, &id.to_string()]);
    let mut made = VirtualMachineInstanceMigration::new(&name, spec);
    let labels = made.labels_mut();
    labels.insert("harvesterhci.io/upgrade".to_owned(), upgrade.to_owned());
    labels.insert(VMI_NAME_LABEL.to_owned(), vm.name.clone());
    labels.insert(UID_LABEL.to_owned(), upgrade_uid.to_owned());
    labels.insert(ATTEMPT_LABEL.to_owned(), id.to_string());
    labels.insert(FROM_LABEL.to_owned(), label_of(node));
    let ask_for = async |made: &VirtualMachineInstanceMigration| {
        ask(format!("live-migrate VM {vm}"), api.create(&PostParams::default(), made)).await
    };
    let mut answer = ask_for(&made).await;
    // An admission that knows no such field: rather anywhere than nowhere.
    if to.is_some()
        && let Err(ClusterError::Rejected { source, .. }) = &answer
        && source.text.contains("addedNodeSelector")
    {
        made.spec.added_node_selector.clear();
        answer = ask_for(&made).await;
    }
    match answer {
        Ok(_) => Ok(Answer::Accepted),
        Err(ClusterError::Gone { .. }) => Ok(Answer::NoSuchVm),
        // KubeVirt's webhook refuses with 400 what cannot move now: another migration is in flight, the guest has ended.
        Err(ClusterError::Conflict { source, .. } | ClusterError::Rejected { source, .. }) => {
            Ok(Answer::LookAgain { why: source.text })
        }
        Err(error) => Err(error),
    }
}

/// A node's name where it fits into a label, else its digest.
fn label_of(node: &str) -> String {
    if node.len() <= LONGEST_LABEL {
        node.to_owned()
    } else {
        digest(node.as_bytes()).chars().take(16).collect()
    }
}

/// Which of the attempts of this upgrade on this node a migration is; none when it is somebody else's.
#[must_use]
pub fn attempt_of(migration: &VirtualMachineInstanceMigration, upgrade_uid: &str, node: &str) -> Option<u64> {
    let labels = migration.labels();
    let ours = labels.get(UID_LABEL).is_some_and(|uid| uid == upgrade_uid)
        && labels.get(FROM_LABEL).is_none_or(|from| *from == label_of(node));
    labels.get(ATTEMPT_LABEL).filter(|_| ours)?.parse().ok()
}

/// The VM that a migration is about.
#[must_use]
pub fn vm_of(migration: &VirtualMachineInstanceMigration) -> VmKey {
    VmKey::new(&migration.namespace().unwrap_or_default(), &migration.spec.vmi_name)
}

/// It has not come to its end.
#[must_use]
pub fn is_unfinished(migration: &VirtualMachineInstanceMigration) -> bool {
    let phase = migration.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// The unfinished ones that this upgrade has asked for.
///
/// # Errors
/// [`ClusterError`].
pub async fn unfinished_of_upgrade(
    client: &Client,
    upgrade_uid: &str,
) -> Result<Vec<VirtualMachineInstanceMigration>, ClusterError> {
    let api: Api<VirtualMachineInstanceMigration> = Api::all(client.clone());
    let params = ListParams::default().labels(&format!("{UID_LABEL}={upgrade_uid}"));
    let listed = ask("list the migrations of this upgrade", api.list(&params)).await?;
    Ok(listed.items.into_iter().filter(is_unfinished).collect())
}

/// The unfinished ones of one VM, whoever asked for them, as they are now.
///
/// # Errors
/// [`ClusterError`].
pub async fn unfinished_of_vm(
    client: &Client,
    vm: &VmKey,
) -> Result<Vec<VirtualMachineInstanceMigration>, ClusterError> {
    let api: Api<VirtualMachineInstanceMigration> = Api::namespaced(client.clone(), &vm.namespace);
    let mut params = ListParams::default();
    if vm.name.len() <= LONGEST_LABEL {
        params = params.labels(&format!("{VMI_NAME_LABEL}={}", vm.name));
    }
    let listed = ask(format!("list the migrations of VM {vm}"), api.list(&params)).await?;
    Ok(listed.items.into_iter().filter(|one| one.spec.vmi_name == vm.name && is_unfinished(one)).collect())
}

/// Deletes a migration, which aborts it: its end comes later, and may be that it has succeeded.
///
/// # Errors
/// [`ClusterError`]; that it is gone, or another one by that name, is none.
pub async fn abort(client: &Client, vm: &VmKey, name: &str, uid: &str) -> Result<(), ClusterError> {
    let api: Api<VirtualMachineInstanceMigration> = Api::namespaced(client.clone(), &vm.namespace);
    let uid = (!uid.is_empty()).then(|| uid.to_owned());
    delete(&api, name, uid, format!("abort migration {name} of VM {vm}")).await
}

/// Its target is there, or the guest is on its way already.
#[must_use]
pub fn has_target(migration: &VirtualMachineInstanceMigration) -> bool {
    let phase = migration.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("PreparingTarget" | "TargetReady" | "Running"))
}

/// Takes the mark of an eviction off an instance, so that `KubeVirt` does not move it away any more.
///
/// # Errors
/// [`ClusterError`]; virt-api refuses as long as the node carries the drain taint.
pub async fn cancel_evacuation(client: &Client, vm: &VmKey, node: &str) -> Result<(), ClusterError> {
    let VmKey { namespace, name } = vm;
    let path = format!(
        "/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}/evacuate/cancel"
    );
    let what = format!("cancel the evacuation of VM {vm}");
    let request = http::Request::put(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(json!({ "evacuationNodeName": node }).to_string().into_bytes())
        .map_err(|error| ClusterError::of(what.clone(), &kube::Error::HttpError(error)))?;
    ask_opt(what, client.request_text(request)).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journals_of_two_nodes_have_lines_of_the_same_number() {
        let spec = VirtualMachineInstanceMigrationSpec::default();
        let mut migration = VirtualMachineInstanceMigration::new("m", spec);
        let mut label = |key: &str, value: &str| {
            migration.labels_mut().insert(key.to_owned(), value.to_owned());
            migration.clone()
        };
        label(UID_LABEL, "u");
        let of_earlier_agents = label(ATTEMPT_LABEL, "12");
        assert_eq!(attempt_of(&of_earlier_agents, "u", "node1"), Some(12));
        assert_eq!(attempt_of(&of_earlier_agents, "other", "node1"), None);
        let of_node1 = label(FROM_LABEL, "node1");
        assert_eq!(attempt_of(&of_node1, "u", "node1"), Some(12));
        assert_eq!(attempt_of(&of_node1, "u", "node2"), None);
        let long = "n".repeat(70);
        let of_long = label(FROM_LABEL, &label_of(&long));
        assert_eq!(attempt_of(&of_long, "u", &long), Some(12));
        assert!(label_of(&long).len() <= LONGEST_LABEL);
    }
}
