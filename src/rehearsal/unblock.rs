//! Which single change would make a blocked upgrade go through: tried, not guessed. Each candidate is rehearsed; the first
//! that works, in the order of what it costs the cluster's users, is the answer.

use std::fmt;

use http::Method;
use serde_json::{Value, json};

use crate::flow::plan::{MigrationFailure, NonMigratable, ShutdownTimeout};
use crate::rehearsal::{Order, RehearsalError, rehearse};
use crate::sim::api::ApiServer;

/// Larger clusters are not rehearsed again and again.
const MOST_NODES: usize = 20;
/// More room than this on one node is no small change.
const MOST_GIB: u64 = 1024;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// New pods may be scheduled to the node again.
    Uncordon(String),
    /// So many GiB of memory more, free on the node.
    Room(String, u64),
    /// A VM that cannot migrate may be shut down.
    ShutDownWhatCannotMove,
    /// A VM whose migration fails may be shut down.
    ShutDownWhatDoesNotMove,
    /// A guest that does not react may lose its power.
    ForceOff,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncordon(node) => write!(formatter, "uncordon {node}"),
            Self::Room(node, gib) => write!(formatter, "free {gib} GiB of memory on {node}"),
            Self::ShutDownWhatCannotMove => {
                formatter.write_str("evacuation.nonMigratable: ShutdownAndRestore (VMs that cannot move are off meanwhile)")
            }
            Self::ShutDownWhatDoesNotMove => formatter.write_str(
                "evacuation.onMigrationFailure: ShutdownAndRestore (VMs whose migration fails are off meanwhile)",
            ),
            Self::ForceOff => formatter.write_str(
                "evacuation.onShutdownTimeout: ForceOff (guests that do not react lose their power)",
            ),
        }
    }
}

impl Change {
    /// The order with this change in it.
    #[must_use]
    pub fn made(&self, order: &Order) -> Order {
        let mut order = order.clone();
        match self {
            Self::Uncordon(_) | Self::Room(..) => order.changes.push(self.clone()),
            Self::ShutDownWhatCannotMove => {
                order.evacuation.non_migratable = NonMigratable::ShutdownAndRestore;
            }
            Self::ShutDownWhatDoesNotMove => {
                order.evacuation.on_migration_failure = MigrationFailure::ShutdownAndRestore;
            }
            Self::ForceOff => order.evacuation.on_shutdown_timeout = ShutdownTimeout::ForceOff,
        }
        order
    }

    /// Puts it into the cluster, where that is its place.
    pub(super) fn put(&self, server: &ApiServer) -> Result<(), RehearsalError> {
        let (node, of, body) = match self {
            Self::Uncordon(node) => (node, "", json!({"spec": {"unschedulable": null}})),
            Self::Room(node, gib) => {
                let found = server.get_object("", "nodes", "", node);
                let present = found.as_ref().and_then(|node| node.pointer("/status/allocatable/memory"));
                let present =
                    present.and_then(Value::as_str).and_then(crate::sim::world::mebibytes).unwrap_or(0);
                let memory = json!({"memory": format!("{}Mi", present + gib * 1024)});
                (node, "/status", json!({"status": {"allocatable": memory, "capacity": memory}}))
            }
            Self::ShutDownWhatCannotMove | Self::ShutDownWhatDoesNotMove | Self::ForceOff => return Ok(()),
        };
        let answer = server.call(&Method::PATCH, &format!("/api/v1/nodes/{node}{of}"), &body);
        answer.map(drop).map_err(|status| RehearsalError::World {
            what: format!("the change `{self}`"),
            why: status.message.clone(),
        })
    }
}

/// The change that costs least among those that make it go through; none when no single one does, or the cluster is large.
///
/// # Errors
/// [`RehearsalError`], as for the rehearsal itself.
pub fn smallest_change(order: &Order, nodes: &[NodeState]) -> Result<Option<Change>, RehearsalError> {
    if nodes.len() > MOST_NODES {
        return Ok(None);
    }
    let works = |change: &Change| rehearse(&change.made(order)).map(|tried| tried.timeline.succeeded);
    for node in nodes.iter().filter(|node| node.cordoned) {
        let change = Change::Uncordon(node.name.clone());
        if works(&change)? {
            return Ok(Some(change));
        }
    }
    let mut best: Option<(u64, String)> = None;
    for node in nodes {
        let most = best.as_ref().map_or(MOST_GIB, |(gib, _)| gib - 1);
        let room = |gib: u64| Change::Room(node.name.clone(), gib);
        if most == 0 || !works(&room(most))? {
            continue;
        }
        // The least that works lies above `no`.
        let (mut no, mut yes) = (0, most);
        while yes - no > 1 {
            let middle = no + (yes - no) / 2;
            if works(&room(middle))? {
                yes = middle;
            } else {
                no = middle;
            }
        }
        best = Some((yes, node.name.clone()));
    }
    if let Some((gib, node)) = best {
        return Ok(Some(Change::Room(node, gib)));
    }
    for change in [Change::ShutDownWhatCannotMove, Change::ShutDownWhatDoesNotMove, Change::ForceOff] {
        if change.made(order).evacuation != order.evacuation && works(&change)? {
            return Ok(Some(change));
        }
    }
    Ok(None)
}

/// What a change may begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// New pods are not scheduled to it.
    pub cordoned: bool,
}
