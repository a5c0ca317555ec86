//! Reads each object once as the agent will read it in the rehearsal, through the very types it uses, so that nothing
//! can fail there for the form of an object.

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::error::{AGAIN, ImportError, Place, excerpt};
use super::kinds::Kind;
use crate::cluster::crd::kubevirt::{
    VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
};
use crate::cluster::crd::node_upgrade::NodeUpgrade;
use crate::cluster::crd::upgrade::Upgrade;

/// Whether the agent can read it.
pub(super) fn check(kind: Kind, object: &Value, at: &Place) -> Result<(), ImportError> {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    refuse::<ObjectMeta>(metadata, at, "metadata")?;
    let part = "the object";
    match kind {
        Kind::Node => refuse::<Node>(object, at, part),
        Kind::Pod => refuse::<Pod>(object, at, part),
        Kind::Claim => refuse::<PersistentVolumeClaim>(object, at, part),
        Kind::Budget => refuse::<PodDisruptionBudget>(object, at, part),
        Kind::Vm => refuse::<VirtualMachine>(object, at, part),
        Kind::Vmi => refuse::<VirtualMachineInstance>(object, at, part),
        Kind::Vmim => refuse::<VirtualMachineInstanceMigration>(object, at, part),
        Kind::Upgrade => refuse::<Upgrade>(object, at, part),
        Kind::NodeUpgrade => refuse::<NodeUpgrade>(object, at, part),
        // The agent reads these as they come, and the rules have looked at what it needs.
        Kind::KubeVirt
        | Kind::Volume
        | Kind::Engine
        | Kind::Replica
        | Kind::InstanceManager
        | Kind::StorageNode
        | Kind::StorageSetting => Ok(()),
    }
}

fn refuse<'a, T: Deserialize<'a>>(value: &'a Value, at: &Place, part: &str) -> Result<(), ImportError> {
    match T::deserialize(value) {
        Ok(_) => Ok(()),
        Err(error) => Err(ImportError::Field {
            at: at.clone(),
            field: part.to_owned(),
            cause: excerpt(&error.to_string()),
            cure: AGAIN,
        }),
    }
}
