//! Exported VMs that somebody has ended, and those that cannot go everywhere.

use serde_json::json;

use super::*;

/// What came of a cluster, and of one VM that could move, after somebody has had a hand in it: in the objects of these kinds.
fn with_one_vm(hands: &[(&str, Edit<'_>)]) -> (Rehearsed, timeline::VmLine) {
    let order = exported(&Preset::sized(3, 12, 3), &[RUNS], |object| {
        let kind = text(object, "/kind").to_owned();
        let is_meant = kind == "Node" || text(object, "/metadata/name") == "wiki-3";
        for (_, edit) in hands.iter().filter(|(of, _)| is_meant && *of == kind) {
            edit(object);
        }
    });
    let rehearsed = rehearse(&order).unwrap();
    let mut vms = rehearsed.timeline.vms.iter();
    let vm = vms.find(|line| line.vm.name == "wiki-3").expect("nothing became of wiki-3").clone();
    (rehearsed, vm)
}

#[test]
fn what_its_user_has_ended_is_not_laid_at_the_agents_door() {
    const GUEST: &str = "31ece2de-afed-46f7-8b16-5c58920fa091";
    let deleted =
        |object: &mut Value| object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let halted = |object: &mut Value| object["spec"]["runStrategy"] = json!("Halted");
    let stopped = |object: &mut Value| {
        object["spec"].as_object_mut().unwrap().remove("runStrategy");
        object["spec"]["running"] = json!(false);
    };
    let always = |object: &mut Value| object["spec"]["runStrategy"] = json!("Always");
    // What `virtctl stop` and `virtctl restart` leave in the VM until KubeVirt has acted on it.
    let told = |vm: &mut Value, requests: Value| vm["status"]["stateChangeRequests"] = requests;
    let stop = |guest: &str| json!({"action": "Stop", "uid": guest});
    let told_to_stop = |vm: &mut Value| told(vm, json!([stop(GUEST)]));
    let told_to_restart = |vm: &mut Value| told(vm, json!([stop(GUEST), {"action": "Start"}]));
    let restarted_by_hand = |vm: &mut Value| {
        vm["spec"]["runStrategy"] = json!("Manual");
        told_to_restart(vm);
    };
    let known = |guest: &mut Value| guest["metadata"]["uid"] = json!(GUEST);
    let as_it_is = |_: &mut Value| {};
    let table: [(&str, Edit<'_>, Edit<'_>, bool); 8] = [
        ("halted", &halted, &as_it_is, true),
        ("told not to run in the old way", &stopped, &as_it_is, true),
        ("deleted", &deleted, &as_it_is, true),
        ("its guest deleted", &as_it_is, &deleted, true),
        ("its guest deleted, and started again", &always, &deleted, false),
        ("told to stop", &told_to_stop, &known, true),
        ("told to stop and to start again", &told_to_restart, &known, false),
        ("the same where nobody else starts it", &restarted_by_hand, &known, false),
    ];
    for (what, of_vm, of_guest, stays_off) in table {
        let hands = [("VirtualMachine", of_vm), ("VirtualMachineInstance", of_guest)];
        let (rehearsed, vm) = with_one_vm(&hands);
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{what}");
        assert!(rehearsed.timeline.succeeded, "{what}: {}", chart::chart(&rehearsed.timeline));
        assert_eq!((vm.still_off, vm.off_by.is_some()), (stays_off, stays_off), "{what}: {vm:?}");
    }
}

#[test]
fn a_vm_that_fits_no_other_node_is_shut_down_and_comes_back() {
    // It runs on node3.
    const HOME: &str = "node3";
    let in_spec = |object: &mut Value, field: &str, value: Value| {
        spec_of_guest(object)[field] = value;
    };
    let pinned =
        |object: &mut Value| in_spec(object, "nodeSelector", json!({"kubernetes.io/hostname": HOME}));
    let liking = |object: &mut Value| {
        let likes = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [HOME]});
        let required = json!({"nodeSelectorTerms": [{"matchExpressions": [likes]}]});
        let of_node = json!({"requiredDuringSchedulingIgnoredDuringExecution": required});
        in_spec(object, "affinity", json!({"nodeAffinity": of_node}));
    };
    let liking_or_nothing = |object: &mut Value| {
        liking(object);
        let terms = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        spec_of_guest(object).pointer_mut(terms).unwrap().as_array_mut().unwrap().push(json!({}));
    };
    let as_its_host = |object: &mut Value| {
        in_spec(object, "domain", json!({"cpu": {"model": "host-model"}, "memory": {"guest": "8Gi"}}));
    };
    let old_cpus = |node: &mut Value| {
        let is_new = text(node, "/metadata/name") == HOME;
        let cpu = if is_new { "SapphireRapids" } else { "Skylake" };
        for label in ["host-model-cpu", "cpu-model-migration"] {
            node["metadata"]["labels"][format!("{label}.node.kubevirt.io/{cpu}")] = json!("true");
        }
    };
    let same_cpus = |node: &mut Value| {
        for label in ["host-model-cpu", "cpu-model-migration"] {
            node["metadata"]["labels"][format!("{label}.node.kubevirt.io/Skylake")] = json!("true");
        }
    };
    let as_it_is = |_: &mut Value| {};
    let table: [(&str, Edit<'_>, Edit<'_>, bool); 5] = [
        ("pinned", &pinned, &as_it_is, false),
        ("with an affinity", &liking, &as_it_is, false),
        ("with a term that asks for nothing beside it", &liking_or_nothing, &as_it_is, false),
        ("with a CPU that no other node has", &as_its_host, &old_cpus, false),
        ("with a CPU that all have", &as_its_host, &same_cpus, true),
    ];
    for (what, of_vm, of_node, moves) in table {
        let hands = [("VirtualMachine", of_vm), ("VirtualMachineInstance", of_vm), ("Node", of_node)];
        let (rehearsed, vm) = with_one_vm(&hands);
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{what}");
        assert!(rehearsed.timeline.succeeded, "{what}: {}", chart::chart(&rehearsed.timeline));
        assert_eq!(
            (vm.off.is_none(), !vm.moved_to.is_empty(), vm.still_off),
            (moves, moves, false),
            "{what}: {vm:?}"
        );
    }
}

#[test]
fn a_guest_that_was_started_elsewhere_has_the_cpu_of_that_host() {
    // What runs on node1 could be moved to node2, and not back: node2's own CPU is newer.
    let as_its_host = |object: &mut Value| match text(object, "/kind") {
        "VirtualMachine" | "VirtualMachineInstance" => {
            spec_of_guest(object)["domain"]["cpu"] = json!({"model": "host-model"});
        }
        "Node" => {
            let is_new = text(object, "/metadata/name") == "node2";
            let (model, takes): (&str, &[&str]) =
                if is_new { ("Skylake", &["Skylake", "Broadwell"]) } else { ("Broadwell", &["Broadwell"]) };
            let labels = &mut object["metadata"]["labels"];
            labels[format!("host-model-cpu.node.kubevirt.io/{model}")] = json!("true");
            for model in takes {
                labels[format!("cpu-model-migration.node.kubevirt.io/{model}")] = json!("true");
            }
        }
        _ => {}
    };
    let order = exported(&Preset::sized(2, 8, 2), &[RUNS], as_its_host);
    for at in (20..200).step_by(20) {
        let faults = vec![format!("power@{at}").parse().unwrap()];
        let rehearsed = rehearse(&Order { faults, ..order.clone() }).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "power@{at}");
    }
}

#[test]
fn finalizers_of_harvesters_controllers_keep_nobody_off() {
    let of_harvester = |object: &mut Value| {
        if text(object, "/kind") == "VirtualMachineInstance" {
            object["metadata"]["finalizers"] = json!([
                "kubevirt.io/virtualMachineControllerFinalize",
                "foregroundDeleteVirtualMachine",
                "wrangler.cattle.io/virtual-machine-deletion",
                "wrangler.cattle.io/VMIController.UnsetOwnerOfPVCs",
            ]);
        }
    };
    let rehearsed = rehearse(&exported(&Preset::sized(3, 12, 3), &[RUNS], of_harvester)).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    assert!(rehearsed.timeline.succeeded, "{}", chart::chart(&rehearsed.timeline));
}

#[test]
fn what_a_launcher_asks_for_decides_where_its_guest_goes() {
    let only_on_node3 = |node: &mut Value| {
        if text(node, "/metadata/name") == "node3" {
            node["metadata"]["labels"]["hyperv.node.kubevirt.io/evmcs"] = json!("true");
            node["metadata"]["labels"]["cpu-model.node.kubevirt.io/Haswell"] = json!("true");
        }
    };
    let named = |object: &mut Value| {
        spec_of_guest(object)["domain"]["cpu"] = json!({"model": "Haswell"});
    };
    let as_it_is = |_: &mut Value| {};
    let hands = [
        ("VirtualMachine", &named as Edit<'_>),
        ("VirtualMachineInstance", &named),
        ("Node", &only_on_node3),
    ];
    let (rehearsed, vm) = with_one_vm(&hands);
    assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "a CPU by name");
    assert!(vm.off.is_some() && !vm.still_off, "{vm:?}");
    // Only the pod tells what KubeVirt makes of a guest's Hyper-V features.
    let hyperv = |object: &mut Value| match text(object, "/kind") {
        "Node" => only_on_node3(object),
        "Pod" if text(object, "/metadata/labels/vm.kubevirt.io~1name") == "wiki-3" => {
            object["spec"]["nodeSelector"]["hyperv.node.kubevirt.io/evmcs"] = json!("true");
        }
        _ => as_it_is(object),
    };
    let rehearsed = rehearse(&exported(&Preset::sized(3, 12, 3), &[RUNS, PODS], hyperv)).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "Hyper-V");
    let vm = rehearsed.timeline.vms.iter().find(|line| line.vm.name == "wiki-3").unwrap();
    assert!(vm.off.is_some() && !vm.still_off, "{vm:?}");
}

#[test]
fn guests_that_ask_for_less_than_they_have_fit_where_they_ask() {
    let overcommitted = |object: &mut Value| {
        if matches!(text(object, "/kind"), "VirtualMachine" | "VirtualMachineInstance") {
            let spec = spec_of_guest(object);
            spec["domain"]["memory"]["guest"] = json!("24476Mi");
            spec["domain"]["resources"]["requests"]["memory"] = json!("16Gi");
        }
        if text(object, "/kind") == "Node" {
            object["status"]["allocatable"]["memory"] = json!("96Gi");
        }
    };
    // Four of them on a node are 96 GiB by what they have, 64 GiB by what they ask for.
    let order = exported(&Preset::sized(2, 4, 0), &[RUNS], overcommitted);
    let rehearsed = rehearse(&order).unwrap();
    assert!(rehearsed.timeline.succeeded, "{}", chart::chart(&rehearsed.timeline));
}

#[test]
fn a_vm_that_has_only_just_started_is_moved_like_the_others() {
    // It is started first, and still on its way up when the node is closed; nothing else is on that node.
    let order = exported(&Preset::sized(2, 1, 0), &[RUNS], |object| match text(object, "/kind") {
        "VirtualMachine" => object["spec"]["runStrategy"] = json!("Always"),
        "VirtualMachineInstance" => *object = Value::Null,
        _ => {}
    });
    let rehearsed = rehearse(&order).unwrap();
    assert_eq!(complaints(&rehearsed), Vec::<String>::new());
    assert!(rehearsed.timeline.succeeded, "{}", chart::chart(&rehearsed.timeline));
}

/// A notation that Kubernetes takes says the same as any other; numbers do as well.
#[test]
fn quantities_count_in_whatever_notation() {
    let preset = Preset::sized(3, 12, 3);
    let plain = exported(&preset, &[RUNS], |_| {});
    let odd = exported(&preset, &[RUNS], |object| {
        let Some(offered) = object.pointer_mut("/status/allocatable").and_then(Value::as_object_mut) else {
            return;
        };
        for (name, amount) in offered.iter_mut() {
            let milli = crate::flow::quantity::thousandths(amount.as_str().unwrap()).unwrap();
            *amount = match name.as_str() {
                "memory" => json!(format!("+{}", milli / 1000)),
                "cpu" => json!(format!("{}u", milli * 1000)),
                _ => json!(u64::try_from(milli / 1000).unwrap()),
            };
        }
        offered.insert("pods".to_owned(), json!("2e99"));
        offered.insert("ephemeral-storage".to_owned(), json!("999999999999999999Ei"));
    });
    let [plain, odd] = [plain, odd].map(|order| rehearse(&order).unwrap());
    assert_eq!(complaints(&odd), Vec::<String>::new());
    assert_eq!(odd.notes, plain.notes);
    assert!(odd.timeline.succeeded, "{}", chart::chart(&odd.timeline));
    assert_eq!(odd.timeline, plain.timeline);
}

/// One that was off in the files and starts during the rehearsal may move as well: no more VMs move than there are.
#[test]
fn vms_that_start_during_the_rehearsal_are_among_all() {
    let order = exported(&Preset::sized(3, 12, 3), &[RUNS], |object| {
        let kind = text(object, "/kind").to_owned();
        match (kind.as_str(), text(object, "/metadata/name")) {
            ("VirtualMachineInstance", "wiki-3") => *object = Value::Null,
            ("VirtualMachine", "wiki-3") => object["spec"]["runStrategy"] = json!("Always"),
            _ => {}
        }
    });
    let timeline = rehearse(&order).unwrap().timeline;
    let told = chart::chart(&timeline);
    assert!(
        timeline.vms.iter().any(|vm| vm.vm.name == "wiki-3"),
        "wiki-3 neither moved nor went off: {told}"
    );
    assert_eq!(timeline.vm_count, 12, "{told}");
    assert!(told.contains(" of 12 VMs moved"), "{told}");
}
