//! The evacuation controller: a node with the drain taint gets its migratable guests moved away, a few at a time.
//! Strategies that do not ask for it are passed over in silence, as `KubeVirt` does.

use serde_json::{Value, json};

use super::migration::free_slots;
use crate::sim::fields::{self, EVACUATION, list, name, namespace, suffix, text, uid};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Key, Kind, Strategy, View, is_live_pod};
use crate::sim::wire::Write;

const COMPONENT: &str = "disruptionbudget-controller";
const DRAIN: &str = "kubevirt.io/drain";

pub(super) fn decide(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(node) = view.get(Kind::Node, key) else {
        return Decision::nothing();
    };
    let tainted = list(node, "/spec/taints")
        .iter()
        .any(|t| text(t, "/key") == DRAIN && text(t, "/effect") == "NoSchedule");
    if !tainted && !view.evacuates(key.name()) {
        return Decision::nothing();
    }
    let free = free_slots(view, key.name());
    if free == 0 {
        return Decision::at(now.instant + now.timing.seconds(5));
    }
    let mut writes = Vec::new();
    let mut candidates = Vec::new();
    for (vmi_key, entry) in view.keyed_on(Kind::Vmi, key.name()) {
        let evicted = entry.filed.evacuated == key.name();
        if entry.filed.ended || entry.facts.is_deleting() || !(tainted || evicted) {
            continue;
        }
        let migratable = entry.facts.is_migratable;
        let leaves = match entry.facts.strategy {
            Strategy::LiveMigrate if !migratable => {
                if view.done(&entry.uid, "told-not-migratable").is_none() {
                    let said = ("FailedCreate", "VirtualMachineInstance is not migrateable");
                    writes.push(now.event(Kind::Vmi, &entry.object, false, COMPONENT, said));
                    writes.push(Write::Done { uid: entry.uid.to_string(), what: "told-not-migratable" });
                }
                false
            }
            Strategy::LiveMigrate => true,
            Strategy::LiveMigrateIfPossible => migratable,
            Strategy::Other => migratable && evicted,
        };
        if leaves {
            candidates.push((vmi_key, entry));
        }
    }
    candidates.retain(|(vmi_key, vmi)| {
        view.vmims_of(vmi_key).all(|vmim| vmim.filed.ended)
            && view.pods_of(vmi_key, vmi).filter(|pod| is_live_pod(pod)).count() <= 1
    });
    let waiting = candidates.len() > free;
    for vmi in candidates.into_iter().take(free).map(|(_, vmi)| &vmi.object) {
        let vmim = evacuation(view, vmi, key.name());
        let message = format!("Created Migration {}", name(&vmim));
        writes.push(Write::Create { kind: Kind::Vmim, object: vmim });
        writes.push(now.event(Kind::Vmi, vmi, false, COMPONENT, ("SuccessfulCreate", &message)));
    }
    let again = waiting.then(|| now.instant + now.timing.seconds(5));
    Decision { writes, again }
}

/// The real controller lets the API generate the suffix; here it follows from the VMI and from how often it was tried,
/// so that a repeated decision cannot create a second one.
fn evacuation(view: &View, vmi: &Value, node: &str) -> Value {
    let earlier: Vec<&str> = view.vmims_of(&Key::of(vmi)).map(|vmim| uid(&vmim.object)).collect();
    let seed = format!("{} {}", uid(vmi), earlier.join(" "));
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {
            "name": format!("kubevirt-evacuation-{}", suffix(&seed)), "generateName": "kubevirt-evacuation-",
            "namespace": namespace(vmi), "annotations": {EVACUATION: node},
            "labels": {"kubevirt.io/vmi-name": name(vmi)}, "finalizers": [fields::VMIM_FINALIZER],
        },
        "spec": {"vmiName": name(vmi)},
    })
}
