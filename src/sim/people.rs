//! The people around an upgrade, as far as something makes them act: users of VMs, operators, Harvester's own controllers.
//! They use the API as anybody does, in memory and on a real API server alike. When they act is not their affair.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::object::Object;
use super::wire::Wire;
use crate::cluster::nodes::DRAIN_TAINT;
use crate::cluster::vms;
use crate::flow::vms::VmKey;

/// What a user does to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Deletes it.
    Delete,
    /// Deletes it, and makes it anew once it is gone.
    Recreate,
    /// Starts it.
    Start,
    /// Shuts it down.
    Stop,
    /// Writes the run strategy `Halted`.
    Halt,
    /// Makes another VM that wants the same devices.
    TakeDevice,
}

impl Deed {
    /// Whether it makes the VM's further fate its user's own business.
    #[must_use]
    pub fn takes_over(self) -> bool {
        match self {
            Self::Delete | Self::Recreate | Self::Stop | Self::Halt => true,
            Self::Start | Self::TakeDevice => false,
        }
    }
}

/// How long people take.
pub const PEOPLE: Duration = Duration::from_secs(2);
/// How long a controller takes.
const CONTROLLER: Duration = Duration::from_millis(500);
/// How often a user looks whether a deleted VM is gone.
const PATIENCE: u32 = 300;

fn vm_path(kind: &str, vm: &VmKey) -> String {
    let base = format!("/apis/kubevirt.io/v1/namespaces/{}/{kind}", vm.namespace);
    if vm.name.is_empty() { base } else { format!("{base}/{}", vm.name) }
}

/// Does it to a VM, and takes so long for each move; [`PEOPLE`] in real life. A refusal is the user's to read.
pub async fn act(wire: Wire, pace: Duration, deed: Deed, vm: VmKey) {
    tokio::time::sleep(pace).await;
    let done = match deed {
        Deed::Delete => delete(&wire, &vm).await,
        Deed::Recreate => recreate(&wire, pace, &vm).await,
        Deed::Start => {
            if let Err(error) = vms::start(&wire.client(), &vm).await {
                tracing::debug!(%error, "the user's start was refused");
            }
            Ok(())
        }
        Deed::Stop => {
            if let Err(error) = vms::stop(&wire.client(), &vm, None).await {
                tracing::debug!(%error, "the user's stop was refused");
            }
            Ok(())
        }
        Deed::Halt => halt(&wire, &vm).await,
        Deed::TakeDevice => take_device(&wire, &vm).await,
    };
    if let Err(error) = done {
        tracing::debug!(%vm, ?deed, %error, "the user was refused");
    }
}

async fn get(wire: &Wire, path: &str) -> kube::Result<Option<Object>> {
    match wire.send(Method::GET, path, &Value::Null).await {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

async fn delete(wire: &Wire, vm: &VmKey) -> kube::Result<()> {
    wire.send(Method::DELETE, &vm_path("virtualmachines", vm), &Value::Null).await.map(drop)
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

async fn recreate(wire: &Wire, pace: Duration, vm: &VmKey) -> kube::Result<()> {
    let path = vm_path("virtualmachines", vm);
    let known = wire.send(Method::GET, &path, &Value::Null).await?;
    delete(wire, vm).await?;
    for _ in 0..PATIENCE {
        tokio::time::sleep(pace).await;
        if get(wire, &path).await?.is_none() {
            break;
        }
    }
    let all = vm_path("virtualmachines", &VmKey::new(&vm.namespace, ""));
    wire.send(Method::POST, &all, &anew(&known, &vm.name)).await.map(drop)
}

async fn halt(wire: &Wire, vm: &VmKey) -> kube::Result<()> {
    let body = json!({"spec": {"runStrategy": "Halted"}});
    wire.send(Method::PATCH, &vm_path("virtualmachines", vm), &body).await.map(drop)
}

async fn take_device(wire: &Wire, vm: &VmKey) -> kube::Result<()> {
    let known = wire.send(Method::GET, &vm_path("virtualmachines", vm), &Value::Null).await?;
    let all = vm_path("virtualmachines", &VmKey::new(&vm.namespace, ""));
    wire.send(Method::POST, &all, &anew(&known, &format!("{}-rival", vm.name))).await.map(drop)
}

/// Orders a VM that runs elsewhere onto a node; true when it is on its way.
///
/// # Errors
/// What the API refused.
pub async fn migrate_here(wire: &Wire, vm: &VmKey, node: &str) -> kube::Result<bool> {
    let vmi = get(wire, &vm_path("virtualmachineinstances", vm)).await?;
    let on = vmi.as_ref().and_then(|vmi| vmi.pointer("/status/nodeName")).and_then(Value::as_str);
    if on.is_none() || on == Some(node) {
        return Ok(false);
    }
    let name = format!("{}-to-{node}", vm.name);
    let order = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": name, "labels": {"kubevirt.io/vmi-name": vm.name}},
        "spec": {"vmiName": vm.name, "addedNodeSelector": {"kubernetes.io/hostname": node}}});
    let all = vm_path("virtualmachineinstancemigrations", &VmKey::new(&vm.namespace, ""));
    wire.send(Method::POST, &all, &order).await.map(|_| true)
}

/// Evicts a VM's launcher pods; true when one is going now, and its guest with it.
///
/// # Errors
/// When the pods cannot be listed; a refused eviction is none.
pub async fn evict(wire: &Wire, vm: &VmKey) -> kube::Result<bool> {
    let pods = format!("/api/v1/namespaces/{}/pods", vm.namespace);
    let list = format!("{pods}?labelSelector=vm.kubevirt.io/name%3D{}", vm.name);
    let found = wire.send(Method::GET, &list, &Value::Null).await?;
    let found = found.pointer("/items").and_then(Value::as_array).into_iter().flatten();
    let mut going = false;
    for pod in found.filter_map(|pod| pod.pointer("/metadata/name").and_then(Value::as_str)) {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
        match wire.send(Method::POST, &format!("{pods}/{pod}/eviction"), &eviction).await {
            Ok(_) => going = true,
            Err(error) => tracing::debug!(%vm, %error, "the eviction was refused"),
        }
    }
    Ok(going)
}

/// Takes the drain taint off a node, as Harvester's node controller does where it knows of no upgrade.
///
/// # Errors
/// What the API refused.
pub async fn remove_taint(wire: &Wire, node: &str) -> kube::Result<()> {
    tokio::time::sleep(CONTROLLER).await;
    let path = format!("/api/v1/nodes/{node}");
    let Some(found) = get(wire, &path).await? else { return Ok(()) };
    let taints = found.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    let kept: Vec<Value> = taints.into_iter().filter(|taint| taint["key"] != DRAIN_TAINT).collect();
    let body = json!({"spec": {"taints": if kept.is_empty() { Value::Null } else { json!(kept) }}});
    wire.send(Method::PATCH, &path, &body).await.map(drop)
}

/// Does this node carry the drain taint?
#[must_use]
pub fn is_tainted(node: &Value) -> bool {
    let taints = node.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten();
    taints.into_iter().any(|taint| taint["key"] == DRAIN_TAINT)
}
