//! VMs that are owed a start, on an API server in memory with `KubeVirt` simulated: what their users did meanwhile counts,
//! what is missing is named, and one that stays off delays nobody.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/node_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod node_in_memory;

use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use upgrade_agent::agent::steps::{ledger, restore, vm_actions};
use upgrade_agent::cluster::vm_state;
use upgrade_agent::flow::record::Record;
use upgrade_agent::flow::restore::adopt::adopt;
use upgrade_agent::flow::vms::{Fate, VmKey};
use upgrade_agent::sim::seed::{Preset, Storage};

use node_in_memory::{NodeInMemory, UPGRADE, UPGRADE_UID};

const MARK: &str = "/metadata/annotations/agent.harvesterhci.io~1stopped-for";

/// The VMs of node1 with a device, shut down by the agent.
async fn shut_down(preset: &Preset) -> (NodeInMemory, Vec<VmKey>) {
    let mut node = NodeInMemory::new(preset).await;
    let vms = node.stop_those_with_devices().await;
    assert_eq!(vms.len(), 3);
    (node, vms)
}

/// The run is called off: what it has shut down is started again.
async fn restore(node: &mut NodeInMemory) -> Result<(), String> {
    for record in [Record::CancelRequested, Record::PostDrained] {
        node.run.record(record).unwrap();
    }
    restore::start_owed_vms(&mut node.run).await.map_err(|error| error.sentence())
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_marked_as_long_as_it_is_off_and_runs_as_before() {
    let (mut node, vms) = shut_down(&Preset::pair()).await;
    for vm in &vms {
        assert_eq!(node.vm(vm).pointer(MARK), Some(&json!(UPGRADE_UID)), "{vm}");
        assert!(node.line(vm).as_left.is_some_and(|left| left.marked), "{vm}");
    }
    let strategies = |node: &NodeInMemory| -> Vec<Value> {
        vms.iter().map(|vm| node.vm(vm)["spec"]["runStrategy"].clone()).collect()
    };
    let before: Vec<Value> = vms.iter().map(|vm| json!(node.line(vm).entry.run_strategy.unwrap())).collect();
    restore(&mut node).await.unwrap();
    assert_eq!(strategies(&node), before);
    for vm in &vms {
        assert!(matches!(node.line(vm).fate, Fate::Restored { .. }), "{vm}: {:?}", node.line(vm).fate);
        assert_eq!(node.vm(vm).pointer(MARK), None, "{vm}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_users_did_meanwhile_is_left_alone_and_told() {
    type Did = fn(&NodeInMemory, &VmKey);
    let table: [(&str, Did, &str); 5] = [
        ("took the mark off", |node, vm| node.annotate(vm, None), "our mark was taken off it meanwhile"),
        (
            "gave it more memory",
            |node, vm| node.patch_vm(vm, &json!({"spec": {"template": {"spec": {"hostname": "other"}}}})),
            "its spec was changed meanwhile",
        ),
        (
            "started and stopped it",
            |node, vm| {
                node.patch_vm(vm, &json!({"spec": {"runStrategy": "Always"}}));
                node.patch_vm(vm, &json!({"spec": {"runStrategy": "Halted"}}));
            },
            "it was started meanwhile, and stopped again",
        ),
        ("deleted it", NodeInMemory::delete_vm, "it was deleted meanwhile"),
        (
            "set it to be started by hand",
            |node, vm| node.patch_vm(vm, &json!({"spec": {"runStrategy": "Manual"}})),
            "its run strategy is Manual now, and was left at Halted",
        ),
    ];
    for (what, did, expected) in table {
        let mut node = NodeInMemory::new(&Preset::pair()).await;
        node.set_strategy_of_those_with_devices("Always");
        let vms = node.stop_those_with_devices().await;
        did(&node, &vms[1]);
        node.settle().await;
        restore(&mut node).await.unwrap();
        let Fate::Struck { reason } = node.line(&vms[1]).fate else {
            panic!("{what}: {:?}", node.line(&vms[1]).fate)
        };
        assert_eq!(reason, expected, "{what}");
        assert!(!node.runs(&vms[1]), "{what}");
        if what != "deleted it" {
            assert_eq!(node.vm(&vms[1]).pointer(MARK), None, "{what}: the mark of nobody");
        }
        for other in [&vms[0], &vms[2]] {
            assert!(matches!(node.line(other).fate, Fate::Restored { .. }), "{what}: {other}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_users_do_while_the_guest_goes_down_is_left_alone_as_well() {
    type Did = fn(&NodeInMemory, &VmKey);
    let table: [(&str, &str, Did, &str); 7] = [
        (
            "RerunOnFailure",
            "mark off",
            |node, vm| node.annotate(vm, None),
            "our mark was taken off it meanwhile",
        ),
        ("Always", "mark off", |node, vm| node.annotate(vm, None), "our mark was taken off it meanwhile"),
        (
            "RerunOnFailure",
            "halted",
            |node, vm| node.set_strategy(vm, "Halted"),
            "its user halted it meanwhile",
        ),
        (
            "RerunOnFailure",
            "by hand",
            |node, vm| node.set_strategy(vm, "Manual"),
            "its run strategy is Manual now, and was left at RerunOnFailure",
        ),
        (
            "Always",
            "by hand",
            |node, vm| node.set_strategy(vm, "Manual"),
            "its run strategy is Manual now, and was left at Halted",
        ),
        (
            "RerunOnFailure",
            "changed",
            |node, vm| node.patch_vm(vm, &json!({"spec": {"template": {"spec": {"hostname": "other"}}}})),
            "its spec was changed meanwhile",
        ),
        ("Always", "deleted", NodeInMemory::delete_vm, "it was deleted meanwhile"),
    ];
    for (strategy, what, did, expected) in table {
        let mut node = NodeInMemory::new(&Preset::pair()).await;
        node.set_strategy_of_those_with_devices(strategy);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let vms = node.stop_those_with_devices_while(did).await;
        restore(&mut node).await.unwrap();
        let Fate::Struck { reason } = node.line(&vms[1]).fate else {
            panic!("{strategy}, {what}: {:?}", node.line(&vms[1]).fate)
        };
        assert_eq!(reason, expected, "{strategy}, {what}");
        assert!(!node.runs(&vms[1]), "{strategy}, {what}");
        for other in [&vms[0], &vms[2]] {
            assert!(matches!(node.line(other).fate, Fate::Restored { .. }), "{strategy}, {what}: {other}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_stays_off_is_named_with_its_reason_and_delays_nobody() {
    type Flaw = fn(&NodeInMemory, &VmKey);
    let table: [(&str, Flaw, &str); 4] = [
        (
            "its device does not come back",
            |node, vm| node.lose_device_of(vm),
            "(yet); look at its device plugin when it stays like that",
        ),
        (
            "its device does not come back, and Harvester's add-on knows why",
            |node, vm| node.disable_passthrough_of(vm),
            "(yet): PCIDevice node1-000001 has no PCIDeviceClaim: enable its passthrough",
        ),
        (
            "KubeVirt permits it no more",
            |node, vm| node.permit_all_but_those_of(vm),
            "any more; add it to spec.configuration.permittedHostDevices",
        ),
        (
            "its volume is faulted",
            |node, vm| node.fault_volume_of(vm),
            "is faulted: no replica of it can be used",
        ),
    ];
    for (what, flaw, expected) in table {
        let preset = Preset { storage: Storage::Volumes, ..Preset::pair() };
        let (mut node, vms) = shut_down(&preset).await;
        let unlucky = node.one_of_its_kind(&vms);
        flaw(&node, &unlucky);
        let begun = Instant::now();
        let said = restore(&mut node).await.unwrap_err();
        assert!(said.contains(&format!("VM {unlucky} is owed a start")), "{what}: {said}");
        assert!(said.contains(expected), "{what}: {said}");
        assert!(begun.elapsed() >= Duration::from_mins(15), "{what}");
        assert!(node.line(&unlucky).fate.is_owed(), "{what}");
        assert_eq!(node.vm(&unlucky).pointer(MARK), Some(&json!(UPGRADE_UID)), "{what}: it is still ours");
        for other in vms.iter().filter(|vm| **vm != unlucky) {
            let Fate::Restored { away_seconds, .. } = node.line(other).fate else {
                panic!("{what}: {other} {:?}", node.line(other).fate)
            };
            assert!(away_seconds < 120, "{what}: {other} was away for {away_seconds} s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_costs_few_requests() {
    let with_volumes = || Preset { storage: Storage::Volumes, ..Preset::pair() };
    let table = [
        ("plain", Preset { passthrough: 0, ..Preset::pair() }, 6),
        ("with one volume each", Preset { passthrough: 0, ..with_volumes() }, 8),
        ("some with a device", Preset::pair(), 6),
        ("some with a device, all with a volume", with_volumes(), 8),
    ];
    for (what, preset, most) in table {
        let mut node = NodeInMemory::new(&preset).await;
        let vms = node.stop_all().await;
        assert_eq!(vms.len(), 8);
        let before = node.server.requests();
        restore(&mut node).await.unwrap();
        let all = node.server.requests() - before;
        // Harvester's list is read once, the node and KubeVirt's devices once for several.
        assert!(all <= most * 8 + 6, "{what}: {all} requests for 8 starts");
    }
}

fn list(node: &NodeInMemory) -> Option<Value> {
    let name = format!("{UPGRADE}-restore-vm");
    node.server.get_object("", "configmaps", "harvester-system", &name).map(|found| (*found).clone())
}

#[tokio::test(start_paused = true)]
async fn harvesters_list_is_written_as_harvester_writes_it() {
    let (node, vms) = shut_down(&Preset::pair()).await;
    ledger::sync_list(&node.run).await.unwrap();
    assert_eq!(vms.iter().map(ToString::to_string).collect::<Vec<_>>(), VMS);
    let mut found = list(&node).unwrap();
    let metadata = found["metadata"].as_object_mut().unwrap();
    // What the server adds.
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        metadata.remove(field);
    }
    assert_eq!(found.to_string(), LIST);
}

/// The VMs with devices of the preset.
const VMS: [&str; 3] = ["default/desk-6", "default/erp-8", "team-a/erp-7"];
/// As `upgrade-helper` of Harvester 1.6 reads it: one key a node, names with commas between them, the Upgrade its owner.
const LIST: &str = concat!(
    r#"{"apiVersion":"v1","data":{"node1":"default/desk-6,default/erp-8,team-a/erp-7"},"kind":"ConfigMap","#,
    r#""metadata":{"labels":{"harvesterhci.io/upgrade":"hvst-upgrade-abcde","harvesterhci.io/upgradeComponent":"node"},"#,
    r#""name":"hvst-upgrade-abcde-restore-vm","namespace":"harvester-system","#,
    r#""ownerReferences":[{"apiVersion":"harvesterhci.io/v1beta1","kind":"Upgrade","name":"hvst-upgrade-abcde","#,
    r#""uid":"0f8f2b0e-0000-4000-8000-000000000001"}]}}"#
);

#[tokio::test(start_paused = true)]
async fn a_second_run_of_harvesters_helper_cannot_make_us_forget() {
    let (mut node, vms) = shut_down(&Preset::pair()).await;
    ledger::sync_list(&node.run).await.unwrap();
    let whole = list(&node).unwrap()["data"].clone();
    // It sees no VM any more, and replaces the list by an empty one; another node's line is not ours to touch.
    node.write_list(&json!({ "node1": "", "node2": "default/elsewhere" }));
    ledger::write_first(&mut node.run).await.unwrap();
    assert_eq!(list(&node).unwrap()["data"]["node1"], whole["node1"]);
    assert_eq!(list(&node).unwrap()["data"]["node2"], "default/elsewhere");
    // The same while they are being started again.
    node.write_list(&json!({ "node1": vms[0].to_string(), "node2": "default/elsewhere" }));
    restore(&mut node).await.unwrap();
    assert_eq!(list(&node).unwrap()["data"]["node1"], whole["node1"]);
}

#[tokio::test(start_paused = true)]
async fn whom_harvesters_helper_has_shut_down_before_us_is_started_again() {
    let mut node = NodeInMemory::new(&Preset::pair()).await;
    let vms = node.with_devices();
    let [stopped, halted_long_ago, runs] = vms.as_slice() else { panic!("{vms:?}") };
    node.stop_by_somebody_else(halted_long_ago).await;
    let names = [stopped.to_string(), halted_long_ago.to_string(), runs.to_string(), "default/nobody".into()];
    tokio::time::sleep(Duration::from_mins(1)).await;
    node.write_list(&json!({ "node1": names.join(",") }));
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.stop_by_somebody_else(stopped).await;
    ledger::write_first(&mut node.run).await.unwrap();
    let line = node.line(stopped);
    assert!(matches!(line.fate, Fate::ShutDown { graceful: None, .. }), "{:?}", line.fate);
    assert!(line.as_left.is_some_and(|left| left.marked));
    assert!(matches!(node.line(runs).fate, Fate::Here), "{:?}", node.line(runs).fate);
    assert!(node.run.journal.progress().ledger().line(halted_long_ago).is_none());
    // Once is enough, whatever the next start of the agent finds.
    let lines = node.run.journal.entries().len();
    ledger::sync_list_and_adopt(&mut node.run).await.unwrap();
    assert_eq!(node.run.journal.entries().len(), lines);
    restore(&mut node).await.unwrap();
    assert!(matches!(node.line(stopped).fate, Fate::Restored { .. }), "{:?}", node.line(stopped).fate);
    assert!(node.runs(stopped) && !node.runs(halted_long_ago));
}

#[tokio::test(start_paused = true)]
async fn a_vm_of_the_same_name_made_anew_is_never_stopped_for_the_old_one() {
    let mut node = NodeInMemory::new(&Preset::pair()).await;
    let vm = node.with_devices().remove(0);
    node.enter(|entry| entry.vm_uid = Some("the old one".into())).await;
    vm_actions::perform(
        &mut node.run,
        upgrade_agent::flow::evacuate::VmAction::Stop { vm: vm.clone() },
        None,
    )
    .await
    .unwrap();
    node.settle().await;
    assert!(node.runs(&vm));
    assert_eq!(node.vm(&vm).pointer(MARK), None);
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_adopting_a_vm_and_marking_it_is_made_up_for() {
    let mut node = NodeInMemory::new(&Preset::pair()).await;
    let vm = node.with_devices().remove(0);
    node.stop_by_somebody_else(&vm).await;
    node.write_list(&json!({ "node1": vm.to_string() }));
    let listed = vm_state::listed(&node.server.client(), &vm, UPGRADE_UID).await.unwrap();
    let entry = adopt(&vm, &listed, None).unwrap();
    node.run.record(Record::VmAdopted { vm: Box::new(entry) }).unwrap();
    assert!(node.line(&vm).as_left.is_none() && node.vm(&vm).pointer(MARK).is_none());
    ledger::write_first(&mut node.run).await.unwrap();
    assert!(node.line(&vm).as_left.is_some_and(|left| left.marked));
    assert_eq!(node.vm(&vm).pointer(MARK), Some(&json!(UPGRADE_UID)));
}
