//! Puts flaws into the cluster's objects: what a world has from the beginning. Writes to the API server in memory and decides nothing.

use http::Method;
use serde_json::{Value, json};

use crate::rehearsal::RehearsalError;
use crate::rehearsal::faults::{Fault, Flaw};
use crate::sim::api::ApiServer;
use crate::sim::world;

/// Puts a flaw of the beginning into its object; the others come with the machine or on the way.
pub(super) fn afflict(server: &ApiServer, fault: &Fault) -> Result<(), RehearsalError> {
    match fault {
        Fault::Vm(vm, flaw) => {
            let path = format!(
                "/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}",
                vm.namespace, vm.name
            );
            let annotation = match flaw {
                Flaw::GuestIgnoresShutdown => Some((world::SHUTDOWN_ANNOTATION, "ignore")),
                Flaw::MigrationNeverConverges => Some((world::DIRTY_ANNOTATION, "1000000")),
                Flaw::UserStarts => None,
                Flaw::Cordoned
                | Flaw::NoRoom
                | Flaw::DeviceLost
                | Flaw::StrayGuest
                | Flaw::Rke2Crashes
                | Flaw::Rke2Hangs
                | Flaw::Rke2WrongVersion
                | Flaw::Rke2Dies => return Ok(()),
            };
            let body = match annotation {
                Some((key, value)) => json!({"metadata": {"annotations": {key: value}}}),
                None => json!({}),
            };
            patch(server, &path, &body, &format!("fault {fault}: VM {vm}"))
        }
        Fault::Node(node, flaw) => {
            let path = format!("/api/v1/nodes/{node}");
            let what = format!("fault {fault}: node {node}");
            match flaw {
                Flaw::Cordoned => patch(server, &path, &json!({"spec": {"unschedulable": true}}), &what),
                Flaw::NoRoom => {
                    let room =
                        json!({"status": {"allocatable": {"memory": "1Mi"}, "capacity": {"memory": "1Mi"}}});
                    patch(server, &format!("{path}/status"), &room, &what)
                }
                Flaw::DeviceLost
                | Flaw::StrayGuest
                | Flaw::Rke2Crashes
                | Flaw::Rke2Hangs
                | Flaw::Rke2WrongVersion
                | Flaw::Rke2Dies
                | Flaw::GuestIgnoresShutdown
                | Flaw::MigrationNeverConverges
                | Flaw::UserStarts => patch(server, &path, &json!({}), &what),
            }
        }
        Fault::At(..) | Fault::KillAtAwait(_) => Ok(()),
    }
}

fn patch(server: &ApiServer, path: &str, body: &Value, what: &str) -> Result<(), RehearsalError> {
    let answer = server.call(&Method::PATCH, path, body);
    answer
        .map(drop)
        .map_err(|status| RehearsalError::World { what: what.to_owned(), why: status.message.clone() })
}

/// The device plugins never come back: nobody remembers what they offered.
pub(super) fn take_devices_away(server: &ApiServer, node: &str) {
    let body = json!({"metadata": {"annotations": {world::DEVICES_ANNOTATION: null}}});
    if let Err(status) = server.call(&Method::PATCH, &format!("/api/v1/nodes/{node}"), &body) {
        tracing::warn!(node, message = status.message, "the devices could not be taken away");
    }
}
