//! Reads fields of loosely typed objects and builds the small values that every player writes: conditions, finalizer
//! lists, owner references. It never talks to the API and never changes an object in place.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

/// Finalizer of the VMI controller: holds a VMI until its pods are gone.
pub(super) const FOREGROUND: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// Finalizer of the VM controller, on VMs and on their VMIs.
pub(super) const VM_FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";
/// Finalizer of a migration.
pub(super) const VMIM_FINALIZER: &str = "kubevirt.io/migrationJobFinalize";
/// Label on pods that names the migration they are the target of.
pub(super) const MIGRATION_JOB: &str = "kubevirt.io/migrationJobUID";
/// Label of a VMI, written together with `status.nodeName`.
pub(super) const NODE_LABEL: &str = "kubevirt.io/nodeName";
/// Annotation: where the first launcher pod of a VM has to run.
pub(super) const FIRST_NODE: &str = "sim.upgrade-agent/first-node";
/// Annotation: seconds the guest takes to power off, or `ignore`.
pub(super) const SHUTDOWN: &str = "sim.upgrade-agent/shutdown-seconds";
/// Annotation: the VM has a disk that no other node can reach.
pub(super) const LOCAL_DISK: &str = "sim.upgrade-agent/local-disk";
/// Annotation on nodes whose heartbeat this simulator keeps.
pub(super) const SIMULATED: &str = "sim.upgrade-agent/node";

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(super) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(super) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub(super) fn phase(object: &Value) -> &str {
    text(object, "/status/phase")
}

pub(super) fn is_deleting(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// Whether a VMI, a pod or a migration has ended.
pub(super) fn is_final(object: &Value) -> bool {
    matches!(phase(object), "Succeeded" | "Failed")
}

pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn map(object: &Value, pointer: &str) -> Map<String, Value> {
    object.pointer(pointer).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn entry<'a>(object: &'a Value, within: &str, key: &str) -> Option<&'a str> {
    object.pointer(within)?.get(key)?.as_str()
}

pub(super) fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    entry(object, "/metadata/labels", key)
}

pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    entry(object, "/metadata/annotations", key)
}

pub(super) fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    list(object, "/metadata/finalizers").iter().any(|f| f == finalizer)
}

pub(super) fn finalizers_without(object: &Value, finalizer: &str) -> Vec<Value> {
    list(object, "/metadata/finalizers").iter().filter(|f| *f != finalizer).cloned().collect()
}

pub(super) fn finalizers_with(object: &Value, finalizer: &str) -> Vec<Value> {
    let mut all = finalizers_without(object, finalizer);
    all.push(json!(finalizer));
    all
}

pub(super) fn controller(object: &Value) -> Option<&Value> {
    list(object, "/metadata/ownerReferences").iter().find(|o| o.get("controller") == Some(&Value::Bool(true)))
}

pub(super) fn is_controlled_by(object: &Value, owner: &Value) -> bool {
    controller(object).is_some_and(|o| text(o, "/uid") == uid(owner))
}

pub(super) fn owner_reference(kind: &str, owner: &Value) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": kind, "name": name(owner), "uid": uid(owner),
           "controller": true, "blockOwnerDeletion": true})
}

pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").iter().find(|c| text(c, "/type") == kind)
}

pub(super) fn condition_is(object: &Value, kind: &str, status: &str) -> bool {
    condition(object, kind).is_some_and(|c| text(c, "/status") == status)
}

/// The object's conditions with one of them set. Times are always written in full: the real controllers test the list
/// against what they read and would loop on pruned nulls.
pub(super) fn conditions_with(
    object: &Value,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: &str,
) -> Vec<Value> {
    let before = condition(object, kind);
    let since = before.filter(|c| text(c, "/status") == status).map(|c| text(c, "/lastTransitionTime"));
    let since = since.filter(|s| !s.is_empty()).unwrap_or(now);
    let mut all: Vec<Value> =
        list(object, "/status/conditions").iter().filter(|c| text(c, "/type") != kind).cloned().collect();
    let mut fresh =
        json!({"type": kind, "status": status, "lastProbeTime": since, "lastTransitionTime": since});
    if let Some(fields) = fresh.as_object_mut() {
        for (key, value) in [("reason", reason), ("message", message)] {
            if !value.is_empty() {
                fields.insert(key.to_owned(), json!(value));
            }
        }
    }
    all.push(fresh);
    all
}

/// `phaseTransitionTimestamps` with one more entry.
pub(super) fn transitions_with(object: &Value, phase: &str, now: &str) -> Vec<Value> {
    let mut all = list(object, "/status/phaseTransitionTimestamps").to_vec();
    all.push(json!({"phase": phase, "phaseTransitionTimestamp": now}));
    all
}

/// Whether a VMI was ever Running: `KubeVirt`'s start-failure rule keys on it.
pub(super) fn did_run(vmi: &Value) -> bool {
    list(vmi, "/status/phaseTransitionTimestamps").iter().any(|t| text(t, "/phase") == "Running")
}

/// The VM's effective run strategy, from `runStrategy` or the deprecated `running`.
pub(super) fn run_strategy(vm: &Value) -> &str {
    match vm.pointer("/spec/running").and_then(Value::as_bool) {
        Some(true) => "Always",
        Some(false) => "Halted",
        None => text(vm, "/spec/runStrategy"),
    }
}

pub(super) fn grace_seconds(vmi: &Value) -> u64 {
    vmi.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30)
}

/// Device resources a VMI asks for, with how many of each.
pub(super) fn device_requests(vmi: &Value) -> BTreeMap<String, u64> {
    let mut wanted = BTreeMap::new();
    for pointer in ["/spec/domain/devices/hostDevices", "/spec/domain/devices/gpus"] {
        for device in list(vmi, pointer) {
            *wanted.entry(text(device, "/deviceName").to_owned()).or_insert(0) += 1;
        }
    }
    wanted
}

pub(super) fn memory_mib(vmi: &Value) -> u64 {
    let guest = text(vmi, "/spec/domain/memory/guest");
    let asked = if guest.is_empty() { text(vmi, "/spec/domain/resources/requests/memory") } else { guest };
    quantity(asked).map_or(1024, |milli| u64::try_from(milli / 1000 / (1 << 20)).unwrap_or(1024))
}

/// A Kubernetes quantity in thousandths; `None` when it is not one.
pub(super) fn quantity(asked: &str) -> Option<u128> {
    let digits = asked.find(|c: char| !c.is_ascii_digit()).unwrap_or(asked.len());
    let (number, suffix) = asked.split_at(digits);
    let factor: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    number.parse::<u128>().ok().map(|n| n * factor)
}

/// Five letters that follow from `seed` alone, for names that must be the same in every replay.
pub(super) fn suffix(seed: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = hash(seed);
    (0..5)
        .map(|_| {
            let index = usize::try_from(rest % LETTERS.len() as u64).unwrap_or(0);
            rest /= LETTERS.len() as u64;
            LETTERS.get(index).map_or('x', |letter| char::from(*letter))
        })
        .collect()
}

/// A number that follows from `seed` alone.
pub(super) fn hash(seed: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantities() {
        for (asked, milli) in [("1", 1000), ("250m", 250), ("2k", 2_000_000), ("1Mi", 1_048_576_000)] {
            assert_eq!(quantity(asked), Some(milli), "{asked}");
        }
        assert_eq!(quantity("many"), None);
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let vmi =
            json!({"status": {"conditions": conditions_with(&json!({}), "Ready", "True", "", "", "t1")}});
        let same = conditions_with(&vmi, "Ready", "True", "New", "", "t2");
        assert_eq!(text(&same[0], "/lastTransitionTime"), "t1");
        let other = conditions_with(&vmi, "Ready", "False", "", "", "t2");
        assert_eq!(text(&other[0], "/lastTransitionTime"), "t2");
    }
}
