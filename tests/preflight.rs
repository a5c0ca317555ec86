//! What preflight says of a machine in memory: its disks, its installation, the runtime images, etcd. Reading changes nothing. And
//! what staging refuses later, and what is left of it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "preflight/cluster.rs"]
mod cluster;
#[path = "support/node_in_memory.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod node_in_memory;
#[path = "support/saved.rs"]
mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use node_in_memory::NodeInMemory;
use saved::archive;
use tokio::time::Instant;
use upgrade_agent::agent::checks::{Check, CheckVerdict, check_all};
use upgrade_agent::agent::driver::{Ended, drive};
use upgrade_agent::agent::runtime_images;
use upgrade_agent::agent::steps::rollback::put_old_back;
use upgrade_agent::agent::steps::stage::stage_binary;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::flow::artifacts::ImageArchive;
use upgrade_agent::flow::plan::{NodePlan, Role};
use upgrade_agent::flow::progress::{Preflighted, Work};
use upgrade_agent::flow::record::{Outcome, Record};
use upgrade_agent::host::clock::Clock;
use upgrade_agent::journal::{Journal, path_of};
use upgrade_agent::sim::machine::disk::Disk;
use upgrade_agent::sim::machine::image::{ARTIFACT, STATE_DIR};
use upgrade_agent::sim::machine::release::sha256;
use upgrade_agent::sim::seed::Preset;

const DATA: &str = "/var/lib/rancher/rke2";
const NEW: &str = "rancher/rke2-runtime:v1.35.6-rke2r1";
const OLD: &str = "rancher/rke2-runtime:v1.34.2-rke2r1";

async fn node() -> NodeInMemory {
    let mut node = NodeInMemory::new(&Preset::default()).await;
    node.run.plan.artifacts.source = format!("file://{ARTIFACT}");
    node.run.plan.artifacts.sha256 = sha256(&node.machine.disk().read(Path::new(ARTIFACT)).unwrap());
    node
}

/// An upgrade that has come as far as its preflight.
fn begin_anew(node: &mut NodeInMemory) {
    let run = &mut node.run;
    let found = run.journal.progress().preflighted().unwrap().clone();
    "0f8f2b0e-0000-4000-8000-000000000002".clone_into(&mut run.plan.upgrade_uid);
    let clock = Clock::from(run.now(), Instant::now());
    let fs = run.host.root.fs().clone();
    run.journal = Journal::open(&fs, Path::new(STATE_DIR), &run.plan, "boot-1", clock).unwrap();
    let Preflighted { role, unit, live, live_sha256 } = found;
    run.record(Record::Preflighted { role, unit, live, live_sha256 }).unwrap();
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

fn put(node: &NodeInMemory, path: &str, content: &[u8]) {
    let path = format!("{DATA}/{path}");
    node.machine.change_disk(|disk| disk.install(path, content, 0o644)).unwrap();
}

/// A runtime image as RKE2 unpacks it.
fn unpack(node: &NodeInMemory, folder: &str) {
    for file in ["bin/kubelet", "charts/rke2-canal.yaml", ".extracted"] {
        put(node, &format!("data/{folder}/{file}"), b"x");
    }
}

/// All that is in a folder of the machine.
fn names(disk: &Disk, folder: &Path) -> BTreeSet<PathBuf> {
    let below = disk.read_dir(folder).unwrap_or_default();
    below.into_iter().flat_map(|path| names(disk, &path).into_iter().chain([path])).collect()
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
    let whole = node.machine.disk(); // A snapshot of etcd is as large as its database.
    put(&node, "server/db/etcd/member/snap/db", &vec![0; 100 << 20]);
    expect(&node, "disk space", false, "/opt/rke2 and /var/lib/rancher/rke2: 67").await;
    node.machine.change_disk(|disk| *disk = whole);
    // What is unpacked already need not be unpacked again.
    unpack(&node, "v1.35.6-rke2r1-7a33eeffe5c4");
    node.machine.change_disk(|disk| disk.set_free("/opt", 300 << 20)).unwrap();
    expect(&node, "disk space", false, "of 300 MiB").await;
    node.run.plan.artifacts.source = "file:///no/such/release".to_owned();
    let row = &rows(&node).await["disk space"];
    assert!(row.verdict == CheckVerdict::CouldNotTell && row.why.contains("/no/such/release"), "{row:?}");
    // A server that does not even say how long it is may send the most that is taken, twice over while it is unpacked.
    node.run.plan.artifacts.source = "http://127.0.0.1:9/rke2.linux-amd64.tar.gz".to_owned();
    expect(&node, "disk space", true, "fetched and unpacked").await;
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

/// On a node that Harvester has upgraded before, the old runtime is in no archive any more.
#[tokio::test(start_paused = true)]
async fn an_old_runtime_that_the_new_version_removes_is_kept_where_the_way_back_needs_it() {
    const KEPT: &str = "which the new version removes and the upgrade keeps";
    let mut node = node().await;
    let data = Path::new(DATA).join("data");
    put(&node, "agent/images/new.tar", &archive(&[NEW]));
    unpack(&node, "v1.34.2-rke2r1-0123456789ab");
    let settle = async |node: &NodeInMemory| {
        runtime_images::settle(&node.run.host, &node.run.plan, Role::Server).await.unwrap();
        names(&node.machine.disk(), &data)
    };
    // A server over a minor: nobody goes back to it.
    let row = rows(&node).await.remove("old runtime image").unwrap();
    assert!(row.verdict == CheckVerdict::Pass && !row.why.contains(KEPT), "{row:?}");
    let before = names(&node.machine.disk(), &data);
    assert_eq!(settle(&node).await, before);

    node.run.plan.rke2.from = "v1.35.5+rke2r1".parse().unwrap();
    expect(&node, "old runtime image", true, "rke2-runtime:v1.35.5-rke2r1 is neither unpacked").await;
    unpack(&node, "v1.35.5-rke2r1-0123456789ab");
    expect(&node, "old runtime image", false, KEPT).await;
    let before = names(&node.machine.disk(), &data);
    let kept = settle(&node).await;
    assert!(kept.len() > before.len() && kept.is_superset(&before), "{kept:?}");
    // The old RKE2 is where it was: it goes on running while nothing has to be put back.
    runtime_images::put_back(&node.run.host, &node.run.plan, "rke2-server.service").await.unwrap();
    assert!(node.machine.rke2_is_running());
    node.machine.change_disk(|disk| {
        for file in ["bin/kubelet", "charts/rke2-canal.yaml", ".extracted"] {
            disk.unlink(&data.join("v1.35.5-rke2r1-0123456789ab").join(file)).unwrap();
        }
    });
    runtime_images::put_back(&node.run.host, &node.run.plan, "rke2-server.service").await.unwrap();
    assert!(!node.machine.rke2_is_running(), "nothing is put under a running RKE2");
    assert_eq!(names(&node.machine.disk(), &data), before);
}

/// As after the guard has put the old binary back: it runs, and looks for its runtime at a registry.
#[tokio::test(start_paused = true)]
async fn the_way_back_brings_the_old_runtime_with_it() {
    let mut node = node().await;
    let kubelet = format!("{DATA}/data/v1.34.2-rke2r1-0123456789ab/bin/kubelet");
    unpack(&node, ".upgrade-agent-keeps-v1.34.2-rke2r1-0123456789ab");
    let live = sha256(&node.machine.disk().read(Path::new("/opt/rke2/bin/rke2")).unwrap());
    let text = |text: &str| text.to_owned();
    for record in [
        Record::LedgerWritten { vms: vec![] },
        Record::PreDrained,
        Record::Drained { evicted: 0 },
        Record::NoSnapshot { why: text("none") },
        Record::SwapIntent {
            from_sha256: live,
            to_sha256: text("new"),
            previous: text("/opt/rke2/bin/rke2.prev"),
            is_only_server: false,
        },
        Record::Swapped,
        Record::RollbackIntent { why: text("it does not serve") },
    ] {
        node.run.record(record).unwrap();
    }
    put_old_back(&mut node.run).await.unwrap();
    assert!(matches!(node.run.journal.progress().rollback(), Work::Done(_)));
    assert!(node.machine.disk().read(Path::new(&kubelet)).is_ok(), "it is in its place");
}

/// Nobody could look into it before it was fetched.
#[tokio::test(start_paused = true)]
async fn an_archive_from_a_server_without_the_runtime_is_refused_before_anything_is_changed() {
    const URL: &str = "http://mirror/rke2-images.linux-amd64.tar";
    let mut node = node().await;
    begin_anew(&mut node);
    let whole = node.machine.disk();
    for (content, images, refusal) in [
        (archive(&[OLD]), "rke2-images.linux-amd64-v1.35.6+rke2r1.tar", "is neither unpacked nor in any"),
        (archive(&["rancher/pause:3.6"]), "rke2-images.linux-amd64-v1.35.6+rke2r1.tar", NEW),
        (archive(&[NEW]), "", ""),
    ] {
        node.machine.change_disk(|disk| *disk = whole.clone());
        node.machine.serve(URL, content.clone());
        node.run.plan.artifacts.images =
            vec![ImageArchive { source: URL.to_owned(), sha256: sha256(&content) }];
        expect(&node, "new runtime image", false, "which the upgrade fetches and looks into first").await;
        let staged = stage_binary(&mut node.run).await;
        if refusal.is_empty() {
            staged.unwrap();
            continue;
        }
        let said = staged.unwrap_err().sentence();
        assert!(said.contains(refusal) && said.contains(images) && said.contains("agent/images"), "{said}");
        assert!(node.machine.disk().read_dir(Path::new("/opt/rke2/.stage")).is_err(), "nothing is left");
        let folder = Path::new(DATA).join("agent/images");
        assert_eq!(names(&node.machine.disk(), &folder), names(&whole, &folder), "nor are its images");
    }
    // One that nobody will ever look into is not even fetched.
    node.run.plan.artifacts.images[0].source = "http://mirror/rke2-images.linux-amd64.tar.lz4".to_owned();
    node.machine.change_disk(|disk| *disk = whole);
    expect(&node, "new runtime image", true, "tar.lz4 (packed with lz4)").await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_release_and_a_cancelled_run_leave_the_prefix_as_it_was() {
    let prefix = Path::new("/opt/rke2");
    let mut node = node().await;
    let before = names(&node.machine.disk(), prefix);
    let wanted = node.run.plan.rke2.to.clone();
    node.run.plan.rke2.to = "v1.35.7+rke2r1".parse().unwrap();
    let said = stage_binary(&mut node.run).await.unwrap_err().sentence();
    assert!(
        said.contains("the artifact holds rke2 v1.35.6+rke2r1, the plan orders v1.35.7+rke2r1"),
        "{said}"
    );
    assert_eq!(names(&node.machine.disk(), prefix), before);

    node.run.plan.rke2.to = wanted;
    node.run.plan.rke2.from = "v1.35.5+rke2r1".parse().unwrap();
    begin_anew(&mut node);
    unpack(&node, "v1.35.5-rke2r1-0123456789ab");
    put(&node, "agent/images/new.tar", &archive(&[NEW]));
    let data = names(&node.machine.disk(), Path::new(DATA));
    stage_binary(&mut node.run).await.unwrap();
    // What a killed agent had begun to fetch.
    let half = [
        "/opt/rke2/.stage/v1.35.6+rke2r1.fetched/x.part",
        "/var/lib/rancher/rke2/agent/.upgrade-agent-images/x.part",
    ];
    for path in half {
        node.machine.change_disk(|disk| disk.install(path, b"x", 0o600)).unwrap();
    }
    let staged = names(&node.machine.disk(), prefix);
    assert!(staged.contains(Path::new("/opt/rke2/.stage/v1.35.6+rke2r1/bin/rke2")), "{staged:?}");
    let (_operator, cancel) = tokio::sync::watch::channel(Control::Cancel);
    assert_eq!(drive(&mut node.run, cancel).await, Ended::Done(Outcome::Cancelled));
    assert_eq!(names(&node.machine.disk(), prefix), before);
    assert_eq!(names(&node.machine.disk(), Path::new(DATA)), data);
}

#[tokio::test(start_paused = true)]
async fn a_prefix_that_cannot_be_written_is_refused() {
    let node = node().await;
    expect(&node, "install prefix", false, "/opt/rke2, unit file /etc/systemd/system/rke2-server.service")
        .await;
    let device = node.machine.disk().stat(Path::new("/opt"), true).unwrap().device;
    node.machine.change_disk(|disk| disk.set_read_only(device, true));
    expect(&node, "install prefix", true, "mounted read-only").await;
    // What nothing can be renamed to.
    let live = Path::new("/opt/rke2/bin/rke2");
    let linked = self::node().await;
    let binary = linked.machine.disk().read(live).unwrap().to_vec();
    linked.machine.change_disk(|disk| {
        disk.install("/opt/rke2/bin/rke2.real", binary, 0o755).unwrap();
        disk.unlink(live).unwrap();
        disk.install_link("/opt/rke2/bin/rke2", "/opt/rke2/bin/rke2.real").unwrap();
    });
    expect(&linked, "install prefix", true, "is a link").await;
    let apart = self::node().await;
    let binary = apart.machine.disk().read(live).unwrap().to_vec();
    apart.machine.change_disk(|disk| {
        disk.install("/run/rke2/rke2", binary, 0o755).unwrap();
        disk.unlink(live).unwrap();
        disk.remove_dir(Path::new("/opt/rke2/bin")).unwrap();
        disk.install_link("/opt/rke2/bin", "/run/rke2").unwrap();
    });
    expect(&apart, "install prefix", true, "another file system than /opt/rke2").await;
}
