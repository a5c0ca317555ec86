//! What preflight says of a machine in memory: its disks, its installation, the runtime images, etcd. Reading changes nothing.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/node_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod node_in_memory;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use node_in_memory::NodeInMemory;
use upgrade_agent::agent::checks::{Check, CheckVerdict, check_all};
use upgrade_agent::agent::steps::stage::stage_binary;
use upgrade_agent::flow::plan::{NodePlan, Role};
use upgrade_agent::flow::record::Record;
use upgrade_agent::host::clock::Clock;
use upgrade_agent::journal::{Journal, path_of};
use upgrade_agent::sim::machine::disk::Disk;
use upgrade_agent::sim::machine::etcd::{EtcdMember, EtcdTrouble};
use upgrade_agent::sim::machine::image::{ARTIFACT, STATE_DIR};
use upgrade_agent::sim::seed::Preset;

const DATA: &str = "/var/lib/rancher/rke2";
const NEW: &str = "rancher/rke2-runtime:v1.35.6-rke2r1";
const OLD: &str = "rancher/rke2-runtime:v1.34.2-rke2r1";

async fn node() -> NodeInMemory {
    let mut node = NodeInMemory::new(&Preset::default()).await;
    node.run.plan.artifacts.source = format!("file://{ARTIFACT}");
    node
}

async fn rows(node: &NodeInMemory) -> BTreeMap<&'static str, Check> {
    let (run, state) = (&node.run, Path::new(STATE_DIR));
    let preflight = check_all(&run.host, &run.cluster, &run.plan, state).await;
    preflight.checks.into_iter().map(|check| (check.check, check)).collect()
}

/// What happens to a machine's disks.
type Change = fn(&mut Disk);

/// The row passes, or fails with these words and a cure.
async fn expect(node: &NodeInMemory, name: &str, fails: bool, words: &str) {
    let rows = rows(node).await;
    let row = &rows[name];
    let verdict = if fails { CheckVerdict::Fail } else { CheckVerdict::Pass };
    assert_eq!(row.verdict, verdict, "{row:?}");
    assert!(row.why.contains(words), "{row:?} should say {words}");
    assert_eq!(row.fix.is_empty(), !fails, "{row:?}");
}

/// An archive as `docker save` writes it.
fn archive(images: &[&str]) -> Vec<u8> {
    let manifest = serde_json::to_vec(&serde_json::json!([{ "RepoTags": images }])).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    header.set_cksum();
    builder.append_data(&mut header, "manifest.json", manifest.as_slice()).unwrap();
    builder.into_inner().unwrap()
}

fn put(node: &NodeInMemory, path: &str, content: &[u8]) {
    let path = format!("{DATA}/{path}");
    node.machine.change_disk(|disk| disk.install(path, content, 0o644)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn room_is_computed_before_anything_is_written() {
    let mut node = node().await;
    // On this layout prefix and data folder are bind mounts of one partition.
    expect(&node, "disk space", false, "/opt/rke2 and /var/lib/rancher/rke2: 57").await;
    let table: [(Change, &str); 3] = [
        (|disk| disk.set_free("/opt", 300 << 20).unwrap(), "are one file system that needs 57"),
        (|disk| disk.set_free("/run", 15 << 20).unwrap(), "/run needs 16 MiB, 15 are free"),
        (|disk| disk.set_free_files("/opt", Some(500)).unwrap(), "578 files, 500 are free"),
    ];
    for (change, words) in table {
        let whole = node.machine.disk();
        node.machine.change_disk(change);
        let before = node.machine.disk_changes();
        expect(&node, "disk space", true, words).await;
        let refused = stage_binary(&mut node.run).await.unwrap_err().sentence();
        assert!(refused.contains(words) && refused.contains("free space there"), "{refused}");
        assert_eq!(node.machine.disk_changes(), before, "nothing was written");
        node.machine.change_disk(|disk| *disk = whole);
    }
    // What is unpacked already need not be unpacked again.
    put(&node, "data/v1.35.6-rke2r1-7a33eeffe5c4/bin/kubelet", b"x");
    put(&node, "data/v1.35.6-rke2r1-7a33eeffe5c4/charts/rke2-canal.yaml", b"x");
    put(&node, "data/v1.35.6-rke2r1-7a33eeffe5c4/.extracted", b"x");
    node.machine.change_disk(|disk| disk.set_free("/opt", 300 << 20)).unwrap();
    expect(&node, "disk space", false, "of 300 MiB").await;
    node.run.plan.artifacts.source = "file:///no/such/release".to_owned();
    let row = rows(&node).await.remove("disk space").unwrap();
    assert!(row.verdict == CheckVerdict::CouldNotTell && row.why.contains("/no/such/release"), "{row:?}");
    // A server that does not even say how long it is may send the most that is taken, twice over while it is unpacked.
    node.run.plan.artifacts.source = "http://127.0.0.1:9/rke2.linux-amd64.tar.gz".to_owned();
    expect(&node, "disk space", true, "the fetched release").await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_stands_half_way_is_named() {
    let node = node().await;
    expect(&node, "other upgrades", false, "none").await;
    let plan = NodePlan { upgrade_uid: "uid-of-yesterday".to_owned(), ..node.run.plan.clone() };
    let (fs, clock) = (node.run.host.root.fs(), Clock::system());
    let mut journal = Journal::open(fs, Path::new(STATE_DIR), &plan, "boot-1", clock).unwrap();
    expect(&node, "other upgrades", false, "none").await;
    let (unit, live) = ("rke2-server.service".to_owned(), "/opt/rke2/bin/rke2".to_owned());
    for record in [
        Record::Preflighted { role: Role::Server, unit: unit.clone(), live, live_sha256: "old".into() },
        Record::Staged { binary: "/opt/rke2/.stage/rke2".into(), sha256: "new".into() },
        Record::FenceIntent { units: vec![unit] },
    ] {
        journal.append(record).unwrap();
    }
    expect(&node, "other upgrades", true, "uid-of-yesterday of this machine has begun and not ended").await;
    fs.append_sync(&path_of(Path::new(STATE_DIR), "uid-of-yesterday"), b"no line\nof a journal\n").unwrap();
    let row = rows(&node).await.remove("other upgrades").unwrap();
    assert!(row.verdict == CheckVerdict::CouldNotTell && row.why.contains("damaged"), "{row:?}");
}

#[tokio::test(start_paused = true)]
async fn both_runtime_images_are_there_or_the_registry_is_named() {
    let node = node().await;
    for name in ["new runtime image", "old runtime image"] {
        expect(&node, name, false, "RKE2 will pull it from its registry").await;
    }
    // With one archive the machine counts as one that reaches no registry.
    put(&node, "agent/images/old.tar", &archive(&[OLD]));
    expect(&node, "old runtime image", false, "in old.tar").await;
    expect(&node, "new runtime image", true, NEW).await;
    put(&node, "agent/images/more.tar.lz4", b"x");
    expect(&node, "new runtime image", true, "cannot look into more.tar.lz4").await;
    put(&node, "agent/images/new.tar", &archive(&["registry.example/rancher/rke2-runtime:v1.35.6-rke2r1"]));
    expect(&node, "new runtime image", false, "in new.tar").await;
    // The old one was cleaned away: no way back.
    node.machine
        .change_disk(|disk| disk.unlink(Path::new("/var/lib/rancher/rke2/agent/images/old.tar")))
        .unwrap();
    expect(&node, "old runtime image", true, OLD).await;
    let config = "data-dir: /data\n";
    node.machine
        .change_disk(|disk| disk.install("/etc/rancher/rke2/config.yaml.d/50.yaml", config, 0o600))
        .unwrap();
    expect(&node, "old runtime image", false, "registry").await;
    node.machine.change_disk(|disk| disk.install("/etc/rancher/rke2/config.yaml", "a: [", 0o600)).unwrap();
    let row = rows(&node).await.remove("old runtime image").unwrap();
    assert!(row.verdict == CheckVerdict::CouldNotTell && row.why.contains("config.yaml"), "{row:?}");
}

#[tokio::test(start_paused = true)]
async fn a_prefix_that_cannot_be_written_is_refused() {
    let node = node().await;
    expect(&node, "install prefix", false, "/opt/rke2, unit file /etc/systemd/system/rke2-server.service")
        .await;
    let device = node.machine.disk().stat(Path::new("/opt"), true).unwrap().device;
    node.machine.change_disk(|disk| disk.set_read_only(device, true));
    expect(&node, "install prefix", true, "mounted read-only").await;
}

#[tokio::test(start_paused = true)]
async fn etcd_has_its_own_word() {
    let node = node().await;
    expect(&node, "etcd members", false, "API is away").await;
    let members = |third: EtcdMember| {
        let own = EtcdMember { is_own: true, ..EtcdMember::well("node1") };
        node.machine.set_etcd(Arc::new(move || vec![own.clone(), EtcdMember::well("node2"), third.clone()]));
    };
    members(EtcdMember::well("node3"));
    expect(&node, "etcd members", false, "2 other members").await;
    members(EtcdMember::with("node3", EtcdTrouble::Silent));
    expect(&node, "etcd members", true, "node3-etcd does not answer").await;
    members(EtcdMember::with("node3", EtcdTrouble::Alarm(1)));
    expect(&node, "etcd members", true, "NOSPACE").await;
    let keys = Path::new("/var/lib/rancher/rke2/server/tls/etcd/client.key");
    node.machine.change_disk(|disk| disk.unlink(keys)).unwrap();
    let row = rows(&node).await.remove("etcd members").unwrap();
    assert!(row.verdict == CheckVerdict::CouldNotTell && row.why.contains("client.key"), "{row:?}");
}
