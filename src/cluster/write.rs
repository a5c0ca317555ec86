//! Writes whose answer nobody reads: merge patches, for what an object comes to may be long, and is known; and deletions of
//! one object and no other by its name.

use std::fmt::Debug;

use http::HeaderValue;
use http::header::ACCEPT;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, Request};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::{ClusterError, ask_opt};

/// What the API server is to answer a write with (Kubernetes API concepts, "Receiving resources as metadata only").
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// What of an object a patch is written through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The object itself.
    Whole,
    /// Its subresource `status`.
    Status,
}

/// Merges a patch into an object; no namespace for cluster-scoped kinds.
///
/// # Errors
/// The server's refusal, or the wire's.
pub async fn merge<K: Resource<DynamicType = ()>>(
    client: &Client,
    (namespace, name): (Option<&str>, &str),
    part: Part,
    patch: &Value,
) -> kube::Result<()> {
    let (at, params, patch) =
        (Request::new(K::url_path(&(), namespace)), PatchParams::default(), Patch::Merge(patch));
    let request = match part {
        Part::Whole => at.patch(name, &params, &patch),
        Part::Status => at.patch_subresource("status", name, &params, &patch),
    };
    let mut request = request.map_err(kube::Error::BuildRequest)?;
    // An Upgrade lists every node of the cluster: at each report of each node it would come back whole.
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ONLY));
    client.request_text(request).await.map(drop)
}

/// Deletes the object of this uid, or any by that name where no uid is known. Harmless when it is gone, or another one by now.
///
/// # Errors
/// [`ClusterError`].
pub async fn delete<K: Clone + DeserializeOwned + Debug>(
    api: &Api<K>,
    name: &str,
    uid: Option<String>,
    what: String,
) -> Result<(), ClusterError> {
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid, resource_version: None }),
        ..DeleteParams::default()
    };
    match ask_opt(what, api.delete(name, &params)).await {
        Ok(_) | Err(ClusterError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
