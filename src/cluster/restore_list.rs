//! Harvester's `ConfigMap` `<upgrade>-restore-vm`: one key a node, a comma list of VMs. Merged, never replaced.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::names::safe_concat;
use crate::cluster::{Cluster, ClusterError, ask, ask_opt};
use crate::flow::vms::VmKey;

/// The union of a comma list and more names, in order, without doubles.
#[must_use]
pub fn merge(listed: &str, more: &[String]) -> String {
    let mut all: BTreeSet<&str> = listed.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    all.extend(more.iter().map(String::as_str));
    all.into_iter().collect::<Vec<_>>().join(",")
}

/// What the list said of one node before it was added to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// Whom it named; what is no name is left where it is.
    pub vms: Vec<VmKey>,
    /// When the list was made.
    pub since: Option<Timestamp>,
}

/// Adds these VMs to the node's key, and says who was there before. Where nobody is to be added nothing is written.
///
/// # Errors
/// [`ClusterError`]; a conflict when another node's agent, or Harvester's helper, wrote at the same moment.
pub async fn add(
    cluster: &Cluster,
    upgrade: &str,
    upgrade_uid: &str,
    node: &str,
    vms: &[String],
) -> Result<Listed, ClusterError> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let name = safe_concat(&[upgrade, "restore-vm"]);
    let Some(found) = ask_opt(format!("read ConfigMap {name}"), api.get(&name)).await? else {
        if !vms.is_empty() {
            let made = new(&name, upgrade, upgrade_uid, node, vms)?;
            ask(format!("create ConfigMap {name}"), api.create(&PostParams::default(), &made)).await?;
        }
        return Ok(Listed::default());
    };
    let text = found.data.as_ref().and_then(|data| data.get(node)).map_or("", String::as_str);
    let list = merge(text, vms);
    // A list in another order, or with blanks, is as good.
    if !vms.is_empty() && list != merge(text, &[]) {
        let patch = json!({
            "metadata": { "resourceVersion": found.metadata.resource_version },
            "data": { node: list },
        });
        let params = PatchParams::default();
        ask(format!("add to ConfigMap {name}"), api.patch(&name, &params, &Patch::Merge(patch))).await?;
    }
    let since = found.metadata.creation_timestamp.as_ref().map(|time| time.0);
    Ok(Listed { vms: names(text), since })
}

fn new(
    name: &str,
    upgrade: &str,
    upgrade_uid: &str,
    node: &str,
    vms: &[String],
) -> Result<ConfigMap, ClusterError> {
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": { "harvesterhci.io/upgrade": upgrade, "harvesterhci.io/upgradeComponent": "node" },
            "ownerReferences": [{
                "apiVersion": "harvesterhci.io/v1beta1", "kind": "Upgrade", "name": upgrade, "uid": upgrade_uid,
            }],
        },
        "data": { node: merge("", vms) },
    }))
    .map_err(|error| ClusterError::of(format!("build ConfigMap {name}"), &kube::Error::SerdeError(error)))
}

fn names(text: &str) -> Vec<VmKey> {
    let parse = |name: &str| match name.parse() {
        Ok(vm) => Some(vm),
        Err(error) => {
            tracing::warn!(%error, "Harvester's list of VMs to start again has a line that names nobody");
            None
        }
    };
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_never_shortens_the_list() {
        assert_eq!(merge("", &["default/a".into()]), "default/a");
        assert_eq!(merge("default/b,default/a", &[]), "default/a,default/b");
        assert_eq!(
            merge("default/b, default/a", &["default/c".into(), "default/a".into()]),
            "default/a,default/b,default/c"
        );
    }

    #[test]
    fn what_others_wrote_is_read_as_far_as_it_names_vms() {
        let read: Vec<String> = names(" default/a,,team/b , web, x/y/z, prod/a b, prod/?x=1")
            .iter()
            .map(VmKey::to_string)
            .collect();
        assert_eq!(read, ["default/a", "team/b"]);
        assert_eq!(names(""), []);
    }
}
