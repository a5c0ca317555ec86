//! What exported clusters are in the middle of: a migration, an upgrade of Harvester's own, a hold of their own making.

use serde_json::json;

use super::*;

/// The same cluster with these objects in it as well.
fn beside(order: Order, more: impl FnOnce(&[Value]) -> Vec<Value>) -> Order {
    let Scene::Objects(objects) = &order.scene else { panic!("nothing was exported") };
    let all = objects.iter().cloned().chain(more(objects)).collect::<Vec<_>>();
    Order { scene: Scene::Objects(Arc::new(all)), ..order }
}

#[test]
fn a_migration_whose_target_has_no_address_in_the_files_goes_on() {
    const JOB: &str = "242846be-d57f-4e95-86f2-f250de6f3552";
    let order = exported(&Preset::sized(3, 12, 3), &[RUNS, PODS], |pod| {
        if text(pod, "/kind") == "Pod" {
            let status = pod["status"].as_object_mut().unwrap();
            status.retain(|field, _| !matches!(field.as_str(), "podIP" | "podIPs" | "hostIP"));
        }
    });
    for phase in ["Pending", "Scheduling", "Scheduled"] {
        let order = beside(order.clone(), |objects| {
            let is_source = |pod: &&Value| {
                text(pod, "/kind") == "Pod" && text(pod, "/metadata/labels/vm.kubevirt.io~1name") == "proxy-4"
            };
            let mut target = objects.iter().find(is_source).unwrap().clone();
            target["metadata"]["name"] = json!("virt-launcher-proxy-4-fghij");
            target["metadata"]["uid"] = json!("5eed1111-0000-4000-8000-000000000001");
            target["metadata"]["labels"]["kubevirt.io/migrationJobUID"] = json!(JOB);
            target["spec"]["nodeName"] = json!("node2");
            let migration = json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
                "metadata": {"name": "proxy-4-m1", "namespace": text(&target, "/metadata/namespace"), "uid": JOB},
                "spec": {"vmiName": "proxy-4"}, "status": {"phase": phase},
            });
            vec![target, migration]
        });
        let rehearsed = rehearse(&order).unwrap();
        assert_eq!(complaints(&rehearsed), Vec::<String>::new(), "{phase}");
        assert!(rehearsed.timeline.succeeded, "{phase}: {}", chart::chart(&rehearsed.timeline));
    }
}

#[test]
fn an_upgrade_of_harvesters_own_that_is_under_way_is_told_of() {
    let upgrade = |state: &str, completed: &str| {
        json!({
            "apiVersion": "harvesterhci.io/v1beta1", "kind": "Upgrade",
            "metadata": {"name": "hvst-upgrade-abcde", "namespace": "harvester-system", "uid": "5eed2222",
                "labels": {"harvesterhci.io/upgradeState": state}},
            "status": {"conditions": [{"type": "Completed", "status": completed}],
                "nodeStatuses": {"node1": {"state": "Succeeded"}, "node2": {"state": "Pre-draining"},
                    "node3": {"state": "Images preloaded"}}},
        })
    };
    let order = exported(&Preset::sized(3, 12, 3), &[RUNS], |_| {});
    for (state, completed, expected) in
        [("UpgradingNodes", "Unknown", true), ("Succeeded", "True", false), ("Failed", "False", false)]
    {
        let order = beside(order.clone(), |_| vec![upgrade(state, completed)]);
        let notes = rehearse(&order).unwrap().notes;
        let told = |note: &&String| {
            ["hvst-upgrade-abcde", "UpgradingNodes", "node2 Pre-draining"]
                .iter()
                .all(|word| note.contains(word))
        };
        assert_eq!(notes.iter().any(|note| told(&note)), expected, "{state}: {notes:?}");
        assert_eq!(notes.iter().any(|note| note.contains("hvst-upgrade")), expected, "{state}: {notes:?}");
    }
}

#[test]
fn crash_schedules_are_not_run_in_a_world_that_holds_by_itself() {
    let lost = |object: &mut Value| {
        if text(object, "/kind") == "PersistentVolumeClaim" {
            object["status"]["phase"] = json!("Lost");
        }
    };
    let order = exported(&Preset::sized(3, 12, 3), &[RUNS, CLAIMS], lost);
    let hold = rehearse(&order).unwrap().timeline.blocked[0].why.clone();
    let said = check(&order, Which::Random(1), |_, _| {}).unwrap_err().to_string();
    assert!(said.contains(&hold) && said.contains("without --crashes"), "{said}");
    assert!(!said.contains("broken"), "{said}");
}
