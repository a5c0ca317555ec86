//! Reads each object once as the agent will read it in the rehearsal, through the very types it uses, so that nothing
//! can fail there for the form of an object.

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{AGAIN, ImportError, Place, excerpt};
use super::kinds::Kind;
use crate::cluster::crd::kubevirt::{
    VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
};
use crate::cluster::crd::node_upgrade::NodeUpgrade;
use crate::cluster::crd::upgrade::Upgrade;

/// What is wrong when no field is.
const OBJECT: &str = "the object";

/// Whether the agent can read it.
pub(super) fn check(kind: Kind, object: &Value, at: &Place) -> Result<(), ImportError> {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    refuse::<ObjectMeta>(metadata, at, "metadata")?;
    let part = OBJECT;
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

fn refuse<T: DeserializeOwned>(value: &Value, at: &Place, part: &str) -> Result<(), ImportError> {
    let Err(error) = T::deserialize(value) else {
        return Ok(());
    };
    let error = error.to_string();
    let field = path(&culprit::<T>(value, &error));
    Err(ImportError::Field {
        at: at.clone(),
        field: match (part, field.as_str()) {
            (whole, "") => whole.to_owned(),
            (OBJECT, _) => field,
            (part, _) => format!("{part}.{field}"),
        },
        cause: excerpt(&error),
        cure: AGAIN,
    })
}

/// A key of a mapping, or the number of an element.
enum Segment {
    Key(String),
    Element(usize),
}

/// Where an error comes from, which the types do not tell: fields are read in order, so it is in the last field of the
/// shortest beginning that gives the same error, and within that in the same way.
fn culprit<T: DeserializeOwned>(value: &Value, error: &str) -> Vec<Segment> {
    let mut root = value.clone();
    let mut segments = Vec::new();
    while let Some(part) = at_mut(&mut root, &segments) {
        let parts = std::mem::take(part);
        let count = match &parts {
            Value::Object(fields) => fields.len(),
            Value::Array(elements) => elements.len(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        };
        let (mut least, mut most) = (0, count);
        while least < most {
            let middle = usize::midpoint(least, most);
            let fails = put(&mut root, &segments, beginning(&parts, middle))
                && T::deserialize(&root).is_err_and(|other| other.to_string() == error);
            if fails {
                most = middle;
            } else {
                least = middle + 1;
            }
        }
        let found = least.checked_sub(1);
        let next = found.and_then(|found| match &parts {
            Value::Object(fields) => fields.keys().nth(found).map(|key| Segment::Key(key.clone())),
            Value::Array(_) => Some(Segment::Element(found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        });
        let Some(next) = next else { break };
        put(&mut root, &segments, beginning(&parts, least));
        segments.push(next);
    }
    segments
}

/// The first fields or elements.
fn beginning(parts: &Value, count: usize) -> Value {
    match parts {
        Value::Object(fields) => Value::Object(
            fields.iter().take(count).map(|(key, value)| (key.clone(), value.clone())).collect(),
        ),
        Value::Array(elements) => Value::Array(elements.iter().take(count).cloned().collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => parts.clone(),
    }
}

fn at_mut<'a>(root: &'a mut Value, segments: &[Segment]) -> Option<&'a mut Value> {
    segments.iter().try_fold(root, |value, segment| match segment {
        Segment::Key(key) => value.get_mut(key),
        Segment::Element(index) => value.get_mut(index),
    })
}

fn put(root: &mut Value, segments: &[Segment], value: Value) -> bool {
    at_mut(root, segments).map(|part| *part = value).is_some()
}

/// `spec.taints[0].key`.
fn path(segments: &[Segment]) -> String {
    let mut path = String::new();
    for segment in segments {
        match segment {
            Segment::Key(key) if path.is_empty() => path.push_str(&excerpt(key)),
            Segment::Key(key) => path.extend([".", &excerpt(key)]),
            Segment::Element(index) => path.extend(["[", &index.to_string(), "]"]),
        }
    }
    path
}
