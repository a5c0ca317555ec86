//! Somebody else's binary at the live path at moments when the agent is itself at work there: in the middle of the swap, and while
//! the new RKE2 takes its time to start. A real systemd, and another root.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use asserts::{agent, said};
use support::cast::Cast;
use support::{LIVE, Stage, TO};
use upgrade_agent::cluster::crd::node_upgrade::Control;

const ONCE: [&str; 2] = ["node", "--once"];

/// Another binary, in place of the live one in one rename this long after the line was written.
fn strikes(stage: &Stage, record: &'static str, later: Duration) -> std::thread::JoinHandle<()> {
    let disk = stage.machine.disk().to_path_buf();
    let at = |path: &str| -> PathBuf { disk.join(path) };
    let journal = at(&format!("var/lib/rancher/upgrade-agent/{}/journal.jsonl", stage.upgrade_uid));
    let (live, theirs) = (at("opt/rke2/bin/rke2"), at("opt/rke2/bin/theirs"));
    std::fs::copy("/bin/true", &theirs).unwrap();
    std::thread::spawn(move || {
        while !std::fs::read_to_string(&journal).unwrap_or_default().contains(record) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(later);
        std::fs::rename(&theirs, &live).unwrap();
    })
}

/// Where in the step it strikes is left to chance: before the gate, after it, or just after the rename.
#[tokio::test(flavor = "multi_thread")]
async fn who_replaces_the_binary_in_the_middle_of_the_swap_is_undone_and_the_run_goes_on() {
    for (name, later) in [("early", 5), ("middle", 20), ("late", 60)] {
        let stage = Stage::shared(Cast::patch_level(name)).await.unwrap();
        let old = stage.live_sha256().await.unwrap();
        stage.order(Control::Run).await.unwrap();
        let theirs = strikes(&stage, "\"record\":\"noSnapshot\"", Duration::from_millis(later));
        let held = stage.run_agent(agent(), &ONCE).await.unwrap();
        theirs.join().unwrap();
        let now = stage.live_sha256().await.unwrap();
        match held.status.code() {
            Some(4) => {
                assert!(said(&held).contains("replaced by somebody else"), "{name}: {}", said(&held));
                assert_eq!(stage.records("alienFound"), 1, "{name}: {}", stage.journal());
                assert!(now == old || now == stage.new_sha256, "{name}: an approved one is in place again");
                let done = stage.run_agent(agent(), &ONCE).await.unwrap();
                assert_eq!(done.status.code(), Some(0), "{name}: {}\n{}", said(&done), stage.journal());
                assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256, "{name}");
            }
            // Ours was renamed over theirs.
            Some(0) => assert_eq!(now, stage.new_sha256, "{name}: {}", stage.journal()),
            // It came as late as the restart: the guard put the old one in the place of theirs, and that is what came up.
            Some(1) => assert_eq!(now, old, "{name}: {}", stage.journal()),
            code => panic!("{name}: {code:?} {}\n{}", said(&held), stage.journal()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_replaces_it_while_the_new_one_hangs_is_undone_and_keeps_nobody_from_going_back() {
    let stage = Stage::shared(Cast::patch_level("hangs")).await.unwrap();
    let old = stage.live_sha256().await.unwrap();
    stage.machine.set_rke2_fault(&format!("{TO} hang\n")).unwrap();
    stage.order(Control::Run).await.unwrap();
    let child = stage.start_agent(agent(), &ONCE).unwrap();
    stage.wait("restartIntent", async || stage.records("restartIntent") > 0).await.unwrap();
    let hangs = async || stage.running_sha256().await.is_ok_and(|running| running == stage.new_sha256);
    stage.wait("the new one to hang", hangs).await.unwrap();
    stage.machine.must_run(&["cp", "--remove-destination", "/bin/true", LIVE]).await.unwrap();
    let held =
        tokio::time::timeout(Duration::from_mins(15), child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(held.status.code(), Some(4), "{}", stage.journal());
    assert_eq!(stage.records("alienFound"), 1, "{}", stage.journal());
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256, "the approved one is in place again");
    // Once more, with nobody at work.
    stage.machine.must_run(&["cp", "--remove-destination", "/bin/true", LIVE]).await.unwrap();
    let back = stage.run_agent(agent(), &["rollback", "--yes"]).await.unwrap();
    assert_eq!(back.status.code(), Some(1), "rolled back: {}\n{}", said(&back), stage.journal());
    assert_eq!(stage.live_sha256().await.unwrap(), old, "{}", stage.journal());
}

/// RKE2's installer without a prefix brings a binary of its own, and whoever calls it a unit that starts it.
#[tokio::test(flavor = "multi_thread")]
async fn who_changes_the_unit_behind_the_fence_starts_no_other_binary() {
    let stage = Stage::shared(Cast::patch_level("pinned")).await.unwrap();
    let old = stage.live_sha256().await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let child = stage.start_agent(agent(), &ONCE).unwrap();
    stage.kill_at(child, "preDrained", 1, "swapIntent").await.unwrap();
    let (unit, theirs) = ("/etc/systemd/system/rke2-server.service", "/usr/local/bin/rke2");
    let staged = format!("/opt/rke2/.stage/{TO}/bin/rke2");
    stage.machine.must_run(&["install", "-D", &staged, theirs]).await.unwrap();
    let change = format!("s,^ExecStart=/opt/rke2/bin/rke2,ExecStart={theirs},");
    stage.machine.must_run(&["sed", "-i", &change, unit]).await.unwrap();
    stage.machine.must_run(&["systemctl", "daemon-reload"]).await.unwrap();
    let pid = stage.rke2_pid().await.unwrap();
    stage.machine.must_run(&["kill", "-9", &pid]).await.unwrap();
    let anew = async || stage.rke2_pid().await.is_ok_and(|now| now != pid);
    stage.wait("another life of RKE2", anew).await.unwrap();
    stage.machine.wait_active("rke2-server", Duration::from_mins(15)).await.unwrap();
    assert_eq!(stage.running_sha256().await.unwrap(), old);
    // Without the fence theirs would be started at the next crash.
    let held = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_eq!(held.status.code(), Some(4), "{}\n{}", said(&held), stage.journal());
    assert!(said(&held).contains(theirs), "{}", said(&held));
    let runs = async || {
        let pid = stage.rke2_pid().await.unwrap();
        stage.machine.must_run(&["readlink", &format!("/proc/{pid}/exe")]).await.unwrap().trim().to_owned()
    };
    assert_eq!(runs().await, LIVE, "the new one was started from where it was swapped in");
    let change = format!("s,^ExecStart={theirs},ExecStart=/opt/rke2/bin/rke2,");
    stage.machine.must_run(&["sed", "-i", &change, unit]).await.unwrap();
    stage.machine.must_run(&["systemctl", "daemon-reload"]).await.unwrap();
    let done = stage.run_agent(agent(), &ONCE).await.unwrap();
    assert_eq!(done.status.code(), Some(0), "{}\n{}", said(&done), stage.journal());
    assert_eq!(runs().await, LIVE);
}
