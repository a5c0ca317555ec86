//! What becomes of a new RKE2 that does not serve, of binaries that somebody else puts in place, and of machines that lose
//! their power around the swap: a real systemd, the agent's own guard on it, and a stand-in that misbehaves as told.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use std::process::Output;
use std::time::Duration;

use asserts::{Instances, agent, said};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject};
use support::cast::Cast;
use support::script::Script;
use support::{LIVE, NAMESPACE, Stage};
use testbed::etcd::EtcdCluster;
use testbed::places::RunDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use upgrade_agent::cluster::brief::BriefNode;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::cluster::nodes;
use upgrade_agent::flow::artifacts::ImageArchive;
use upgrade_agent::flow::vms::VmKey;
use upgrade_agent::sim::machine::release::sha256;
use upgrade_agent::sim::world;

const ONCE: [&str; 2] = ["node", "--once"];

async fn assert_as_before(stage: &Stage, before: &Instances, sha256: &str) {
    assert_eq!(stage.live_sha256().await.unwrap(), sha256, "the old binary is live");
    assert_eq!(stage.running_sha256().await.unwrap(), sha256, "and runs");
    let after = stage.instances().await.unwrap();
    let (app, pci) = (VmKey::new(&stage.namespace, "app"), VmKey::new(&stage.namespace, "pci"));
    assert_eq!(after[&app].0, before[&app].0, "app was never off");
    assert!(after.contains_key(&pci), "pci runs again: {after:?}");
    let node: BriefNode = Api::all(stage.client.clone()).get(&stage.node).await.unwrap();
    assert!(!nodes::is_closed(&node) && nodes::drain_taint(&node).is_none(), "cordon and taint are gone");
    assert!(!node.annotations().contains_key(nodes::OWNER_ANNOTATION));
    stage.machine.must_run(&["systemctl", "restart", "rke2-server"]).await.expect("the fence is gone");
}

fn assert_code(output: &Output, code: i32, stage: &Stage) {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", said(output), stage.journal());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_crashes_is_put_back_and_the_node_serves_as_before() {
    for (name, word) in [("crashes", "rke2-crashes"), ("dies", "rke2-dies")] {
        let mut stage = Stage::shared(Cast::patch_level(name)).await.unwrap();
        // It has to die while it is watched.
        stage.soak_seconds = 20;
        let (before, old) = (stage.instances().await.unwrap(), stage.live_sha256().await.unwrap());
        let word = format!("{word}={}", stage.node);
        Script::begin(&mut stage, &[&word]).await.unwrap();
        stage.order(Control::Run).await.unwrap();
        let output = stage.run_agent(agent(), &ONCE).await.unwrap();
        assert_code(&output, 1, &stage);
        assert!(said(&output).contains("rolled back"), "{}", said(&output));
        assert_eq!((stage.records("rollbackIntent"), stage.records("rolledBack")), (1, 1), "{name}");
        assert_as_before(&stage, &before, &old).await;
        let upgrades: Api<DynamicObject> =
            Api::namespaced_with(stage.client.clone(), NAMESPACE, &world::upgrade_resource());
        let upgrade = upgrades.get(&stage.upgrade).await.unwrap();
        let status = &upgrade.data["status"]["nodeStatuses"][&stage.node];
        assert_eq!(status["state"], "Failed");
        assert!(status["message"].as_str().unwrap_or_default().contains("rolled back"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_minor_there_is_no_way_back_and_everybody_is_told_why() {
    let mut stage = Stage::shared(Cast::app_and_pci("minor")).await.unwrap();
    Script::begin(&mut stage, &["rke2-crashes=minor-1"]).await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let held = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_code(&held, 4, &stage);
    let words = said(&held);
    assert!(words.contains("snapshot") && words.contains("rke2.prev-"), "{words}");
    assert!(words.contains("minor/pci"), "who is owed a start is named: {words}");
    let refused = stage.agent(agent(), &["rollback", "--yes"]).output().await.unwrap();
    assert_code(&refused, 3, &stage);
    assert!(said(&refused).contains("snapshot"), "{}", said(&refused));
    assert_eq!(stage.records("rollbackIntent"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_puts_the_old_version_back_by_hand() {
    let stage = Stage::shared(Cast::patch_level("byhand")).await.unwrap();
    let (before, old) = (stage.instances().await.unwrap(), stage.live_sha256().await.unwrap());
    let nothing = stage.agent(agent(), &["rollback", "--yes"]).output().await.unwrap();
    assert_code(&nothing, 3, &stage);
    stage.order(Control::Run).await.unwrap();
    let child = stage.start_agent(agent(), &["node", "--once", "--soak-seconds", "60"]).unwrap();
    stage.kill_at(child, "restarted", 1, "verified").await.unwrap();
    let back = stage.agent(agent(), &["rollback", "--yes"]).output().await.unwrap();
    assert_code(&back, 1, &stage);
    assert!(stage.journal().contains("an operator asked for it"), "{}", stage.journal());
    assert_as_before(&stage, &before, &old).await;
    let status = stage.agent(agent(), &["status"]).output().await.unwrap();
    assert!(said(&status).contains("rolled back"), "{}", said(&status));
}

/// Serves a file, and hangs up after each mebibyte; gives its address.
async fn serve_in_pieces(content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1.35.6/rke2.linux-amd64.tar.gz", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let got = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..got]).to_lowercase();
            let range = request.split("range: bytes=").nth(1).and_then(|range| range.split('-').next());
            let from: usize = range.and_then(|from| from.parse().ok()).unwrap_or(0);
            let (all, left) = (content.len(), content.len() - from);
            let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {left}\r\nETag: \"x\"\r\nContent-Range: bytes {from}-{}/{all}\r\n\r\n",
                all - 1
            );
            stream.write_all(head.as_bytes()).await.ok();
            stream.write_all(&content[from..all.min(from + (1 << 20))]).await.ok();
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_fetched_from_a_server_that_hangs_up_and_a_wrong_one_leaves_nothing() {
    let stage = Stage::shared(Cast::app_and_pci("fetched")).await.unwrap();
    let url = serve_in_pieces(std::fs::read(stage.tarball()).unwrap()).await;
    let images = support::saved::archive(&["rancher/rke2-runtime:v1.35.6-rke2r1"]);
    let source = serve_in_pieces(images.clone()).await.replace("rke2.linux-amd64.tar.gz", "rke2-images.tar");
    stage
        .order_plan(Control::Run, |plan| {
            plan.artifacts.source.clone_from(&url);
            plan.artifacts.images = vec![ImageArchive { source, sha256: sha256(&images) }];
        })
        .await
        .unwrap();
    let output = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_code(&output, 0, &stage);
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256);
    let images = format!("/var/lib/rancher/rke2/agent/images/rke2-images-{}.tar", support::TO);
    stage.machine.must_run(&["test", "-s", &images]).await.expect("RKE2 finds the archive of images");

    let stage = Stage::shared(Cast::app_and_pci("forged")).await.unwrap();
    let url = serve_in_pieces(vec![7; 3 << 20]).await;
    stage.order_plan(Control::Run, |plan| plan.artifacts.source.clone_from(&url)).await.unwrap();
    let output = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_code(&output, 3, &stage);
    assert!(said(&output).contains("sha256"), "{}", said(&output));
    let left = stage.machine.run(&["sh", "-c", "find /opt/rke2/.stage -type f"]).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "nothing of it is left");
    assert_eq!(stage.records("fenceIntent"), 0, "and nothing was touched");
}

async fn wait_for_another_life(stage: &Stage, pid: &str) {
    stage
        .wait("another life of RKE2", async || stage.rke2_pid().await.is_ok_and(|now| now != pid))
        .await
        .unwrap();
    stage.machine.wait_active("rke2-server", Duration::from_mins(15)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_that_an_installer_puts_there_before_the_swap_never_starts() {
    let stage = Stage::shared(Cast::app_and_pci("alien")).await.unwrap();
    let old = stage.live_sha256().await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let child = stage.start_agent(agent(), &ONCE).unwrap();
    stage.kill_at(child, "preDrained", 1, "swapIntent").await.unwrap();
    // What tar does: unlink, create, write; then something kills RKE2, and systemd starts whatever is there.
    let staged = format!("/opt/rke2/.stage/{}/bin/rke2", support::TO);
    stage.machine.must_run(&["cp", "--remove-destination", &staged, LIVE]).await.unwrap();
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256, "somebody has armed the node");
    let pid = stage.rke2_pid().await.unwrap();
    stage.machine.must_run(&["kill", "-9", &pid]).await.unwrap();
    wait_for_another_life(&stage, &pid).await;
    assert_eq!(stage.running_sha256().await.unwrap(), old, "the guard put the old one back");
    assert_eq!(stage.live_sha256().await.unwrap(), old);
    let output = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_code(&output, 0, &stage);
    assert_eq!(stage.running_sha256().await.unwrap(), stage.new_sha256, "and the upgrade went on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_loses_its_power_around_the_swap_starts_what_the_journal_approves() {
    for (name, record, later) in [
        ("intent", "swapIntent", "restarted"),
        ("swapped", "swapped", "restarted"),
        ("restart", "restartIntent", "verified"),
    ] {
        let mut stage = Stage::shared(Cast::app_and_pci(name)).await.unwrap();
        let old = stage.live_sha256().await.unwrap();
        stage.order(Control::Run).await.unwrap();
        let child = stage.start_agent(agent(), &ONCE).unwrap();
        stage.kill_at(child, record, 1, later).await.unwrap();
        stage.machine.kill();
        stage.machine.boot_again().await.unwrap();
        stage.machine.wait_active("rke2-server", Duration::from_mins(15)).await.unwrap();
        let (runs, live) = (stage.running_sha256().await.unwrap(), stage.live_sha256().await.unwrap());
        assert_eq!(runs, live, "{name}");
        assert!([&old, &stage.new_sha256].contains(&&live), "{name}: {live} is whole, and one of the two");
        let output = stage.run_agent(agent(), &ONCE).await.unwrap();
        assert_code(&output, 0, &stage);
        assert_eq!(stage.running_sha256().await.unwrap(), stage.new_sha256, "{name}");
        assert_eq!(stage.records("swapped"), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_etcd_cannot_be_saved_keeps_its_version_until_it_can() {
    for (name, word, complaint) in
        [("unsaved", "snapshot-fails", "etcd-snapshot save"), ("torn", "snapshot-torn", "no whole snapshot")]
    {
        let mut stage = Stage::shared(Cast::app_and_pci(name)).await.unwrap();
        let run = RunDir::new().unwrap();
        let etcd = EtcdCluster::start(run.path(), 1).unwrap();
        etcd.write_server_files(0, stage.machine.disk()).unwrap();
        let old = stage.live_sha256().await.unwrap();
        let word = format!("{word}={}", stage.node);
        Script::begin(&mut stage, &[&word]).await.unwrap();
        stage.order(Control::Run).await.unwrap();
        let held = stage.run_agent(agent(), &ONCE).await.unwrap();
        assert_code(&held, 4, &stage);
        let words = said(&held);
        assert!(words.contains(complaint) && words.contains(&format!("{}/pci", stage.namespace)), "{words}");
        assert_eq!((stage.records("swapIntent"), stage.live_sha256().await.unwrap()), (0, old), "{name}");
        stage.machine.set_rke2_fault("").unwrap();
        // Killed while the next one is saved: that one is waited for, and there is no third.
        let child = stage.start_agent(agent(), &ONCE).unwrap();
        stage.kill_at(child, "resumed", 1, "snapshotTaken").await.unwrap();
        let output = stage.run_agent(agent(), &ONCE).await.unwrap();
        assert_code(&output, 0, &stage);
        assert_eq!(stage.records("snapshotTaken"), 1, "{name}");
        let files =
            stage.machine.must_run(&["ls", "/var/lib/rancher/rke2/server/db/snapshots"]).await.unwrap();
        let torn = usize::from(name == "torn");
        assert_eq!(files.lines().count(), 1 + torn, "{files}");
        let units =
            stage.machine.must_run(&["systemctl", "list-units", "--all", "upgrade-agent-*"]).await.unwrap();
        assert!(!units.contains("snapshot"), "nothing is left behind: {units}");
    }
}

/// What `tar xzf` does over the live path: unlink, create, write.
async fn install_over(stage: &Stage) {
    let staged = format!("/opt/rke2/.stage/{}/bin/rke2", support::TO);
    stage.machine.must_run(&["cp", "--remove-destination", &staged, LIVE]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_replaces_the_binary_while_the_agent_works_is_found_undone_and_named() {
    for (name, record) in [("early", "cordoned"), ("late", "restarted")] {
        let stage = Stage::shared(Cast::app_and_slow_pci(name)).await.unwrap();
        let old = stage.live_sha256().await.unwrap();
        stage.machine.must_run(&["cp", LIVE, "/opt/rke2/bin/rke2.prev-v1.30.1+rke2r1"]).await.unwrap();
        stage.machine.must_run(&["mkdir", "-p", "/opt/rke2/.stage/v1.30.1+rke2r1/bin"]).await.unwrap();
        stage.order(Control::Run).await.unwrap();
        // Long enough to be at it before the new RKE2 counts as verified.
        let child = stage.start_agent(agent(), &["node", "--once", "--soak-seconds", "60"]).unwrap();
        stage.wait(record, async || stage.records(record) > 0).await.unwrap();
        let expected = if name == "early" {
            install_over(&stage).await;
            &old
        } else {
            // Rancher applies an old plan once more.
            let kept = format!("/opt/rke2/bin/rke2.prev-{}", stage.from);
            stage.machine.must_run(&["cp", "--remove-destination", &kept, LIVE]).await.unwrap();
            &stage.new_sha256
        };
        let held =
            tokio::time::timeout(Duration::from_mins(15), child.wait_with_output()).await.unwrap().unwrap();
        assert_code(&held, 4, &stage);
        let ways = ["to resume: ", if name == "early" { "to cancel: " } else { "to go back: " }];
        let told = said(&stage.run_agent(agent(), &["status"]).await.unwrap());
        assert!(ways.iter().all(|way| told.contains(way)), "{name}: no way on is told: {told}");
        let words = stage.journal();
        assert!(
            words.contains("replaced by somebody else") && words.contains("rancher-system-agent"),
            "{words}"
        );
        assert_eq!(stage.records("alienFound"), 1, "{}", stage.journal());
        assert_eq!(
            stage.live_sha256().await.unwrap(),
            *expected,
            "{name}: the approved one is in place again"
        );
        assert_eq!(stage.running_sha256().await.unwrap(), *expected, "{name}: and nothing else has run");
        let output = stage.run_agent(agent(), &ONCE).await.unwrap();
        assert_code(&output, 0, &stage);
        assert_eq!(stage.running_sha256().await.unwrap(), stage.new_sha256, "{name}");
        let left = stage.machine.must_run(&["ls", "/opt/rke2/bin"]).await.unwrap();
        assert!(!left.contains("rke2.approved"), "{left}");
        assert!(
            left.contains("rke2.prev-v1.34.2") && !left.contains("v1.30.1"),
            "only the last way back is kept: {left}"
        );
        stage.machine.must_run(&["test", "!", "-e", "/opt/rke2/.stage"]).await.unwrap();
    }
}
