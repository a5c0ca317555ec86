//! Which RKE2 may follow which, on which node of which cluster: Kubernetes' version skew policy, etcd's own steps, and etcd's
//! quorum (reference `rke2-and-rancher.md` §6). Pure; what a plan shows by itself is checked by the plan.

use std::fmt;

use crate::flow::plan::{Role, VersionChange};
use crate::flow::version::Rke2Version;

/// etcd of a release, as far as it decides anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Etcd {
    /// 3.5 before 3.5.26: its removed members may come back as zombies under 3.6.
    V3_5,
    /// 3.5.26 and later: the last step before 3.6.
    V3_5Final,
    /// 3.6.
    V3_6,
}

impl fmt::Display for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V3_5 => "etcd 3.5",
            Self::V3_5Final => "etcd 3.5.26 or later",
            Self::V3_6 => "etcd 3.6",
        })
    }
}

impl Etcd {
    /// etcd that a release of RKE2 runs. It changed to 3.6 inside the 1.33 line.
    #[must_use]
    pub fn of(version: &Rke2Version) -> Self {
        let since = |text: &str| text.parse::<Rke2Version>().is_ok_and(|first| *version >= first);
        if since("v1.33.11-rc1+rke2r1") {
            return Self::V3_6;
        }
        let last_steps = match version.minor() {
            (1, 32) => since("v1.32.11+rke2r2"),
            (1, 33) => since("v1.33.7+rke2r2"),
            _ => false,
        };
        if last_steps { Self::V3_5Final } else { Self::V3_5 }
    }

    /// Does it keep its data as 3.5 does?
    #[must_use]
    pub fn is_3_5(self) -> bool {
        self != Self::V3_6
    }
}

/// A server of the cluster, by what its Node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The node's name.
    pub name: String,
    /// What its kubelet reports, and with it its API server; none when it is no RKE2 version.
    pub version: Option<Rke2Version>,
    /// Ready.
    pub ready: bool,
    /// Whether its etcd member votes, as RKE2 says in the Node's condition `EtcdIsVoter`; none where it does not say.
    pub votes: Option<bool>,
}

/// A kubelet of the cluster, by what its Node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubelet {
    /// The node's name.
    pub node: String,
    /// What it reports; none when it is no RKE2 version.
    pub version: Option<Rke2Version>,
}

/// Why a version must not come to a node now, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// What is wrong.
    pub why: String,
    /// The cure.
    pub fix: String,
}

impl Objection {
    fn new(why: String, fix: impl Into<String>) -> Self {
        Self { why, fix: fix.into() }
    }
}

/// The first thing that speaks against this change of this node, with `others` the cluster's other servers.
#[must_use]
pub fn objection(role: Role, change: &VersionChange, others: &[Server]) -> Option<Objection> {
    let VersionChange { from, to } = change;
    let nameless = others.iter().find(|server| server.version.is_none());
    if let Some(server) = nameless {
        let why = format!("server {} reports no RKE2 version", server.name);
        return Some(Objection::new(why, "mend that node first; `kubectl get nodes` shows its version"));
    }
    let oldest = others.iter().filter_map(|server| Some((server.version.as_ref()?, &server.name))).min();
    match role {
        Role::Agent => {
            let Some((version, name)) = oldest else {
                let why =
                    format!("no server of the cluster is known, so nobody can tell whether {to} is newer");
                let fix = "each server's Node carries the label node-role.kubernetes.io/control-plane or etcd, \"true\"";
                return Some(Objection::new(why, fix));
            };
            (to.released() > version.released()).then(|| {
                let why = format!("{to} is newer than server {name} ({version})");
                Objection::new(why, "upgrade all servers before the agents")
            })
        }
        Role::Server => {
            if Etcd::of(from) == Etcd::V3_5 && Etcd::of(to) == Etcd::V3_6 {
                let why = format!("{from} runs {} and {to} runs {}", Etcd::V3_5, Etcd::V3_6);
                let fix = "upgrade to v1.33.7+rke2r2 or v1.32.11+rke2r2 (etcd 3.5.26) or later first, on every server";
                return Some(Objection::new(why, fix));
            }
            let (version, name) = oldest?;
            let ((major, minor), (other, lowest)) = (to.minor(), version.minor());
            if major != other || minor > lowest + 1 {
                let why = format!("{to} is more than one minor ahead of server {name} ({version})");
                return Some(Objection::new(why, format!("upgrade {name} first")));
            }
            if Etcd::of(to) != Etcd::V3_6 {
                return None;
            }
            let unready =
                |server: &&Server| server.version.as_ref().is_some_and(|one| Etcd::of(one) == Etcd::V3_5);
            let server = others.iter().find(unready)?;
            let why = format!("{to} runs {} and server {} still {}", Etcd::V3_6, server.name, Etcd::V3_5);
            let fix = "upgrade it to v1.33.7+rke2r2 or v1.32.11+rke2r2 (etcd 3.5.26) or later first";
            Some(Objection::new(why, fix))
        }
    }
}

/// Kubelets that would be too old for this version's API server: three minors are allowed, two to a kubelet before 1.25
/// (Kubernetes' version skew policy). What would not tell its version may be among them.
#[must_use]
pub fn left_behind(to: &Rke2Version, kubelets: &[Kubelet]) -> Option<Objection> {
    let (major, minor) = to.minor();
    let too_old = |version: &Rke2Version| {
        let (its_major, its_minor) = version.minor();
        its_major != major || its_minor + if its_minor < 25 { 2 } else { 3 } < minor
    };
    let mut behind = kubelets.iter().filter(|one| one.version.as_ref().is_none_or(too_old));
    let first = behind.next()?;
    let node = &first.node;
    let more = match behind.count() {
        0 => String::new(),
        more => format!(", as on {more} more"),
    };
    Some(match &first.version {
        Some(version) => Objection::new(
            format!("{to} is too far ahead of the kubelet of {node} ({version}){more}"),
            "upgrade the agents to a version in between first, or take out of the cluster what is gone for good",
        ),
        None => Objection::new(
            format!("the kubelet of {node} reports no RKE2 version{more}"),
            "mend that node first; `kubectl get nodes` shows its version",
        ),
    })
}

/// What keeps etcd from losing one member for a while: the other servers that it would then depend on, each with why it
/// cannot be depended on. Empty for a cluster of one or two servers, which loses its API for the time of the restart.
#[must_use]
pub fn unfit(others: &[Server]) -> Vec<String> {
    if others.len() < 2 {
        return Vec::new();
    }
    let said = others.iter().filter_map(|server| {
        let why = match (server.ready, server.votes) {
            (false, _) => "is not Ready",
            (true, Some(false)) => "has an etcd member that does not vote",
            (true, Some(true) | None) => return None,
        };
        Some(format!("server {} {why}", server.name))
    });
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Rke2Version {
        text.parse().unwrap()
    }

    fn server(name: &str, text: &str) -> Server {
        Server { name: name.to_owned(), version: Some(version(text)), ready: true, votes: None }
    }

    #[test]
    fn etcd_of_each_release() {
        for (release, etcd) in [
            ("v1.31.14+rke2r1", Etcd::V3_5),
            ("v1.32.7+rke2r1", Etcd::V3_5),
            ("v1.32.11+rke2r1", Etcd::V3_5),
            ("v1.32.11+rke2r2", Etcd::V3_5Final),
            ("v1.33.7+rke2r1", Etcd::V3_5),
            ("v1.33.7+rke2r10", Etcd::V3_5Final),
            ("v1.33.10+rke2r3", Etcd::V3_5Final),
            ("v1.33.11+rke2r1", Etcd::V3_6),
            ("v1.34.1+rke2r1", Etcd::V3_6),
            ("v1.36.0-rc1+rke2r1", Etcd::V3_6),
        ] {
            assert_eq!(Etcd::of(&version(release)), etcd, "{release}");
        }
    }

    #[test]
    fn what_may_follow_what() {
        use Role::{Agent, Server as Main};
        let table = [
            (Main, "v1.34.2+rke2r1", "v1.35.6+rke2r1", vec!["v1.34.2+rke2r1"], None),
            (Main, "v1.34.2+rke2r1", "v1.35.6+rke2r1", vec!["v1.35.6+rke2r1", "v1.34.2+rke2r1"], None),
            (Main, "v1.34.2+rke2r1", "v1.35.6+rke2r1", vec!["v1.33.5+rke2r1"], Some("one minor ahead")),
            (Main, "v1.33.5+rke2r1", "v1.34.2+rke2r1", vec![], Some("etcd 3.6")),
            (Main, "v1.33.10+rke2r3", "v1.34.2+rke2r1", vec![], None),
            (Main, "v1.33.5+rke2r1", "v1.33.10+rke2r3", vec![], None),
            (Main, "v1.33.10+rke2r3", "v1.33.11+rke2r1", vec!["v1.33.10+rke2r3"], None),
            (
                Main,
                "v1.33.10+rke2r3",
                "v1.33.11+rke2r1",
                vec!["v1.33.10+rke2r3", "v1.32.5+rke2r1"],
                Some("server s1 still etcd 3.5"),
            ),
            (Agent, "v1.33.5+rke2r1", "v1.34.2+rke2r1", vec!["v1.34.2+rke2r1"], None),
            (
                Agent,
                "v1.34.2+rke2r1",
                "v1.35.6+rke2r1",
                vec!["v1.35.6+rke2r1", "v1.34.2+rke2r1"],
                Some("newer than server s1"),
            ),
            (Agent, "v1.34.2+rke2r1", "v1.35.6+rke2r1", vec![], Some("no server")),
            // A kubelet does not tell its release candidate.
            (Agent, "v1.34.2+rke2r1", "v1.35.6-rc3+rke2r1", vec!["v1.35.6+rke2r1"], None),
            (Agent, "v1.34.2+rke2r2", "v1.34.2+rke2r10", vec!["v1.34.2+rke2r9"], Some("newer")),
        ];
        for (role, from, to, others, expected) in table {
            let others: Vec<Server> =
                (0..).zip(others).map(|(count, text)| server(&format!("s{count}"), text)).collect();
            let change = VersionChange { from: version(from), to: version(to) };
            let found = objection(role, &change, &others).map(|one| one.why);
            match expected {
                None => assert_eq!(found, None, "{from} -> {to}"),
                Some(words) => assert!(found.as_ref().is_some_and(|why| why.contains(words)), "{found:?}"),
            }
        }
        let strange = Server { version: None, ..server("s0", "v1.34.2+rke2r1") };
        let change = VersionChange { from: version("v1.34.2+rke2r1"), to: version("v1.35.6+rke2r1") };
        assert!(objection(Role::Agent, &change, &[strange]).is_some(), "unknown is no");
    }

    #[test]
    fn kubelets_that_a_new_server_would_leave_behind() {
        let kubelets = |versions: &[&str]| -> Vec<Kubelet> {
            let one = |(count, text): (usize, &&str)| Kubelet {
                node: format!("n{count}"),
                version: text.parse().ok(),
            };
            versions.iter().enumerate().map(one).collect()
        };
        for (to, versions, expected) in [
            ("v1.35.6+rke2r1", vec![], None),
            ("v1.35.6+rke2r1", vec!["v1.35.6+rke2r1", "v1.34.2+rke2r1", "v1.32.0+rke2r1"], None),
            (
                "v1.35.6+rke2r1",
                vec!["v1.34.2+rke2r1", "v1.31.14+rke2r1"],
                Some("kubelet of n1 (v1.31.14+rke2r1)"),
            ),
            (
                "v1.35.6+rke2r1",
                vec!["v1.31.1+rke2r1", "v1.30.1+rke2r1", "v1.34.2+rke2r1"],
                Some("n0 (v1.31.1+rke2r1), as on 1 more"),
            ),
            ("v1.27.1+rke2r1", vec!["v1.25.1+rke2r1"], None),
            ("v1.27.1+rke2r1", vec!["v1.24.1+rke2r1"], Some("n0")),
            ("v1.35.6+rke2r1", vec!["v1.35.6+rke2r1", "v1.29.0-vk"], Some("n1 reports no RKE2 version")),
        ] {
            let found = left_behind(&version(to), &kubelets(&versions)).map(|one| one.why);
            match expected {
                None => assert_eq!(found, None, "{to} {versions:?}"),
                Some(words) => assert!(found.as_ref().is_some_and(|why| why.contains(words)), "{found:?}"),
            }
        }
    }

    #[test]
    fn a_quorum_of_three_needs_both_others() {
        let fit = server("a", "v1.34.2+rke2r1");
        let down = Server { ready: false, ..server("b", "v1.34.2+rke2r1") };
        let learner = Server { votes: Some(false), ..server("c", "v1.34.2+rke2r1") };
        assert_eq!(unfit(&[fit.clone(), fit.clone()]), Vec::<String>::new());
        assert_eq!(unfit(&[fit.clone(), down.clone()]), ["server b is not Ready"]);
        assert_eq!(unfit(&[fit, learner]), ["server c has an etcd member that does not vote"]);
        assert_eq!(unfit(&[down]), Vec::<String>::new(), "two servers have no quorum to keep");
    }
}
