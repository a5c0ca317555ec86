//! Reads fields of loosely typed objects and builds the small values that every player writes: conditions, finalizer
//! lists, owner references. It never talks to the API and never changes an object in place.

mod made_up;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

pub(super) use crate::flow::quantity::thousandths as quantity;
pub(super) use made_up::{hash, hash_of, is_hex, suffix, uid_from};

/// Finalizer of the VMI controller: holds a VMI until its pods are gone.
pub(super) const FOREGROUND: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// Finalizer of the VM controller, on VMs and on their VMIs.
pub(super) const VM_FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";
/// Finalizer of a migration.
pub(super) const VMIM_FINALIZER: &str = "kubevirt.io/migrationJobFinalize";
/// Label on pods that names the migration they are the target of.
pub(super) const MIGRATION_JOB: &str = "kubevirt.io/migrationJobUID";
/// Annotation on migrations that an evacuation asked for.
pub(super) const EVACUATION: &str = "kubevirt.io/evacuationMigration";
/// Label of a VMI, written together with `status.nodeName`.
pub(super) const NODE_LABEL: &str = "kubevirt.io/nodeName";
/// Label of launcher pods: the uid of their VMI.
pub(super) const CREATED_BY: &str = "kubevirt.io/created-by";
/// Label of nodes by which each of them is a place of its own.
pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";
/// Annotation: where the first launcher pod of a VM has to run.
pub(super) const FIRST_NODE: &str = "sim.upgrade-agent/first-node";
/// Annotation: seconds the guest takes to power off, or `ignore`.
pub(super) const SHUTDOWN: &str = "sim.upgrade-agent/shutdown-seconds";
/// Annotation: the VM has a disk that no other node can reach.
pub(super) const LOCAL_DISK: &str = "sim.upgrade-agent/local-disk";
/// Annotation: MiB that the guest writes to its memory in a second, against which a migration copies.
pub(super) const DIRTY: &str = "sim.upgrade-agent/dirty-mib-per-second";
/// Annotation on a node whose kubelet does not run: since when.
pub(super) const AWAY: &str = "sim.upgrade-agent/kubelet-away";
/// Annotation on a node whose machine is switched off.
pub(super) const OFF: &str = "sim.upgrade-agent/off";
/// Annotation on a node whose kubelet has started: the devices that its plugins will register again, as JSON.
pub(super) const DEVICES: &str = "sim.upgrade-agent/devices";
/// Annotation on nodes whose heartbeat this simulator keeps.
pub(super) const SIMULATED: &str = "sim.upgrade-agent/node";

/// JSON pointers without escapes, read without making copies of their parts: simulators do little else.
pub(super) trait At {
    /// What is at this pointer.
    fn at(&self, pointer: &str) -> Option<&Value>;
}

impl At for Value {
    fn at(&self, pointer: &str) -> Option<&Value> {
        let (mut at, mut rest) = (self, pointer);
        while let Some(steps) = rest.strip_prefix('/') {
            let end = steps.bytes().position(|byte| byte == b'/').unwrap_or(steps.len());
            let (step, next) = steps.split_at(end);
            at = match at {
                Value::Object(fields) => fields.get(step)?,
                Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
            };
            rest = next;
        }
        Some(at)
    }
}

/// An object of these fields; the values are taken as they are, where `json!` would copy them.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    with(Value::Object(Map::new()), fields)
}

/// An object with these fields besides its own; the same.
pub(super) fn with<const N: usize>(mut object: Value, fields: [(&str, Value); N]) -> Value {
    if let Some(all) = object.as_object_mut() {
        all.extend(fields.into_iter().map(|(field, value)| (field.to_owned(), value)));
    }
    object
}

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.at(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The text of a field of the metadata, which everybody asks for all the time.
pub(super) fn metadata<'a>(object: &'a Value, field: &str) -> &'a str {
    let metadata = object.as_object().and_then(|object| object.get("metadata")?.as_object());
    metadata.and_then(|metadata| metadata.get(field)?.as_str()).unwrap_or_default()
}

pub(super) fn name(object: &Value) -> &str {
    metadata(object, "name")
}

pub(super) fn namespace(object: &Value) -> &str {
    metadata(object, "namespace")
}

pub(super) fn uid(object: &Value) -> &str {
    metadata(object, "uid")
}

pub(super) fn phase(object: &Value) -> &str {
    text(object, "/status/phase")
}

pub(super) fn is_deleting(object: &Value) -> bool {
    !metadata(object, "deletionTimestamp").is_empty()
}

/// Whether a VMI, a pod or a migration has ended.
pub(super) fn is_final(object: &Value) -> bool {
    matches!(phase(object), "Succeeded" | "Failed")
}

pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.at(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn map(object: &Value, pointer: &str) -> Map<String, Value> {
    object.at(pointer).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn entry<'a>(object: &'a Value, within: &str, key: &str) -> Option<&'a str> {
    object.at(within)?.get(key)?.as_str()
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
    conditions_with_all(object, &[(kind, status, reason, message)], now)
}

/// The same with several: type, status, reason and message of each.
pub(super) fn conditions_with_all(object: &Value, set: &[(&str, &str, &str, &str)], now: &str) -> Vec<Value> {
    let before = list(object, "/status/conditions");
    let is_set = |c: &&Value| set.iter().any(|(kind, ..)| text(c, "/type") == *kind);
    let mut all: Vec<Value> = before.iter().filter(|c| !is_set(c)).cloned().collect();
    for (kind, status, reason, message) in set {
        let same = before.iter().find(|c| text(c, "/type") == *kind && text(c, "/status") == *status);
        let since = same.map(|c| text(c, "/lastTransitionTime")).filter(|since| !since.is_empty());
        let mut fresh = Map::new();
        for (key, value) in [
            ("type", *kind),
            ("status", *status),
            ("lastProbeTime", since.unwrap_or(now)),
            ("lastTransitionTime", since.unwrap_or(now)),
            ("reason", *reason),
            ("message", *message),
        ] {
            if !value.is_empty() {
                fresh.insert(key.to_owned(), value.into());
            }
        }
        all.push(Value::Object(fresh));
    }
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
    match vm.at("/spec/running").and_then(Value::as_bool) {
        Some(true) => "Always",
        Some(false) => "Halted",
        None => text(vm, "/spec/runStrategy"),
    }
}

pub(super) fn grace_seconds(vmi: &Value) -> u64 {
    vmi.at("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30)
}

/// Device resources a VMI asks for, with how many of each.
pub(super) fn device_requests(vmi: &Value) -> BTreeMap<String, u64> {
    let mut wanted = BTreeMap::new();
    for pointer in ["/spec/domain/devices/hostDevices", "/spec/domain/devices/gpus"] {
        for device in list(vmi, pointer).iter().filter(|device| !text(device, "/deviceName").is_empty()) {
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

/// A JSON merge patch, in place.
pub(super) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Some(fields) = into.as_object_mut() else { return };
    for (field, value) in patch {
        if value.is_null() {
            fields.remove(field);
        } else {
            merge(fields.entry(field.as_str()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_removes_what_it_says_is_null() {
        let mut object = json!({"a": {"b": 1, "c": 2}});
        merge(&mut object, &json!({"a": {"b": null, "d": {"e": 3, "f": null}}}));
        assert_eq!(object, json!({"a": {"c": 2, "d": {"e": 3}}}));
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
