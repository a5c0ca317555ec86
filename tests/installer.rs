//! rancher-system-agent beside an upgrade, on a real systemd: a stand-in that applies its plan at each start, as the real one does, and
//! the secret with the plan on a real API server.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use asserts::{agent, said};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use support::cast::Cast;
use support::{Stage, TO};
use upgrade_agent::cluster::crd::node_upgrade::Control;

const ONCE: [&str; 2] = ["node", "--once"];
const UNIT: &str = "rancher-system-agent";
const FLEET: &str = "fleet-local";

/// At each start it unpacks the RKE2 of its plan over the live one and restarts RKE2: the old version here.
const PROGRAM: &str = "#!/bin/sh
echo applied >> /var/lib/rancher/agent/applied.log
if [ -e /var/lib/rancher/agent/plan/rke2 ]; then
    cp --remove-destination /var/lib/rancher/agent/plan/rke2 /opt/rke2/bin/rke2
    systemctl --no-block restart rke2-server
fi
exec sleep infinity
";

async fn order_of_rancher(stage: &Stage, version: &str) {
    let all: Api<Namespace> = Api::all(stage.client.clone());
    let apply = PatchParams::apply("rancher").force();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": FLEET}});
    all.patch(FLEET, &apply, &Patch::Apply(&namespace)).await.unwrap();
    let image = format!("rancher/system-agent-installer-rke2:{}", version.replace('+', "-"));
    let plan = json!({"instructions": [{"name": "install", "image": image, "command": "sh", "args": ["-c", "run.sh"]}]});
    let name = format!("{}-machine-plan", stage.node);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "rke.cattle.io/machine-plan",
        "stringData": {"plan": plan.to_string()},
    });
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), FLEET);
    secrets.patch(&name, &apply, &Patch::Apply(&secret)).await.unwrap();
}

/// Installed, enabled, running, and told by Rancher to have the version that is in place.
async fn install(stage: &Stage) {
    let disk = stage.machine.disk();
    let put = |path: &str, text: &str, mode: u32| {
        let file = disk.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    put("usr/local/bin/rancher-system-agent", PROGRAM, 0o755);
    let unit = "[Unit]\nDescription=Rancher System Agent\n[Install]\nWantedBy=multi-user.target\n[Service]\nType=simple\n\
                Restart=always\nRestartSec=5s\nExecStart=/usr/local/bin/rancher-system-agent\n";
    put("etc/systemd/system/rancher-system-agent.service", unit, 0o644);
    let connection = json!({
        "kubeConfig": std::fs::read_to_string(stage.control_plane.admin_kubeconfig()).unwrap(),
        "namespace": FLEET,
        "secretName": format!("{}-machine-plan", stage.node),
    });
    put("var/lib/rancher/agent/rancher2_connection_info.json", &connection.to_string(), 0o600);
    order_of_rancher(stage, &stage.from).await;
    stage.machine.must_run(&["systemctl", "daemon-reload"]).await.unwrap();
    stage.machine.must_run(&["systemctl", "enable", "--now", "--quiet", UNIT]).await.unwrap();
    stage.wait("its first start", async || applied(stage).await == 1).await.unwrap();
}

async fn applied(stage: &Stage) -> usize {
    let log = stage.machine.run(&["cat", "/var/lib/rancher/agent/applied.log"]).await.unwrap();
    String::from_utf8_lossy(&log.stdout).lines().count()
}

async fn is_active(stage: &Stage) -> bool {
    stage.machine.run(&["systemctl", "is-active", UNIT]).await.unwrap().status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn rancher_system_agent_is_held_over_everything_and_let_go_once_its_plan_is_what_runs() {
    let cast = Cast::app_and_pci("rancher");
    let mut stage = Stage::shared(cast).await.unwrap();
    install(&stage).await;
    // From now on whoever starts it gets the old version installed.
    let old = stage.live_sha256().await.unwrap();
    let copy =
        "mkdir -p /var/lib/rancher/agent/plan && cp /opt/rke2/bin/rke2 /var/lib/rancher/agent/plan/rke2";
    stage.machine.must_run(&["sh", "-c", copy]).await.unwrap();
    stage.order(Control::Run).await.unwrap();

    // It is at work: nobody stops it in the middle.
    let busy = "mkdir -p /var/lib/rancher/agent/interlock && touch /var/lib/rancher/agent/interlock/applyinator-active";
    stage.machine.must_run(&["sh", "-c", busy]).await.unwrap();
    let child = stage.start_agent(agent(), &ONCE).unwrap();
    stage.wait("the hold", async || stage.records("installerHoldIntent") > 0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(is_active(&stage).await && stage.records("fenced") == 0, "{}", stage.journal());
    stage.machine.must_run(&["rm", "/var/lib/rancher/agent/interlock/applyinator-active"]).await.unwrap();
    stage.kill_at(child, "cordoned", 1, "swapIntent").await.unwrap();
    assert!(!is_active(&stage).await);

    // Rancher's own upgrader restarts it, and the machine loses its power: it stays away.
    stage.machine.must_run(&["systemctl", "restart", UNIT]).await.unwrap();
    stage.machine.kill();
    stage.machine.boot_again().await.unwrap();
    stage.machine.wait_active("rke2-server", Duration::from_mins(15)).await.unwrap();
    assert!(!is_active(&stage).await && applied(&stage).await == 1);
    assert_eq!(stage.live_sha256().await.unwrap(), old);

    // The plan is still the old one: everything is done, and it stays held, with the reason.
    let held = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_eq!(held.status.code(), Some(4), "{}\n{}", said(&held), stage.journal());
    let words = said(&held);
    assert!(words.contains(&stage.from) && words.contains(TO) && words.contains("stays held"), "{words}");
    assert_eq!(stage.records("postDrained"), 1, "{}", stage.journal());
    assert!(!is_active(&stage).await && applied(&stage).await == 1);
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256);

    // Rancher orders what runs: it may go.
    order_of_rancher(&stage, TO).await;
    stage.machine.must_run(&["rm", "/var/lib/rancher/agent/plan/rke2"]).await.unwrap();
    let done = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_eq!(done.status.code(), Some(0), "{}\n{}", said(&done), stage.journal());
    assert!(is_active(&stage).await);
    let left =
        stage.machine.run(&["ls", "/etc/systemd/system/rancher-system-agent.service.d"]).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "", "no drop-in is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_upgrade_lets_it_go_as_it_was() {
    let stage = Stage::shared(Cast::named("norancher").movable("app", |_| {})).await.unwrap();
    install(&stage).await;
    // Its operator had stopped it.
    stage.machine.must_run(&["systemctl", "stop", UNIT]).await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let child = stage.start_agent(agent(), &ONCE).unwrap();
    stage.kill_at(child, "cordoned", 1, "swapIntent").await.unwrap();
    let name = upgrade_agent::cluster::names::safe_concat(&[&stage.upgrade, &stage.node]);
    let cancel = json!({"spec": {"control": "Cancel"}});
    stage.orders().patch(&name, &PatchParams::default(), &Patch::Merge(&cancel)).await.unwrap();
    let output = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert!(stage.journal().contains("installerReleased"), "{}\n{}", said(&output), stage.journal());
    assert!(!is_active(&stage).await && applied(&stage).await == 1, "it is not started where it did not run");
    stage.machine.must_run(&["systemctl", "start", UNIT]).await.unwrap();
    stage.wait("its next start", async || applied(&stage).await == 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_immutable_flag_an_installer_fails_instead_of_being_undone() {
    let stage = Stage::shared(Cast::app_and_slow_pci("flag")).await.unwrap();
    stage.order_plan(Control::Run, |plan| plan.immutable_binary = true).await.unwrap();
    // Long enough to be at it before the new RKE2 counts as verified.
    let child = stage.start_agent(agent(), &["node", "--once", "--soak-seconds", "30"]).unwrap();
    let install = ["cp", "--remove-destination", "/bin/true", support::LIVE];
    for record in ["cordoned", "restarted"] {
        stage.wait(record, async || stage.records(record) > 0).await.unwrap();
        let refused = stage.machine.run(&install).await.unwrap();
        assert!(!refused.status.success(), "after {record}");
    }
    let output =
        tokio::time::timeout(Duration::from_mins(15), child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stage.journal());
    assert_eq!(stage.records("alienFound"), 0, "nothing was to be undone");
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256);
    stage.machine.must_run(&install).await.expect("the flag is gone at the end");
}
