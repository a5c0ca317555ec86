//! The volumes of a VM: its claims, Longhorn's word on them, and which nodes reach the others. Reads only.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::cluster::places::term;
use crate::cluster::{ClusterError, ask_opt};
use crate::flow::placement::Term;
use crate::flow::restore::storage::{Claim, Found, Longhorn};

/// Where Longhorn keeps its objects.
const LONGHORN_NAMESPACE: &str = "longhorn-system";
/// Longhorn's storage driver.
const LONGHORN_DRIVER: &str = "driver.longhorn.io";
/// Annotations of a claim that name its driver, the present one and the old one.
const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Ways in which a volume of a VM names its claim.
const NAMED: [&str; 3] =
    ["/persistentVolumeClaim/claimName", "/dataVolume/name", "/ephemeral/persistentVolumeClaim/claimName"];

/// One claim and the volume that is bound to it. Two requests, or three where the claim does not say whose volume it is.
///
/// # Errors
/// [`ClusterError`].
pub async fn claim(client: &Client, namespace: &str, name: &str) -> Result<Claim, ClusterError> {
    let full = format!("{namespace}/{name}");
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let found = ask_opt(format!("read PersistentVolumeClaim {full}"), api.get(name)).await?;
    let Some(claim) = found else { return Ok(Claim { name: full, found: None }) };
    let mut found = Found {
        phase: claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default(),
        deleting: claim.metadata.deletion_timestamp.is_some(),
        volume: claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default(),
        ..Found::default()
    };
    if found.phase == "Bound" && !found.deleting {
        let annotations = claim.annotations();
        // Longhorn calls a volume that it has made as its PersistentVolume is called.
        let own = is_longhorns(|key| annotations.get(key).map(String::as_str)).then(|| found.volume.clone());
        let handle = match own {
            Some(handle) => Some(handle),
            None => by_volume(client, &mut found).await?,
        };
        if let Some(handle) = handle {
            found.longhorn = Some(longhorn(client, &handle).await?);
        }
    }
    Ok(Claim { name: full, found: Some(found) })
}

/// The name of the claim that a volume of a VM is; none where it is no claim.
#[must_use]
pub fn claim_of(volume: &Value) -> Option<&str> {
    let mut named = NAMED.iter().filter_map(|path| volume.pointer(path)?.as_str());
    named.find(|claim| !claim.is_empty())
}

/// Whether Longhorn has made the volume of a claim with these annotations.
#[must_use]
pub fn is_longhorns<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> bool {
    PROVISIONER.iter().find_map(|key| annotation(key)) == Some(LONGHORN_DRIVER)
}

/// What the `PersistentVolume` says: who reaches it, and Longhorn's name of it where it is Longhorn's.
async fn by_volume(client: &Client, found: &mut Found) -> Result<Option<String>, ClusterError> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let what = format!("read PersistentVolume {}", found.volume);
    let Some(spec) = ask_opt(what, api.get(&found.volume)).await?.and_then(|volume| volume.spec) else {
        // Bound to what is not there: Kubernetes will call the claim Lost.
        "bound to a volume that is gone".clone_into(&mut found.phase);
        return Ok(None);
    };
    let required = spec.node_affinity.and_then(|nodes| nodes.required);
    found.reached_by = required
        .map(|nodes| nodes.node_selector_terms.iter().map(term).collect::<Vec<Term>>())
        .unwrap_or_default();
    Ok(spec.csi.filter(|csi| csi.driver == LONGHORN_DRIVER).map(|csi| csi.volume_handle))
}

async fn longhorn(client: &Client, name: &str) -> Result<Longhorn, ClusterError> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("longhorn.io", "v1beta2", "Volume"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), LONGHORN_NAMESPACE, &kind);
    let found = ask_opt(format!("read Longhorn volume {name}"), api.get(name)).await?;
    Ok(found.map_or(Longhorn::Absent, |volume| {
        let robustness = volume.data.pointer("/status/robustness").and_then(Value::as_str);
        Longhorn::Is(robustness.unwrap_or("unknown").to_owned())
    }))
}
