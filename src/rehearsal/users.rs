//! The people around an upgrade, as far as faults make them act: users of VMs, operators, Harvester's own controllers. They
//! use the API as anybody does, a moment after what moves them.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::cluster::nodes::DRAIN_TAINT;
use crate::cluster::vms;
use crate::flow::vms::VmKey;
use crate::rehearsal::doings::Deed;
use crate::sim::api::{ApiServer, Status};

/// How long people take.
const PEOPLE: Duration = Duration::from_secs(2);
/// How long a controller takes.
const CONTROLLER: Duration = Duration::from_millis(500);
/// How long a user waits for a deleted VM to be gone.
const PATIENCE: u32 = 300;

fn vm_path(kind: &str, vm: &VmKey) -> String {
    let base = format!("/apis/kubevirt.io/v1/namespaces/{}/{kind}", vm.namespace);
    if vm.name.is_empty() { base } else { format!("{base}/{}", vm.name) }
}

/// Whether this deed makes the VM's further fate its user's own business.
pub(super) fn takes_over(deed: Deed) -> bool {
    match deed {
        Deed::Delete | Deed::Recreate | Deed::Stop | Deed::Halt => true,
        Deed::Start
        | Deed::MigrateHere
        | Deed::TakeDevice
        | Deed::Evict
        | Deed::KillAgent
        | Deed::RemoveTaint
        | Deed::Trouble(..) => false,
    }
}

/// Does it to a VM.
pub(super) async fn act(server: ApiServer, deed: Deed, vm: VmKey) {
    tokio::time::sleep(PEOPLE).await;
    let done = match deed {
        Deed::Delete => delete(&server, &vm),
        Deed::Recreate => recreate(&server, &vm).await,
        Deed::Start => {
            // A refusal is the user's to read.
            if let Err(error) = vms::start(&server.client(), &vm).await {
                tracing::debug!(%error, "the user's start was refused");
            }
            Ok(())
        }
        Deed::Stop => {
            if let Err(error) = vms::stop(&server.client(), &vm, None).await {
                tracing::debug!(%error, "the user's stop was refused");
            }
            Ok(())
        }
        Deed::Halt => halt(&server, &vm),
        Deed::TakeDevice => take_device(&server, &vm),
        Deed::MigrateHere | Deed::Evict | Deed::KillAgent | Deed::RemoveTaint | Deed::Trouble(..) => Ok(()),
    };
    if let Err(status) = done {
        tracing::debug!(%vm, ?deed, %status, "the user was refused");
    }
}

fn delete(server: &ApiServer, vm: &VmKey) -> Result<(), Status> {
    server.call(&Method::DELETE, &vm_path("virtualmachines", vm), &Value::Null).map(drop)
}

/// What a user would write anew of an object.
fn anew(vm: &Value, name: &str) -> Value {
    let mut spec = vm.get("spec").cloned().unwrap_or_default();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("running");
        fields.insert("runStrategy".to_owned(), json!("RerunOnFailure"));
    }
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": spec})
}

async fn recreate(server: &ApiServer, vm: &VmKey) -> Result<(), Status> {
    let path = vm_path("virtualmachines", vm);
    let known = server.call(&Method::GET, &path, &Value::Null)?;
    delete(server, vm)?;
    for _ in 0..PATIENCE {
        tokio::time::sleep(PEOPLE).await;
        if server.get_object("kubevirt.io", "virtualmachines", &vm.namespace, &vm.name).is_none() {
            break;
        }
    }
    let all = vm_path("virtualmachines", &VmKey::new(&vm.namespace, ""));
    server.call(&Method::POST, &all, &anew(&known, &vm.name)).map(drop)
}

fn halt(server: &ApiServer, vm: &VmKey) -> Result<(), Status> {
    let body = json!({"spec": {"runStrategy": "Halted"}});
    server.call(&Method::PATCH, &vm_path("virtualmachines", vm), &body).map(drop)
}

fn take_device(server: &ApiServer, vm: &VmKey) -> Result<(), Status> {
    let known = server.call(&Method::GET, &vm_path("virtualmachines", vm), &Value::Null)?;
    let all = vm_path("virtualmachines", &VmKey::new(&vm.namespace, ""));
    server.call(&Method::POST, &all, &anew(&known, &format!("{}-rival", vm.name))).map(drop)
}

/// Orders a VM that runs elsewhere onto a node; true when it is on its way.
pub(super) fn migrate_here(server: &ApiServer, vm: &VmKey, node: &str) -> bool {
    let vmi = server.get_object("kubevirt.io", "virtualmachineinstances", &vm.namespace, &vm.name);
    let on = vmi.as_ref().and_then(|vmi| vmi.pointer("/status/nodeName")).and_then(Value::as_str);
    if on.is_none() || on == Some(node) {
        return false;
    }
    let name = format!("{}-to-{node}", vm.name);
    let order = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": name, "labels": {"kubevirt.io/vmi-name": vm.name}},
        "spec": {"vmiName": vm.name, "addedNodeSelector": {"kubernetes.io/hostname": node}}});
    let all = vm_path("virtualmachineinstancemigrations", &VmKey::new(&vm.namespace, ""));
    let ordered = server.call(&Method::POST, &all, &order);
    if let Err(status) = &ordered {
        tracing::debug!(%vm, node, %status, "the user's migration was refused");
    }
    ordered.is_ok()
}

/// Evicts a VM's launcher pods; true when one is going now, and its guest with it.
pub(super) fn evict(server: &ApiServer, vm: &VmKey) -> bool {
    let labels = format!("vm.kubevirt.io/name={}", vm.name);
    let pods = server.list_objects("", "pods", &vm.namespace, &labels);
    let mut going = false;
    for pod in pods.iter().filter_map(|pod| pod.pointer("/metadata/name").and_then(Value::as_str)) {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", vm.namespace);
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
        match server.call(&Method::POST, &path, &eviction) {
            Ok(_) => going = true,
            Err(status) => tracing::debug!(%vm, %status, "the eviction was refused"),
        }
    }
    going
}

/// Takes the drain taint off a node, as Harvester's node controller does where it knows of no upgrade.
pub(super) async fn remove_taint(server: ApiServer, node: String) {
    tokio::time::sleep(CONTROLLER).await;
    let Some(found) = server.get_object("", "nodes", "", &node) else { return };
    let taints = found.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    let kept: Vec<Value> = taints.into_iter().filter(|taint| taint["key"] != DRAIN_TAINT).collect();
    let body = json!({"spec": {"taints": if kept.is_empty() { Value::Null } else { json!(kept) }}});
    if let Err(status) = server.call(&Method::PATCH, &format!("/api/v1/nodes/{node}"), &body) {
        tracing::debug!(node, %status, "the taint could not be taken off");
    }
}

/// Does this node carry the drain taint?
pub(super) fn is_tainted(node: &Value) -> bool {
    let taints = node.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten();
    taints.into_iter().any(|taint| taint["key"] == DRAIN_TAINT)
}
