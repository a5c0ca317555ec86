//! What somebody else changes around the live binary between fence and swap, on a machine in memory: the unit that starts it, and
//! the copy that the way back needs.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/node_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod node_in_memory;
#[path = "support/server_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod server_in_memory;

use std::path::Path;
use std::sync::Arc;

use tokio::time::Duration;
use upgrade_agent::agent::guard;
use upgrade_agent::agent::step_error::Reaction;
use upgrade_agent::agent::steps::swap::swap_binary;
use upgrade_agent::flow::guard::Kept;
use upgrade_agent::host::fence::{self, FenceState};
use upgrade_agent::host::systemd::{BusAddress, Systemd};
use upgrade_agent::sim::machine::life::LifePlan;
use upgrade_agent::sim::machine::release::{binary, sha256};

use node_in_memory::NodeInMemory;
use server_in_memory::{LIVE, NEW, before_swap};

const UNIT: &str = "rke2-server.service";
const FILE: &str = "/etc/systemd/system/rke2-server.service";
const FENCE: &str = "zzz-upgrade-agent-fence.conf";
const THEIRS: &str = "/usr/local/bin/rke2";
const THEIR_VERSION: &str = "v1.36.1+rke2r1";

fn sha256_at(node: &NodeInMemory, path: &str) -> String {
    sha256(&node.machine.disk().read(Path::new(path)).unwrap())
}

/// RKE2's installer without a prefix: a binary of its own, and a unit that starts it.
async fn installs_elsewhere(node: &NodeInMemory) {
    let unit = String::from_utf8(node.machine.disk().read(Path::new(FILE)).unwrap().to_vec()).unwrap();
    node.machine.change_disk(|disk| {
        disk.install(THEIRS, binary(THEIR_VERSION), 0o755).unwrap();
        disk.unlink(Path::new(FILE)).unwrap();
        disk.install(FILE, unit.replace(LIVE, THEIRS), 0o644).unwrap();
    });
    node.run.host.systemd.reload().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn behind_the_fence_the_unit_starts_what_the_guard_has_looked_at_whoever_changes_its_file() {
    let mut node = before_swap().await;
    let (root, state) = (node.run.host.root.clone(), node.run.journal.state_dir().to_path_buf());
    let (uid, old) = (node.run.plan.upgrade_uid.clone(), sha256_at(&node, LIVE));
    node.machine.set_guard(Arc::new(move |_| guard::stand(&root, &state, &uid).is_ok()));
    installs_elsewhere(&node).await;
    let before = node.machine.starts().len();
    node.machine.crash_rke2(9);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let starts = node.machine.starts_since(before);
    assert!(!starts.is_empty());
    assert!(starts.iter().all(|start| start.sha256 == old), "{starts:?}");
    assert_eq!(node.run.host.systemd.unit(UNIT).await.unwrap().program(), Some(LIVE));
    swap_binary(&mut node.run).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_later_drop_in_that_names_another_binary_keeps_the_swap_from_beginning() {
    let mut node = before_swap().await;
    let old = sha256_at(&node, LIVE);
    let drop_in = format!("/etc/systemd/system/{UNIT}.d/zzzz-theirs.conf");
    let text = format!("[Service]\nExecStart=\nExecStart={THEIRS} server\n");
    node.machine.change_disk(|disk| {
        disk.install(THEIRS, binary(THEIR_VERSION), 0o755).unwrap();
        disk.install(&drop_in, text, 0o644).unwrap();
    });
    node.run.host.systemd.reload().await.unwrap();
    let refused = swap_binary(&mut node.run).await.unwrap_err().sentence();
    assert!(refused.contains(THEIRS) && refused.contains("systemctl cat"), "{refused}");
    assert_eq!(sha256_at(&node, LIVE), old);
}

#[tokio::test(start_paused = true)]
async fn a_later_drop_in_that_keeps_systemd_from_asking_the_guard_keeps_the_swap_from_beginning() {
    let mut node = before_swap().await;
    let old = sha256_at(&node, LIVE);
    let drop_in = format!("/etc/systemd/system/{UNIT}.d/zzzz-theirs.conf");
    let text = "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/true\n";
    node.machine.change_disk(|disk| disk.install(&drop_in, text, 0o644)).unwrap();
    node.run.host.systemd.reload().await.unwrap();
    let refused = swap_binary(&mut node.run).await.unwrap_err().sentence();
    assert!(refused.contains("systemctl cat") && refused.contains("later drop-in"), "{refused}");
    assert_eq!(sha256_at(&node, LIVE), old);
    node.machine.change_disk(|disk| disk.unlink(Path::new(&drop_in))).unwrap();
    node.run.host.systemd.reload().await.unwrap();
    swap_binary(&mut node.run).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_later_drop_in_that_calls_it_with_other_arguments_costs_nothing() {
    let mut node = before_swap().await;
    let drop_in = format!("/etc/systemd/system/{UNIT}.d/zzzz-theirs.conf");
    let text = format!("[Service]\nExecStart=\nExecStart={LIVE} server --debug\n");
    node.machine.change_disk(|disk| disk.install(&drop_in, text, 0o644)).unwrap();
    node.run.host.systemd.reload().await.unwrap();
    swap_binary(&mut node.run).await.unwrap();
    assert_eq!(sha256_at(&node, LIVE), sha256(&binary(NEW)));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_does_not_answer_is_asked_again_and_voids_nothing() {
    let mut node = before_swap().await;
    let gone = node.machine.life(LifePlan::quiet());
    let bus = BusAddress::Given(gone.bus().await.unwrap());
    node.run.host.systemd = Systemd::connect(&bus).await.unwrap();
    gone.die();
    let error = swap_binary(&mut node.run).await.unwrap_err();
    assert_eq!(error.reaction, Reaction::Retry, "{}", error.sentence());
    assert!(node.run.journal.pre_drain_receipt().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_would_start_once_the_fence_is_gone_is_looked_at_before_it_goes() {
    let node = before_swap().await;
    let (host, uid) = (node.run.host.clone(), node.run.plan.upgrade_uid.clone());
    let pinned =
        || node.machine.disk().read(Path::new(&format!("/etc/systemd/system/{UNIT}.d/{FENCE}"))).ok();
    let (before, unit) = (pinned().unwrap(), node.machine.disk().read(Path::new(FILE)).unwrap());
    installs_elsewhere(&node).await;
    for _ in 0..2 {
        let refused = fence::lower(&host, &[UNIT], &uid, LIVE).await.unwrap_err().to_string();
        assert!(refused.contains(THEIRS) && refused.contains(LIVE), "{refused}");
        assert_eq!(fence::state(&host, UNIT, &uid).await.unwrap(), FenceState::Ours);
        assert_eq!(pinned(), Some(before.clone()));
    }
    node.machine.change_disk(|disk| {
        disk.unlink(Path::new(FILE)).unwrap();
        disk.install(FILE, unit.to_vec(), 0o644).unwrap();
    });
    host.systemd.reload().await.unwrap();
    fence::lower(&host, &[UNIT], &uid, LIVE).await.unwrap();
    assert_eq!((fence::state(&host, UNIT, &uid).await.unwrap(), pinned()), (FenceState::Absent, None));
}

#[tokio::test(start_paused = true)]
async fn the_old_binary_is_kept_anew_when_somebody_has_spoiled_the_kept_one() {
    for spoiled in [Some("cut off"), None] {
        let mut node = before_swap().await;
        let (kept, old) = (Kept::of(LIVE, &node.run.plan.rke2).old, sha256_at(&node, LIVE));
        node.machine.change_disk(|disk| {
            disk.unlink(Path::new(&kept)).unwrap();
            if let Some(text) = spoiled {
                disk.install(&kept, text, 0o755).unwrap();
            }
        });
        swap_binary(&mut node.run).await.unwrap();
        assert_eq!(sha256_at(&node, LIVE), sha256(&binary(NEW)));
        assert_eq!(sha256_at(&node, &kept), old, "{spoiled:?}");
    }
}
