//! What operators and users do to clusters, alone and in pairs: a rehearsal of what they export may end with a hold, and
//! accuses nobody.

use serde_json::json;

use super::*;

/// Something that is done to the objects of one kind and name; a name that ends with `*` stands for all that begin so.
struct Hand(&'static str, &'static str, &'static str, fn(&mut Value));

const WHEN: &str = "2026-01-01T00:00:00Z";

fn pinned_to(object: &mut Value, node: &str) {
    spec_of_guest(object)["nodeSelector"] = json!({"kubernetes.io/hostname": node});
}

/// Says something of a condition, whether or not it is there.
fn says(object: &mut Value, kind: &str, status: &str) {
    let told = json!({"type": kind, "status": status, "reason": "Told", "lastTransitionTime": WHEN});
    let conditions = object["status"]["conditions"].as_array_mut().unwrap();
    conditions.retain(|condition| condition["type"] != kind);
    conditions.push(told);
}

/// VMs of the made-up cluster: desk-6, desk-9, wiki-3 run on node3, erp-8, mail-5, shop-2 on node2, proxy-4 on node1.
const HANDS: [Hand; 25] = [
    Hand("cordons", "Node", "node2", |node| node["spec"]["unschedulable"] = json!(true)),
    Hand("taints", "Node", "node3", |node| {
        node["spec"]["taints"] = json!([{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]);
    }),
    Hand("drains as KubeVirt does", "Node", "node1", |node| {
        node["spec"]["taints"] =
            json!([{"key": "kubevirt.io/drain", "value": "scheduling", "effect": "NoSchedule"}]);
    }),
    Hand("leaves a node unready", "Node", "node2", |node| says(node, "Ready", "Unknown")),
    Hand("fills a disk", "Node", "node1", |node| says(node, "DiskPressure", "True")),
    Hand("has little memory", "Node", "node3", |node| {
        node["status"]["allocatable"]["memory"] = json!("16Gi");
    }),
    Hand("makes an agent", "Node", "node3", |node| has_roles(node, &[])),
    Hand("pins where it is", "Virtual*", "wiki-3", |object| pinned_to(object, "node3")),
    Hand("pins elsewhere", "Virtual*", "desk-9", |object| pinned_to(object, "node1")),
    Hand("pins to no node", "Virtual*", "mail-5", |object| pinned_to(object, "gone")),
    Hand("pins the VM only", "VirtualMachine", "proxy-4", |object| pinned_to(object, "node2")),
    Hand("halts", "VirtualMachine", "shop-2", |vm| vm["spec"]["runStrategy"] = json!("Halted")),
    Hand("switches off", "VirtualMachine", "desk-6", |vm| {
        vm["spec"].as_object_mut().unwrap().remove("runStrategy");
        vm["spec"]["running"] = json!(false);
    }),
    Hand("starts by hand", "VirtualMachine", "erp-8", |vm| vm["spec"]["runStrategy"] = json!("Manual")),
    Hand("deletes a VM", "VirtualMachine", "erp-7", |vm| vm["metadata"]["deletionTimestamp"] = json!(WHEN)),
    Hand("deletes a guest", "VirtualMachineInstance", "queue-1", |vmi| {
        vmi["metadata"]["deletionTimestamp"] = json!(WHEN);
    }),
    Hand("exports no guest", "VirtualMachineInstance", "desk-6", |vmi| *vmi = Value::Null),
    Hand("pauses", "VirtualMachineInstance", "wiki-3", |vmi| says(vmi, "Paused", "True")),
    Hand("has local disks", "VirtualMachineInstance", "mail-5", |vmi| says(vmi, "LiveMigratable", "False")),
    Hand("lets a guest fail", "VirtualMachineInstance", "erp-8", |vmi| {
        vmi["status"]["phase"] = json!("Failed");
    }),
    Hand("evicts by itself", "Virtual*", "proxy-4", |object| {
        spec_of_guest(object)["evictionStrategy"] = json!("External");
    }),
    Hand("loses replicas", "Replica", "*", |replica| {
        if text(replica, "/spec/nodeID") == "node2" {
            *replica = Value::Null;
        }
    }),
    Hand("has only just made them", "Volume", "*", |volume| volume["status"] = json!({})),
    Hand("allows no disruption", "PodDisruptionBudget", "store-1", |budget| {
        budget["spec"] = json!({"maxUnavailable": 0, "selector": budget["spec"]["selector"]});
    }),
    Hand("keeps pods", "Pod", "store-*", |pod| pod["metadata"]["finalizers"] = json!(["example.com/keeps"])),
];

fn is_meant(name: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |begin| name.starts_with(begin))
}

#[test]
fn nobody_is_accused_of_what_others_have_done() {
    let preset = Preset::sized(3, 12, 3);
    // Each alone, and with two others.
    for (one, step) in (0..HANDS.len()).flat_map(|one| [0, 1, 7].map(|step| (one, step))) {
        let mut hands = vec![&HANDS[one]];
        if step > 0 {
            hands.push(&HANDS[(one + step) % HANDS.len()]);
        }
        let done: Vec<&str> = hands.iter().map(|hand| hand.0).collect();
        let mut touched = vec![0; hands.len()];
        let order = exported(&preset, &[RUNS, PODS, CLAIMS, STORAGE], |object| {
            for (Hand(_, kind, name, edit), touched) in hands.iter().zip(&mut touched) {
                if is_meant(text(object, "/kind"), kind) && is_meant(text(object, "/metadata/name"), name) {
                    edit(object);
                    *touched += 1;
                }
            }
        });
        assert!(touched.iter().all(|count| *count > 0), "{done:?} found nobody");
        let rehearsed = rehearse(&order).unwrap();
        assert_eq!(rehearsed.broken, [], "{done:?}: {}", chart::chart(&rehearsed.timeline));
    }
}
