//! The proof in words: which node lacks what for which VM, and the smallest change that would make room.

use std::fmt;

use super::{Closed, Misfit, Unplaced};

/// Nodes that are named before the rest is only counted.
const NAMED: usize = 3;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leaving => "is to be emptied",
            Self::Draining => "is being drained",
            Self::Cordoned => "is cordoned",
            Self::NoVirtHandler => "has no virt-handler ready",
            Self::NotReady => "is not Ready",
            Self::OutOfService => "has the taint node.kubernetes.io/out-of-service",
        })
    }
}

impl fmt::Display for Misfit {
    /// Goes on after the node's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(closed) => closed.fmt(f),
            Self::Tainted(taint) => write!(f, "has the taint {taint}"),
            Self::Unlike(what) | Self::Company(what) => f.write_str(what),
            Self::Lacks(lacks) => {
                let lacks = lacks.iter().map(|(resource, lack)| amount(resource, *lack));
                write!(f, "lacks {}", lacks.collect::<Vec<_>>().join(" and "))
            }
        }
    }
}

impl Unplaced {
    /// `node2 lacks 3.2 GiB of memory, node3 is cordoned`: those that are nearest to taking it first.
    #[must_use]
    pub fn reasons(&self) -> String {
        let mut by_effort: Vec<_> = self.why.iter().collect();
        by_effort.sort_by_key(|(node, misfit)| (effort(misfit), *node));
        if by_effort.is_empty() {
            return "there is no other node".to_owned();
        }
        let named = by_effort.iter().take(NAMED).map(|(node, misfit)| format!("{node} {misfit}"));
        let named = named.collect::<Vec<_>>().join(", ");
        match by_effort.len().saturating_sub(NAMED) {
            0 => named,
            more => format!("{named}, and {more} more do not take it either"),
        }
    }

    /// What would be enough: `free 3.2 GiB of memory on node2`; none when nothing on the other nodes would be.
    #[must_use]
    pub fn smallest_change(&self) -> Option<String> {
        let (node, misfit) = self.why.iter().min_by_key(|(node, misfit)| (effort(misfit), *node))?;
        match misfit {
            Misfit::Closed(Closed::Draining) => Some(format!("wait until the work on {node} has ended")),
            Misfit::Closed(Closed::Cordoned) => Some(format!("uncordon {node}")),
            Misfit::Closed(Closed::NoVirtHandler) => Some(format!("bring virt-handler back on {node}")),
            Misfit::Closed(Closed::NotReady) => Some(format!("make {node} Ready")),
            Misfit::Closed(Closed::OutOfService) => {
                Some(format!("take the taint node.kubernetes.io/out-of-service off {node}"))
            }
            Misfit::Tainted(taint) => Some(format!("take the taint {taint} off {node}")),
            Misfit::Company(_) => Some(format!("move what keeps it away off {node}, or change its affinity")),
            Misfit::Lacks(lacks) => {
                let lacks = lacks.iter().map(|(resource, lack)| amount(resource, *lack));
                Some(format!("free {} on {node}", lacks.collect::<Vec<_>>().join(" and ")))
            }
            Misfit::Unlike(_) | Misfit::Closed(Closed::Leaving) => None,
        }
    }
}

/// How much it takes an operator to change this: a word, a node back, memory, other people's rules.
fn effort(misfit: &Misfit) -> (u8, u128) {
    match misfit {
        Misfit::Closed(Closed::Cordoned) => (0, 0),
        Misfit::Lacks(lacks) => (1, lacks.get("memory").copied().unwrap_or(0)),
        Misfit::Tainted(_) => (2, 0),
        Misfit::Closed(Closed::NotReady | Closed::NoVirtHandler | Closed::OutOfService) => (3, 0),
        Misfit::Closed(Closed::Draining) => (4, 0),
        Misfit::Company(_) => (5, 0),
        Misfit::Unlike(_) => (6, 0),
        Misfit::Closed(Closed::Leaving) => (7, 0),
    }
}

/// Thousandths of a resource for people: `3.2 GiB of memory`, `1.5 CPUs`, `2 nvidia.com/A16`. Rounded up: what is asked to
/// be freed has to be enough.
#[must_use]
pub(super) fn amount(resource: &str, thousandths: u128) -> String {
    let in_tenths = |unit: u128| {
        let tenths = (thousandths * 10).div_ceil(unit * 1000);
        if tenths.is_multiple_of(10) {
            format!("{}", tenths / 10)
        } else {
            format!("{}.{}", tenths / 10, tenths % 10)
        }
    };
    let is_bytes = resource.starts_with("hugepages-") || matches!(resource, "memory" | "ephemeral-storage");
    let name = if resource == "pods" { "room for a pod" } else { resource };
    match resource {
        "cpu" => format!("{} CPUs", in_tenths(1)),
        "pods" => name.to_owned(),
        _ if !is_bytes => format!("{} {name}", in_tenths(1)),
        _ if thousandths >= 1000 << 30 => format!("{} GiB of {name}", in_tenths(1 << 30)),
        _ => format!("{} MiB of {name}", thousandths.div_ceil(1000 << 20)),
    }
}
