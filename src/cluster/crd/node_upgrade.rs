//! `NodeUpgrade` (`agent.harvesterhci.io/v1alpha1`): one node's order sheet and its state (design §4.1).

#![expect(unreachable_pub, reason = "kube's derives repeat the spec in a private place")]

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::plan::{Artifacts, Evacuation, NodePlan, OsPart, Role, SwapMode, VersionChange};
use crate::flow::report::Blocker;
use crate::flow::vms::VmCounts;

/// What one node is to go through. Immutable but for `control`.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "agent.harvesterhci.io",
    version = "v1alpha1",
    kind = "NodeUpgrade",
    namespaced,
    shortname = "nu",
    status = "NodeUpgradeStatus",
    selectable = ".spec.nodeName",
    doc = "One node's way through an upgrade: the order sheet and how far it is.",
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName"}"#,
    printcolumn = r#"{"name":"From","type":"string","jsonPath":".spec.rke2.from"}"#,
    printcolumn = r#"{"name":"To","type":"string","jsonPath":".spec.rke2.to"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Step","type":"string","jsonPath":".status.step"}"#,
    printcolumn = r#"{"name":"VMs-Left","type":"integer","jsonPath":".status.vms.leftOnNode"}"#,
    printcolumn = r#"{"name":"Blocked-By","type":"string","jsonPath":".status.blockers[0].what"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "self.upgradeName == oldSelf.upgradeName && self.upgradeUID == oldSelf.upgradeUID && self.nodeName == oldSelf.nodeName"
).message("upgradeName, upgradeUID and nodeName are immutable; delete this NodeUpgrade and create another"))]
#[x_kube(validation = Rule::new(
    "has(self.role) == has(oldSelf.role) && (!has(self.role) || self.role == oldSelf.role)"
).message("role is immutable"))]
#[x_kube(validation = Rule::new("self.rke2 == oldSelf.rke2").message("rke2 is immutable"))]
#[x_kube(validation = Rule::new("self.artifacts == oldSelf.artifacts").message("artifacts is immutable"))]
#[x_kube(validation = Rule::new("self.swap == oldSelf.swap").message("swap is immutable"))]
#[x_kube(validation = Rule::new("self.evacuation == oldSelf.evacuation").message("evacuation is immutable"))]
#[x_kube(validation = Rule::new(
    "has(self.os) == has(oldSelf.os) && (!has(self.os) || self.os == oldSelf.os)"
).message("os is immutable"))]
pub struct NodeUpgradeSpec {
    /// `Upgrade` in the same namespace.
    #[schemars(length(min = 1))]
    pub upgrade_name: String,
    /// Its uid.
    #[serde(rename = "upgradeUID")]
    #[schemars(length(min = 1), regex(pattern = r"^[0-9A-Za-z-]+$"))]
    pub upgrade_uid: String,
    /// The node.
    #[schemars(length(min = 1))]
    pub node_name: String,
    /// Found out on the node when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Versions before and after.
    pub rke2: VersionChange,
    /// Where the new binary comes from.
    pub artifacts: Artifacts,
    /// Who puts the binary in place.
    #[serde(default)]
    pub swap: SwapMode,
    /// What may be done to virtual machines.
    #[serde(default)]
    pub evacuation: Evacuation,
    /// Sets the immutable flag on the live binary while the fence stands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub immutable_binary: bool,
    /// Operating system part, after `RKE2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsPart>,
    /// The only mutable field.
    #[serde(default)]
    pub control: Control,
}

/// What the operator wants of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Control {
    /// Go on.
    #[default]
    Run,
    /// Stand still before the next step.
    Pause,
    /// Put everything back; only before the swap.
    Cancel,
}

impl NodeUpgradeSpec {
    /// The order sheet without `control`. Names every field, so that a new one cannot be forgotten.
    #[must_use]
    pub fn plan(&self) -> NodePlan {
        let Self {
            upgrade_name,
            upgrade_uid,
            node_name,
            role,
            rke2,
            artifacts,
            swap,
            evacuation,
            immutable_binary,
            os,
            control: _,
        } = self.clone();
        NodePlan {
            upgrade_name,
            upgrade_uid,
            node_name,
            role,
            rke2,
            artifacts,
            swap,
            evacuation,
            immutable_binary,
            os,
        }
    }

    /// The spec of a plan.
    #[must_use]
    pub fn of(plan: &NodePlan, control: Control) -> Self {
        let NodePlan {
            upgrade_name,
            upgrade_uid,
            node_name,
            role,
            rke2,
            artifacts,
            swap,
            evacuation,
            immutable_binary,
            os,
        } = plan.clone();
        Self {
            upgrade_name,
            upgrade_uid,
            node_name,
            role,
            rke2,
            artifacts,
            swap,
            evacuation,
            immutable_binary,
            os,
            control,
        }
    }
}

/// How far the node is. A mirror: the journal on the node is the truth.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeUpgradeStatus {
    /// Harvester's state string.
    pub phase: String,
    /// The step under way.
    pub step: Option<String>,
    /// Counts from 1.
    pub attempt: u32,
    /// When the run began.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
    /// When the step began.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub step_started_at: Option<Timestamp>,
    /// The machine's boot id.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// Newest journal line that this contains.
    pub journal_seq: u64,
    /// Numbers.
    pub vms: VmCounts,
    /// What is waited for.
    pub blockers: Vec<Blocker>,
    /// Ready, Progressing, Degraded.
    pub conditions: Vec<StatusCondition>,
    /// Generation of the spec that this is about.
    pub observed_generation: Option<i64>,
}

/// A condition in Kubernetes' usual form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusCondition {
    /// Ready, Progressing or Degraded.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When `status` last changed.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub last_transition_time: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::plan::tests::plan;

    #[test]
    fn plan_and_spec_are_one_form() {
        let spec = NodeUpgradeSpec::of(&plan(), Control::Pause);
        assert_eq!(spec.plan(), plan());
        let wire = serde_json::to_value(&spec).unwrap();
        assert_eq!(wire["upgradeUID"], "6f1c9a3e-0001");
        assert_eq!(wire["rke2"]["to"], "v1.35.6+rke2r1");
        assert_eq!(wire["evacuation"]["guestShutdownSeconds"], 300);
        assert_eq!(wire["control"], "Pause");
    }

    #[test]
    fn the_shortest_spec_gets_the_defaults_of_the_design() {
        let spec: NodeUpgradeSpec = serde_json::from_value(serde_json::json!({
            "upgradeName": "u", "upgradeUID": "1", "nodeName": "node1",
            "rke2": {"from": "v1.34.2+rke2r1", "to": "v1.35.6+rke2r1"},
            "artifacts": {"source": "file:///x", "sha256": "00"},
        }))
        .unwrap();
        assert_eq!(spec.control, Control::Run);
        assert_eq!(spec.swap, SwapMode::Direct);
        assert_eq!(spec.evacuation, Evacuation::default());
    }
}
