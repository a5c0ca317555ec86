//! The objects of a healthy Longhorn: a volume with its engine and replicas, an instance manager with pod and budget.

use serde_json::{Map, Value, json};

use super::NAMESPACE;
use crate::sim::fields::{hash, is_hex, merge, name, suffix, text, uid, uid_from};

const IMAGE: &str = "longhornio/longhorn-engine:v1.11.2";
const MANAGER_IMAGE: &str = "longhornio/longhorn-instance-manager:v1.11.2";

/// A VM's disk.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Disk {
    /// Namespace and name of the claim.
    pub(in crate::sim) claim: (String, String),
    pub(in crate::sim) gib: u64,
    /// Where it is attached.
    pub(in crate::sim) node: String,
    pub(in crate::sim) pod: String,
    pub(in crate::sim) vmi: String,
    /// Nodes with a replica; none for a volume of which only itself is told.
    pub(in crate::sim) replicas: Vec<String>,
}

/// The volume of a disk, and its engine and replicas.
pub(in crate::sim) fn disk(disk: &Disk, seed: u64, stamp: &str) -> Vec<Value> {
    let (namespace, claim) = &disk.claim;
    let volume = format!("pvc-{}", uid_from(&format!("{seed} volume {namespace}/{claim}")));
    let labels = json!({"longhornvolume": volume});
    let workload = json!({"podName": disk.pod, "podStatus": "Running", "workloadName": disk.vmi,
        "workloadType": "VirtualMachineInstance"});
    let mut all = vec![
        bound(namespace, claim, &volume, disk.gib),
        json!({
            "apiVersion": "longhorn.io/v1beta2", "kind": "Volume",
            "metadata": {"name": volume, "namespace": NAMESPACE, "labels": labels, "finalizers": ["longhorn.io"]},
            "spec": {"size": (disk.gib << 30).to_string(), "numberOfReplicas": disk.replicas.len().max(1),
                "accessMode": "rwx", "migratable": true, "dataEngine": "v1", "dataLocality": "disabled",
                "frontend": "blockdev", "image": IMAGE, "nodeID": disk.node, "staleReplicaTimeout": 30},
            "status": {"state": "attached", "robustness": "healthy", "currentNodeID": disk.node, "currentImage": IMAGE,
                "ownerID": disk.node, "actualSize": disk.gib << 29,
                "conditions": [{"type": "Scheduled", "status": "True", "lastTransitionTime": stamp}],
                "kubernetesStatus": {"namespace": namespace, "pvcName": claim, "pvName": volume, "pvStatus": "Bound",
                    "workloadsStatus": [workload]}},
        }),
    ];
    if disk.replicas.is_empty() {
        return all;
    }
    let engine = format!("{volume}-e-0");
    let called = |node: &String| format!("{volume}-r-{}", &uid_from(&format!("{volume} {node}"))[..8]);
    let modes: Map<String, Value> = disk.replicas.iter().map(|node| (called(node), json!("RW"))).collect();
    all.push(json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Engine",
        "metadata": {"name": engine, "namespace": NAMESPACE, "labels": labels, "finalizers": ["longhorn.io"]},
        "spec": {"volumeName": volume, "nodeID": disk.node, "desireState": "running", "active": true,
            "image": IMAGE},
        "status": {"currentState": "running", "started": true, "currentImage": IMAGE, "ownerID": disk.node,
            "instanceManagerName": instance_manager_name(&disk.node), "replicaModeMap": modes},
    }));
    all.extend(disk.replicas.iter().map(|node| {
        let mut replica = new_replica(&volume, &engine, node, (&called(node), stamp));
        let healthy = json!({
            "spec": {"desireState": "running", "healthyAt": stamp, "lastHealthyAt": stamp, "failedAt": "",
                "lastFailedAt": ""},
            "status": {"currentState": "running", "started": true, "instanceManagerName": instance_manager_name(node)},
        });
        merge(&mut replica, &healthy);
        replica
    }));
    all
}

/// A replica that holds nothing yet: it is as one that has failed at this moment, and is to be built.
pub(super) fn new_replica(volume: &str, engine: &str, node: &str, (called, stamp): (&str, &str)) -> Value {
    json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Replica",
        "metadata": {"name": called, "namespace": NAMESPACE, "labels": {"longhornvolume": volume},
            "finalizers": ["longhorn.io"]},
        "spec": {"volumeName": volume, "engineName": engine, "nodeID": node, "desireState": "stopped",
            "active": true, "diskID": uid_from(&format!("disk {node}")), "diskPath": "/var/lib/harvester/defaultdisk",
            "dataDirectoryName": format!("{volume}-{}", suffix(node)), "healthyAt": "",
            "lastHealthyAt": "", "failedAt": stamp, "lastFailedAt": stamp},
        "status": {"currentState": "stopped", "started": false, "ownerID": node, "instanceManagerName": ""},
    })
}

/// A healthy volume of which nothing else is told; nothing ever happens to it.
pub(in crate::sim) fn told_of(volume: &str) -> Value {
    json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Volume",
        "metadata": {"name": volume, "namespace": NAMESPACE},
        "spec": {"numberOfReplicas": 1}, "status": {"state": "attached", "robustness": "healthy"},
    })
}

/// The claim of a VM that is bound to its volume.
fn bound(namespace: &str, claim: &str, volume: &str, gib: u64) -> Value {
    let size = json!({"storage": format!("{gib}Gi")});
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim, "namespace": namespace,
            "annotations": {"volume.kubernetes.io/storage-provisioner": "driver.longhorn.io"}},
        "spec": {"accessModes": ["ReadWriteMany"], "volumeMode": "Block", "volumeName": volume,
            "storageClassName": "harvester-longhorn", "resources": {"requests": size}},
        "status": {"phase": "Bound", "accessModes": ["ReadWriteMany"], "capacity": size},
    })
}

/// The one name of a node's instance manager, its pod and its budget.
pub(in crate::sim) fn instance_manager_name(node: &str) -> String {
    format!("instance-manager-{:016x}{:016x}", hash(node), hash(MANAGER_IMAGE))
}

/// Whether an instance manager of this name is the one of the node: what [`instance_manager_name`] says, without making
/// the name.
pub(in crate::sim) fn runs_on(manager: &str, node: &str) -> bool {
    let digits = manager.strip_prefix("instance-manager-").filter(|digits| digits.len() == 32);
    let halves = digits.and_then(|digits| digits.split_at_checked(16));
    halves.is_some_and(|(of, image)| is_hex(of, hash(node)) && is_hex(image, hash(MANAGER_IMAGE)))
}

fn labels(node: &str) -> Value {
    json!({"longhorn.io/component": "instance-manager", "longhorn.io/managed-by": "longhorn-manager",
        "longhorn.io/node": node, "longhorn.io/instance-manager-type": "aio", "longhorn.io/data-engine": "v1",
        "longhorn.io/instance-manager-image": format!("imi-{:08x}", hash(MANAGER_IMAGE) >> 32)})
}

/// A node's instance manager, without what runs in it.
pub(in crate::sim) fn instance_manager(node: &str) -> Value {
    json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "InstanceManager",
        "metadata": {"name": instance_manager_name(node), "namespace": NAMESPACE, "labels": labels(node)},
        "spec": {"nodeID": node, "image": MANAGER_IMAGE, "type": "aio", "dataEngine": "v1"},
        "status": {"currentState": "running", "ownerID": node, "instanceEngines": {}, "instanceReplicas": {}},
    })
}

/// What an instance manager says of an engine or a replica that runs in it.
pub(in crate::sim) fn instance(of: &Value) -> (String, Value) {
    let kind = if text(of, "/kind") == "Engine" { "engine" } else { "replica" };
    let body =
        json!({"spec": {"name": name(of), "dataEngine": "v1"}, "status": {"state": "running", "type": kind}});
    (name(of).to_owned(), body)
}

/// The pod of an instance manager. It is bound from birth: no scheduler, so no cordon, keeps it away.
pub(in crate::sim) fn manager_pod(manager: &Value, node: &str) -> Value {
    let owner = json!({"apiVersion": "longhorn.io/v1beta2", "kind": "InstanceManager", "name": name(manager),
        "uid": uid(manager), "controller": true, "blockOwnerDeletion": true});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name(manager), "namespace": NAMESPACE, "labels": labels(node),
            "ownerReferences": [owner]},
        "spec": {"nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "instance-manager", "image": MANAGER_IMAGE}]},
    })
}

/// The budget that keeps that pod where it is.
pub(in crate::sim) fn budget(node: &str) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": instance_manager_name(node), "namespace": NAMESPACE,
            "labels": {"longhorn.io/managed-by": "longhorn-manager"}},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": labels(node)}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_known_by_its_name() {
        let own = instance_manager_name("node1");
        assert!(runs_on(&own, "node1"));
        let shorter = own.trim_end_matches(|last: char| last.is_ascii_hexdigit());
        for other in
            [instance_manager_name("node2"), own.to_uppercase(), format!("{own}0"), shorter.to_owned()]
        {
            assert!(!runs_on(&other, "node1"), "{other}");
        }
        assert!(!runs_on("", "node1"));
    }
}
