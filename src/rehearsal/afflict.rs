//! Puts flaws into the cluster's objects: what a world has from the beginning. Decides nothing.

use http::Method;
use serde_json::{Value, json};

use crate::flow::vms::VmKey;
use crate::rehearsal::RehearsalError;
use crate::rehearsal::doings::{Doing, Machine, Setup};
use crate::rehearsal::faults::Fault;
use crate::sim::api::ApiServer;
use crate::sim::world;

/// One merge patch of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Affliction {
    /// The object's path, or that of its status.
    pub path: String,
    /// The patch; an empty one only asks whether the object is there.
    pub body: Value,
}

/// The patches that put a flaw of the beginning into its object; the others come with the machine or on the way. Those of
/// objects that have to be there come first.
#[must_use]
pub fn afflictions(fault: &Fault) -> Vec<Affliction> {
    let on = |path: &str, body: Value| Affliction { path: path.to_owned(), body };
    match fault {
        Fault::Vm(vm, flaw) => {
            let kind =
                |kind: &str| format!("/apis/kubevirt.io/v1/namespaces/{}/{kind}/{}", vm.namespace, vm.name);
            let (vm_path, vmi_path) = (kind("virtualmachines"), kind("virtualmachineinstances"));
            let failed = || on(&vmi_path, json!({"status": {"phase": "Failed"}}));
            let mut all = vec![on(&vmi_path, json!({}))];
            match flaw.doing() {
                Doing::Annotation(key, value) => {
                    let body = json!({"metadata": {"annotations": {key: value}}});
                    // Its next instance goes by what the VM says.
                    all.extend([on(&vmi_path, body.clone()), on(&vm_path, body)]);
                }
                Doing::Setup(Setup::CrashLoops) => {
                    let script = json!({"annotations": {world::BOOT_FAILURES_ANNOTATION: "always"}});
                    let body =
                        json!({"metadata": script, "spec": {"running": null, "runStrategy": "Always"}});
                    all.extend([on(&vm_path, body), failed()]);
                }
                Doing::Setup(Setup::LingersFailed) => {
                    let body = json!({"spec": {"running": null, "runStrategy": "Manual"}});
                    all.extend([on(&vm_path, body), failed()]);
                }
                Doing::Setup(Setup::Cordoned | Setup::NoRoom) | Doing::Deed(..) | Doing::Machine(_) => {}
            }
            all
        }
        Fault::Node(node, flaw) => {
            let path = format!("/api/v1/nodes/{node}");
            vec![match flaw.doing() {
                Doing::Setup(Setup::Cordoned) => on(&path, json!({"spec": {"unschedulable": true}})),
                Doing::Setup(Setup::NoRoom) => {
                    let room = json!({"memory": "1Mi"});
                    let body = json!({"status": {"allocatable": room, "capacity": room}});
                    on(&format!("{path}/status"), body)
                }
                Doing::Setup(Setup::CrashLoops | Setup::LingersFailed)
                | Doing::Annotation(..)
                | Doing::Deed(..)
                | Doing::Machine(_) => on(&path, json!({})),
            }]
        }
        Fault::At(..) | Fault::KillAtAwait(_) => Vec::new(),
    }
}

/// Puts a flaw of the beginning into a world in memory. A flaw of an object that is not there is refused.
pub(super) fn afflict(server: &ApiServer, fault: &Fault) -> Result<(), RehearsalError> {
    for Affliction { path, body } in afflictions(fault) {
        if let Err(status) = server.call(&Method::PATCH, &path, &body) {
            let what = match fault {
                Fault::Vm(vm, _) => format!("fault {fault}: VM {vm}"),
                Fault::Node(node, _) => format!("fault {fault}: node {node}"),
                Fault::At(..) | Fault::KillAtAwait(_) => fault.to_string(),
            };
            return Err(RehearsalError::World { what, why: status.message.clone() });
        }
    }
    Ok(())
}

/// What the device plugins of a node that has booted will not offer again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Missing {
    all: bool,
    one_of_each: bool,
    /// The devices of these VMs have other names.
    renamed: Vec<VmKey>,
    /// It is not heard of again.
    pub(super) node: bool,
}

impl Missing {
    /// What these faults say of a node.
    pub(super) fn of(faults: &[Fault], node: &str) -> Self {
        let mut missing = Self::default();
        for fault in faults {
            match fault {
                Fault::Node(name, flaw) if name == node => match flaw.doing() {
                    Doing::Machine(Machine::LosesDevices) => missing.all = true,
                    Doing::Machine(Machine::LosesOneOfEach) => missing.one_of_each = true,
                    Doing::Machine(Machine::NeverReturns) => missing.node = true,
                    Doing::Machine(_) | Doing::Annotation(..) | Doing::Setup(_) | Doing::Deed(..) => {}
                },
                Fault::Vm(vm, flaw) if flaw.doing() == Doing::Machine(Machine::RenamesDevices) => {
                    missing.renamed.push(vm.clone());
                }
                Fault::Node(..) | Fault::Vm(..) | Fault::At(..) | Fault::KillAtAwait(_) => {}
            }
        }
        missing
    }

    /// Takes it away from what is to be offered.
    pub(super) fn take_away(&self, server: &ApiServer, node: &str) {
        if *self == Self::default() {
            return;
        }
        let noted = server.get_object("", "nodes", "", node).and_then(|node| {
            let all = node.pointer("/metadata/annotations")?.get(world::DEVICES_ANNOTATION)?.as_str()?;
            serde_json::from_str::<Value>(all).ok()
        });
        let Some(mut noted) = noted else { return };
        let gone: Vec<String> = self.renamed.iter().flat_map(|vm| devices_of(server, vm)).collect();
        if let Some(devices) = noted.get_mut("devices").and_then(Value::as_object_mut) {
            for (name, count) in
                devices.iter_mut().filter(|(name, _)| !name.starts_with("devices.kubevirt.io/"))
            {
                let had: u32 = count.as_str().and_then(|count| count.parse().ok()).unwrap_or(0);
                let left = if self.all || gone.contains(name) {
                    0
                } else {
                    had.saturating_sub(u32::from(self.one_of_each))
                };
                *count = json!(left.to_string());
            }
        }
        let body = json!({"metadata": {"annotations": {world::DEVICES_ANNOTATION: noted.to_string()}}});
        if let Err(status) = server.call(&Method::PATCH, &format!("/api/v1/nodes/{node}"), &body) {
            tracing::warn!(node, message = status.message, "the devices could not be taken away");
        }
    }
}

/// The resource names that a VM asks for.
fn devices_of(server: &ApiServer, vm: &VmKey) -> Vec<String> {
    let Some(vm) = server.get_object("kubevirt.io", "virtualmachines", &vm.namespace, &vm.name) else {
        return Vec::new();
    };
    let lists = ["hostDevices", "gpus"].map(|list| {
        vm.pointer(&format!("/spec/template/spec/domain/devices/{list}")).and_then(Value::as_array)
    });
    let all = lists.into_iter().flatten().flatten();
    all.filter_map(|device| device.get("deviceName")?.as_str().map(str::to_owned)).collect()
}
