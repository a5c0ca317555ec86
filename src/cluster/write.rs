//! Merge patches whose answer nobody reads: what an object comes to may be long, and is known.

use kube::api::{Patch, PatchParams, Request};
use kube::{Client, Resource};
use serde_json::Value;

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
    client.request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
}
