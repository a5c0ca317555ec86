//! What is never kept of an object: what is confidential, and what is large and of no use to a rehearsal.
//!
//! Bookkeeping of the API and of kubectl, names of images, the guests' start-up data, the environment of containers.

use serde_json::Value;

use super::document::Body;
use super::kinds::{self, Kind, Verdict};
use super::walk::mapping;

const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Volume sources of guests that carry text which may hold passwords.
const START_UP: [&str; 2] = ["cloudInitNoCloud", "cloudInitConfigDrive"];
const START_UP_TEXTS: [&str; 4] = ["userData", "userDataBase64", "networkData", "networkDataBase64"];

/// Fields that are null: Kubernetes takes one for a field that is not there, whatever its type.
pub(super) fn nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Takes it out, as soon as the object was read: a whole list of such weight is never in memory.
pub(super) fn strip(body: &mut Body) {
    let verdict =
        kinds::find(body.text("apiVersion").unwrap_or_default(), body.text("kind").unwrap_or_default());
    if let Verdict::Used(kind) = verdict {
        let mut object = Value::Object(std::mem::take(&mut body.fields));
        strip_object(kind, &mut object);
        if let Value::Object(fields) = object {
            body.fields = fields;
        }
    }
}

/// Takes it out of an object of this kind; also for items of typed lists, whose kind shows only at the list's end.
pub(super) fn strip_object(kind: Kind, object: &mut Value) {
    remove(object, "/metadata", "managedFields");
    remove(object, "/metadata/annotations", APPLIED);
    match kind {
        Kind::Node => remove(object, "/status", "images"),
        Kind::Vm => start_up(object, "/spec/template/spec/volumes"),
        Kind::Vmi => start_up(object, "/spec/volumes"),
        Kind::Pod => {
            for list in ["/spec/containers", "/spec/initContainers"] {
                each(object, list, |container| remove(container, "", "env"));
            }
        }
        Kind::Claim
        | Kind::Budget
        | Kind::Vmim
        | Kind::KubeVirt
        | Kind::Volume
        | Kind::Engine
        | Kind::Replica
        | Kind::InstanceManager
        | Kind::StorageNode
        | Kind::StorageSetting
        | Kind::Upgrade
        | Kind::NodeUpgrade => {}
    }
}

fn start_up(object: &mut Value, volumes: &str) {
    each(object, volumes, |volume| {
        for source in START_UP {
            for text in START_UP_TEXTS {
                remove(volume, &format!("/{source}"), text);
            }
        }
    });
}

fn each(object: &mut Value, list: &str, change: impl Fn(&mut Value)) {
    let elements = object.pointer_mut(list).and_then(Value::as_array_mut);
    elements.into_iter().flatten().for_each(change);
}

fn remove(object: &mut Value, within: &str, key: &str) {
    if let Some(fields) = mapping(object, within) {
        fields.remove(key);
    }
}
