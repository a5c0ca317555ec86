//! Pods and nodes as far as the agent looks at them. A whole pod is twenty times as much to read, a whole node lists every
//! image that it has, and a cluster has thousands of both.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// A pod; for reading only.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct BriefPod {
    /// Its name, labels and so on.
    #[serde(default, deserialize_with = "who")]
    pub metadata: ObjectMeta,
    /// How far it is.
    #[serde(default)]
    pub status: BriefPodStatus,
}

/// How far a pod is.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct BriefPodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`; empty when nobody has said so yet.
    #[serde(default)]
    pub phase: String,
}

impl BriefPod {
    /// Nothing of it runs any more, and never will again.
    #[must_use]
    pub fn has_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// A pod as the scheduler sees it; for reading only.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PlacedPod {
    /// Its name, labels and so on.
    #[serde(default, deserialize_with = "who")]
    pub metadata: ObjectMeta,
    /// What it asks for and where it may be.
    #[serde(default)]
    pub spec: PlacedPodSpec,
}

/// What a pod asks for and where it may be.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacedPodSpec {
    /// Near to what, away from what, on which nodes.
    pub affinity: Option<Affinity>,
    /// Those that run together.
    #[serde(default)]
    pub containers: Vec<PlacedContainer>,
    /// Those that run before them, and sidecars.
    pub init_containers: Option<Vec<PlacedContainer>>,
    /// Labels that its node must have.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// What it takes besides its containers.
    pub overhead: Option<BTreeMap<String, Quantity>>,
    /// `Never`, or `PreemptLowerPriority`.
    pub preemption_policy: Option<String>,
    /// More may push less away.
    pub priority: Option<i32>,
    /// Taints that do not keep it off.
    pub tolerations: Option<Vec<Toleration>>,
}

/// A container as the scheduler sees it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacedContainer {
    /// What it asks for.
    pub resources: Option<PlacedResources>,
    /// `Always` makes a sidecar of one that runs before the others.
    pub restart_policy: Option<String>,
}

/// What a container asks for.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PlacedResources {
    /// At most; counts where nothing is requested.
    pub limits: Option<BTreeMap<String, Quantity>>,
    /// At least.
    pub requests: Option<BTreeMap<String, Quantity>>,
}

/// A node; for reading only.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct BriefNode {
    /// Its name, labels and so on.
    #[serde(default, deserialize_with = "who")]
    pub metadata: ObjectMeta,
    /// Who may come to it.
    #[serde(default)]
    pub spec: BriefNodeSpec,
    /// What its kubelet says.
    #[serde(default)]
    pub status: BriefNodeStatus,
}

/// Who may come to a node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct BriefNodeSpec {
    /// Cordoned.
    #[serde(default)]
    pub unschedulable: bool,
    /// All of them.
    #[serde(default)]
    pub taints: Vec<Taint>,
}

/// What a node's kubelet says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BriefNodeStatus {
    /// All of them.
    #[serde(default)]
    pub conditions: Vec<BriefCondition>,
    /// Which machine it is.
    #[serde(default)]
    pub node_info: Option<BriefNodeInfo>,
    /// What pods may have of it, devices too.
    #[serde(default)]
    pub allocatable: BTreeMap<String, Quantity>,
}

/// One condition of a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BriefCondition {
    /// Its type.
    #[serde(default)]
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// When the kubelet last said so.
    #[serde(default)]
    pub last_heartbeat_time: Option<Time>,
}

/// Which machine it is and what runs on it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BriefNodeInfo {
    /// The machine's `/etc/machine-id`.
    #[serde(default, rename = "machineID")]
    pub machine_id: String,
    /// The kubelet's version.
    #[serde(default)]
    pub kubelet_version: String,
}

/// Who an object is, to whom it belongs, and what it is marked with. Which client wrote which of its fields is often half
/// of an object, and nobody here reads it.
fn who<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Who {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        deletion_timestamp: Option<Time>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
    }
    let who = Who::deserialize(from)?;
    Ok(ObjectMeta {
        name: who.name,
        namespace: who.namespace,
        uid: who.uid,
        resource_version: who.resource_version,
        deletion_timestamp: who.deletion_timestamp,
        labels: who.labels,
        annotations: who.annotations,
        owner_references: who.owner_references,
        ..ObjectMeta::default()
    })
}

macro_rules! read_as {
    ($brief:ty, $whole:ty) => {
        impl Resource for $brief {
            type DynamicType = ();
            type Scope = <$whole as Resource>::Scope;

            fn kind((): &()) -> Cow<'_, str> {
                <$whole>::kind(&())
            }

            fn group((): &()) -> Cow<'_, str> {
                <$whole>::group(&())
            }

            fn version((): &()) -> Cow<'_, str> {
                <$whole>::version(&())
            }

            fn plural((): &()) -> Cow<'_, str> {
                <$whole>::plural(&())
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

read_as!(BriefPod, Pod);
read_as!(PlacedPod, Pod);
read_as!(BriefNode, Node);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_pod_that_says_so_has_finished() {
        for (phase, finished) in
            [("Succeeded", true), ("Failed", true), ("Running", false), ("Unknown", false), ("", false)]
        {
            let pod = json!({ "metadata": { "name": "virt-launcher-db" }, "status": { "phase": phase } });
            let pod: BriefPod = serde_json::from_value(pod).unwrap();
            assert_eq!(pod.has_finished(), finished, "{phase}");
        }
        let new: BriefPod = serde_json::from_value(json!({ "metadata": { "name": "new" } })).unwrap();
        assert!(!new.has_finished());
    }

    #[test]
    fn who_they_are_is_read_and_who_wrote_them_is_not() {
        let pod: BriefPod = serde_json::from_value(json!({"metadata": {
            "name": "web", "namespace": "default", "uid": "u", "resourceVersion": "7",
            "deletionTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"}, "annotations": {"c": "d"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "o"}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        }}))
        .unwrap();
        let ObjectMeta { name, namespace, uid, resource_version, labels, annotations, .. } = &pod.metadata;
        let said = [name, namespace, uid, resource_version].map(|one| one.as_deref().unwrap_or_default());
        assert_eq!(said, ["web", "default", "u", "7"]);
        assert_eq!(
            (labels.as_ref().unwrap()["a"].as_str(), annotations.as_ref().unwrap()["c"].as_str()),
            ("b", "d")
        );
        assert!(pod.metadata.deletion_timestamp.is_some() && pod.metadata.managed_fields.is_none());
        assert_eq!(pod.metadata.owner_references.unwrap()[0].kind, "DaemonSet");
    }

    #[test]
    fn they_are_asked_for_under_their_own_names() {
        assert_eq!(BriefPod::url_path(&(), Some("default")), "/api/v1/namespaces/default/pods");
        assert_eq!(BriefNode::url_path(&(), None), "/api/v1/nodes");
        assert_eq!(PlacedPod::url_path(&(), None), "/api/v1/pods");
        let info = json!({ "status": { "nodeInfo": { "machineID": "m", "kubeletVersion": "v1" } } });
        let node: BriefNode = serde_json::from_value(info).unwrap();
        assert!(
            node.status.node_info.is_some_and(|info| info.machine_id == "m" && info.kubelet_version == "v1")
        );
        let empty: BriefNode = serde_json::from_value(json!({ "metadata": { "name": "new" } })).unwrap();
        assert!(!empty.spec.unschedulable && empty.status.conditions.is_empty());
    }

    #[test]
    fn of_a_pod_everything_is_read_that_its_place_depends_on() {
        let rule = json!({ "topologyKey": "kubernetes.io/hostname", "labelSelector": {} });
        let pod: PlacedPod = serde_json::from_value(json!({
            "metadata": { "name": "virt-launcher-db", "managedFields": [{}] },
            "spec": {
                "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [rule] } },
                "containers": [{ "name": "compute", "image": "i", "env": [{ "name": "A", "value": "b" }],
                    "resources": { "limits": { "devices.kubevirt.io/kvm": "1" }, "requests": { "cpu": "2" } } }],
                "initContainers": [{ "name": "side", "restartPolicy": "Always", "resources": {} }, { "name": "i" }],
                "nodeSelector": { "kubevirt.io/schedulable": "true" }, "overhead": { "memory": "1Gi" },
                "preemptionPolicy": "Never", "priority": 7,
                "tolerations": [{ "key": "a", "operator": "Exists" }],
                "volumes": [{ "name": "root", "emptyDir": {} }],
            },
            "status": { "phase": "Running" },
        }))
        .unwrap();
        let spec = pod.spec;
        let resources = spec.containers[0].resources.as_ref().unwrap();
        assert_eq!(resources.limits.as_ref().unwrap()["devices.kubevirt.io/kvm"].0, "1");
        assert_eq!(resources.requests.as_ref().unwrap()["cpu"].0, "2");
        let before = spec.init_containers.unwrap();
        assert_eq!((before[0].restart_policy.as_deref(), before.len()), (Some("Always"), 2));
        assert_eq!(spec.node_selector.unwrap()["kubevirt.io/schedulable"], "true");
        assert_eq!((spec.overhead.unwrap()["memory"].0.as_str(), spec.priority), ("1Gi", Some(7)));
        assert_eq!(spec.preemption_policy.as_deref(), Some("Never"));
        assert_eq!(spec.tolerations.unwrap()[0].key.as_deref(), Some("a"));
        let apart = spec.affinity.unwrap().pod_anti_affinity.unwrap();
        assert_eq!(apart.required_during_scheduling_ignored_during_execution.unwrap().len(), 1);
    }
}
