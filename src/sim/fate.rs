//! What becomes of a guest whatever anybody does about it, read off the objects as they are: where it could ever be moved
//! to, whether its user has ended it, whether it comes back by itself. It goes by the rules of the simulated
//! cluster and knows nothing of what an agent makes of them.

use serde_json::{Map, Value};

use super::fields::{
    condition_is, controller, device_requests, is_deleting, is_final, label, list, name, namespace,
    run_strategy, text, uid,
};
use super::kubelet::is_selected;
use super::virt_controller::{first_host, named_cpu, of_launcher, with_host_cpu};

/// Label of the node that is there for etcd's quorum only.
const WITNESS: &str = "node-role.harvesterhci.io/witness";

/// Labels that a node has to have.
pub type Labels = Map<String, Value>;

/// What `KubeVirt` asks of a node for a guest, by the pod that it runs in, with namespace and name of the guest; none of
/// pods in which none runs.
#[must_use]
pub fn asked_by(launcher: &Value) -> Option<(&str, &str, Labels)> {
    let owner = controller(launcher).filter(|owner| text(owner, "/kind") == "VirtualMachineInstance")?;
    (!is_final(launcher)).then(|| (namespace(launcher), text(owner, "/name"), of_launcher(launcher)))
}

/// The same without what comes of its host: for a guest that is started anew.
#[must_use]
pub fn asked_anew(mut labels: Labels) -> Labels {
    labels.retain(|label, _| !first_host(label));
    labels
}

/// Where a guest could be moved to, were every node open and empty: `KubeVirt` calls guests migratable also when their
/// labels, affinity or CPU keep them where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Homes {
    /// Nowhere: it cannot be moved at all.
    None,
    /// To this node only.
    One(String),
    /// To several.
    Some,
}

impl Homes {
    /// Of a guest as it is now, among all nodes of the cluster; `launcher` is what its pod asks of a node, where that is known.
    #[must_use]
    pub fn of(vmi: &Value, nodes: &[Value], launcher: &Labels) -> Self {
        if !is_migratable(vmi) || !device_requests(vmi).is_empty() {
            return Self::None;
        }
        let host = nodes.iter().find(|node| name(node) == text(vmi, "/status/nodeName"));
        let mut asked = named_cpu(vmi);
        asked.extend(with_host_cpu(launcher.clone(), vmi, host));
        let mut homes = nodes.iter().filter(|node| {
            let has_all = asked.iter().all(|(wanted, value)| label(node, wanted) == value.as_str());
            label(node, WITNESS).is_none() && is_selected(vmi, node) && has_all
        });
        match (homes.next(), homes.next()) {
            (None, _) => Self::None,
            (Some(home), None) => Self::One(name(home).to_owned()),
            (Some(_), Some(_)) => Self::Some,
        }
    }

    /// Whether it could leave this node without being stopped.
    #[must_use]
    pub fn beside(&self, node: &str) -> bool {
        match self {
            Self::None => false,
            Self::One(home) => home != node,
            Self::Some => true,
        }
    }
}

/// Whether `KubeVirt` says that it can be moved.
#[must_use]
pub fn is_migratable(vmi: &Value) -> bool {
    condition_is(vmi, "LiveMigratable", "True")
}

/// Whether somebody has ended it: a guest that is being deleted.
#[must_use]
pub fn is_ending(vmi: &Value) -> bool {
    is_deleting(vmi)
}

/// What the user of a VM wants of its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// `KubeVirt` starts it again when something else than its user ended it.
    Kept,
    /// It may run, and stays off once it has ended.
    Let,
    /// It is not to run: the VM is halted, or is being deleted.
    Gone,
}

impl Wanted {
    fn of(vm: &Value) -> Self {
        match run_strategy(vm) {
            _ if is_deleting(vm) => Self::Gone,
            "Halted" => Self::Gone,
            "Always" | "RerunOnFailure" => Self::Kept,
            _ => Self::Let,
        }
    }
}

/// All that the user of a VM has made known about its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    wanted: Wanted,
    /// Uids of guests that were told to stop, and have not yet; an empty one is whoever runs.
    told_to_stop: Vec<String>,
}

impl Will {
    /// Of the user of this VM.
    #[must_use]
    pub fn of(vm: &Value) -> Self {
        let requests = list(vm, "/status/stateChangeRequests").iter();
        let stops = requests.filter(|request| text(request, "/action") == "Stop");
        Self {
            wanted: Wanted::of(vm),
            told_to_stop: stops.map(|stop| text(stop, "/uid").to_owned()).collect(),
        }
    }

    /// Whether `KubeVirt` starts the VM again when something else than its user ended it.
    #[must_use]
    pub fn brings_back(&self) -> bool {
        self.wanted == Wanted::Kept
    }

    /// Whether this guest of the VM goes off by its user's will, also when it is to be started again afterwards.
    #[must_use]
    pub fn ends(&self, vmi: &Value) -> bool {
        let is_told = self.told_to_stop.iter().any(|guest| guest.is_empty() || guest == uid(vmi));
        is_told || self.wanted == Wanted::Gone || is_ending(vmi)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_guest_is_at_home_where_its_labels_and_its_cpu_are() {
        let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
        let nodes = [
            node(
                "node1",
                json!({
                    "zone": "a", "host-model-cpu.node.kubevirt.io/Skylake": "true",
                    "host-model-required-features.node.kubevirt.io/vme": "true",
                }),
            ),
            node(
                "node2",
                json!({
                    "zone": "b", "cpu-model-migration.node.kubevirt.io/Skylake": "true",
                    "cpu-feature.node.kubevirt.io/vme": "true",
                }),
            ),
            node("node3", json!({"zone": "a"})),
            node("node4", json!({"zone": "c", "node-role.harvesterhci.io/witness": "true"})),
        ];
        let any_cpu = json!({"domain": {}});
        let pinned = |zone: &str| json!({"nodeSelector": {"zone": zone}});
        let liking = |operator: &str, zone: &str| {
            let term = json!({"matchExpressions": [{"key": "zone", "operator": operator, "values": [zone]}]});
            let required = json!({"nodeSelectorTerms": [term]});
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
        };
        let mut or_nothing = liking("In", "b");
        let required = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
        or_nothing.pointer_mut(required).unwrap()["nodeSelectorTerms"]
            .as_array_mut()
            .unwrap()
            .push(json!({"matchExpressions": []}));
        let as_host =
            |zone: &str| json!({"domain": {"cpu": {"model": "host-model"}}, "nodeSelector": {"zone": zone}});
        let device = json!({"domain": {"devices": {"gpus": [{"deviceName": "a/b"}]}}});
        let one = |name: &str| Homes::One(name.to_owned());
        for (what, host, migratable, spec, expected) in [
            ("anywhere", "node1", "True", &any_cpu, Homes::Some),
            ("not migratable", "node1", "False", &any_cpu, Homes::None),
            ("holds a device", "node1", "True", &device, Homes::None),
            ("its zone has two", "node1", "True", &pinned("a"), Homes::Some),
            ("its zone has one", "node2", "True", &pinned("b"), one("node2")),
            ("its zone has another", "node1", "True", &pinned("b"), one("node2")),
            ("there is only the witness", "node1", "True", &pinned("c"), Homes::None),
            ("likes one", "node2", "True", &liking("In", "b"), one("node2")),
            ("likes one, or asks for nothing", "node2", "True", &or_nothing, one("node2")),
            ("dislikes one", "node2", "True", &liking("NotIn", "b"), Homes::Some),
            ("that CPU is had there", "node1", "True", &as_host("b"), one("node2")),
            ("that CPU is not had there", "node1", "True", &as_host("a"), Homes::None),
        ] {
            let vmi = json!({"metadata": {"name": "db"}, "spec": spec, "status": {
                "nodeName": host, "conditions": [{"type": "LiveMigratable", "status": migratable}],
            }});
            let homes = Homes::of(&vmi, &nodes, &Labels::new());
            assert_eq!(homes, expected, "{what}");
            assert_eq!(homes.beside("node2"), expected == Homes::Some, "{what}");
        }
        assert!(one("node2").beside("node1") && !one("node2").beside("node2"));
    }

    #[test]
    fn what_a_user_wants_is_read_in_both_spellings() {
        for (what, spec, deleted, expected) in [
            ("always", json!({"runStrategy": "Always"}), false, Wanted::Kept),
            ("again", json!({"runStrategy": "RerunOnFailure"}), false, Wanted::Kept),
            ("by hand", json!({"runStrategy": "Manual"}), false, Wanted::Let),
            ("once", json!({"runStrategy": "Once"}), false, Wanted::Let),
            ("halted", json!({"runStrategy": "Halted"}), false, Wanted::Gone),
            ("running", json!({"running": true}), false, Wanted::Kept),
            ("not running", json!({"running": false}), false, Wanted::Gone),
            ("being deleted", json!({"runStrategy": "Always"}), true, Wanted::Gone),
        ] {
            let mut vm = json!({"metadata": {"name": "db"}, "spec": spec});
            if deleted {
                vm["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            assert_eq!(Wanted::of(&vm), expected, "{what}");
        }
    }

    #[test]
    fn a_guest_ends_by_the_stop_that_names_it() {
        let (stop, start) = (json!({"action": "Stop", "uid": "guest"}), json!({"action": "Start"}));
        for (what, requests, expected) in [
            ("nothing", json!([]), false),
            ("stopped", json!([stop]), true),
            ("started again", json!([stop, start]), true),
            ("started", json!([start]), false),
            ("another one stopped", json!([{"action": "Stop", "uid": "gone"}]), false),
            ("whoever runs stopped", json!([{"action": "Stop"}]), true),
        ] {
            let vm = json!({"spec": {"runStrategy": "Manual"}, "status": {"stateChangeRequests": requests}});
            let vmi = json!({"metadata": {"name": "db", "uid": "guest"}});
            assert_eq!(Will::of(&vm).ends(&vmi), expected, "{what}");
        }
    }
}
