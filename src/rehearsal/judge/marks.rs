//! What the judge keeps of nodes and of Harvester's `Upgrade`: our marks, whose they are, and whether they are gone at the
//! end.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use super::{Invariant, Judge, Truth};
use crate::cluster::nodes::{CLOSED_TAINT, DRAIN_TAINT, OWNER_ANNOTATION};
use crate::flow::phase::Phase;
use crate::sim::api::Changes;
use crate::sim::machine::SimMachine;

/// What of an object's metadata changes with writes to the rest of it.
const CHANGES_ANYWAY: [&str; 3] = ["resourceVersion", "generation", "managedFields"];

/// A node before anything was done to it, and as it is now.
#[derive(Debug, Clone)]
pub(super) struct Before {
    was: Marks,
    is: Marks,
    fenced: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Marks {
    cordoned: bool,
    /// By the taint in a cordon's stead.
    closed: bool,
    tainted: bool,
    owner: Option<String>,
}

fn marks(node: &Value) -> Marks {
    let taints = node.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten();
    let taints: Vec<&Value> = taints.filter(|taint| taint["effect"] == "NoSchedule").collect();
    let has = |key: &str| taints.iter().any(|taint| taint["key"] == key);
    let owner = node.pointer("/metadata/annotations").and_then(|all| all.get(OWNER_ANNOTATION));
    Marks {
        cordoned: node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)),
        closed: has(CLOSED_TAINT),
        tainted: has(DRAIN_TAINT),
        owner: owner.and_then(Value::as_str).map(str::to_owned),
    }
}

pub(super) fn before(node: &Value) -> (String, Before) {
    let name = node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let was = marks(node);
    (name, Before { is: was.clone(), was, fenced: false })
}

impl Judge {
    /// A node as it is now: marks of ours only with an intent on its disk, signed with the upgrade's uid.
    pub fn node(&mut self, now: Timestamp, node: &Value, truth: &Truth) {
        let name = node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(known) = self.nodes.get_mut(&name) else { return };
        let is = marks(node);
        let (was, before) = (known.was.clone(), std::mem::replace(&mut known.is, is.clone()));
        let set = |marks: &Marks| [marks.cordoned, marks.closed, marks.tainted];
        let added = set(&is).into_iter().zip(set(&before)).any(|(is, was)| is && !was);
        if !added {
            return;
        }
        let durable = truth.durable.get(&name);
        if durable.and_then(crate::flow::progress::Progress::cordon_before).is_none() {
            self.note(now, Invariant::I6, format!("{name} was closed with no intent in its journal"));
        }
        let uid =
            durable.and_then(crate::flow::progress::Progress::plan).map(|plan| plan.upgrade_uid.clone());
        if is.owner != uid && is != was {
            self.note(now, Invariant::I6, format!("{name} was closed and does not say for which upgrade"));
        }
        self.ledger_written(now, &name, truth);
    }

    /// Is systemd keeping everybody else from RKE2's unit? `on_disk` is the drop-in, `loaded` what systemd keeps to.
    pub fn fence(&mut self, now: Timestamp, node: &str, on_disk: bool, loaded: bool, truth: &Truth) {
        let Some(known) = self.nodes.get_mut(node) else { return };
        known.fenced = on_disk || loaded;
        let Some(durable) = truth.durable.get(node) else {
            if on_disk || loaded {
                self.note(now, Invariant::I6, format!("{node} is fenced with no intent in its journal"));
            }
            return;
        };
        if on_disk && durable.fenced_units().is_empty() {
            self.note(now, Invariant::I6, format!("{node} is fenced with no intent in its journal"));
        }
        // From the fence to post-drain the unit is ours alone; after a boot systemd reads the drop-in by itself.
        let should = durable.fenced() && !durable.post_drained() && !durable.is_cancelled();
        if should && !loaded && !truth.powerless.contains(node) && !Self::taking_down(node, truth) {
            let what =
                format!("the journal of {node} says fenced, and systemd would let anybody restart RKE2");
            self.note(now, Invariant::I1, what);
        }
    }

    /// Does the run keep others from RKE2 here? Until its fence stands it does not; nor once that is durably gone, where the journal lets
    /// it be taken down: what others start then is their own affair.
    pub(super) fn keeps_others_out(node: &str, durably_fenced: bool, truth: &Truth) -> bool {
        let Some(durable) = truth.durable.get(node) else { return false };
        let may_be_down = durable.post_drained() || durable.is_cancelled() || Self::taking_down(node, truth);
        durable.fenced() && (durably_fenced || !may_be_down)
    }

    /// systemd has taken an order to restart RKE2 from somebody else.
    pub fn others_were_obeyed(&mut self, now: Timestamp, node: &str, durably_fenced: bool, truth: &Truth) {
        if Self::keeps_others_out(node, durably_fenced, truth) {
            let what = format!("somebody else restarted RKE2 of {node} behind its fence");
            self.note(now, Invariant::I1, what);
        }
    }

    /// Once the journal says that a node is open again, it carries nothing of ours.
    pub fn opened(&mut self, now: Timestamp, node: &str, truth: &Truth) {
        let open = truth.durable.get(node).is_some_and(crate::flow::progress::Progress::post_drained);
        if open {
            self.all_is_back(now, node);
        }
    }

    /// Post-drain lowers the fence before its line is written.
    fn taking_down(node: &str, truth: &Truth) -> bool {
        truth.durable.get(node).is_some_and(|durable| durable.verified() || durable.held().is_some())
    }

    /// Nothing of ours is left.
    pub(super) fn all_is_back(&mut self, now: Timestamp, node: &str) {
        let Some(known) = self.nodes.get(node).cloned() else { return };
        if known.is != known.was {
            let what =
                format!("{node} is said to be open again and is {:?}, it was {:?}", known.is, known.was);
            self.note(now, Invariant::I6, what);
        }
        if known.fenced {
            self.note(
                now,
                Invariant::I6,
                format!("{node} is said to be open again and its fence still stands"),
            );
        }
    }

    /// A run that is called done leaves nothing of what it had staged.
    pub fn prefix_left(&mut self, now: Timestamp, node: &str, machine: &SimMachine) {
        let live = machine.live_path();
        let folder = Path::new(&live).ancestors().nth(2).map(|prefix| prefix.join(".stage"));
        if let Some(folder) = folder.filter(|folder| machine.disk().stat(folder, false).is_ok()) {
            let what = format!("{node} was called done and {} is still there", folder.display());
            self.note(now, Invariant::I6, what);
        }
    }

    /// A run that is called done lets the next server go.
    pub fn turn_left(&mut self, now: Timestamp, node: &str, holder: Option<&str>) {
        if holder == Some(node) {
            self.note(now, Invariant::I6, format!("{node} was called done and still has the servers' turn"));
        }
    }

    /// The `Upgrade` as it is now, and what the write changed where that is known: of all that others read only our key of
    /// `nodeStatuses` may differ, in Harvester's words.
    pub fn upgrade(&mut self, now: Timestamp, (upgrade, changes): (&Value, Option<&Changes>), working: &str) {
        let [version, generation, owners] = CHANGES_ANYWAY.map(|field| ["metadata", field]);
        let ours: [&[&str]; 4] = [&version, &generation, &owners, &["status", "nodeStatuses", working]];
        // A thousand nodes' states are not compared at each of their reports where the server knows what was written.
        let is_ours = changes.is_some_and(|changes| changes.only_at(&ours))
            || is_same_but_ours(upgrade, &self.upgrade, working);
        if !is_ours {
            let what = format!("the Upgrade changed in more than nodeStatuses.{working}");
            self.note(now, Invariant::I7, what);
        }
        let state = upgrade.pointer("/status/nodeStatuses").and_then(|all| all.get(working));
        let state = state.and_then(|state| state.get("state")).and_then(Value::as_str).unwrap_or_default();
        // Before the first turn no state is ours.
        if !working.is_empty() && !Phase::ALL.iter().any(|phase| phase.as_str() == state) {
            let what = format!("nodeStatuses.{working} says `{state}`, which Harvester does not know");
            self.note(now, Invariant::I7, what);
        }
        // What else differs now is never compared; a copy of a thousand nodes' states at each of their reports would be long.
        let known = self.upgrade.pointer_mut("/status/nodeStatuses").and_then(Value::as_object_mut);
        let ours = upgrade.pointer("/status/nodeStatuses").and_then(|all| all.get(working));
        match (known, ours) {
            (Some(known), Some(ours)) if is_ours => {
                known.insert(working.to_owned(), ours.clone());
            }
            _ => self.upgrade = upgrade.clone(),
        }
    }

    /// The `NodeUpgrade` as it is now: the mirror never shows a line that a power cut could take back.
    pub fn order(&mut self, now: Timestamp, order: &Value, truth: &Truth) {
        let node = order.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        let shown = order.pointer("/status/journalSeq").and_then(Value::as_u64).unwrap_or(0);
        let durable = truth.durable.get(node).map_or(0, crate::flow::progress::Progress::seq);
        if shown > durable {
            let what = format!("the cluster was told of line {shown} of {node}, its disk holds {durable}");
            self.note(now, Invariant::I4, what);
        }
    }
}

/// Are two versions of the `Upgrade` the same but for what changes with every write, and the one key that is ours?
fn is_same_but_ours(one: &Value, other: &Value, working: &str) -> bool {
    let both = [Some(one), Some(other)];
    let metadata = both.map(|upgrade| upgrade?.get("metadata"));
    let status = both.map(|upgrade| upgrade?.get("status"));
    let nodes = status.map(|status| status?.get("nodeStatuses"));
    is_same_but(both, &["metadata", "status"])
        && is_same_but(metadata, &CHANGES_ANYWAY)
        && is_same_but(status, &["nodeStatuses"])
        && is_same_but(nodes, &[working])
}

/// Are two objects the same but for these fields? What is no object is compared as it is.
fn is_same_but(both: [Option<&Value>; 2], fields: &[&str]) -> bool {
    match both {
        [Some(Value::Object(one)), Some(Value::Object(other))] => {
            // In order of their names, both of them.
            let kept = |(name, _): &(&String, &Value)| !fields.contains(&name.as_str());
            one.iter().filter(kept).eq(other.iter().filter(kept))
        }
        [one, other] => one == other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::host::clock::Clock;
    use crate::sim::api::{ApiServer, Event};

    #[test]
    fn only_our_key_of_an_upgrade_may_differ() {
        let before = json!({
            "metadata": { "name": "hvst-upgrade-1", "resourceVersion": "1", "labels": { "a": "b" } },
            "spec": { "version": "v1.6.0" },
            "status": { "nodeStatuses": { "node1": { "state": "" }, "node2": { "state": "" } }, "conditions": [] },
        });
        let changed = |pointer: &str, to: Value| {
            let mut after = before.clone();
            *after.pointer_mut(pointer).unwrap() = to;
            after
        };
        for (pointer, to) in [
            ("/metadata/resourceVersion", json!("2")),
            ("/status/nodeStatuses/node1", json!({ "state": "x" })),
        ] {
            assert!(is_same_but_ours(&changed(pointer, to), &before, "node1"), "{pointer}");
        }
        for (pointer, to) in [
            ("/metadata/labels/a", json!("c")),
            ("/metadata/labels", json!(null)),
            ("/spec", json!({})),
            ("/status/nodeStatuses/node2/state", json!("x")),
            ("/status/nodeStatuses", json!({})),
            ("/status/nodeStatuses", json!({ "node1": {}, "node2": { "state": "" }, "node3": {} })),
            ("/status/conditions", json!([1])),
            ("/status", json!(null)),
        ] {
            assert!(!is_same_but_ours(&changed(pointer, to), &before, "node1"), "{pointer}");
            assert!(!is_same_but_ours(&before, &changed(pointer, json!("other")), "node1"), "{pointer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_to_the_state_of_another_node_is_seen() {
        let start = Timestamp::UNIX_EPOCH;
        let server = ApiServer::new(Clock::from(start, tokio::time::Instant::now()), 1);
        let states = json!({ "node1": { "state": "" }, "node2": { "state": "" } });
        let before = server.load(json!({
            "apiVersion": "harvesterhci.io/v1beta1", "kind": "Upgrade",
            "metadata": { "name": "u", "namespace": "default" }, "status": { "nodeStatuses": states },
        }));
        let before = before.unwrap().into_value();
        let none = || std::iter::empty();
        let mut judge =
            Judge::new(start, none(), (&BTreeMap::new(), &BTreeMap::new()), none(), before, BTreeMap::new());
        let mut heard = server.follow("harvesterhci.io", "upgrades");
        let mut wrong_after = |node: &str, state: &str| {
            let path = "/apis/harvesterhci.io/v1beta1/namespaces/default/upgrades/u";
            let said = json!({ "status": { "nodeStatuses": { node: { "state": state } } } });
            server.call(&Method::PATCH, path, &said).unwrap();
            let Some(Event::Modified(upgrade, changes)) = heard.try_next() else { panic!("no write") };
            assert!(changes.is_some());
            judge.upgrade(start, (&upgrade, changes.as_ref()), "node1");
            judge.broken().len()
        };
        assert_eq!(wrong_after("node1", Phase::ALL[0].as_str()), 0);
        assert_eq!(wrong_after("node2", Phase::ALL[0].as_str()), 1);
        assert_eq!(wrong_after("node1", Phase::ALL[1].as_str()), 1);
    }
}
