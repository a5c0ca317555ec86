//! Whether the old RKE2 may run again on a node after the new one did (reference `rke2-and-rancher.md` §9.3). Pure. Kubernetes
//! supports no downgrade: what is allowed here is what leaves every stored object and etcd's data readable.

use std::fmt;

use crate::flow::plan::{Role, VersionChange};
use crate::flow::skew::{Etcd, Server};

/// A kubelet may be so many minors older than the oldest API server.
const KUBELET_SKEW: u32 = 3;

/// What a change of version leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WayBack {
    /// The old binary may run again at any time.
    Open,
    /// Only while another server still runs etcd 3.5: the cluster's own version rises with the last one.
    WhileOthersAreOld,
    /// Never by a change of the binary.
    Closed {
        /// Why.
        why: String,
    },
}

impl WayBack {
    /// Of this change on a node of this role.
    #[must_use]
    pub fn of(role: Role, change: &VersionChange) -> Self {
        let VersionChange { from, to } = change;
        let minors = to.minor().1.saturating_sub(from.minor().1);
        match role {
            Role::Agent if minors <= KUBELET_SKEW => Self::Open,
            Role::Agent => {
                Self::Closed { why: format!("a kubelet of {from} is too old for API servers of {to}") }
            }
            Role::Server if minors > 0 => Self::Closed {
                why: format!(
                    "the API server of {to} may have stored objects that the one of {from} cannot read; the way back is an \
                     etcd snapshot, restored on all servers"
                ),
            },
            Role::Server if Etcd::of(from).is_3_5() != Etcd::of(to).is_3_5() => Self::WhileOthersAreOld,
            Role::Server => Self::Open,
        }
    }

    /// The same with what is known of the cluster's other servers: nothing that depends on them is left open.
    #[must_use]
    pub fn beside(self, others: &[Server]) -> Self {
        match self.is_open(Some(others)) {
            Ok(()) => self,
            Err(why) => Self::Closed { why },
        }
    }

    /// May the old binary be put back now? `others` are the cluster's other servers, none when nobody could tell.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub fn is_open(&self, others: Option<&[Server]>) -> Result<(), String> {
        match (self, others) {
            (Self::Open, _) => Ok(()),
            (Self::Closed { why }, _) => Err(why.clone()),
            (Self::WhileOthersAreOld, None) => {
                Err("nobody could tell whether another server still runs etcd 3.5".to_owned())
            }
            (Self::WhileOthersAreOld, Some(others)) => {
                let runs_3_5 = |server: &Server| {
                    server.version.as_ref().is_some_and(|version| Etcd::of(version).is_3_5())
                };
                let why = "no other server runs etcd 3.5 any more, which cannot join etcd 3.6 nor read its data; the way back is an etcd \
                           snapshot, restored on all servers";
                if others.iter().any(runs_3_5) { Ok(()) } else { Err(why.to_owned()) }
            }
        }
    }
}

impl fmt::Display for WayBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => {
                f.write_str("open: the old binary is kept and put back when the new one does not serve")
            }
            Self::WhileOthersAreOld => f.write_str("open while another server still runs etcd 3.5"),
            Self::Closed { why } => write!(f, "closed: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::version::Rke2Version;

    fn change(from: &str, to: &str) -> VersionChange {
        VersionChange { from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    fn server(version: &str) -> Server {
        let version: Rke2Version = version.parse().unwrap();
        Server { name: "s".into(), version: Some(version), ready: true, votes: None }
    }

    #[test]
    fn the_table_of_the_reference() {
        let agent = WayBack::of(Role::Agent, &change("v1.34.2+rke2r1", "v1.35.6+rke2r1"));
        assert_eq!(agent, WayBack::Open);
        let patch = WayBack::of(Role::Server, &change("v1.35.2+rke2r1", "v1.35.6+rke2r1"));
        assert_eq!(patch, WayBack::Open);
        let minor = WayBack::of(Role::Server, &change("v1.34.2+rke2r1", "v1.35.6+rke2r1"));
        assert!(minor.is_open(Some(&[server("v1.34.2+rke2r1")])).unwrap_err().contains("snapshot"));
        let etcd = WayBack::of(Role::Server, &change("v1.33.10+rke2r1", "v1.33.11+rke2r1"));
        assert_eq!(etcd, WayBack::WhileOthersAreOld);
        assert_eq!(etcd.is_open(Some(&[server("v1.33.10+rke2r1"), server("v1.33.11+rke2r1")])), Ok(()));
        assert!(etcd.is_open(Some(&[server("v1.33.11+rke2r1")])).is_err());
        assert!(etcd.is_open(Some(&[])).is_err(), "a single server is the last one");
        assert!(etcd.is_open(None).is_err(), "could not tell is no");
        let old = [server("v1.33.10+rke2r1"), server("v1.33.11+rke2r1")];
        assert_eq!(etcd.clone().beside(&old), WayBack::WhileOthersAreOld);
        assert!(etcd.clone().beside(&[server("v1.33.11+rke2r1")]).to_string().starts_with("closed: "));
        assert!(etcd.beside(&[]).to_string().contains("snapshot"), "a single server has no other");
        assert_eq!(patch.beside(&[]), WayBack::Open);
    }
}
