//! Archives on a machine that is killed, or loses its power, at any effect; and what no RKE2 should find.

#![expect(clippy::disallowed_methods, reason = "tests look past the door they test")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write};
use std::time::Duration;

use super::*;
use crate::sim::machine::SimMachine;
use crate::sim::machine::disk::CutMode;
use crate::sim::machine::image::{MachineImage, MachineSpec};
use crate::sim::machine::life::{Blow, LifePlan};
use crate::sim::machine::release::sha256;

const SOURCE: &str = "/var/lib/rancher/release/rke2-images.linux-amd64.tar.gz";
const FOLDER: &str = "/var/lib/rancher/rke2/agent/images";
const OLD: &str = "rke2-images.linux-amd64-v1.34.3+rke2r3.tar.gz";
const NEW: &str = "rke2-images.linux-amd64-v1.35.6+rke2r1.tar.gz";

fn tarball() -> Vec<u8> {
    let mut archive =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append_data(&mut header, "manifest.json", &b"[]"[..]).unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

fn version() -> Rke2Version {
    "v1.35.6+rke2r1".parse().unwrap()
}

fn ordered(source: &str, content: &[u8]) -> Vec<ImageArchive> {
    vec![ImageArchive { source: source.to_owned(), sha256: sha256(content) }]
}

fn machine() -> SimMachine {
    let mut image = MachineImage::new(MachineSpec::default()).unwrap();
    image.disk.install(SOURCE, tarball(), 0o644).unwrap();
    image.disk.install(format!("{FOLDER}/{OLD}"), "old", 0o644).unwrap();
    SimMachine::start(&image)
}

/// What RKE2 would find, were it to look now.
fn shown(machine: &SimMachine) -> BTreeMap<String, Vec<u8>> {
    let disk = machine.disk();
    let found = disk.read_dir(Path::new(FOLDER)).unwrap().into_iter();
    found
        .map(|path| (path.file_name().unwrap().to_string_lossy().into(), disk.read(&path).unwrap().to_vec()))
        .collect()
}

async fn life(machine: &SimMachine, plan: LifePlan) -> (Result<Staged, ImagesError>, usize) {
    let life = machine.life(plan);
    let root = HostRoot::on(Fs::new(life.effects()), PathBuf::from("/"));
    let deadline = Instant::now() + Duration::from_mins(5);
    let staged = stage(&root, &ordered(SOURCE, &tarball()), &version(), deadline).await;
    (staged, life.trace().len())
}

#[tokio::test(start_paused = true)]
async fn wherever_it_ends_rke2_finds_whole_archives_and_the_next_life_finishes() {
    let old = BTreeMap::from([(OLD.to_owned(), b"old".to_vec())]);
    let mut both = old.clone();
    both.insert(NEW.to_owned(), tarball());
    let quiet = machine();
    let (staged, effects) = life(&quiet, LifePlan::quiet()).await;
    assert_eq!((staged.unwrap().files, shown(&quiet)), (vec![Path::new(FOLDER).join(NEW)], both.clone()));
    assert!(effects > 8, "{effects}");
    let cuts =
        [CutMode::LoseAll, CutMode::KeepAll, CutMode::Seeded(1), CutMode::Seeded(2), CutMode::Seeded(3)];
    let mut blows =
        vec![Blow::KillBefore, Blow::KillAfter, Blow::Fail { errno: nix::errno::Errno::EIO, times: 1 }];
    blows.extend(cuts.into_iter().flat_map(|mode| [Blow::PowerBefore(mode), Blow::PowerAfter(mode)]));
    for effect in 1..=effects as u64 {
        for blow in &blows {
            let machine = machine();
            life(&machine, LifePlan::at(effect, *blow)).await.0.ok();
            let seen = shown(&machine);
            assert!(seen == old || seen == both, "{blow:?} at {effect}: {:?}", seen.keys());
            machine.wait_up().await;
            life(&machine, LifePlan::quiet()).await.0.unwrap();
            assert_eq!(shown(&machine), both, "{blow:?} at {effect}");
            let aside =
                machine.disk().stat(Path::new("/var/lib/rancher/rke2/agent/.upgrade-agent-images"), false);
            assert!(aside.is_err(), "{blow:?} at {effect}: nothing is left aside");
            machine.power_cut(CutMode::LoseAll);
            assert_eq!(shown(&machine), both, "{blow:?} at {effect}: it is durable");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_place_is_not_brought_again_and_what_is_damaged_is() {
    let machine = machine();
    life(&machine, LifePlan::quiet()).await.0.unwrap();
    machine.change_disk(|disk| disk.unlink(Path::new(SOURCE))).unwrap();
    life(&machine, LifePlan::quiet()).await.0.unwrap();
    machine.change_disk(|disk| disk.install(format!("{FOLDER}/{NEW}"), "damaged", 0o644)).unwrap();
    life(&machine, LifePlan::quiet()).await.0.unwrap_err();
    machine.change_disk(|disk| disk.install(SOURCE, tarball(), 0o644)).unwrap();
    life(&machine, LifePlan::quiet()).await.0.unwrap();
    assert_eq!(shown(&machine)[NEW], tarball());
}

async fn on_disk(content: &[u8], ordered: &[u8], name: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path().to_path_buf());
    std::fs::create_dir_all(root.at("/release")).unwrap();
    std::fs::write(root.at(format!("/release/{name}")), content).unwrap();
    let order = self::ordered(&format!("file:///release/{name}"), ordered);
    let staged = stage(&root, &order, &version(), Instant::now() + Duration::from_mins(5)).await;
    let agent = root.at("/var/lib/rancher/rke2/agent");
    let left = Fs::kernel().list_dir(&agent).unwrap();
    if staged.is_ok() {
        let files = Fs::kernel().list_dir(&root.at(FOLDER)).unwrap();
        assert_eq!((files.len(), left), (1, vec![root.at(FOLDER)]));
    } else {
        assert!(left.is_empty(), "{left:?}");
    }
    staged.map_or_else(|error| error.to_string(), |_| String::new())
}

#[tokio::test]
async fn what_rke2_could_not_import_is_refused_before_anything_is_disturbed() {
    let pack = |log: u32| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&tarball()[..]).read_to_end(&mut plain).unwrap();
        encoder.write_all(&plain).unwrap();
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    let html = b"<html>404</html>".repeat(100);
    for (content, ordered, name, says) in [
        (tarball(), tarball(), "a.tar.gz", ""),
        (pack(25), pack(25), "a.tar.zst", ""),
        (pack(26), pack(26), "a.tar.zst", "a-v1.35.6+rke2r1.tar.zst is no archive"),
        (html.clone(), html, "a.tar.gz", "is no archive"),
        (Vec::new(), Vec::new(), "a.tar", "is no archive"),
        (vec![0; 4096], vec![0; 4096], "a.tar", "is no archive"),
        (tarball(), b"other".to_vec(), "a.tar.gz", "the plan orders"),
    ] {
        let said = on_disk(&content, &ordered, name).await;
        assert!(said.contains(says) && said.is_empty() == says.is_empty(), "{name}: {said:?}, not {says:?}");
    }
}

#[test]
fn rke2s_own_configuration_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path().to_path_buf());
    let at = |folder: &str| root.at(format!("{folder}/agent/images"));
    let folder = |root: &HostRoot| Rke2Config::read(root).map(|config| config.images(root).unwrap());
    assert_eq!(folder(&root).unwrap(), at("/var/lib/rancher/rke2"));
    std::fs::create_dir_all(root.at("/etc/rancher/rke2/config.yaml.d")).unwrap();
    for (file, text, expected) in [
        ("config.yaml", "# nothing yet\n", "/var/lib/rancher/rke2"),
        ("config.yaml", "token: x\ndata-dir: /data/one\n", "/data/one"),
        ("config.yaml.d/90-harvester.yaml", "node-label+:\n- a=b\n", "/data/one"),
        ("config.yaml.d/99-last.yaml", "data-dir: /data/two\n", "/data/two"),
        ("config.yaml.d/zz.bak", "data-dir: /data/three\n", "/data/two"),
    ] {
        std::fs::write(root.at(format!("/etc/rancher/rke2/{file}")), text).unwrap();
        assert_eq!(folder(&root).unwrap(), at(expected), "{file}");
    }
    std::fs::write(root.at("/etc/rancher/rke2/config.yaml"), "data-dir: [\n").unwrap();
    assert!(folder(&root).unwrap_err().to_string().contains("/etc/rancher/rke2/config.yaml cannot be read"));
}
