//! What each kind's fields have to be before the simulators may rely on them. Fields that nobody reads are not looked at.

use serde_json::Value;

use super::error::{AGAIN, ImportError, Place};
use super::kinds::Kind;
use super::walk::{self, Fault, Rule, Want};
use crate::sim::longhorn::NAMESPACE as LONGHORN;

const RUN_STRATEGIES: Want =
    Want::OneOf(&["Always", "RerunOnFailure", "Manual", "Halted", "Once", "WaitAsReceiver"]);
const VMI_PHASES: Want = Want::OneOf(&[
    "",
    "Pending",
    "Scheduling",
    "Scheduled",
    "Running",
    "Succeeded",
    "Failed",
    "WaitingForSync",
    "Unknown",
]);
const POD_PHASES: Want = Want::OneOf(&["Pending", "Running", "Succeeded", "Failed", "Unknown"]);

const fn may(path: &'static str, want: Want) -> Rule {
    Rule { path, want, must: false }
}

pub(super) const fn must(path: &'static str, want: Want) -> Rule {
    Rule { path, want, must: true }
}

const EVERY: &[Rule] = &[
    may("metadata.uid", Want::Text),
    may("metadata.creationTimestamp", Want::Text),
    may("metadata.deletionTimestamp", Want::Text),
    may("metadata.labels", Want::Texts),
    may("metadata.annotations", Want::Texts),
    may("metadata.finalizers", Want::TextList),
    must("metadata.ownerReferences[].kind", Want::Text),
    must("metadata.ownerReferences[].name", Want::Text),
    must("metadata.ownerReferences[].uid", Want::Text),
    may("metadata.ownerReferences[].controller", Want::Flag),
    must("status.conditions[].type", Want::Text),
    must("status.conditions[].status", Want::Text),
];
const NODE: &[Rule] = &[
    may("spec.unschedulable", Want::Flag),
    must("spec.taints[].key", Want::Text),
    must("spec.taints[].effect", Want::Text),
    must("status.allocatable", Want::Quantities),
    may("status.capacity", Want::Quantities),
    must("status.nodeInfo.kubeletVersion", Want::Text),
];
const POD: &[Rule] = &[
    may("spec.nodeName", Want::Text),
    may("spec.containers[].resources.requests", Want::Quantities),
    may("spec.containers[].resources.limits", Want::Quantities),
    may("spec.initContainers[].resources.requests", Want::Quantities),
    may("spec.initContainers[].resources.limits", Want::Quantities),
    may("spec.overhead", Want::Quantities),
    may("spec.terminationGracePeriodSeconds", Want::Count),
    must("status.phase", POD_PHASES),
];
const CLAIM: &[Rule] = &[
    may("spec.accessModes", Want::TextList),
    may("spec.volumeName", Want::Text),
    may("spec.storageClassName", Want::Text),
    may("spec.resources.requests", Want::Quantities),
];
const BUDGET: &[Rule] = &[
    may("spec.minAvailable", Want::Portion),
    may("spec.maxUnavailable", Want::Portion),
    may("spec.selector.matchLabels", Want::Texts),
    may("status.disruptionsAllowed", Want::Count),
];
const VM: &[Rule] = &[
    may("spec.running", Want::Flag),
    may("spec.runStrategy", RUN_STRATEGIES),
    must("spec.template", Want::Object),
    must("spec.template.spec", Want::Object),
    must("spec.template.spec.domain", Want::Object),
    may("spec.template.metadata.labels", Want::Texts),
    may("spec.template.metadata.annotations", Want::Texts),
    may("status.printableStatus", Want::Text),
    may("status.created", Want::Flag),
    may("status.ready", Want::Flag),
    may("status.stateChangeRequests[].action", Want::Text),
];
/// Of a guest: in a VMI below `spec`, in a VM below `spec.template.spec`.
const GUEST: &[Rule] = &[
    may("domain.memory.guest", Want::Quantity),
    may("domain.resources.requests", Want::Quantities),
    may("domain.resources.limits", Want::Quantities),
    may("domain.cpu.cores", Want::Count),
    may("domain.cpu.sockets", Want::Count),
    may("domain.cpu.threads", Want::Count),
    // One that comes from a resource claim has none.
    may("domain.devices.hostDevices[].deviceName", Want::Text),
    may("domain.devices.gpus[].deviceName", Want::Text),
    must("domain.devices.disks[].name", Want::Text),
    must("volumes[].name", Want::Text),
    may("volumes[].persistentVolumeClaim.claimName", Want::Text),
    may("volumes[].dataVolume.name", Want::Text),
    may("nodeSelector", Want::Texts),
    may("evictionStrategy", Want::Text),
    may("terminationGracePeriodSeconds", Want::Count),
];
const VMI: &[Rule] = &[
    must("spec.domain", Want::Object),
    must("status.phase", VMI_PHASES),
    may("status.nodeName", Want::Text),
    may("status.evacuationNodeName", Want::Text),
    may("status.activePods", Want::Texts),
    may("status.migrationState", Want::Object),
    may("status.migrationState.completed", Want::Flag),
    may("status.migrationState.failed", Want::Flag),
    must("status.phaseTransitionTimestamps[].phase", Want::Text),
];
const VMIM: &[Rule] = &[must("spec.vmiName", Want::Text), may("status.phase", Want::Text)];
const KUBEVIRT: &[Rule] = &[
    may("spec.configuration.migrations.parallelMigrationsPerCluster", Want::Count),
    may("spec.configuration.migrations.parallelOutboundMigrationsPerNode", Want::Count),
    may("spec.configuration.migrations.completionTimeoutPerGiB", Want::Count),
    may("spec.configuration.migrations.progressTimeout", Want::Count),
    may("spec.configuration.migrations.bandwidthPerMigration", Want::Quantity),
    may("spec.configuration.evictionStrategy", Want::Text),
];
const VOLUME: &[Rule] = &[
    must("spec.numberOfReplicas", Want::Count),
    may("spec.size", Want::Size),
    may("spec.nodeID", Want::Text),
    may("spec.accessMode", Want::Text),
    may("spec.migratable", Want::Flag),
    may("spec.dataLocality", Want::Text),
    may("status.state", Want::Text),
    may("status.robustness", Want::Text),
    may("status.currentNodeID", Want::Text),
    may("status.kubernetesStatus", Want::Object),
    may("status.kubernetesStatus.pvcName", Want::Text),
    may("status.kubernetesStatus.namespace", Want::Text),
];
const ENGINE: &[Rule] = &[
    must("spec.volumeName", Want::Text),
    may("spec.nodeID", Want::Text),
    may("spec.active", Want::Flag),
    may("status.currentState", Want::Text),
    may("status.replicaModeMap", Want::Texts),
    may("status.instanceManagerName", Want::Text),
];
const REPLICA: &[Rule] = &[
    must("spec.volumeName", Want::Text),
    may("spec.nodeID", Want::Text),
    may("spec.failedAt", Want::Text),
    may("spec.healthyAt", Want::Text),
    may("spec.active", Want::Flag),
    may("status.currentState", Want::Text),
    may("status.instanceManagerName", Want::Text),
];
const INSTANCE_MANAGER: &[Rule] = &[
    must("spec.nodeID", Want::Text),
    may("spec.type", Want::Text),
    may("status.currentState", Want::Text),
    may("status.instanceEngines", Want::Object),
    may("status.instanceReplicas", Want::Object),
];
const STORAGE_NODE: &[Rule] = &[
    may("spec.allowScheduling", Want::Flag),
    may("spec.evictionRequested", Want::Flag),
    may("spec.disks", Want::Object),
    may("status.diskStatus", Want::Object),
];
const STORAGE_SETTING: &[Rule] = &[must("value", Want::Text)];
const UPGRADE: &[Rule] = &[
    may("spec.version", Want::Text),
    may("status.previousVersion", Want::Text),
    may("status.nodeStatuses", Want::Object),
];

const NODE_UPGRADE: &[Rule] = &[must("spec", Want::Object)];

fn own(kind: Kind) -> &'static [Rule] {
    match kind {
        Kind::Node => NODE,
        Kind::Pod => POD,
        Kind::Claim => CLAIM,
        Kind::Budget => BUDGET,
        Kind::Vm => VM,
        Kind::Vmi => VMI,
        Kind::Vmim => VMIM,
        Kind::KubeVirt => KUBEVIRT,
        Kind::Volume => VOLUME,
        Kind::Engine => ENGINE,
        Kind::Replica => REPLICA,
        Kind::InstanceManager => INSTANCE_MANAGER,
        Kind::StorageNode => STORAGE_NODE,
        Kind::StorageSetting => STORAGE_SETTING,
        Kind::Upgrade => UPGRADE,
        Kind::NodeUpgrade => NODE_UPGRADE,
    }
}

/// Where the rules of guests hold.
fn guest_within(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Vm => Some("/spec/template/spec"),
        Kind::Vmi => Some("/spec"),
        Kind::Node
        | Kind::Pod
        | Kind::Claim
        | Kind::Budget
        | Kind::Vmim
        | Kind::KubeVirt
        | Kind::Volume
        | Kind::Engine
        | Kind::Replica
        | Kind::InstanceManager
        | Kind::StorageNode
        | Kind::StorageSetting
        | Kind::Upgrade
        | Kind::NodeUpgrade => None,
    }
}

/// Writes quantities that came as numbers as the texts that everybody reads.
pub(super) fn write_quantities(kind: Kind, object: &mut Value) {
    for rule in own(kind) {
        walk::write_quantities(object, rule);
    }
    if let Some(guest) = guest_within(kind).and_then(|below| object.pointer_mut(below)) {
        for rule in GUEST {
            walk::write_quantities(guest, rule);
        }
    }
}

/// Checks all fields that are read of this kind.
pub(super) fn check(kind: Kind, object: &Value, at: &Place) -> Result<(), ImportError> {
    let own = own(kind);
    all(object, EVERY, "", at)?;
    all(object, own, "", at)?;
    if let Some(below) = guest_within(kind) {
        all(object, GUEST, below, at)?;
    }
    match kind {
        Kind::Vm => vm(object, at),
        Kind::Vmi => vmi(object, at),
        Kind::Volume
        | Kind::Engine
        | Kind::Replica
        | Kind::InstanceManager
        | Kind::StorageNode
        | Kind::StorageSetting => of_longhorn(object, at),
        Kind::Node
        | Kind::Pod
        | Kind::Claim
        | Kind::Budget
        | Kind::Vmim
        | Kind::KubeVirt
        | Kind::Upgrade
        | Kind::NodeUpgrade => Ok(()),
    }
}

fn all(object: &Value, rules: &[Rule], below: &str, at: &Place) -> Result<(), ImportError> {
    let Some(part) = object.pointer(below) else {
        return Ok(());
    };
    let prefix = below.trim_start_matches('/').replace('/', ".");
    for rule in rules {
        walk::check(part, rule).map_err(|fault| {
            let between = if prefix.is_empty() || fault.field.is_empty() { "" } else { "." };
            field(at, Fault { field: format!("{prefix}{between}{}", fault.field), cause: fault.cause })
        })?;
    }
    Ok(())
}

/// Harvester's Longhorn knows of no other namespace than its own.
fn of_longhorn(object: &Value, at: &Place) -> Result<(), ImportError> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    if namespace == LONGHORN {
        return Ok(());
    }
    let cause = format!(
        "\"{}\" is not {LONGHORN}, where Longhorn keeps its objects",
        super::error::excerpt(namespace)
    );
    Err(field(at, Fault { field: "metadata.namespace".to_owned(), cause }))
}

fn vm(object: &Value, at: &Place) -> Result<(), ImportError> {
    let cause = match (object.pointer("/spec/running"), object.pointer("/spec/runStrategy")) {
        (Some(_), Some(_)) => "spec.running is there as well, and KubeVirt takes one of them",
        (None, None) => "it is missing, and spec.running too",
        (Some(_), None) | (None, Some(_)) => return Ok(()),
    };
    Err(field(at, Fault { field: "spec.runStrategy".to_owned(), cause: cause.to_owned() }))
}

fn vmi(object: &Value, at: &Place) -> Result<(), ImportError> {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/status/phase") == "Running" && text("/status/nodeName").is_empty() {
        let cause = "it is missing although the guest is Running".to_owned();
        return Err(field(at, Fault { field: "status.nodeName".to_owned(), cause }));
    }
    Ok(())
}

pub(super) fn field(at: &Place, fault: Fault) -> ImportError {
    ImportError::Field { at: at.clone(), field: fault.field, cause: fault.cause, cure: AGAIN }
}
