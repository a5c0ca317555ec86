//! Harvester's `Upgrade` (`harvesterhci.io/v1beta1`), read for its identity, patched in one key of its status.
//!
//! It has no status subresource: a patch of `/status` answers 404 (reference `harvester-upgrade.md` §1.1).

use std::collections::BTreeMap;

use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// The `spec` as far as it is read: nothing of it.
#[derive(CustomResource, Debug, Clone, Serialize, Deserialize)]
#[kube(group = "harvesterhci.io", version = "v1beta1", kind = "Upgrade", namespaced, schema = "disabled")]
#[serde(rename_all = "camelCase")]
pub struct UpgradeSpec {
    /// Name of a `Version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// One value of `status.nodeStatuses`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// One of the strings of `flow::phase`.
    #[serde(default)]
    pub state: String,
    /// One word for machines.
    #[serde(default)]
    pub reason: String,
    /// Only for real trouble.
    #[serde(default)]
    pub message: String,
}

/// `status` as far as it is written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStatus {
    /// State of each node.
    #[serde(default)]
    pub node_statuses: BTreeMap<String, NodeStatus>,
}
