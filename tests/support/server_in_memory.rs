//! One of three servers in memory, with etcd on all of them, and a run on it that has come as far as its swap.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use upgrade_agent::agent::perform::perform;
use upgrade_agent::flow::plan::Role;
use upgrade_agent::flow::record::Record;
use upgrade_agent::flow::step::Step;
use upgrade_agent::host::clock::Clock;
use upgrade_agent::journal::Journal;
use upgrade_agent::sim::machine::etcd::{EtcdMember, EtcdTrouble};
use upgrade_agent::sim::machine::image::STATE_DIR;
use upgrade_agent::sim::machine::release::{binary, sha256};
use upgrade_agent::sim::seed::{Preset, Storage};

use crate::node_in_memory::NodeInMemory;

pub(crate) const LIVE: &str = "/opt/rke2/bin/rke2";
pub(crate) const NEW: &str = "v1.35.6+rke2r1";
pub(crate) const OLD: &str = "v1.34.2+rke2r1";

const STAGED: &str = "/opt/rke2/.stage/v1.35.6+rke2r1/bin/rke2";

/// What is wrong with each of the three members; the first is the machine's own.
pub(crate) type Troubles = Arc<Mutex<[Option<EtcdTrouble>; 3]>>;

/// One of three servers, on which the new binary has just been put in place. Nobody runs there.
pub(crate) async fn swapped() -> (NodeInMemory, Troubles) {
    swapped_from(&sha256(&binary(OLD))).await
}

pub(crate) async fn swapped_from(old: &str) -> (NodeInMemory, Troubles) {
    let (mut node, troubles) = swapping_from(old).await;
    node.run.record(Record::Swapped).unwrap();
    node.machine.change_disk(|disk| disk.install(LIVE, binary(NEW), 0o755)).unwrap();
    (node, troubles)
}

/// The intent is on disk; the old binary is live.
pub(crate) async fn swapping_from(old: &str) -> (NodeInMemory, Troubles) {
    let preset = Preset { storage: Storage::None, ..Preset::sized(3, 0, 0) };
    let mut node = NodeInMemory::new(&preset).await;
    let troubles = Troubles::default();
    let shown = Arc::clone(&troubles);
    node.machine.set_etcd(Arc::new(move || {
        let members = ["node1", "node2", "node3"].into_iter().zip(*shown.lock().unwrap());
        members
            .map(|(name, trouble)| EtcdMember { is_own: name == "node1", trouble, ..EtcdMember::well(name) })
            .collect()
    }));
    let new = binary(NEW);
    for record in [
        Record::LedgerWritten { vms: Vec::new() },
        Record::PreDrained,
        Record::Drained { evicted: 0 },
        Record::SwapIntent {
            from_sha256: old.to_owned(),
            to_sha256: sha256(&new),
            previous: format!("{LIVE}.prev"),
            is_only_server: false,
        },
    ] {
        node.run.record(record).unwrap();
    }
    (node, troubles)
}

pub(crate) fn set_trouble(troubles: &Troubles, member: usize, trouble: Option<EtcdTrouble>) {
    if let Some(known) = troubles.lock().unwrap().get_mut(member) {
        *known = trouble;
    }
}

/// All that the gate asks for is there; the old binary is live, the new one staged, and nothing of the swap is begun.
pub(crate) async fn before_swap() -> NodeInMemory {
    let preset = Preset { storage: Storage::None, ..Preset::sized(3, 0, 0) };
    let mut node = NodeInMemory::new(&preset).await;
    let members = || {
        ["node1", "node2", "node3"]
            .map(|name| EtcdMember { is_own: name == "node1", ..EtcdMember::well(name) })
    };
    node.machine.set_etcd(Arc::new(move || members().to_vec()));
    // Its journal begins with binaries that nobody has.
    let run = &mut node.run;
    "0f8f2b0e-0000-4000-8000-000000000002".clone_into(&mut run.plan.upgrade_uid);
    let (clock, fs) = (Clock::from(run.now(), Instant::now()), run.host.root.fs().clone());
    run.journal = Journal::open(&fs, Path::new(STATE_DIR), &run.plan, "boot-1", clock).unwrap();
    node.machine.change_disk(|disk| disk.install(STAGED, binary(NEW), 0o755)).unwrap();
    let live_sha256 = fs.sha256_file(Path::new(LIVE)).unwrap();
    let (unit, live) = ("rke2-server.service".to_owned(), LIVE.to_owned());
    run.record(Record::Preflighted { role: Role::Server, unit, live, live_sha256 }).unwrap();
    run.record(Record::Staged { binary: STAGED.to_owned(), sha256: sha256(&binary(NEW)) }).unwrap();
    perform(run, Step::Fence).await.unwrap();
    perform(run, Step::Cordon).await.unwrap();
    for record in [
        Record::LedgerWritten { vms: Vec::new() },
        Record::PreDrained,
        Record::Drained { evicted: 0 },
        Record::SnapshotTaken { file: "/snapshots/pre".to_owned(), bytes: 1 },
    ] {
        run.record(record).unwrap();
    }
    node
}
