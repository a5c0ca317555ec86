//! What must not happen, on real parts: swaps without a fresh pre-drain, restarts behind the fence, starts that cannot work.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use asserts::{agent, said, stage};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use support::{LIVE, NAMESPACE, NODE, Stage, UPGRADE};
use upgrade_agent::cluster::brief::BriefNode;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::cluster::nodes;
use upgrade_agent::flow::record::Record;
use upgrade_agent::flow::vms::VmKey;
use upgrade_agent::host::clock::Clock;
use upgrade_agent::host::fs::Fs;
use upgrade_agent::journal::Journal;
use upgrade_agent::sim::Timing;

fn exit_and_words(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.trim_end().lines().count(), 1, "one sentence: {errors}");
    for word in words {
        assert!(errors.contains(word), "{errors} should say {word}");
    }
}

/// No record, somebody else's record, and a VM that came back: no swap. And nobody restarts RKE2 behind the fence.
#[tokio::test(flavor = "multi_thread")]
async fn no_swap_without_a_fresh_pre_drain_of_this_upgrade() {
    let stage = stage(Timing::fast).await;
    let before = stage.instances().await.unwrap();
    let (pid, live) = (stage.rke2_pid().await.unwrap(), stage.live_sha256().await.unwrap());
    let plan = stage.plan_file("plan.yaml", |_| {}).unwrap();
    let swap = ["run", "--yes", "--only", "swap", "--plan", plan.to_str().unwrap()];

    let output = stage.run_agent(agent(), &swap).await.unwrap();
    exit_and_words(&output, 3, &["journal"]);

    stale_journal(&stage);
    let output = stage.run_agent(agent(), &swap).await.unwrap();
    exit_and_words(&output, 3, &["belongs to upgrade"]);
    let folder = stage.machine.root().join("var/lib/rancher/upgrade-agent").join(&stage.upgrade_uid);
    std::fs::remove_dir_all(folder).unwrap();

    // Every release brings both units.
    let units = stage.machine.disk().join("etc/systemd/system");
    std::fs::write(units.join("rke2-agent.service"), "[Service]\nType=oneshot\nExecStart=/bin/true\n")
        .unwrap();
    stage.machine.must_run(&["systemctl", "daemon-reload"]).await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let child = stage.start_agent(agent(), &["node", "--once"]).unwrap();
    stage.kill_at(child, "drained", 1, "swapIntent").await.unwrap();
    for order in [["systemctl", "restart", "rke2-server"], ["systemctl", "start", "rke2-agent"]] {
        let refused = stage.machine.run(&order).await.unwrap();
        assert!(!refused.status.success(), "the fence refuses {order:?}");
    }
    assert_eq!(stage.rke2_pid().await.unwrap(), pid, "and RKE2 was not touched");

    come_back(&stage, "pci-1").await;
    let output = stage.run_agent(agent(), &swap).await.unwrap();
    exit_and_words(&output, 3, &["default/pci-1"]);
    assert_eq!(stage.records("gateRefused"), 1);
    assert_eq!(stage.rke2_pid().await.unwrap(), pid);
    assert_eq!(stage.live_sha256().await.unwrap(), live);

    // Told to go on, it gets that VM off the node again and finishes.
    let output = stage.run_agent(agent(), &["run", "--yes", "--upgrade", UPGRADE]).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let after = stage.instances().await.unwrap();
    assert_eq!(after.len(), before.len());
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256);
    stage.machine.must_run(&["systemctl", "start", "rke2-agent"]).await.expect("both fences are gone");
}

/// A journal of another upgrade, with its pre-drain recorded, in the folder of this one.
fn stale_journal(stage: &Stage) {
    let mut other = stage.plan();
    other.upgrade_uid = "11111111-2222-3333-4444-555555555555".into();
    let dir = stage.machine.root().join("var/lib/rancher/upgrade-agent");
    let mut journal = Journal::open(&Fs::kernel(), &dir, &other, "boot", Clock::system()).unwrap();
    let unit = "rke2-server.service".to_owned();
    for record in [
        Record::Preflighted {
            role: upgrade_agent::flow::plan::Role::Server,
            unit: unit.clone(),
            live: LIVE.into(),
            live_sha256: "0".into(),
        },
        Record::Staged { binary: LIVE.into(), sha256: "1".into() },
        Record::FenceIntent { units: vec![unit] },
        Record::Fenced,
        Record::CordonIntent { was_cordoned: false, was_tainted: false },
        Record::Cordoned,
        Record::LedgerWritten { vms: vec![] },
        Record::PreDrained,
        Record::Drained { evicted: 0 },
    ] {
        journal.append(record).unwrap();
    }
    std::fs::rename(dir.join(&other.upgrade_uid), dir.join(&stage.upgrade_uid)).unwrap();
}

/// Somebody opens the node, starts a VM that was shut down, and closes the node again.
async fn come_back(stage: &Stage, vm: &str) {
    let node: Api<Node> = Api::all(stage.client.clone());
    let found = node.get(NODE).await.unwrap();
    let (taints, unschedulable) = {
        let spec = found.spec.as_ref().unwrap();
        (spec.taints.clone(), spec.unschedulable)
    };
    let open = json!({ "spec": { "taints": null, "unschedulable": null } });
    node.patch(NODE, &PatchParams::default(), &Patch::Merge(open)).await.unwrap();
    let path = format!("/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/{vm}/start");
    let start = http::Request::put(path).body(b"{}".to_vec()).unwrap();
    stage.client.request_text(start).await.unwrap();
    let key = VmKey::new("default", vm);
    stage
        .wait("the VM to come back", async || stage.instances().await.unwrap().contains_key(&key))
        .await
        .unwrap();
    let close = json!({ "spec": { "taints": taints, "unschedulable": unschedulable } });
    node.patch(NODE, &PatchParams::default(), &Patch::Merge(close)).await.unwrap();
}

/// `run` without `--node-name`, with another kubeconfig.
async fn elsewhere(stage: &Stage, kubeconfig: &Path, plan: &str) -> Output {
    let mut command = tokio::process::Command::new(agent());
    command.args(["run", "--yes", "--plan", plan, "--kubeconfig"]).arg(kubeconfig);
    command.arg("--host-root").arg(stage.machine.root()).arg("--system-bus").arg(stage.machine.bus());
    command.env_remove("NODE_NAME").env_remove("RUST_LOG");
    tokio::time::timeout(Duration::from_mins(15), command.output()).await.unwrap().unwrap()
}

/// Every input that cannot work: one sentence with the cure, the contract's exit code, and nothing is changed.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_and_changes_nothing() {
    let stage = stage(Timing::fast).await;
    let (pid, live) = (stage.rke2_pid().await.unwrap(), stage.live_sha256().await.unwrap());
    let path = |path: &Path| path.to_str().unwrap().to_owned();

    let torn = stage.plan_file("torn.yaml", |_| {}).unwrap();
    std::fs::write(&torn, "upgradeName: [").unwrap();
    let wrong = stage.plan_file("wrong.yaml", |plan| plan.artifacts.sha256 = "0".repeat(64)).unwrap();
    let unit = stage
        .plan_file("unit.yaml", |plan| plan.role = Some(upgrade_agent::flow::plan::Role::Agent))
        .unwrap();
    let absent =
        stage.plan_file("absent.yaml", |plan| plan.artifacts.source = "file:///no/such".into()).unwrap();
    let table: [(&str, i32, &[&str]); 5] = [
        ("/no/such/plan.yaml", 2, &["/no/such/plan.yaml"]),
        (&path(&torn), 2, &["torn.yaml", "not a plan"]),
        (&path(&wrong), 3, &["sha256", &"0".repeat(64)]),
        (&path(&unit), 3, &["rke2-agent.service"]),
        (&path(&absent), 3, &["/no/such"]),
    ];
    for (plan, code, words) in table {
        let output = stage.run_agent(agent(), &["run", "--yes", "--plan", plan]).await.unwrap();
        exit_and_words(&output, code, words);
    }

    let plan = path(&stage.plan_file("node.yaml", |plan| plan.node_name = "node9".into()).unwrap());
    let output = stage.run_agent(agent(), &["run", "--yes", "--plan", &plan]).await.unwrap();
    exit_and_words(&output, 3, &["node9", "node1"]);

    // Told that this machine is that node: the cluster does not know it.
    let output = elsewhere(&stage, &stage.kubeconfig, &plan).await;
    exit_and_words(&output, 3, &["no node node9"]);
    // The right plan, but a kubeconfig that may do nothing.
    let powerless = stage.control_plane.kubeconfig_for_service_account(NAMESPACE, "default").await.unwrap();
    let plan = path(&stage.plan_file("right.yaml", |_| {}).unwrap());
    let output = elsewhere(&stage, &powerless, &plan).await;
    exit_and_words(&output, 3, &["403", "manifests/rbac.yaml"]);

    assert_eq!(stage.rke2_pid().await.unwrap(), pid);
    assert_eq!(stage.live_sha256().await.unwrap(), live);
    let node: BriefNode = Api::all(stage.client.clone()).get(NODE).await.unwrap();
    assert!(!nodes::is_closed(&node) && nodes::drain_taint(&node).is_none());
    let drop_ins =
        stage.machine.must_run(&["systemctl", "show", "-P", "DropInPaths", "rke2-server"]).await.unwrap();
    assert!(!drop_ins.contains("upgrade-agent"), "{drop_ins}");
    assert_eq!(stage.instances().await.unwrap().len(), 8);
    assert_eq!(stage.requests("update", "/stop"), 0);
    assert_eq!(stage.requests("patch", "/nodes/"), 0);

    let patches = stage.requests("patch", "");
    // The read-only commands work with the right plan, and still change nothing.
    let output = stage.run_agent(agent(), &["preflight", "--plan", &plan]).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let output = stage.run_agent(agent(), &["plan", "--explain", "--plan", &plan]).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(said(&output).matches("live-migrated").count(), 5, "{}", said(&output));
    assert_eq!(said(&output).matches("shut down and started again").count(), 3);
    assert_eq!(stage.requests("patch", ""), patches, "reading writes nothing");
}
