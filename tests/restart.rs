//! The restart of a server's RKE2, on a machine and a cluster in memory: whether etcd can spare the member is asked right before
//! it, however long ago the swap was.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/node_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod node_in_memory;
#[path = "support/server_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod server_in_memory;

use std::sync::{Arc, Mutex};

use http::Method;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::time::{Duration, Instant};
use upgrade_agent::agent::guard::mark_of;
use upgrade_agent::agent::perform::perform;
use upgrade_agent::agent::run::Run;
use upgrade_agent::agent::step_error::{Reaction, StepError};
use upgrade_agent::agent::steps::rollback::Evidence;
use upgrade_agent::agent::steps::{restart, rollback, swap};
use upgrade_agent::flow::record::Record;
use upgrade_agent::flow::step::Step;
use upgrade_agent::host::own_program::path_in;
use upgrade_agent::sim::machine::etcd::EtcdTrouble;
use upgrade_agent::sim::machine::image::PROGRAM;
use upgrade_agent::sim::machine::release::{binary, sha256};

use node_in_memory::NodeInMemory;
use server_in_memory::{LIVE, NEW, OLD, set_trouble, swapped, swapped_from, swapping_from};

/// The run goes back, and an RKE2 that is not the one in place still runs.
fn goes_back(node: &mut NodeInMemory) {
    node.machine.change_disk(|disk| disk.install(LIVE, binary(OLD), 0o755)).unwrap();
    node.run.record(Record::RollbackIntent { why: "it does not serve".to_owned() }).unwrap();
    node.run.record(Record::RolledBack).unwrap();
}

/// The new binary is in place and runs, and the run has decided to go back; the old one is kept.
fn gives_up(node: &mut NodeInMemory, old: Vec<u8>) {
    node.machine.change_disk(|disk| disk.install(format!("{LIVE}.prev"), old, 0o755)).unwrap();
    node.run.record(Record::RollbackIntent { why: "it does not serve".to_owned() }).unwrap();
}

fn not_ready(node: &NodeInMemory, name: &str) {
    let conditions = json!([{"type": "Ready", "status": "False"}]);
    let body = json!({"status": {"conditions": conditions}});
    node.server.call(&Method::PATCH, &format!("/api/v1/nodes/{name}/status"), &body).unwrap();
}

fn is_restarted(run: &Run) -> bool {
    run.journal.entries().iter().any(|entry| matches!(entry.record, Record::Restarted { .. }))
}

async fn restart(node: &mut NodeInMemory) -> Result<(), StepError> {
    restart::restart_rke2(&mut node.run).await
}

#[tokio::test(start_paused = true)]
async fn a_member_that_falls_ill_after_the_swap_is_waited_for_and_named() {
    for (trouble, words) in [
        (EtcdTrouble::Silent, "member node2-etcd does not answer"),
        (EtcdTrouble::Behind(5000), "member node2-etcd is 5000 entries behind"),
        (EtcdTrouble::Alarm(2), "CORRUPT for member node2-etcd"),
    ] {
        let (mut node, troubles) = swapped().await;
        set_trouble(&troubles, 1, Some(trouble));
        let (machine, mut report) = (node.machine.clone(), node.ears.report.clone());
        let look = async {
            let told = report.wait_for(|report| {
                let known = report.blockers.iter().find(|blocker| blocker.what.contains("etcd cannot spare"));
                known.is_some_and(|blocker| blocker.what.contains(words) && blocker.deadline.is_some())
            });
            drop(tokio::time::timeout(Duration::from_mins(5), told).await.expect(words).unwrap());
            tokio::time::sleep(Duration::from_mins(10)).await;
            assert_eq!(machine.starts(), [], "{words}: nothing was restarted meanwhile");
            set_trouble(&troubles, 1, None);
        };
        let (restarted, ()) = tokio::join!(restart::restart_rke2(&mut node.run), look);
        restarted.unwrap();
        assert!(is_restarted(&node.run), "{words}: it goes on once the member is well");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_stays_ill_is_an_operators_and_nothing_was_restarted() {
    let (mut node, troubles) = swapped().await;
    set_trouble(&troubles, 2, Some(EtcdTrouble::Silent));
    let began = Instant::now();
    let held = restart(&mut node).await.unwrap_err().sentence();
    assert!(held.contains("node3-etcd does not answer") && held.contains("then resume"), "{held}");
    assert!(held.contains(NEW) && began.elapsed() < Duration::from_hours(1), "{held}");
    assert_eq!(node.machine.starts(), []);

    // Also when the agent died after it had written down what it was about to do.
    let invocation = node.run.host.systemd.unit("rke2-server.service").await.unwrap().invocation_id;
    node.run.record(Record::RestartIntent { invocation }).unwrap();
    let held = restart::probe_restart(&mut node.run).await.unwrap_err().sentence();
    assert!(held.contains("node3-etcd does not answer"), "{held}");
    assert_eq!(node.machine.starts(), []);
    set_trouble(&troubles, 2, None);
    restart::probe_restart(&mut node.run).await.unwrap();
    assert!(is_restarted(&node.run));
}

/// What the other servers' Nodes say counts as well.
#[tokio::test(start_paused = true)]
async fn another_server_that_is_not_ready_is_waited_for() {
    let (mut node, _) = swapped().await;
    not_ready(&node, "node2");
    let held = restart(&mut node).await.unwrap_err().sentence();
    assert!(held.contains("server node2 is not Ready"), "{held}");
}

/// Its member is gone with it, or will be: bringing it up is what helps the others.
#[tokio::test(start_paused = true)]
async fn an_rke2_that_is_at_rest_is_started_whatever_the_others_do() {
    let (mut node, troubles) = swapped().await;
    let soon = Instant::now() + Duration::from_mins(3);
    node.run.host.systemd.stop_fenced("rke2-server.service", soon).await.unwrap();
    set_trouble(&troubles, 1, Some(EtcdTrouble::Silent));
    restart(&mut node).await.unwrap();
    assert!(is_restarted(&node.run));
}

/// RKE2 gives up on an API server after a quarter of an hour; where systemd leaves it at that, it is started again.
#[tokio::test(start_paused = true)]
async fn an_rke2_that_gave_up_on_the_cluster_is_started_again_and_not_put_back() {
    let (mut node, _) = swapped().await;
    let (machine, systemd) = (node.machine.clone(), node.run.host.systemd.clone());
    let gives_up = async {
        while machine.starts().is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        machine.cut_off(Duration::from_mins(17));
        tokio::time::sleep(Duration::from_mins(16)).await;
        systemd.stop_fenced("rke2-server.service", Instant::now() + Duration::from_mins(3)).await.unwrap();
    };
    let (restarted, ()) = tokio::join!(restart::restart_rke2(&mut node.run), gives_up);
    restarted.unwrap();
    assert!(is_restarted(&node.run) && !node.run.journal.progress().goes_back());
}

#[tokio::test(start_paused = true)]
async fn on_the_way_back_only_the_others_count() {
    // The own member is what is broken: that is no reason to leave it so, unless another one is away as well.
    for (own, other, goes) in [
        (Some(EtcdTrouble::Silent), None, true),
        (Some(EtcdTrouble::Silent), Some(EtcdTrouble::Silent), true),
        (Some(EtcdTrouble::Alarm(2)), None, true),
        (Some(EtcdTrouble::Alarm(2)), Some(EtcdTrouble::Silent), false),
        (None, Some(EtcdTrouble::Silent), false),
    ] {
        let (mut node, troubles) = swapped().await;
        goes_back(&mut node);
        set_trouble(&troubles, 0, own);
        set_trouble(&troubles, 1, other);
        match restart(&mut node).await {
            Ok(()) => assert!(goes && is_restarted(&node.run), "{own:?} {other:?}"),
            Err(held) => {
                assert!(
                    !goes && held.sentence().contains("node2-etcd does not answer"),
                    "{own:?}: {}",
                    held.sentence()
                );
                assert_eq!(node.machine.starts(), []);
            }
        }
    }
    // Forward the same member has to be asked.
    let (mut node, troubles) = swapped().await;
    set_trouble(&troubles, 0, Some(EtcdTrouble::Silent));
    let held = restart(&mut node).await.unwrap_err().sentence();
    assert!(held.contains("etcd cannot be asked"), "{held}");
}

/// etcd's container runs on until the old RKE2 replaces it: the new one is not stopped while another member is away.
#[tokio::test(start_paused = true)]
async fn the_old_binary_is_put_back_once_the_others_can_spare_the_member() {
    let old = binary(OLD);
    let (mut node, troubles) = swapped_from(&sha256(&old)).await;
    gives_up(&mut node, old);
    set_trouble(&troubles, 0, Some(EtcdTrouble::Alarm(2)));
    set_trouble(&troubles, 1, Some(EtcdTrouble::Silent));
    let waits = rollback::put_old_back(&mut node.run).await.unwrap_err();
    assert!(waits.sentence().contains("node2-etcd does not answer"), "{}", waits.sentence());
    assert!(waits.reaction == Reaction::Retry && node.machine.rke2_is_running());
    // Its own member is gone: nothing can be taken away any more.
    set_trouble(&troubles, 0, Some(EtcdTrouble::Silent));
    rollback::put_old_back(&mut node.run).await.unwrap();
    assert!(!node.machine.rke2_is_running());
}

/// On a server whose own API server is the one that is asked, its silence is nobody else's fault where etcd's other members are well.
#[tokio::test(start_paused = true)]
async fn a_silent_api_server_is_the_clusters_fault_only_while_the_other_members_are_not_well() {
    for (trouble, goes) in [(None, true), (Some(EtcdTrouble::Silent), false)] {
        let (mut node, troubles) = swapped().await;
        node.run.plan.rke2.from = "v1.35.2+rke2r1".parse().unwrap();
        set_trouble(&troubles, 1, trouble);
        node.run.cluster.client = Client::new(
            tower::service_fn(async |_: http::Request<Body>| {
                Err::<http::Response<Body>, _>(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
            }),
            "default",
        );
        let what = "it waits for its API server".to_owned();
        match rollback::give_up(&mut node.run, what, Evidence::Silence).await {
            Ok(()) => assert!(goes && node.run.journal.progress().goes_back(), "{trouble:?}"),
            Err(held) => {
                let held = held.sentence();
                assert!(!goes && held.contains("API server does not answer"), "{trouble:?}: {held}");
            }
        }
    }
}

fn has(run: &Run, wanted: impl Fn(&Record) -> bool) -> bool {
    run.journal.entries().iter().any(|entry| wanted(&entry.record))
}

/// Somebody installs another release while RKE2 stops for the restart, and the guard puts the old one back: that is no new RKE2.
#[tokio::test(start_paused = true)]
async fn what_the_guard_let_start_instead_is_not_taken_for_the_new_one() {
    let old = binary(OLD);
    let (mut node, _troubles) = swapped_from(&sha256(&old)).await;
    let machine = node.machine.clone();
    let own = machine.clone();
    machine.set_guard(Arc::new(move |_| {
        own.change_disk(|disk| disk.install(LIVE, old.clone(), 0o755)).unwrap();
        true
    }));
    restart(&mut node).await.unwrap();
    assert!(!is_restarted(&node.run), "the new one has not run");
    assert!(
        has(&node.run, |record| matches!(record, Record::RollbackIntent { .. })),
        "the run ends with the old one"
    );
}

/// The fence is raised again before the restart, whoever took it away: without it no guard would be asked.
#[tokio::test(start_paused = true)]
async fn no_restart_goes_past_a_fence_that_somebody_has_taken_away() {
    let (mut node, _troubles) = swapped().await;
    let asked = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&asked);
    node.machine.set_guard(Arc::new(move |_| {
        *counted.lock().unwrap() += 1;
        true
    }));
    restart(&mut node).await.unwrap();
    assert!(is_restarted(&node.run));
    assert_eq!(*asked.lock().unwrap(), 1, "the guard was asked");
}

/// A pod of a newer agent goes on where an older one died: the older guard may not know what it writes.
#[tokio::test(start_paused = true)]
async fn the_guard_of_an_agent_before_it_is_replaced_before_anything_is_written() {
    let (mut node, _troubles) = swapping_from(&sha256(&binary(OLD))).await;
    let guard = path_in(node.run.journal.state_dir());
    let own = node.machine.disk().read(&node.run.program).unwrap();
    for (path, content) in [(guard.as_path(), b"older".to_vec()), (LIVE.as_ref(), binary(OLD))] {
        node.machine.change_disk(|disk| disk.install(path, content, 0o755)).unwrap();
    }
    node.run.program = "/nowhere".into();
    perform(&mut node.run, Step::ProbeSwap).await.unwrap_err();
    assert!(!has(&node.run, |record| *record == Record::SwapAbsent), "nothing is written before that");
    node.run.program = PROGRAM.into();
    perform(&mut node.run, Step::ProbeSwap).await.unwrap();
    assert!(has(&node.run, |record| *record == Record::SwapAbsent));
    assert_eq!(node.machine.disk().read(&guard).unwrap(), own);
}

/// Renamed, not recorded, started by the boot under the guard, and then an old release is unpacked over it.
#[tokio::test(start_paused = true)]
async fn a_swap_that_has_run_for_good_is_not_taken_for_absent() {
    let old = binary(OLD);
    for is_marked in [false, true] {
        let (mut node, _troubles) = swapping_from(&sha256(&old)).await;
        let next = format!("{LIVE}.next-{NEW}");
        for (path, content) in [(LIVE, &old), (next.as_str(), &binary(NEW))] {
            node.machine.change_disk(|disk| disk.install(path, content.clone(), 0o755)).unwrap();
        }
        if is_marked {
            let mark = mark_of(node.run.journal.state_dir(), &node.run.plan.upgrade_uid);
            node.run.host.root.fs().write_atomic(&mark, b"", 0o600).unwrap();
        }
        swap::probe_swap(&mut node.run).await.unwrap();
        assert_eq!(has(&node.run, |record| *record == Record::Swapped), is_marked);
        let live = node.run.host.root.fs().sha256_file(LIVE.as_ref()).unwrap();
        assert_eq!(live, sha256(&if is_marked { binary(NEW) } else { old.clone() }));
    }
}
