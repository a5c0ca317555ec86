//! Who is beside a node: whether its pods could go anywhere, and whether Harvester lets it be cordoned. Reads only, as few
//! nodes as tell it.

use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::cluster::brief::BriefNode;
use crate::cluster::nodes::{is_cordoned, is_witness};
use crate::cluster::{ClusterError, ask};

/// Annotation of a node in Harvester's maintenance mode, or on its way there.
const MAINTENANCE: &str = "harvesterhci.io/maintain-status";
/// The first page mostly tells it, on clusters of a thousand nodes too.
const PAGE: u32 = 5;

/// What else is in a node's cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beside {
    /// No other node, or nothing but witnesses: its pods would have no place to go to, and Harvester's webhook refuses to
    /// cordon a cluster's last available node (`pkg/webhook/resources/node/validator.go`, Harvester 1.0 to 1.8).
    Nobody,
    /// Another node, and one that Harvester counts as available.
    Somebody,
    /// Others, each cordoned or in maintenance: Harvester refuses to cordon this one as well.
    AllClosed {
        /// Their names.
        others: Vec<String>,
    },
}

/// Looks who is beside this node.
///
/// # Errors
/// [`ClusterError`].
pub async fn beside(client: &Client, node: &str) -> Result<Beside, ClusterError> {
    let api: Api<BriefNode> = Api::all(client.clone());
    let mut params = ListParams::default().fields(&format!("metadata.name!={node}")).limit(PAGE);
    let (mut others, mut is_available) = (Vec::new(), false);
    loop {
        let page = ask(format!("list the nodes beside {node}"), api.list(&params)).await?;
        for other in &page.items {
            // Harvester counts a witness too, which takes no pod of ours.
            is_available |= !is_cordoned(other) && !other.annotations().contains_key(MAINTENANCE);
            if !is_witness(other) {
                others.push(other.name_any());
            }
        }
        if is_available && !others.is_empty() {
            return Ok(Beside::Somebody);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None if others.is_empty() => return Ok(Beside::Nobody),
            None => return Ok(Beside::AllClosed { others }),
        }
    }
}
