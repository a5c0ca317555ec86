//! The old runtime on a machine whose new RKE2 removes it, and whose agent is killed, or loses its power, at any effect.

use std::collections::BTreeMap;

use super::*;
use crate::sim::machine::SimMachine;
use crate::sim::machine::disk::{CutMode, Disk};
use crate::sim::machine::image::{MachineImage, MachineSpec};
use crate::sim::machine::life::{Blow, LifePlan};

const DATA: &str = "/var/lib/rancher/rke2/data";
const OLD: &str = "v1.34.2-rke2r1-0123456789ab";
const TORN: &str = "v1.34.2-rke2r1-ba9876543210";
const NEW: &str = "v1.35.6-rke2r1-7a33eeffe5c4";
const FILES: [&str; 4] = ["bin/kubelet", "bin/more/ctr", "charts/rke2-canal.yaml", ".extracted"];

fn old() -> Rke2Version {
    "v1.34.2+rke2r1".parse().unwrap()
}

fn machine() -> SimMachine {
    let mut image = MachineImage::new(MachineSpec::default()).unwrap();
    for folder in [OLD, NEW] {
        for file in FILES {
            image.disk.install(format!("{DATA}/{folder}/{file}"), file, 0o755).unwrap();
        }
    }
    image.disk.install(format!("{DATA}/{TORN}/bin/kubelet"), "", 0o755).unwrap();
    image.disk.settle();
    SimMachine::start(&image)
}

fn remove(disk: &mut Disk, folder: &Path) {
    for path in disk.read_dir(folder).unwrap() {
        match disk.read_dir(&path) {
            Ok(_) => remove(disk, &path),
            Err(_) => disk.unlink(&path).unwrap(),
        }
    }
    disk.remove_dir(folder).unwrap();
}

/// All files below RKE2's data folders.
fn files(machine: &SimMachine) -> BTreeMap<PathBuf, Vec<u8>> {
    fn gather(disk: &Disk, folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for path in disk.read_dir(folder).unwrap() {
            if disk.read_dir(&path).is_ok() {
                gather(disk, &path, found);
            } else {
                found.insert(
                    path.strip_prefix(DATA).unwrap().to_path_buf(),
                    disk.read(&path).unwrap().to_vec(),
                );
            }
        }
    }
    let mut found = BTreeMap::new();
    gather(&machine.disk(), Path::new(DATA), &mut found);
    found
}

fn life<T>(
    machine: &SimMachine,
    plan: LifePlan,
    act: fn(&HostRoot, &Rke2Config, &Rke2Version) -> Result<T, FsError>,
) -> (Result<T, FsError>, usize) {
    let life = machine.life(plan);
    let root = HostRoot::on(Fs::new(life.effects()), PathBuf::from("/"));
    let config = Rke2Config::read(&root).unwrap_or(Rke2Config { data_dir: "/var/lib/rancher/rke2".into() });
    let done = act(&root, &config, &old());
    (done, life.trace().len())
}

/// What an RKE2 does that starts, and nothing runs from other versions' folders.
fn new_rke2_starts(machine: &SimMachine) {
    machine.change_disk(|disk| {
        let all = disk.read_dir(Path::new(DATA)).unwrap();
        let is_version = |path: &&PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with('v') && name != NEW
        };
        for folder in all.iter().filter(is_version) {
            remove(disk, folder);
        }
        disk.settle();
    });
}

fn quietly<T>(
    machine: &SimMachine,
    act: fn(&HostRoot, &Rke2Config, &Rke2Version) -> Result<T, FsError>,
) -> T {
    life(machine, LifePlan::quiet(), act).0.unwrap()
}

#[test]
fn what_is_kept_is_there_again_after_the_new_one_has_removed_it() {
    let machine = machine();
    let before = files(&machine);
    assert_eq!(quietly(&machine, keep), [OLD], "the torn one is nothing to go back to");
    assert_eq!(quietly(&machine, keep), [OLD]);
    assert_eq!(quietly(&machine, missing), Vec::<PathBuf>::new());
    // Nobody went back: it is as before.
    quietly(&machine, let_go);
    assert_eq!(files(&machine), before);

    quietly(&machine, keep);
    new_rke2_starts(&machine);
    let place = Path::new(DATA).join(OLD);
    assert_eq!(quietly(&machine, missing), std::slice::from_ref(&place));
    // An old RKE2 that was started meanwhile has unpacked half of it.
    machine.change_disk(|disk| disk.install(place.join("bin/kubelet"), "half", 0o755)).unwrap();
    assert_eq!(quietly(&machine, put_back), [place]);
    let whole: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| !path.starts_with(TORN)).collect();
    assert_eq!(files(&machine), whole);
    assert_eq!(quietly(&machine, put_back), Vec::<PathBuf>::new());
}

#[tokio::test(start_paused = true)]
async fn wherever_it_ends_the_next_life_keeps_it_whole_and_puts_it_back_whole() {
    let whole: BTreeMap<_, _> =
        files(&machine()).into_iter().filter(|(path, _)| !path.starts_with(TORN)).collect();
    let cuts = [CutMode::LoseAll, CutMode::KeepAll, CutMode::Seeded(1), CutMode::Seeded(2)];
    let mut blows =
        vec![Blow::KillBefore, Blow::KillAfter, Blow::Fail { errno: nix::errno::Errno::EIO, times: 1 }];
    blows.extend(cuts.into_iter().flat_map(|mode| [Blow::PowerBefore(mode), Blow::PowerAfter(mode)]));
    let effects = life(&machine(), LifePlan::quiet(), keep).1;
    assert!(effects > 12, "{effects}");
    for effect in 1..=effects as u64 {
        for blow in &blows {
            let machine = machine();
            life(&machine, LifePlan::at(effect, *blow), keep).0.ok();
            machine.wait_up().await;
            quietly(&machine, keep);
            machine.power_cut(CutMode::LoseAll);
            machine.wait_up().await;
            new_rke2_starts(&machine);
            quietly(&machine, put_back);
            assert_eq!(files(&machine), whole, "kept, {effect}: {blow:?}");
        }
    }
    let ready = || {
        let machine = machine();
        quietly(&machine, keep);
        new_rke2_starts(&machine);
        machine
    };
    let effects = life(&ready(), LifePlan::quiet(), put_back).1;
    for effect in 1..=effects as u64 {
        for blow in &blows {
            let machine = ready();
            life(&machine, LifePlan::at(effect, *blow), put_back).0.ok();
            machine.wait_up().await;
            quietly(&machine, put_back);
            assert_eq!(files(&machine), whole, "put back, {effect}: {blow:?}");
        }
    }
}
