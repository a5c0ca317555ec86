//! etcd of a rehearsed cluster: a member on each of its servers, as well as that server's Node is.

use serde_json::Value;

use crate::rehearsal::roles::Roles;
use crate::sim::api::ApiServer;
use crate::sim::machine::etcd::{EtcdMember, EtcdTrouble};

/// The members, seen from the machine of node `own`, whose member lives and dies with that machine.
pub(super) fn members(server: &ApiServer, own: &str) -> Vec<EtcdMember> {
    let nodes = server.list_objects("", "nodes", "", "");
    let servers = nodes.iter().filter(|node| Roles::of(node).is_server());
    servers.map(|node| member(node, own)).collect()
}

fn member(node: &Value, own: &str) -> EtcdMember {
    let name = node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let is_own = name == own;
    let says = |kind: &str, word: &str| {
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == kind && one["status"] == word))
    };
    let trouble = if says("EtcdIsVoter", "False") {
        Some(EtcdTrouble::Learner)
    } else {
        (!is_own && !says("Ready", "True")).then_some(EtcdTrouble::Silent)
    };
    EtcdMember { is_own, trouble, ..EtcdMember::well(name) }
}
