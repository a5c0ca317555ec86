//! What a verdict on a VM needs, read from its instance and its owner. Decides nothing.

use kube::{Client, Resource, ResourceExt};

use crate::cluster::ClusterError;
use crate::cluster::crd::kubevirt::{Condition, VirtualMachine, VirtualMachineInstance};
use crate::cluster::vms;
use crate::flow::classify::{Guest, LiveMigratable, VmFacts};

/// Annotation on a VM: higher numbers are shut down later.
pub const ORDER_ANNOTATION: &str = "agent.harvesterhci.io/shutdown-order";
/// Label of everything that belongs to an upgrade; on an instance, that of its image server (Harvester up to 1.6).
const UPGRADE_LABEL: &str = "harvesterhci.io/upgrade";
/// Label on the VMs of a guest cluster: its name.
const GUEST_CLUSTER_LABEL: &str = "guestcluster.harvesterhci.io/name";
/// Label and value on VMs that Rancher's node driver has made, which did not always name the cluster.
const CREATOR_LABEL: &str = "harvesterhci.io/creator";
const NODE_DRIVER: &str = "docker-machine-driver-harvester";

/// Everything that a verdict needs. Reads the owning VM.
///
/// # Errors
/// [`ClusterError`].
pub async fn facts(client: &Client, vmi: &VirtualMachineInstance) -> Result<VmFacts, ClusterError> {
    let key = vms::key_of(vmi);
    let owned = vmi.owner_references().iter().any(|owner| owner.kind == VirtualMachine::kind(&()));
    let parent = if owned { vms::vm(client, &key).await? } else { None };
    Ok(of(vmi, parent.as_ref()))
}

/// The same, of objects that have been read.
#[must_use]
pub fn of(vmi: &VirtualMachineInstance, vm: Option<&VirtualMachine>) -> VmFacts {
    let is_true = |kind: &str| condition(vmi, kind).is_some_and(|one| one.status == "True");
    let domain = &vmi.spec.domain;
    let devices = || vmi.spec.domain.devices.host_devices.iter().chain(&vmi.spec.domain.devices.gpus);
    let names = devices().map(|device| device.device_name.clone()).filter(|name| !name.is_empty());
    let order = order(vmi, vm);
    VmFacts {
        vm: vms::key_of(vmi),
        vm_uid: vm.and_then(ResourceExt::uid),
        vmi_uid: vmi.uid().unwrap_or_default(),
        run_strategy: vm.and_then(|vm| vm.spec.effective_strategy()).map(str::to_owned),
        guest: guest(vmi),
        live_migratable: live_migratable(vmi),
        devices: names.collect(),
        hugepages: domain.memory.hugepages.as_ref().map(|pages| pages.page_size.clone()),
        dedicated_cpus: domain.cpu.dedicated_cpu_placement,
        device_claims: devices().filter_map(|device| device.claim_name.clone()).collect(),
        grace_seconds: vmi.spec.termination_grace_period_seconds.and_then(|grace| u32::try_from(grace).ok()),
        moved_by_others: vmi.spec.eviction_strategy.as_deref() == Some("External"),
        moving_volumes: is_true("VolumesChange"),
        stop_refused: vm.and_then(stop_refused).or_else(|| order.as_ref().err().cloned()),
        serves_upgrade: vmi.labels().contains_key(UPGRADE_LABEL),
        guest_cluster: guest_cluster(vmi, vm),
        shutdown_order: order.unwrap_or_default(),
    }
}

fn condition<'a>(vmi: &'a VirtualMachineInstance, kind: &str) -> Option<&'a Condition> {
    vmi.status.as_ref().and_then(|status| status.condition(kind))
}

/// Phases and conditions as of `KubeVirt` 1.8 (reference `kubevirt.md` §1.3, §1.4).
fn guest(vmi: &VirtualMachineInstance) -> Guest {
    if vms::ended(vmi).is_some() {
        return Guest::Ended;
    }
    if vmi.meta().deletion_timestamp.is_some() {
        return Guest::Deleting;
    }
    let phase = vmi.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    match (phase.as_str(), condition(vmi, "Paused").filter(|one| one.status == "True")) {
        ("Running", Some(paused)) if paused.reason.as_deref() == Some("PausedIOError") => {
            Guest::StorageFailed
        }
        ("Running", Some(_)) => Guest::Paused,
        ("Running", None) => Guest::Running,
        ("", _) => Guest::Starting { phase: "not yet seen by KubeVirt".to_owned() },
        ("Pending" | "Scheduling" | "Scheduled" | "WaitingForSync", _) => Guest::Starting { phase },
        _ => Guest::Unknown { phase },
    }
}

fn live_migratable(vmi: &VirtualMachineInstance) -> LiveMigratable {
    match condition(vmi, "LiveMigratable") {
        Some(condition) if condition.status == "True" => LiveMigratable::Yes,
        Some(condition) if condition.status == "False" => {
            let reason = condition.reason.as_deref().unwrap_or("no reason given");
            let message = condition.message.as_deref().unwrap_or_default();
            let reason = format!("it cannot live-migrate: {reason} {message}").trim().to_owned();
            LiveMigratable::No { reason }
        }
        Some(_) | None => LiveMigratable::NotSaid,
    }
}

/// Why a stop would be refused, or could not be followed by a start.
fn stop_refused(vm: &VirtualMachine) -> Option<String> {
    let status = vm.status.as_ref()?;
    let under_way = |what: &str, name: &Option<String>| {
        name.as_ref().map(|name| format!("{what} {name} is under way; wait for its end, then resume"))
    };
    let recovery =
        status.conditions.iter().any(|one| one.kind == "ManualRecoveryRequired" && one.status == "True");
    under_way("its snapshot", &status.snapshot_in_progress)
        .or_else(|| under_way("its restore", &status.restore_in_progress))
        .or_else(|| {
            recovery.then(|| {
                "a move of its disks has failed and KubeVirt would not start it again; mend that first"
                    .to_owned()
            })
        })
}

fn guest_cluster(vmi: &VirtualMachineInstance, vm: Option<&VirtualMachine>) -> Option<String> {
    let label = |key: &str| vm.and_then(|vm| vm.labels().get(key)).or_else(|| vmi.labels().get(key));
    let unnamed =
        || label(CREATOR_LABEL).filter(|by| *by == NODE_DRIVER).map(|_| "of an unknown name".to_owned());
    label(GUEST_CLUSTER_LABEL).cloned().or_else(unnamed)
}

fn order(vmi: &VirtualMachineInstance, vm: Option<&VirtualMachine>) -> Result<i32, String> {
    let own = vm.and_then(|vm| vm.annotations().get(ORDER_ANNOTATION));
    let Some(text) = own.or_else(|| vmi.annotations().get(ORDER_ANNOTATION)) else { return Ok(0) };
    let no_number =
        || format!("its annotation {ORDER_ANNOTATION} is `{text}`, which is no whole number; correct it");
    text.trim().parse().map_err(|_| no_number())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vmi() -> Value {
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": { "name": "db", "namespace": "default", "uid": "i", "labels": {}, "annotations": {} },
            "spec": { "domain": { "devices": {} }, "terminationGracePeriodSeconds": 120 },
            "status": { "phase": "Running", "conditions": [{ "type": "LiveMigratable", "status": "True" }] },
        })
    }

    fn vm() -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": { "name": "db", "namespace": "default", "uid": "u" }, "spec": { "runStrategy": "Always" },
        }))
        .unwrap()
    }

    fn read(at: &str, field: &str, value: &Value) -> VmFacts {
        let mut vmi = vmi();
        vmi.pointer_mut(at).unwrap()[field] = value.clone();
        of(&serde_json::from_value(vmi).unwrap(), Some(&vm()))
    }

    /// Rows of the rules table (reference `kubevirt.md` §7) that are plain VMs: `KubeVirt` says that they can move.
    #[test]
    fn what_kubevirt_can_move_is_a_plain_vm() {
        let plain = of(&serde_json::from_value(vmi()).unwrap(), Some(&vm()));
        let table = [
            ("no eviction strategy of its own", "/spec", "evictionStrategy", json!("None")),
            ("moved if possible", "/spec", "evictionStrategy", json!("LiveMigrateIfPossible")),
            ("a node selector", "/spec", "nodeSelector", json!({ "zone": "a" })),
            (
                "a container disk",
                "/spec",
                "volumes",
                json!([{ "name": "os", "containerDisk": { "image": "x" } }]),
            ),
            ("cloud-init", "/spec", "volumes", json!([{ "name": "init", "cloudInitNoCloud": {} }])),
            ("virtiofs", "/spec/domain/devices", "filesystems", json!([{ "name": "share", "virtiofs": {} }])),
            ("a persistent TPM", "/spec/domain/devices", "tpm", json!({ "persistent": true })),
            ("the CPU of its host", "/spec/domain", "cpu", json!({ "model": "host-passthrough" })),
            ("a finished move of disks", "/status", "migratedVolumes", json!([{ "volumeName": "os" }])),
        ];
        for (what, at, field, value) in table {
            assert_eq!(read(at, field, &value), plain, "{what}");
        }
    }

    #[test]
    fn what_ties_a_vm_to_its_node_or_keeps_it_from_being_touched_is_read() {
        type Seen = fn(&VmFacts) -> bool;
        let devices = "/spec/domain/devices";
        let condition = |kind: &str, reason: &str| {
            let movable = json!({ "type": "LiveMigratable", "status": "True" });
            json!([movable, { "type": kind, "status": "True", "reason": reason }])
        };
        let table: [(&str, &str, &str, Value, Seen); 13] = [
            ("PCI", devices, "hostDevices", json!([{ "name": "d", "deviceName": "a/b" }]), |vm| {
                vm.devices == ["a/b"]
            }),
            ("GPU", devices, "gpus", json!([{ "name": "d", "deviceName": "c/d" }]), |vm| {
                vm.devices == ["c/d"]
            }),
            ("claim", devices, "gpus", json!([{ "name": "d", "claimName": "g" }]), |vm| {
                vm.device_claims == ["g"]
            }),
            ("CPUs", "/spec/domain", "cpu", json!({ "dedicatedCpuPlacement": true }), |vm| vm.dedicated_cpus),
            ("pages", "/spec/domain", "memory", json!({ "hugepages": { "pageSize": "1Gi" } }), |vm| {
                vm.hugepages.as_deref() == Some("1Gi")
            }),
            ("External", "/spec", "evictionStrategy", json!("External"), |vm| vm.moved_by_others),
            ("paused", "/status", "conditions", condition("Paused", "PausedByUser"), |vm| {
                vm.guest == Guest::Paused
            }),
            ("storage", "/status", "conditions", condition("Paused", "PausedIOError"), |vm| {
                vm.guest == Guest::StorageFailed
            }),
            ("volumes", "/status", "conditions", condition("VolumesChange", "x"), |vm| vm.moving_volumes),
            ("ended", "/status", "phase", json!("Failed"), |vm| vm.guest == Guest::Ended),
            ("scheduling", "/status", "phase", json!("Scheduling"), |vm| {
                matches!(vm.guest, Guest::Starting { .. })
            }),
            ("images", "/metadata/labels", "harvesterhci.io/upgrade", json!("u"), |vm| vm.serves_upgrade),
            ("no condition", "/status", "conditions", json!([]), |vm| {
                vm.live_migratable == LiveMigratable::NotSaid && vm.vm_uid.as_deref() == Some("u")
            }),
        ];
        for (what, at, field, value, seen) in table {
            let mut vmi = vmi();
            vmi["metadata"]["ownerReferences"] = json!([]);
            assert!(seen(&read(at, field, &value)), "{what}");
            assert!(!seen(&of(&serde_json::from_value(vmi).unwrap(), None)), "{what}: said of everybody");
        }
    }
}
