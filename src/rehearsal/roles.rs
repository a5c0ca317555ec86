//! What the nodes of a rehearsed cluster are for, as their labels say, and the order in which an upgrade takes them.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::rehearsal::RehearsalError;
use crate::rehearsal::world::refused;
use crate::sim::api::ApiServer;

const LABEL: &str = "node-role.kubernetes.io/";

/// What one node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Roles {
    etcd: bool,
    /// It runs an API server.
    control_plane: bool,
}

impl Roles {
    /// RKE2 gives its servers these labels with the value `true`.
    pub(super) fn of(node: &Value) -> Self {
        let labels = node.pointer("/metadata/labels");
        let is =
            |role: &str| labels.and_then(|all| all.get(format!("{LABEL}{role}"))?.as_str()) == Some("true");
        Self { etcd: is("etcd"), control_plane: is("control-plane") }
    }

    /// RKE2 runs as a server here: also on Harvester's witness, which has etcd and no API server.
    pub(super) fn is_server(self) -> bool {
        self.etcd || self.control_plane
    }

    /// Rancher's planner takes etcd's nodes first, then the rest of the control plane, then the workers (reference
    /// `harvester-upgrade.md` §2.7).
    fn tier(self) -> u8 {
        match self {
            Self { etcd: true, .. } => 0,
            Self { control_plane: true, .. } => 1,
            Self { .. } => 2,
        }
    }
}

/// The roles of the nodes of one cluster.
#[derive(Debug, Clone)]
pub(super) struct NodeRoles(BTreeMap<String, Roles>);

impl NodeRoles {
    /// As their objects say. Where no node is a server all of them are from here on, and the sentence says so: an export of some
    /// nodes may lack the servers, and somebody has to be one.
    ///
    /// # Errors
    /// [`RehearsalError`] when the API server in memory refuses.
    pub(super) fn settle(server: &ApiServer) -> Result<(Self, Option<String>), RehearsalError> {
        let nodes = server.list_objects("", "nodes", "", "");
        let name = |node: &Value| node.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
        let mut found: BTreeMap<String, Roles> =
            nodes.iter().filter_map(|node| Some((name(node)?, Roles::of(node)))).collect();
        if found.is_empty() || found.values().any(|roles| roles.is_server()) {
            return Ok((Self(found), None));
        }
        let labels = json!({format!("{LABEL}control-plane"): "true", format!("{LABEL}etcd"): "true"});
        let patch = json!({"metadata": {"labels": labels}});
        for (node, roles) in &mut found {
            server
                .call(&Method::PATCH, &format!("/api/v1/nodes/{node}"), &patch)
                .map_err(|status| refused(&format!("the labels of node {node}"), &status))?;
            *roles = Roles { etcd: true, control_plane: true };
        }
        let note = format!(
            "no Node has the label {LABEL}control-plane or {LABEL}etcd, so all are taken for servers; export the servers too"
        );
        Ok((Self(found), Some(note)))
    }

    /// All of them in the order of an upgrade: servers before agents, and `node2` before `node10`.
    pub(super) fn in_order(&self) -> Vec<String> {
        let mut nodes: Vec<(&String, &Roles)> = self.0.iter().collect();
        nodes.sort_by_cached_key(|(name, roles)| {
            let digits = name.len() - name.trim_end_matches(|one: char| one.is_ascii_digit()).len();
            let (stem, number) = name.split_at(name.len() - digits);
            (roles.tier(), stem.to_owned(), number.parse::<u64>().unwrap_or(0), (*name).clone())
        });
        nodes.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// Whether RKE2 runs as a server on this node.
    pub(super) fn is_server(&self, node: &str) -> bool {
        self.0.get(node).is_some_and(|roles| roles.is_server())
    }

    /// Whether the cluster has no other API server than this node's.
    pub(super) fn is_only_api_server(&self, node: &str) -> bool {
        let mut with_api = self.0.iter().filter(|(_, roles)| roles.control_plane);
        with_api.next().is_some_and(|(name, _)| name == node) && with_api.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(nodes: &[(&str, &[&str])]) -> NodeRoles {
        let roles = |roles: &[&str]| {
            let labels: serde_json::Map<String, Value> =
                roles.iter().map(|role| (format!("{LABEL}{role}"), json!("true"))).collect();
            Roles::of(&json!({"metadata": {"labels": labels}}))
        };
        NodeRoles(nodes.iter().map(|(name, labels)| ((*name).to_owned(), roles(labels))).collect())
    }

    #[test]
    fn servers_come_first_whatever_they_are_called() {
        let all = cluster(&[
            ("a-worker", &["worker"]),
            ("node10", &["control-plane", "etcd"]),
            ("node2", &["control-plane", "etcd"]),
            ("api-only", &["control-plane"]),
            ("witness", &["etcd"]),
        ]);
        assert_eq!(all.in_order(), ["node2", "node10", "witness", "api-only", "a-worker"]);
        let servers: Vec<String> = all.in_order().into_iter().filter(|node| all.is_server(node)).collect();
        assert_eq!(servers, ["node2", "node10", "witness", "api-only"]);
    }

    #[test]
    fn a_witness_is_a_server_that_answers_for_no_api() {
        let all = cluster(&[("node1", &["control-plane", "etcd"]), ("witness", &["etcd"])]);
        assert!(all.is_only_api_server("node1") && !all.is_only_api_server("witness"));
        let two = cluster(&[("node1", &["control-plane", "etcd"]), ("node2", &["control-plane"])]);
        assert!(!two.is_only_api_server("node1") && !two.is_only_api_server("node2"));
    }
}
