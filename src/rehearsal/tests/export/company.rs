//! Exported VMs that may not be wherever they fit: they have to be with others, apart from them, or spread.

use serde_json::json;

use super::*;

/// proxy-4 runs on node1, shop-2 on node2; node3 takes neither.
fn with_pair(of_spec: impl Fn(&mut Value)) -> Rehearsed {
    let order = exported(&Preset::sized(3, 12, 3), &[RUNS], |object| {
        let (kind, name) = (text(object, "/kind").to_owned(), text(object, "/metadata/name").to_owned());
        if kind == "Node" && name == "node3" {
            object["spec"]["taints"] = json!([{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}]);
        }
        if kind != "Node" && matches!(name.as_str(), "proxy-4" | "shop-2") {
            let of_vm = kind == "VirtualMachine";
            let metadata = if of_vm { "/spec/template/metadata" } else { "/metadata" };
            object.pointer_mut(metadata).unwrap()["labels"]["app"] = json!("quorum");
            of_spec(spec_of_guest(object));
        }
    });
    rehearse(&order).unwrap()
}

#[test]
fn vms_move_only_where_their_company_allows() {
    let quorum = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["quorum"]}]});
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": quorum});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
    let mut spread = term.clone();
    spread["maxSkew"] = json!(1);
    spread["whenUnsatisfiable"] = json!("DoNotSchedule");
    let evenly = |spec: &mut Value| spec["topologySpreadConstraints"] = json!([spread]);
    let apart = |spec: &mut Value| spec["affinity"] = json!({"podAntiAffinity": required});
    let together = |spec: &mut Value| spec["affinity"] = json!({"podAffinity": required});
    let table: [(&str, Edit<'_>, bool); 4] = [
        ("anywhere", &|_: &mut Value| {}, true),
        ("evenly", &evenly, false),
        ("apart", &apart, false),
        ("together", &together, true),
    ];
    for (what, of_spec, moves) in table {
        let rehearsed = with_pair(of_spec);
        let timeline = &rehearsed.timeline;
        assert_eq!(rehearsed.broken, [], "{what}: {}", chart::chart(timeline));
        let moved = timeline.vms.iter().find(|line| line.vm.name == "proxy-4").map(|line| &line.moved_to);
        let to = moved.and_then(|moved| moved.first()).map(String::as_str);
        assert_eq!(to == Some("node2"), moves, "{what}: {}", chart::chart(timeline));
    }
}
