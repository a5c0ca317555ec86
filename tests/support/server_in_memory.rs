//! One of three servers in memory, with etcd on all of them, and a run on it that has come as far as its swap.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use upgrade_agent::flow::record::Record;
use upgrade_agent::sim::machine::etcd::{EtcdMember, EtcdTrouble};
use upgrade_agent::sim::machine::release::{binary, sha256};
use upgrade_agent::sim::seed::{Preset, Storage};

use crate::node_in_memory::NodeInMemory;

pub(crate) const LIVE: &str = "/opt/rke2/bin/rke2";
pub(crate) const NEW: &str = "v1.35.6+rke2r1";
pub(crate) const OLD: &str = "v1.34.2+rke2r1";

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
