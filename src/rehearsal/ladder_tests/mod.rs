//! Evacuations that do not go smoothly, on the whole agent in virtual time: what is true of the VMs and of `KubeVirt`'s
//! objects afterwards.

mod play;

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::agent::driver::Ended;
use crate::flow::plan::{Evacuation, MigrationFailure};
use crate::flow::record::{Outcome, Record};
use crate::flow::vms::Fate;
use crate::rehearsal::life::NAMESPACE;
use crate::sim::api::ApiServer;
use play::{cordon, dirty, no_evacuations, patch, played, played_with, taint, vm};

fn is_migration(record: &Record) -> bool {
    matches!(record, Record::MigrationIntent { .. })
}

#[test]
fn a_target_that_appears_later_is_waited_for_and_no_vm_goes_off() {
    let done = played(Evacuation::default(), no_evacuations, |server: ApiServer| async move {
        cordon(&server, 2, true);
        taint(&server, 3, true);
        tokio::time::sleep(Duration::from_mins(10)).await;
        taint(&server, 3, false);
    });
    assert_eq!(done.ended, Ended::Done(Outcome::Succeeded));
    assert!(
        done.fates.iter().all(|(_, fate)| *fate == Fate::Migrated { to: "node3".into() }),
        "{:?}",
        done.fates
    );
    let asked = done.second_of(is_migration);
    assert!((600..=660).contains(&asked), "asked for a migration after {asked} s");
    assert_eq!(done.count(is_migration), 6, "none was asked for in vain");
    assert_eq!(done.count(|record| matches!(record, Record::TargetAwaited { .. })), 6);
    let events = done.events();
    assert_eq!(events.len(), 1, "one event for all who wait, however long: {events:#?}");
    let (reason, message) = &events[0];
    assert_eq!(reason, "Blocked");
    assert!(
        message.contains("waits for a target: node2 is cordoned, node3 has the taint busy; since 3"),
        "{message}"
    );
    assert!(message.contains("at 30 min: hold; operator: uncordon node2, or move"), "{message}");
    assert!(message.contains("And 3 more"), "{message}");
    assert!(done.requests <= 6 * 4 + 150, "{} requests", done.requests);
}

#[test]
fn a_second_attempt_goes_to_another_node() {
    let done = played(
        Evacuation::default(),
        |server| {
            no_evacuations(server);
            dirty(server, &vm(server), true);
        },
        |server: ApiServer| async move {
            // The first copy fails after 150 s at the earliest, and the guest is calm by the second.
            tokio::time::sleep(Duration::from_mins(2)).await;
            let vm = vm(&server);
            let all =
                server.list_objects("kubevirt.io", "virtualmachineinstancemigrations", &vm.namespace, "");
            assert!(
                all.iter()
                    .any(|one| one["spec"]["vmiName"] == vm.name && one["status"]["phase"] == "Running")
            );
            let failed = |one: &&crate::sim::object::Object| {
                one["spec"]["vmiName"] == vm.name && one["status"]["phase"] == "Failed"
            };
            loop {
                let all =
                    server.list_objects("kubevirt.io", "virtualmachineinstancemigrations", &vm.namespace, "");
                if all.iter().any(|one| failed(&one)) {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            dirty(&server, &vm, false);
        },
    );
    assert_eq!(done.ended, Ended::Done(Outcome::Succeeded));
    let vm = done.fates[0].0.clone();
    let attempts = done.all(|record| {
        let Record::MigrationIntent { vm: one, to, .. } = record else { return None };
        (*one == vm).then(|| to.clone())
    });
    let Fate::Migrated { to } = done.fate(&vm) else { panic!("{:?}", done.fate(&vm)) };
    assert_eq!(attempts, [None, Some(to.clone())]);
    let failed =
        done.server.list_objects("kubevirt.io", "virtualmachineinstancemigrations", &vm.namespace, "");
    let failed =
        failed.iter().find(|one| one["spec"]["vmiName"] == vm.name && one["status"]["phase"] == "Failed");
    assert_ne!(failed.unwrap()["status"]["migrationState"]["targetNode"], json!(to));
}

#[test]
fn what_never_works_holds_with_its_reasons_and_nothing_of_ours_goes_on() {
    let evacuation = Evacuation { migration_seconds: 100, ..Evacuation::default() };
    let done = played(
        evacuation,
        |server| {
            no_evacuations(server);
            dirty(server, &vm(server), true);
        },
        |_| async {},
    );
    let Ended::Held(why) = &done.ended else { panic!("{:?}", done.ended) };
    let vm = done.fates[0].0.clone();
    assert!(
        why.contains(&format!("VM {vm} could not be live-migrated: attempt 1 failed, it takes longer than")),
        "{why}"
    );
    assert!(
        why.contains("; since ") && why.contains("operator: see to that, or move or stop it by hand"),
        "{why}"
    );
    assert_eq!(done.unfinished(), Vec::<String>::new());
    assert_eq!(done.count(|record| matches!(record, Record::AbortIntent { ours: true, .. })), 1);
    let off = |record: &Record| matches!(record, Record::StopIntent { .. });
    assert_eq!(done.count(off), 0, "nobody was shut down");
    let moved = done.fates.iter().filter(|(_, fate)| matches!(fate, Fate::Migrated { .. })).count();
    assert_eq!(moved, 5, "the others were not held up");
    let events = done.events();
    assert!(
        events.iter().any(|(reason, message)| reason == "NeedsOperator" && message.contains(why)),
        "{events:#?}"
    );
}

#[test]
fn policy_shuts_down_what_never_works_after_its_migration_has_ended() {
    let evacuation = Evacuation {
        migration_seconds: 100,
        on_migration_failure: MigrationFailure::ShutdownAndRestore,
        ..Evacuation::default()
    };
    let done = played(
        evacuation,
        |server| {
            no_evacuations(server);
            dirty(server, &vm(server), true);
        },
        |_| async {},
    );
    assert_eq!(done.ended, Ended::Done(Outcome::Succeeded));
    let vm = done.fates[0].0.clone();
    assert!(matches!(done.fate(&vm), Fate::Restored { graceful: Some(true), .. }), "{:?}", done.fate(&vm));
    let at = |which: fn(&Record) -> bool| done.lines.iter().position(|entry| which(&entry.record)).unwrap();
    let abort = at(|record| matches!(record, Record::AbortIntent { .. }));
    assert!(abort < at(|record| matches!(record, Record::StopIntent { .. })));
    assert_eq!(done.unfinished(), Vec::<String>::new());
}

#[test]
fn somebody_elses_stuck_evacuation_is_aborted_and_the_vm_moves() {
    let evacuation = Evacuation { migration_seconds: 100, ..Evacuation::default() };
    let done = played(
        evacuation,
        |server| {
            no_evacuations(server);
            let vm = vm(server);
            // A stale one of last month says nothing about today.
            let migration = |name: &str, selector: Value| {
                json!({
                    "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
                    "metadata": {"name": name, "namespace": vm.namespace, "labels": {"kubevirt.io/vmi-name": vm.name},
                                 "annotations": {"kubevirt.io/evacuationMigration": "node1"}},
                    "spec": {"vmiName": vm.name, "addedNodeSelector": selector},
                })
            };
            let mut stale = migration("kubevirt-evacuation-old", json!({}));
            stale["status"] =
                json!({"phase": "Failed", "migrationState": {"failed": true, "targetNode": "node2"}});
            server.load(stale).unwrap();
            let path =
                format!("/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstancemigrations", vm.namespace);
            let stuck = migration("kubevirt-evacuation-x", json!({"kubernetes.io/hostname": "nowhere"}));
            server.call(&Method::POST, &path, &stuck).unwrap();
            let path = format!(
                "/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}",
                vm.namespace, vm.name
            );
            patch(server, &path, &json!({"status": {"evacuationNodeName": "node1"}}));
        },
        |_| async {},
    );
    assert_eq!(done.ended, Ended::Done(Outcome::Succeeded));
    let aborts = done.all(|record| {
        let Record::AbortIntent { migration, ours, .. } = record else { return None };
        Some((migration.clone(), *ours))
    });
    assert_eq!(aborts, [("kubevirt-evacuation-x".to_owned(), false)]);
    assert!(done.fates.iter().all(|(_, fate)| matches!(fate, Fate::Migrated { .. })), "{:?}", done.fates);
}

#[test]
fn calling_off_ends_our_migrations_and_takes_a_stuck_evictions_mark_away() {
    let evacuation = Evacuation { migration_seconds: 100, ..Evacuation::default() };
    let done = played(
        evacuation,
        |server| {
            no_evacuations(server);
            let vm = vm(server);
            dirty(server, &vm, true);
            let path =
                format!("/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstancemigrations", vm.namespace);
            let stuck = json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
                "metadata": {"name": "kubevirt-evacuation-x", "namespace": vm.namespace,
                             "labels": {"kubevirt.io/vmi-name": vm.name}},
                "spec": {"vmiName": vm.name, "addedNodeSelector": {"kubernetes.io/hostname": "nowhere"}},
            });
            server.call(&Method::POST, &path, &stuck).unwrap();
            let path = format!(
                "/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}",
                vm.namespace, vm.name
            );
            patch(server, &path, &json!({"status": {"evacuationNodeName": "node1"}}));
        },
        |server: ApiServer| async move {
            // The eviction was aborted after 100 s, and ours is under way by now.
            tokio::time::sleep(Duration::from_secs(140)).await;
            let order =
                server.list_objects("agent.harvesterhci.io", "nodeupgrades", NAMESPACE, "")[0].clone();
            let name = order["metadata"]["name"].as_str().unwrap();
            let path =
                format!("/apis/agent.harvesterhci.io/v1alpha1/namespaces/{NAMESPACE}/nodeupgrades/{name}");
            patch(&server, &path, &json!({"spec": {"control": "Cancel"}}));
        },
    );
    assert_eq!(done.ended, Ended::Done(Outcome::Cancelled));
    assert_eq!(done.unfinished(), Vec::<String>::new());
    let vm = done.fates[0].0.clone();
    let path =
        format!("/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}", vm.namespace, vm.name);
    let vmi = done.server.call(&Method::GET, &path, &Value::Null).unwrap();
    assert_eq!(vmi["status"]["nodeName"], "node1");
    assert_eq!(vmi.pointer("/status/evacuationNodeName"), None, "the mark of the stuck eviction is off");
}

/// Half of what a whole run asks for is asked by preflight and the rest of the run: design §6 is about pre-drain alone.
#[test]
fn a_long_wait_of_a_hundred_vms_costs_few_requests() {
    let quick = played_with(100, Evacuation::default(), no_evacuations, |_| async {});
    let slow = played_with(100, Evacuation::default(), no_evacuations, |server: ApiServer| async move {
        cordon(&server, 2, true);
        taint(&server, 3, true);
        tokio::time::sleep(Duration::from_mins(20)).await;
        cordon(&server, 2, false);
        taint(&server, 3, false);
    });
    println!("{} requests for 100 VMs, {} when they wait for 20 minutes", quick.requests, slow.requests);
    for (what, done) in [("quick", &quick), ("slow", &slow)] {
        assert_eq!(done.ended, Ended::Done(Outcome::Succeeded), "{what}");
        assert!(done.requests <= 6 * 100 + 100, "{what}: {} requests", done.requests);
    }
}
