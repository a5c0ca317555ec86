//! What the agent may do, asked before it changes anything.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::cluster::{ClusterError, ask};

/// One right that a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// API group, empty for core.
    pub group: &'static str,
    /// Resource, plural.
    pub resource: &'static str,
    /// Subresource, or empty.
    pub subresource: &'static str,
    /// Verb.
    pub verb: &'static str,
}

const fn right(
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verb: &'static str,
) -> Right {
    Right { group, resource, subresource, verb }
}

/// All rights of a run that would hurt to miss half way.
pub const NEEDED: [Right; 20] = [
    right("", "nodes", "", "patch"),
    right("", "pods", "", "list"),
    right("", "pods", "eviction", "create"),
    right("kubevirt.io", "virtualmachines", "", "get"),
    right("kubevirt.io", "virtualmachineinstances", "", "watch"),
    right("kubevirt.io", "virtualmachineinstances", "", "delete"),
    right("kubevirt.io", "virtualmachineinstancemigrations", "", "create"),
    right("kubevirt.io", "virtualmachineinstancemigrations", "", "list"),
    right("kubevirt.io", "virtualmachineinstancemigrations", "", "watch"),
    right("kubevirt.io", "virtualmachineinstancemigrations", "", "delete"),
    right("subresources.kubevirt.io", "virtualmachines", "stop", "update"),
    right("subresources.kubevirt.io", "virtualmachines", "start", "update"),
    right("kubevirt.io", "virtualmachines", "", "patch"),
    right("", "persistentvolumeclaims", "", "get"),
    right("longhorn.io", "volumes", "", "get"),
    right("", "configmaps", "", "create"),
    right("", "configmaps", "", "patch"),
    right("harvesterhci.io", "upgrades", "", "patch"),
    right("coordination.k8s.io", "leases", "", "create"),
    right("coordination.k8s.io", "leases", "", "delete"),
];

impl Right {
    /// For people: `update virtualmachines/stop (subresources.kubevirt.io)`.
    #[must_use]
    pub fn text(&self) -> String {
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        let group = if self.group.is_empty() { "core" } else { self.group };
        format!("{} {}{slash}{} ({group})", self.verb, self.resource, self.subresource)
    }
}

/// The rights of [`NEEDED`] that the agent does not have.
///
/// # Errors
/// [`ClusterError`] when the question itself was not answered.
pub async fn missing(client: &Client, namespace: &str) -> Result<Vec<Right>, ClusterError> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for right in NEEDED {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attributes = ResourceAttributes {
            group: text(right.group),
            resource: text(right.resource),
            subresource: text(right.subresource),
            verb: text(right.verb),
            // These live in Harvester's namespace only; everything else is needed everywhere.
            namespace: matches!(right.resource, "upgrades" | "configmaps" | "leases")
                .then(|| namespace.to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
            ..Default::default()
        };
        let what = format!("ask whether the agent may {}", right.text());
        let answer = ask(what, api.create(&PostParams::default(), &review)).await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            missing.push(right);
        }
    }
    Ok(missing)
}
