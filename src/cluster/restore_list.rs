//! Harvester's `ConfigMap` `<upgrade>-restore-vm`: one key a node, a comma list of VMs. Merged, never replaced.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::names::safe_concat;
use crate::cluster::{Cluster, ClusterError, ask, ask_opt};

/// The union of a comma list and more names, in order, without doubles.
#[must_use]
pub fn merge(listed: &str, more: &[String]) -> String {
    let mut all: BTreeSet<&str> = listed.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    all.extend(more.iter().map(String::as_str));
    all.into_iter().collect::<Vec<_>>().join(",")
}

/// Adds these VMs to the node's key.
///
/// # Errors
/// [`ClusterError`]; a conflict when another node's agent wrote at the same moment.
pub async fn add(
    cluster: &Cluster,
    upgrade: &str,
    upgrade_uid: &str,
    node: &str,
    vms: &[String],
) -> Result<(), ClusterError> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let name = safe_concat(&[upgrade, "restore-vm"]);
    if let Some(found) = ask_opt(format!("read ConfigMap {name}"), api.get(&name)).await? {
        let listed = found.data.as_ref().and_then(|data| data.get(node)).map_or("", String::as_str);
        let list = merge(listed, vms);
        if list == listed {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "resourceVersion": found.metadata.resource_version },
            "data": { node: list },
        });
        let params = PatchParams::default();
        ask(format!("add to ConfigMap {name}"), api.patch(&name, &params, &Patch::Merge(patch))).await?;
    } else {
        let made: ConfigMap = serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "labels": { "harvesterhci.io/upgrade": upgrade, "harvesterhci.io/upgradeComponent": "node" },
                "ownerReferences": [{
                    "apiVersion": "harvesterhci.io/v1beta1", "kind": "Upgrade", "name": upgrade, "uid": upgrade_uid,
                }],
            },
            "data": { node: merge("", vms) },
        }))
        .map_err(|error| {
            ClusterError::of(format!("build ConfigMap {name}"), &kube::Error::SerdeError(error))
        })?;
        ask(format!("create ConfigMap {name}"), api.create(&PostParams::default(), &made)).await?;
    }
    Ok(())
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
}
