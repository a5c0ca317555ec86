//! What Kubernetes' own kinds get and must satisfy beyond the rules for all: valid names, the defaults that others act on,
//! and the parts of a pod that never change.

use serde_json::{Value, json};

use super::json::{map, metadata, text};
use super::kinds::Kind;
use super::status::{Cause, Status};

const POD_IS_FIXED: &str = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Refuses what is no DNS subdomain; RBAC's names are free.
pub(super) fn check_name(kind: &Kind, name: &str) -> Result<(), Status> {
    let is_end = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(is_end)
            && label.ends_with(is_end)
            && label.chars().all(|letter| is_end(letter) || letter == '-')
    };
    if kind.group == "rbac.authorization.k8s.io" || (name.len() <= 253 && name.split('.').all(label)) {
        return Ok(());
    }
    let cause = Cause {
        reason: "FieldValueInvalid",
        field: "metadata.name".to_owned(),
        detail: format!("Invalid value: {name:?}: {SUBDOMAIN}"),
    };
    Err(Status::invalid(kind, name, &cause))
}

/// Defaults of a new object.
pub(super) fn prepare(kind: &Kind, new: &mut Value) {
    match (&*kind.group, &*kind.plural) {
        ("", "pods") => prepare_pod(new),
        ("", "namespaces") => {
            let name = text(new, "/metadata/name").to_owned();
            let labels = metadata(new).entry("labels").or_insert(Value::Null);
            map(labels).insert("kubernetes.io/metadata.name".to_owned(), name.into());
            let fields = map(new);
            map(fields.entry("spec").or_insert(Value::Null))
                .insert("finalizers".to_owned(), json!(["kubernetes"]));
            fields.insert("status".to_owned(), json!({"phase": "Active"}));
        }
        ("", "nodes") => taint_unready(new),
        ("", "persistentvolumeclaims" | "persistentvolumes") => {
            map(new).insert("status".to_owned(), json!({"phase": "Pending"}));
        }
        ("kubevirt.io", "virtualmachines") => {
            map(new).insert("status".to_owned(), json!({"printableStatus": "Stopped"}));
        }
        ("apps", "deployments" | "daemonsets" | "replicasets" | "statefulsets")
        | ("batch", "jobs")
        | ("policy", "poddisruptionbudgets") => {
            map(new).insert("status".to_owned(), json!({}));
        }
        _ => {}
    }
}

fn prepare_pod(new: &mut Value) {
    let spec = map(map(new).entry("spec").or_insert(Value::Null));
    let defaults = [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
    ];
    for (field, value) in defaults {
        spec.entry(field).or_insert(value);
    }
    let containers = spec.get("containers").and_then(Value::as_array).into_iter().flatten();
    let is_best_effort = containers.into_iter().all(|container| {
        let amounts = ["/resources/requests", "/resources/limits"].map(|path| container.pointer(path));
        amounts.into_iter().flatten().all(|amounts| amounts.as_object().is_none_or(serde_json::Map::is_empty))
    });
    let quality = if is_best_effort { "BestEffort" } else { "Burstable" };
    map(new).insert("status".to_owned(), json!({"phase": "Pending", "qosClass": quality}));
}

/// A new node is not ready until somebody says so.
fn taint_unready(new: &mut Value) {
    let taint = json!({"effect": "NoSchedule", "key": "node.kubernetes.io/not-ready"});
    let taints =
        map(map(new).entry("spec").or_insert(Value::Null)).entry("taints").or_insert_with(|| json!([]));
    if let Some(taints) = taints.as_array_mut()
        && !taints.iter().any(|one| one.get("key") == taint.get("key"))
    {
        taints.push(taint);
    }
}

/// Refuses changes of what is fixed at creation.
pub(super) fn check_update(
    kind: &Kind,
    name: &str,
    old: &Value,
    new: &Value,
    status: bool,
) -> Result<(), Status> {
    if !kind.is_core("pods") || status || old.get("spec") == new.get("spec") {
        return Ok(());
    }
    if fixed_part(old) == fixed_part(new) {
        return Ok(());
    }
    let cause = Cause {
        reason: "FieldValueForbidden",
        field: "spec".to_owned(),
        detail: format!("{POD_IS_FIXED}\n"),
    };
    Err(Status::invalid(kind, name, &cause))
}

fn fixed_part(pod: &Value) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        map(&mut spec).remove(field);
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            map(container).remove("image");
        }
    }
    spec
}

/// A definition is served at once.
pub(super) fn establish(definition: &mut Value, now: &str) {
    let names = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now});
    let versions: Vec<Value> = definition
        .pointer("/spec/versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|version| version.get("storage").and_then(Value::as_bool) == Some(true))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    let status = json!({
        "acceptedNames": names,
        "storedVersions": versions,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
    map(definition).insert("status".to_owned(), status);
}
