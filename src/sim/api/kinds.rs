//! What a kind is: names, scope, subresources, selectable fields and when its generation rises.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::json::text;

/// A kind as its definition says.
#[expect(clippy::struct_field_names, reason = "the field is what Kubernetes calls it")]
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) group: Cow<'static, str>,
    pub(super) version: Cow<'static, str>,
    /// `group/version`.
    pub(super) group_version: Arc<str>,
    pub(super) plural: Cow<'static, str>,
    pub(super) kind: Cow<'static, str>,
    pub(super) namespaced: bool,
    /// Whether `status` is written through a subresource only.
    pub(super) status: bool,
    /// Whether a `CustomResourceDefinition` made it.
    pub(super) custom: bool,
    pub(super) generation: Generation,
    /// What field selectors may name, besides `metadata.name` and `metadata.namespace`.
    pub(super) fields: Vec<Cow<'static, str>>,
}

/// What makes `metadata.generation` rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// The kind has none.
    Never,
    /// A change of `spec`.
    Spec,
    /// Any change but that of `metadata`, and of `status` where it is a subresource.
    Content,
}

impl Kind {
    /// `deployments.apps`, `pods`.
    pub(super) fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Deployment.apps`, `Pod`.
    pub(super) fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_string() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// `apps/v1`, `v1`.
    pub(super) fn api_version(&self) -> &str {
        // `group_version` begins with a slash where there is no group.
        self.group_version.trim_start_matches('/')
    }

    /// Whether it is this kind of the core group.
    pub(super) fn is_core(&self, plural: &str) -> bool {
        self.group.is_empty() && self.plural == plural
    }

    /// Whether it is what protects pods from evictions.
    pub(super) fn is_budget(&self) -> bool {
        self.group == "policy" && self.plural == "poddisruptionbudgets"
    }

    /// Whether this kind's server answers a deletion with the object instead of a `Status`.
    pub(super) fn returns_deleted(&self) -> bool {
        self.group.is_empty()
            && matches!(
                &*self.plural,
                "pods" | "services" | "serviceaccounts" | "persistentvolumes" | "persistentvolumeclaims"
            )
    }

    /// Whether `new` deserves a higher generation than `old`.
    pub(super) fn raises_generation(&self, old: &Value, new: &Value) -> bool {
        match self.generation {
            Generation::Never => false,
            Generation::Spec => old.get("spec") != new.get("spec"),
            Generation::Content => !self.content(old).eq(self.content(new)),
        }
    }

    fn content<'a>(&self, object: &'a Value) -> impl Iterator<Item = (&'a String, &'a Value)> {
        let status_apart = self.status;
        let fields = object.as_object().into_iter().flatten();
        fields.filter(move |(key, _)| *key != "metadata" && !(status_apart && *key == "status"))
    }

    /// Whether a PUT must name the version that it replaces.
    pub(super) fn needs_version(&self) -> bool {
        self.custom
            || matches!(
                &*self.plural,
                "leases"
                    | "poddisruptionbudgets"
                    | "customresourcedefinitions"
                    | "apiservices"
                    | "csinodes"
                    | "csidrivers"
                    | "volumeattachments"
                    | "mutatingwebhookconfigurations"
                    | "validatingwebhookconfigurations"
            )
    }

    /// The kind that a `CustomResourceDefinition` defines, in its storage version.
    pub(super) fn of_definition(definition: &Value) -> Option<Self> {
        let spec = definition.get("spec")?;
        let names = spec.get("names")?;
        let versions = spec.get("versions")?.as_array()?;
        let version = versions.iter().find(|version| version["storage"] == true)?;
        let selectable = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
        let fields =
            selectable.map(|field| text(field, "/jsonPath").trim_start_matches('.').to_owned().into());
        Some(Self {
            group: text(spec, "/group").to_owned().into(),
            version: text(version, "/name").to_owned().into(),
            group_version: format!("{}/{}", text(spec, "/group"), text(version, "/name")).into(),
            plural: text(names, "/plural").to_owned().into(),
            kind: text(names, "/kind").to_owned().into(),
            namespaced: text(spec, "/scope") == "Namespaced",
            status: version.pointer("/subresources/status").is_some(),
            custom: true,
            generation: Generation::Content,
            fields: fields.collect(),
        })
    }
}
