//! A VM with its whole spec, which only those are read for that are off: what somebody may have changed in it, what its
//! volumes are, and what Harvester remembers of it. Reads only. Decides nothing.

use jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::crd::kubevirt::{VirtualMachine, VirtualMachineInstance};
use crate::cluster::names::digest;
use crate::cluster::vm_mark::STOPPED_FOR;
use crate::cluster::volumes::claim_of;
use crate::cluster::{ClusterError, ask_opt, vms};
use crate::flow::restore::adopt::Listed;
use crate::flow::restore::claim::{InstanceNow, VmNow};
use crate::flow::vms::{AsLeft, VmKey};

/// Annotation in which Harvester keeps the last run strategy of a VM before it was halted.
const KEPT_STRATEGY: &str = "harvesterhci.io/vmRunStrategy";
/// Annotation of a VM that Harvester's maintenance mode has stopped: for which node.
const MAINTENANCE: &str = "harvesterhci.io/maintain-mode-strategy-node-name";
/// Annotation of a VM that Harvester has halted because its namespace has no quota left.
const SHORT_OF_QUOTA: &str = "harvesterhci.io/insufficient-resource-quota";

/// A VM.
#[derive(Debug, Clone)]
pub struct VmState {
    /// What tells whose it is.
    pub now: VmNow,
    /// It says how to run by `spec.runStrategy`, and not by the old `spec.running`.
    pub has_run_strategy: bool,
    /// Names of the claims that its spec names.
    pub claims: Vec<String>,
    object: DynamicObject,
}

/// One VM; none when it is gone.
///
/// # Errors
/// [`ClusterError`].
pub async fn read(client: &Client, key: &VmKey, upgrade_uid: &str) -> Result<Option<VmState>, ClusterError> {
    let found = whole(client, key).await?;
    Ok(found.map(|object| VmState::of(object, upgrade_uid)))
}

async fn whole(client: &Client, key: &VmKey) -> Result<Option<DynamicObject>, ClusterError> {
    let kind = ApiResource::erase::<VirtualMachine>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &kind);
    ask_opt(format!("read VM {key}"), api.get(&key.name)).await
}

/// A name on Harvester's list, with all that tells whether a start is owed.
///
/// # Errors
/// [`ClusterError`].
pub async fn listed(client: &Client, key: &VmKey, upgrade_uid: &str) -> Result<Listed, ClusterError> {
    let Some(state) = read(client, key, upgrade_uid).await? else { return Ok(Listed::default()) };
    let instance = vms::instance(client, key).await?;
    let domain = state.at("/spec/template/spec/domain");
    Ok(Listed {
        instance: instance.as_ref().map(instance_now),
        kept_strategy: state.annotation(KEPT_STRATEGY).cloned(),
        in_maintenance: state.annotation(MAINTENANCE).is_some(),
        off_since: state.off_since(),
        devices: devices(domain),
        hugepages: text(domain, "/memory/hugepages/pageSize"),
        dedicated_cpus: domain.pointer("/cpu/dedicatedCpuPlacement") == Some(&Value::Bool(true)),
        vm: Some(state.now),
    })
}

/// What keeps `KubeVirt` from making its instance, in `KubeVirt`'s words; none when nothing does.
///
/// # Errors
/// [`ClusterError`].
pub async fn failure(client: &Client, key: &VmKey) -> Result<Option<String>, ClusterError> {
    let found = whole(client, key).await?;
    Ok(found.and_then(|object| {
        let all = object.data.pointer("/status/conditions").and_then(Value::as_array)?;
        let failure = all.iter().find(|one| one["type"] == "Failure" && one["status"] == "True")?;
        failure["message"].as_str().map(str::to_owned)
    }))
}

/// What tells whether an instance is the old one.
#[must_use]
pub fn instance_now(vmi: &VirtualMachineInstance) -> InstanceNow {
    InstanceNow {
        uid: vmi.uid().unwrap_or_default(),
        ended: vms::ended(vmi),
        deleting: vmi.metadata.deletion_timestamp.is_some(),
    }
}

impl VmState {
    /// The same, for the journal.
    #[must_use]
    pub fn as_left(&self) -> AsLeft {
        AsLeft {
            marked: self.now.marked,
            generation: self.now.generation,
            run_strategy: self.now.run_strategy.clone(),
            spec: self.now.spec.clone(),
        }
    }

    /// How our stop, which is about to be asked for, leaves it: `KubeVirt` writes Halted over Always and Once, and leaves the
    /// others (reference `kubevirt.md` §2.1).
    #[must_use]
    pub fn to_be_left(&self) -> AsLeft {
        let halts = matches!(self.now.run_strategy.as_deref(), Some("Always" | "Once"));
        let before = self.as_left();
        AsLeft {
            run_strategy: if halts { Some("Halted".to_owned()) } else { before.run_strategy.clone() },
            generation: before.generation + i64::from(halts),
            ..before
        }
    }

    /// A VM that was just read or written.
    #[must_use]
    pub fn of(object: DynamicObject, upgrade_uid: &str) -> Self {
        let spec = object.data.pointer("/spec").unwrap_or(&Value::Null);
        let volumes = items(spec, "/template/spec/volumes");
        let claims = volumes.filter_map(claim_of).map(str::to_owned);
        let strategy = text(spec, "/runStrategy");
        let running = spec.pointer("/running").and_then(Value::as_bool);
        let by_running = running.map(|runs| if runs { "Always" } else { "Halted" }.to_owned());
        Self {
            now: VmNow {
                uid: object.uid(),
                deleting: object.metadata.deletion_timestamp.is_some(),
                marked: object.annotations().get(STOPPED_FOR).is_some_and(|uid| uid == upgrade_uid),
                generation: object.metadata.generation.unwrap_or_default(),
                run_strategy: strategy.clone().or(by_running),
                spec: digest(of_people(spec).to_string().as_bytes()),
                short_of_quota: object.annotations().contains_key(SHORT_OF_QUOTA),
            },
            has_run_strategy: strategy.is_some(),
            claims: claims.collect(),
            object,
        }
    }

    fn at(&self, pointer: &str) -> &Value {
        self.object.data.pointer(pointer).unwrap_or(&Value::Null)
    }

    fn annotation(&self, key: &str) -> Option<&String> {
        self.object.annotations().get(key)
    }

    /// `KubeVirt` writes down when a VM's instance went; whatever else makes it unready says nothing about that.
    fn off_since(&self) -> Option<Timestamp> {
        let is = |one: &Value, field: &str, value: &str| text(one, field).as_deref() == Some(value);
        let mut conditions = items(&self.object.data, "/status/conditions");
        let off = conditions.find(|one| is(one, "/type", "Ready") && is(one, "/reason", "VMINotExists"))?;
        text(off, "/lastTransitionTime")?.parse().ok()
    }
}

/// A spec without its run strategy, which is judged by itself, and without what `KubeVirt` and Harvester fill in when an
/// instance starts or ends (reference `kubevirt.md` §1.3, §6.1).
fn of_people(spec: &Value) -> Value {
    let mut spec = spec.clone();
    remove(&mut spec, "", &["running", "runStrategy"]);
    for of in ["/instancetype", "/preference"] {
        remove(&mut spec, of, &["revisionName"]);
    }
    remove(&mut spec, "/template/metadata", &["creationTimestamp"]);
    remove(&mut spec, "/template/spec/domain", &["firmware"]);
    let domain = "/template/spec/domain";
    // Which of several alike it gets is written into a device's name, and Harvester 1.8 makes host devices of GPUs.
    let mut names = spec.pointer(domain).map(devices).unwrap_or_default();
    names.sort();
    remove(&mut spec, &format!("{domain}/devices"), &["hostDevices", "gpus"]);
    let interfaces = spec.pointer_mut(&format!("{domain}/devices/interfaces"));
    for interface in interfaces.and_then(Value::as_array_mut).into_iter().flatten() {
        remove(interface, "", &["macAddress"]);
    }
    json!([spec, names])
}

/// Resource names of a guest's devices.
fn devices(domain: &Value) -> Vec<String> {
    let all = items(domain, "/devices/hostDevices").chain(items(domain, "/devices/gpus"));
    all.filter_map(|device| text(device, "/deviceName")).collect()
}

fn remove(object: &mut Value, pointer: &str, fields: &[&str]) {
    if let Some(map) = object.pointer_mut(pointer).and_then(Value::as_object_mut) {
        map.retain(|field, _| !fields.contains(&field.as_str()));
    }
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text(object: &Value, pointer: &str) -> Option<String> {
    let found = object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    found.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> Value {
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": { "name": "db", "namespace": "default", "uid": "u", "generation": 4,
                "annotations": { STOPPED_FOR: "upgrade-1" } },
            "spec": { "runStrategy": "Halted", "template": { "spec": {
                "domain": { "cpu": { "cores": 2 }, "devices": {
                    "hostDevices": [{ "name": "node1-000001", "deviceName": "a/b" }],
                    "gpus": [{ "name": "g", "deviceName": "c/d" }],
                    "interfaces": [{ "name": "lan", "bridge": {} }] } },
                "volumes": [
                    { "name": "root", "persistentVolumeClaim": { "claimName": "root" } },
                    { "name": "data", "dataVolume": { "name": "data" } },
                    { "name": "init", "cloudInitNoCloud": { "userData": "" } }] } } },
            "status": { "conditions": [{ "type": "Ready", "status": "False", "reason": "VMINotExists",
                "lastTransitionTime": "2026-03-01T00:00:00Z" }] },
        })
    }

    fn state(vm: Value) -> VmState {
        VmState::of(serde_json::from_value(vm).unwrap(), "upgrade-1")
    }

    #[test]
    fn what_is_needed_of_a_vm_that_is_off() {
        let state = state(vm());
        assert_eq!(state.claims, ["root", "data"]);
        assert!(state.has_run_strategy && state.now.marked && !state.now.deleting);
        assert_eq!((state.now.generation, state.now.run_strategy.as_deref()), (4, Some("Halted")));
        assert_eq!(state.off_since(), Some("2026-03-01T00:00:00Z".parse().unwrap()));
        let mut old = vm();
        old["spec"] = json!({ "running": true });
        let old = super::VmState::of(serde_json::from_value(old).unwrap(), "upgrade-2");
        assert!(!old.has_run_strategy && !old.now.marked);
        assert_eq!(old.now.run_strategy.as_deref(), Some("Always"));
    }

    #[test]
    fn only_what_people_change_makes_another_spec() {
        let before = state(vm()).now.spec;
        let domain = "/spec/template/spec/domain";
        let table = [
            ("run strategy", "/spec", "runStrategy", json!("Always"), true),
            (
                "the device that it got",
                domain,
                "devices",
                json!({
                "hostDevices": [{ "name": "node1-000002", "deviceName": "c/d" }, { "name": "x", "deviceName": "a/b" }],
                "interfaces": [{ "name": "lan", "bridge": {}, "macAddress": "02:00:00:00:00:01" }] }),
                true,
            ),
            ("firmware", domain, "firmware", json!({ "uuid": "x" }), true),
            ("CPUs", domain, "cpu", json!({ "cores": 4 }), false),
            (
                "another device",
                domain,
                "devices",
                json!({
                "hostDevices": [{ "name": "n", "deviceName": "e/f" }], "interfaces": [{ "name": "lan", "bridge": {} }] }),
                false,
            ),
            ("a disk less", "/spec/template/spec", "volumes", json!([]), false),
        ];
        for (what, at, field, value, same) in table {
            let mut changed = vm();
            changed.pointer_mut(at).unwrap()[field] = value;
            assert_eq!(state(changed).now.spec == before, same, "{what}");
        }
    }
}
