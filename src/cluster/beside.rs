//! Whether another node would take the pods of this one: the only node of a cluster cannot be drained, and Harvester lets
//! nobody cordon it. Reads only, as few nodes as tell it.

use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::cluster::brief::BriefNode;
use crate::cluster::nodes::{MAINTENANCE, is_cordoned, is_ready, is_witness};
use crate::cluster::{ClusterError, ask};

/// The first page mostly tells it, on clusters of a thousand nodes too.
const PAGE: u32 = 5;

/// Another node that takes pods without further ado: Ready, neither cordoned nor tainted nor in maintenance, no witness.
/// With one of them there, Harvester's webhook lets this node be cordoned too
/// (`pkg/webhook/resources/node/validator.go`, Harvester 1.0 to 1.9).
///
/// # Errors
/// [`ClusterError`].
pub async fn open_node(client: &Client, node: &str) -> Result<Option<String>, ClusterError> {
    let api: Api<BriefNode> = Api::all(client.clone());
    let mut params = ListParams::default().fields(&format!("metadata.name!={node}")).limit(PAGE);
    loop {
        let page = ask(format!("list the nodes beside {node}"), api.list(&params)).await?;
        if let Some(open) = page.items.iter().find(|other| takes_pods(other)) {
            return Ok(Some(open.name_any()));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(None),
        }
    }
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
