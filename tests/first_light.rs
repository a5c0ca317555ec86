//! The main job on real parts: a real API server, a real systemd machine, the agent's own binary.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use std::path::Path;

use asserts::{PASSTHROUGH, agent, assert_reported, assert_upgraded, said, stage, unhurried};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use support::{NAMESPACE, NODE, UPGRADE};
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::sim::Timing;

/// Exports the cluster with kubectl by each command that `docs/rehearse.md` gives, and rehearses it.
fn assert_rehearsed_as_documented(stage: &support::Stage) {
    let kubectl = |arguments: &[&str]| stage.control_plane.run_kubectl(arguments).unwrap();
    let known = kubectl(&["api-resources", "-o", "name"]);
    let documented = include_str!("../docs/rehearse.md").lines();
    let exports: Vec<&str> = documented
        .filter_map(|line| line.strip_prefix("kubectl get ")?.strip_suffix(" -A -o yaml > cluster.yaml"))
        .collect();
    assert_eq!(exports.len(), 2, "the whole export and the shortest: {exports:?}");
    for kinds in exports {
        // The stand-ins for the products' definitions have nothing of Longhorn.
        let is_there = |kind: &&str| !kind.contains('.') || known.lines().any(|name| name == *kind);
        let there: Vec<&str> = kinds.split(',').filter(is_there).collect();
        let file = stage.kubeconfig.with_file_name("cluster.yaml");
        std::fs::write(&file, kubectl(&["get", &there.join(","), "-A", "-o", "yaml"])).unwrap();
        let arguments = ["rehearse", "--cluster", file.to_str().unwrap()];
        let output = std::process::Command::new(agent()).args(arguments).output().unwrap();
        let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{kinds}\n{told}\n{said}");
        for vm in PASSTHROUGH {
            assert!(told.contains(&format!("default/{vm} ")), "{vm} has to be shut down:\n{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_takes_a_node_to_the_new_version() {
    let stage = stage(Timing::fast).await;
    let before = stage.instances().await.unwrap();
    assert_rehearsed_as_documented(&stage);
    stage.order(Control::Run).await.unwrap();
    let output = stage.run_agent(agent(), &["node", "--once"]).await.unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_upgraded(&stage, &before).await;
    assert_reported(&stage).await;
    for vm in before.keys() {
        let row = said
            .lines()
            .find(|line| line.starts_with(&format!("{vm} ")))
            .expect("a row in the closing table");
        let how =
            if PASSTHROUGH.contains(&vm.name.as_str()) { "shut down by its guest" } else { "never stopped" };
        assert!(row.contains(how), "{row}");
    }
    let listed = stage.control_plane.run_kubectl(&["get", "nu", "-A"]).unwrap();
    assert!(listed.contains("Succeeded") && listed.contains("VMS-LEFT"), "{listed}");
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let list = maps.get(&format!("{UPGRADE}-restore-vm")).await.unwrap().data.unwrap();
    assert_eq!(list[NODE], "default/pci-1,default/pci-2,default/vgpu-1");
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), "default");
    assert!(pods.get_opt("bystander").await.unwrap().is_none(), "the drain evicted the other pod");
    let requests = stage.requests_between("cordoned", "preDrained");
    // What is looked at again and again is so once a second at most.
    let seconds = stage.time_between("cordoned", "preDrained").as_secs();
    let most = 4 * 8 + 50 + usize::try_from(seconds).unwrap();
    assert!(
        (8..=most).contains(&requests),
        "{requests} requests in {seconds} s of the pre-drain of eight VMs"
    );
    // Kubernetes refuses to change an order.
    let to = json!({ "spec": { "rke2": { "to": "v1.35.7+rke2r1" } } });
    let name = format!("{UPGRADE}-{NODE}");
    let error = stage.orders().patch(&name, &PatchParams::default(), &Patch::Merge(to)).await.unwrap_err();
    assert!(error.to_string().contains("immutable"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_installed_unit_does_the_same_from_inside() {
    let stage = stage(Timing::fast).await;
    let before = stage.instances().await.unwrap();
    let root = stage.machine.root();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::create_dir_all(root.join("opt/upgrade-agent/bin")).unwrap();
    std::fs::create_dir_all(root.join("etc/upgrade-agent")).unwrap();
    std::fs::copy(agent(), root.join("opt/upgrade-agent/bin/upgrade-agent")).unwrap();
    let unit = "etc/systemd/system/upgrade-agent.service";
    std::fs::copy(repository.join("systemd/upgrade-agent.service"), root.join(unit)).unwrap();
    std::fs::copy(&stage.kubeconfig, root.join("etc/upgrade-agent/kubeconfig")).unwrap();
    let env = format!(
        "NODE_NAME={NODE}\nKUBECONFIG=/etc/upgrade-agent/kubeconfig\nUPGRADE_AGENT_LOCAL_ADDRESS={}\nUPGRADE_AGENT_SOAK_SECONDS=5\n",
        stage.machine.address()
    );
    std::fs::write(root.join("etc/upgrade-agent/env"), env).unwrap();
    stage.machine.must_run(&["systemctl", "daemon-reload"]).await.unwrap();
    stage.machine.must_run(&["systemctl", "start", "upgrade-agent"]).await.unwrap();
    let show = ["systemctl", "show", "-P", "StatusText", "upgrade-agent"];
    let is_idle = async || stage.machine.must_run(&show).await.unwrap().contains("waiting for a NodeUpgrade");
    stage.wait("the agent to say that it waits for an order", is_idle).await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let name = format!("{UPGRADE}-{NODE}");
    let orders = stage.orders();
    stage
        .wait("the NodeUpgrade to succeed", async || {
            let order = orders.get(&name).await.unwrap();
            order.status.is_some_and(|status| status.phase == "Succeeded")
        })
        .await
        .unwrap();
    assert_upgraded(&stage, &before).await;
    assert_reported(&stage).await;
    let active = stage.machine.must_run(&["systemctl", "is-active", "upgrade-agent"]).await.unwrap();
    assert_eq!(active.trim(), "active", "the daemon waits for the next order");
    stage.machine.must_run(&["systemctl", "stop", "upgrade-agent"]).await.unwrap();
}

/// Killed at the first stop, in the middle of the migrations, between swap and restart, inside the restart, and in restore.
#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_it_goes_on_and_does_nothing_twice() {
    let stage = stage(unhurried).await;
    let before = stage.instances().await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let kills = [
        ("stopIntent", 1, "preDrained"),
        ("vmMigrated", 2, "preDrained"),
        ("swapped", 1, "restartIntent"),
        ("restartIntent", 1, "restarted"),
        ("restoreIntent", 1, "vmRestored"),
    ];
    for (record, count, later) in kills {
        let child = stage.start_agent(agent(), &["node", "--once"]).unwrap();
        stage.kill_at(child, record, count, later).await.unwrap();
        let status = stage.run_agent(agent(), &["status"]).await.unwrap();
        assert_eq!(status.status.code(), Some(0), "status reads a journal after a kill: {}", said(&status));
    }
    let output = stage.run_agent(agent(), &["node", "--once"]).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}\n{}", said(&output), stage.journal());
    assert_upgraded(&stage, &before).await;
    assert_reported(&stage).await;
    assert_eq!(stage.records("finished"), 1);
}
