//! Evictions: the eviction API with its budgets. What is left is returned, never a bare Ok.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, EvictParams, ListParams};
use kube::{Client, ResourceExt};

use crate::cluster::brief::BriefPod;
use crate::cluster::{ClusterError, ask};

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// The pod is on its way out, or was gone already.
    Accepted,
    /// A disruption budget, or a webhook, does not allow it now.
    NotNow {
        /// The server's word.
        why: String,
    },
}

/// All pods bound to a node.
///
/// # Errors
/// [`ClusterError`].
pub async fn pods_on(client: &Client, node: &str) -> Result<Vec<BriefPod>, ClusterError> {
    let api: Api<BriefPod> = Api::all(client.clone());
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    Ok(ask(format!("list pods of node {node}"), api.list(&params)).await?.items)
}

/// Does a drain have to wait for this pod? Not for finished ones, static ones, and those of a `DaemonSet`.
#[must_use]
pub fn must_leave(pod: &BriefPod) -> bool {
    let is_static = pod.annotations().contains_key("kubernetes.io/config.mirror");
    let of_daemon_set = pod
        .owner_references()
        .iter()
        .any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    !(pod.has_finished() || is_static || of_daemon_set)
}

/// Asks for one pod's eviction.
///
/// # Errors
/// [`ClusterError`] for anything but a yes or a not-now.
pub async fn evict(client: &Client, pod: &BriefPod) -> Result<Eviction, ClusterError> {
    let namespace = pod.namespace().unwrap_or_default();
    let name = pod.name_any();
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    match ask(format!("evict pod {namespace}/{name}"), api.evict(&name, &EvictParams::default())).await {
        Ok(_) | Err(ClusterError::Gone { .. }) => Ok(Eviction::Accepted),
        Err(ClusterError::Unavailable { source, .. }) if source.code == Some(429) => {
            Ok(Eviction::NotNow { why: source.text })
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_that_can_go_must_go() {
        let pod = |value: serde_json::Value| serde_json::from_value::<BriefPod>(value).unwrap();
        let table = [
            (serde_json::json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}}), true),
            (serde_json::json!({"metadata": {"name": "a"}, "status": {"phase": "Pending"}}), true),
            (serde_json::json!({"metadata": {"name": "a"}}), true),
            (serde_json::json!({"metadata": {"name": "a"}, "status": {"phase": "Succeeded"}}), false),
            (
                serde_json::json!({"metadata": {"name": "a", "annotations": {"kubernetes.io/config.mirror": "x"}}}),
                false,
            ),
            (
                serde_json::json!({"metadata": {"name": "a", "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "1", "controller": true}]}}),
                false,
            ),
        ];
        for (value, expected) in table {
            assert_eq!(must_leave(&pod(value.clone())), expected, "{value}");
        }
    }
}
