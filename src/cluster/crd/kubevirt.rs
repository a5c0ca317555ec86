//! `KubeVirt`'s objects (`kubevirt.io/v1`), the fields that an evacuation looks at (reference `kubevirt.md` §1).

use std::collections::BTreeMap;

use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// Label that says on which node an instance runs; moves with a migration.
pub const NODE_NAME_LABEL: &str = "kubevirt.io/nodeName";
/// Label and value of launcher pods.
pub const LAUNCHER_SELECTOR: &str = "kubevirt.io=virt-launcher";
/// Label on a migration: the instance that it moves.
pub const VMI_NAME_LABEL: &str = "kubevirt.io/vmi-name";

/// `VirtualMachine.spec`.
#[derive(CustomResource, Debug, Clone, Default, Serialize, Deserialize)]
#[kube(group = "kubevirt.io", version = "v1", kind = "VirtualMachine", namespaced, schema = "disabled")]
#[kube(status = "VirtualMachineStatus")]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// `Always`, `RerunOnFailure`, `Manual`, `Halted`, `Once`, `WaitAsReceiver`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<String>,
    /// The deprecated alternative: true is `Always`, false is `Halted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
}

impl VirtualMachineSpec {
    /// The strategy that counts.
    #[must_use]
    pub fn effective_strategy(&self) -> Option<&str> {
        match (&self.run_strategy, self.running) {
            (Some(strategy), _) => Some(strategy),
            (None, Some(true)) => Some("Always"),
            (None, Some(false)) => Some("Halted"),
            (None, None) => None,
        }
    }
}

/// `VirtualMachine.status`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// Start and stop requests that the controller has not dropped yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state_change_requests: Vec<StateChangeRequest>,
    /// One word for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub printable_status: Option<String>,
    /// The snapshot that is being taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_in_progress: Option<String>,
    /// The restore that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_in_progress: Option<String>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// One queued request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StateChangeRequest {
    /// `Start` or `Stop`.
    #[serde(default)]
    pub action: String,
    /// The instance it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// `VirtualMachineInstance.spec`.
#[derive(CustomResource, Debug, Clone, Default, Serialize, Deserialize)]
#[kube(
    group = "kubevirt.io",
    version = "v1",
    kind = "VirtualMachineInstance",
    namespaced,
    schema = "disabled"
)]
#[kube(status = "VirtualMachineInstanceStatus")]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceSpec {
    /// Hardware.
    #[serde(default)]
    pub domain: Domain,
    /// Labels that its nodes must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// None, `LiveMigrate`, `LiveMigrateIfPossible`, `External`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction_strategy: Option<String>,
    /// Seconds the guest has to shut down; 30 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<i64>,
}

/// Hardware.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Domain {
    /// Devices.
    #[serde(default)]
    pub devices: Devices,
    /// CPUs.
    #[serde(default)]
    pub cpu: Cpu,
    /// Memory.
    #[serde(default)]
    pub memory: Memory,
}

/// CPUs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu {
    /// They are its own.
    pub dedicated_cpu_placement: bool,
    /// A model's name, or `host-model` or `host-passthrough`; `KubeVirt` fills in the cluster's default, `host-model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// Memory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// It is made of huge pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<HugePages>,
}

/// Huge pages.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HugePages {
    /// `2Mi`, `1Gi`.
    pub page_size: String,
}

/// Devices that tie a guest to its node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// PCI, SR-IOV and USB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_devices: Vec<Device>,
    /// GPUs and vGPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Device>,
}

/// One device.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Resource name that the device plugin offers; empty when it comes from a claim.
    #[serde(default)]
    pub device_name: String,
    /// The resource claim that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_name: Option<String>,
}

/// `VirtualMachineInstance.status`; no subresource.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceStatus {
    /// Pending, Scheduling, Scheduled, Running, Succeeded, Failed, ….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The node that an eviction wants it away from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evacuation_node_name: Option<String>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl VirtualMachineInstanceStatus {
    /// One condition.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

/// A condition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Condition {
    /// Its type.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// One word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `VirtualMachineInstanceMigration.spec`.
#[derive(CustomResource, Debug, Clone, Default, Serialize, Deserialize)]
#[kube(group = "kubevirt.io", version = "v1", kind = "VirtualMachineInstanceMigration", namespaced)]
#[kube(schema = "disabled", status = "VirtualMachineInstanceMigrationStatus")]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceMigrationSpec {
    /// The instance to move.
    pub vmi_name: String,
    /// Labels that the target must have besides those that the VM asks for; not in every `KubeVirt`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub added_node_selector: BTreeMap<String, String>,
}

/// `VirtualMachineInstanceMigration.status`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceMigrationStatus {
    /// Pending, …, Running, Succeeded, Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Copied from the instance at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_state: Option<VmiMigrationState>,
}

/// How a migration went.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmiMigrationState {
    /// Where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node: Option<String>,
    /// Why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
}
