//! Whose turn it is among the servers of a cluster: a `Lease` that one server holds from before its swap until its new RKE2 is verified,
//! so that no two of them are away at a time. It is not renewed and does not run out: a server that is half-way and silent is the last one
//! that another should be taken away beside. It ends with the run, or with its Node. Knows nothing of etcd.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, PostParams};

use crate::cluster::write::delete;
use crate::cluster::{Cluster, ClusterError, ask, ask_opt, nodes};

/// Name of the `Lease`, in Harvester's namespace.
pub const LEASE: &str = "upgrade-agent-server-turn";

/// What came of asking for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It is ours now; until just now it may have been another's.
    Taken,
    /// It was ours already, from before a crash perhaps.
    Kept,
    /// Another server has it.
    Anothers(Holder),
}

/// Who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Name of the server's Node.
    pub node: String,
    /// Since when, as its agent's clock has it.
    pub since: Option<Timestamp>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {} has its turn", self.node)?;
        if let Some(since) = self.since {
            write!(f, " since {}", since.strftime("%Y-%m-%d %H:%M:%SZ"))?;
        }
        Ok(())
    }
}

fn api(cluster: &Cluster) -> Api<Lease> {
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

fn holder(lease: &Lease) -> Option<Holder> {
    let spec = lease.spec.as_ref()?;
    let node = spec.holder_identity.clone().filter(|node| !node.is_empty())?;
    Some(Holder { node, since: spec.acquire_time.as_ref().map(|time| time.0) })
}

/// Takes the turn for `node`, unless another server of the cluster has it.
///
/// # Errors
/// [`ClusterError`]; a conflict when somebody else took it at the same moment.
pub async fn take(cluster: &Cluster, node: &str, now: Timestamp) -> Result<Turn, ClusterError> {
    let mut wanted = Lease {
        metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            acquire_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    let found = ask_opt(format!("read Lease {LEASE}"), api(cluster).get(LEASE)).await?;
    let what = format!("take Lease {LEASE}");
    let Some(found) = found else {
        ask(what, api(cluster).create(&PostParams::default(), &wanted)).await?;
        return Ok(Turn::Taken);
    };
    if let Some(holder) = holder(&found) {
        if holder.node == node {
            return Ok(Turn::Kept);
        }
        // A server that has left the cluster gives nothing back.
        if nodes::get(&cluster.client, &holder.node).await?.is_some() {
            return Ok(Turn::Anothers(holder));
        }
    }
    // Of this version only: another server may find the same.
    wanted.metadata.resource_version = found.resource_version();
    ask(what, api(cluster).replace(LEASE, &PostParams::default(), &wanted)).await?;
    Ok(Turn::Taken)
}

/// Gives the turn of `node` back; another's is left alone.
///
/// # Errors
/// [`ClusterError`].
pub async fn give_back(cluster: &Cluster, node: &str) -> Result<(), ClusterError> {
    let found = ask_opt(format!("read Lease {LEASE}"), api(cluster).get(LEASE)).await?;
    match found {
        Some(found) if holder(&found).is_some_and(|holder| holder.node == node) => {
            delete(&api(cluster), LEASE, found.uid(), format!("give Lease {LEASE} back")).await
        }
        Some(_) | None => Ok(()),
    }
}
