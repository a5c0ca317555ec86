//! Whether another node would take the pods of this one: the only node of a cluster cannot be drained, and Harvester lets
//! nobody cordon it. Reads only, as few nodes as tell it.

use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::cluster::brief::BriefNode;
use crate::cluster::nodes::{
    MAINTENANCE, OWNER_ANNOTATION, is_cordoned, is_ready, is_witness, unmark_commands, upgrade_taints,
};
use crate::cluster::{ClusterError, ask};

/// The first page mostly tells it, on clusters of a thousand nodes too.
const PAGE: u32 = 5;

/// What is beside a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beside {
    /// This node takes pods without further ado: Ready, neither cordoned nor tainted nor in maintenance, no witness. With one
    /// of them there, Harvester's webhook lets the node be cordoned too (`pkg/webhook/resources/node/validator.go`, Harvester
    /// 1.0 to 1.9).
    Open(String),
    /// None takes pods, and this one carries the mark of an upgrade: it may take them again once that is through.
    InUpgrade {
        /// The node.
        node: String,
        /// What it carries, as `kubectl` shows it.
        mark: String,
        /// The commands that take it off.
        commands: String,
    },
    /// None takes pods.
    Nobody,
}

impl Beside {
    /// Why a node beside which there is nothing else stays open: two closed ones have nowhere to move each other's VMs to. None
    /// where nothing keeps it from being closed.
    #[must_use]
    pub fn objection(&self, name: &str) -> Option<(String, String)> {
        let Self::InUpgrade { node, mark, commands } = self else { return None };
        let why = format!(
            "no other node takes pods, and {node} is being upgraded ({mark}): {name} stays open until {node} takes them again"
        );
        let fix = format!(
            "let the upgrade of {node} end, or cancel it; where nobody is at it, take its marks off: {commands}"
        );
        Some((why, fix))
    }
}

/// Looks at the nodes beside `node`.
///
/// # Errors
/// [`ClusterError`].
pub async fn look(client: &Client, node: &str) -> Result<Beside, ClusterError> {
    let api: Api<BriefNode> = Api::all(client.clone());
    let mut params = ListParams::default().fields(&format!("metadata.name!={node}")).limit(PAGE);
    let mut beside = Beside::Nobody;
    loop {
        let page = ask(format!("list the nodes beside {node}"), api.list(&params)).await?;
        if let Some(open) = page.items.iter().find(|other| takes_pods(other)) {
            return Ok(Beside::Open(open.name_any()));
        }
        if beside == Beside::Nobody {
            beside = page.items.iter().find_map(in_upgrade).unwrap_or(Beside::Nobody);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(beside),
        }
    }
}

/// By our signature, of whichever upgrade, or by the taint that Harvester's own upgrade sets as well.
fn in_upgrade(node: &BriefNode) -> Option<Beside> {
    let signed = node.annotations().get(OWNER_ANNOTATION).map(|uid| format!("{OWNER_ANNOTATION}={uid}"));
    let tainted = || upgrade_taints(node).map(|taint| format!("tainted {}", taint.key)).next();
    let mark = signed.or_else(tainted)?;
    Some(Beside::InUpgrade { node: node.name_any(), mark, commands: unmark_commands(node) })
}

fn takes_pods(node: &BriefNode) -> bool {
    let keeps_off = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    is_ready(node)
        && !is_cordoned(node)
        && !is_witness(node)
        && !node.annotations().contains_key(MAINTENANCE)
        && !node.spec.taints.iter().any(|taint| keeps_off(&taint.effect))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_an_open_node_takes_pods() {
        let node = |ready: &str, metadata: Value, spec: Value| {
            let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
            let node = json!({"metadata": metadata, "spec": spec, "status": status});
            serde_json::from_value::<BriefNode>(node).unwrap()
        };
        let tainted = |effect: &str| json!({"taints": [{"key": "dedicated", "effect": effect}]});
        let witness = json!({"labels": {"node-role.harvesterhci.io/witness": "true"}});
        let maintenance = json!({"annotations": {MAINTENANCE: "completed"}});
        let table = [
            ("open", node("True", json!({}), json!({})), true),
            ("tainted for those who can choose", node("True", json!({}), tainted("PreferNoSchedule")), true),
            ("not Ready", node("Unknown", json!({}), json!({})), false),
            ("cordoned", node("True", json!({}), json!({"unschedulable": true})), false),
            ("tainted", node("True", json!({}), tainted("NoSchedule")), false),
            ("tainted for those who run", node("True", json!({}), tainted("NoExecute")), false),
            ("a witness", node("True", witness, json!({})), false),
            ("in maintenance", node("True", maintenance, json!({})), false),
        ];
        for (what, node, expected) in table {
            assert_eq!(takes_pods(&node), expected, "{what}");
        }
    }
}
