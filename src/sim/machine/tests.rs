use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;

use super::disk::CutMode;
use super::etcd::EtcdMember;
use super::image::{ARTIFACT, Layout, MachineImage, MachineSpec, STATE_DIR};
use super::life::{Blow, Life, LifePlan};
use super::ports::PortFault;
use super::release::{binary, release};
use super::rke2::Fate;
use super::*;
use crate::flow::plan::Role;
use crate::host::effects::{Effects, FileKind, Opening};
use crate::host::fs::FsKind;
use crate::host::probe::ProbeError;
use crate::host::systemd::{BusAddress, Systemd};

const FOUND: &str = "/var/lib/rancher/found";

fn machine_of(spec: MachineSpec) -> SimMachine {
    let mut image = MachineImage::new(spec).unwrap();
    image.disk.install(FOUND, "old", 0o600).unwrap();
    SimMachine::start(&image)
}

fn machine() -> SimMachine {
    machine_of(MachineSpec::default())
}

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// Replaces a file as the agent does.
fn replace(effects: &dyn Effects, content: &str) -> io::Result<()> {
    let temp = p("/var/lib/rancher/.found.new");
    let mut file = effects.create(temp, Opening::New, 0o600)?;
    file.write_all(content.as_bytes())?;
    file.set_mode(0o644)?;
    file.sync()?;
    effects.rename(temp, p(FOUND))?;
    effects.sync(p("/var/lib/rancher"))
}

fn shown(machine: &SimMachine) -> String {
    String::from_utf8(machine.disk().read(p(FOUND)).unwrap().to_vec()).unwrap()
}

fn kinds(life: &Life) -> Vec<&'static str> {
    life.trace().iter().map(|effect| effect.kind).collect()
}

#[tokio::test(start_paused = true)]
async fn counts_every_change_and_every_sync_and_no_look() {
    let machine = machine();
    let life = machine.life(LifePlan::quiet());
    let effects = life.effects();
    replace(effects.as_ref(), "new").unwrap();
    assert_eq!(effects.read(p(FOUND)).unwrap(), b"new");
    assert_eq!(kinds(&life), ["create", "write", "chmod", "sync", "rename", "sync"]);
    assert_eq!(effects.stat(p(FOUND)).unwrap().mode, 0o644);
}

#[tokio::test(start_paused = true)]
async fn wherever_it_is_killed_or_loses_power_the_file_is_old_or_new() {
    let whole = ["old", "new"];
    for effect in 1..=6 {
        for blow in [Blow::KillBefore, Blow::KillAfter] {
            let machine = machine();
            let life = machine.life(LifePlan::at(effect, blow));
            replace(life.effects().as_ref(), "new").unwrap_err();
            assert!(life.is_dead());
            let renamed = effect > 5 || (effect == 5 && blow == Blow::KillAfter);
            assert_eq!(shown(&machine), whole[usize::from(renamed)], "{blow:?} at {effect}");
        }
        for seed in 0..8 {
            for mode in [CutMode::LoseAll, CutMode::KeepAll, CutMode::Seeded(seed)] {
                for blow in [Blow::PowerBefore(mode), Blow::PowerAfter(mode)] {
                    let machine = machine();
                    let life = machine.life(LifePlan::at(effect, blow));
                    replace(life.effects().as_ref(), "new").unwrap_err();
                    assert!(!machine.is_up());
                    assert!(whole.contains(&shown(&machine).as_str()), "{blow:?} at {effect}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_its_death_nothing_it_does_has_an_effect() {
    let machine = machine();
    let life = machine.life(LifePlan::quiet());
    let effects = life.effects();
    let mut file = effects.create(p("/var/x"), Opening::New, 0o644).unwrap();
    let died = tokio::spawn(life.died());
    life.die();
    died.await.unwrap();
    let before = machine.disk();
    assert_eq!(file.write(b"x").unwrap_err().to_string(), "the agent is dead");
    file.set_length(9).unwrap_err();
    file.sync().unwrap_err();
    file.length().unwrap_err();
    effects.create_dir(p("/var/y")).unwrap_err();
    effects.read(p(FOUND)).unwrap_err();
    effects.run(p("/usr/local/bin/rke2"), &["--version"], Duration::from_secs(1)).await.unwrap_err();
    effects.connect(SocketAddr::from(([127, 0, 0, 1], 9345)), Duration::from_secs(1)).await.unwrap_err();
    assert!(
        life.bus()
            .await
            .unwrap()
            .call_method(Some("org.freedesktop.systemd1"), "/", None::<&str>, "X", &())
            .await
            .is_err()
    );
    assert_eq!(before.read_dir(p("/var")).unwrap(), machine.disk().read_dir(p("/var")).unwrap());
    assert_eq!(kinds(&life), ["create"]);
}

#[tokio::test(start_paused = true)]
async fn errors_come_as_often_as_asked_and_a_full_disk_takes_a_part() {
    let machine = machine();
    let life = machine.life(LifePlan::at(2, Blow::Fail { errno: Errno::ENOSPC, times: 1 }));
    let effects = life.effects();
    let mut file = effects.create(p("/var/x"), Opening::New, 0o644).unwrap();
    let error = file.write_all(b"1234").unwrap_err();
    assert_eq!((error.kind(), file.length().unwrap()), (io::ErrorKind::StorageFull, 2));
    file.set_length(0).unwrap();
    file.write_all(b"1234").unwrap();
    let life = machine.life(LifePlan::at(1, Blow::Fail { errno: Errno::EIO, times: 2 }));
    let effects = life.effects();
    for fails in [true, true, false] {
        assert_eq!(effects.sync(p("/var")).is_err(), fails);
    }
    assert!(!life.is_dead());
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_free_when_its_life_has_ended() {
    let machine = machine();
    let path = p("/var/lock");
    let first = machine.life(LifePlan::quiet());
    let held = first.effects().lock(path, "pid 7").unwrap().unwrap();
    let second = machine.life(LifePlan::quiet()).effects();
    assert_eq!(second.lock(path, "pid 8").unwrap().unwrap_err(), "pid 7");
    first.die();
    let again = second.lock(path, "pid 8").unwrap().unwrap();
    // What the dead one drops late is not the new one's.
    drop(held);
    let third = machine.life(LifePlan::quiet()).effects();
    assert_eq!(third.lock(path, "pid 9").unwrap().unwrap_err(), "pid 8");
    drop(again);
    third.lock(path, "pid 9").unwrap().unwrap();
    let killed = machine.life(LifePlan::at(1, Blow::KillAfter));
    killed.effects().lock(p("/var/other"), "x").unwrap_err();
    third.lock(p("/var/other"), "y").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn shows_its_processes_programs_and_ports() {
    let machine = machine();
    machine.set_guests(Arc::new(|| vec!["default_web".to_owned()]));
    let life = machine.life(LifePlan::quiet());
    let effects = life.effects();
    let read = |path: &str| String::from_utf8_lossy(&effects.read(p(path)).unwrap()).into_owned();
    assert_eq!(read("/proc/sys/kernel/random/boot_id").trim().len(), 36);
    assert_eq!(read("/proc/1/stat").split(' ').take(3).collect::<Vec<_>>(), ["1", "(systemd)", "S"]);
    let pids: Vec<_> = effects.read_dir(p("/proc")).unwrap();
    let guest = pids.iter().find(|pid| read(&format!("{}/cmdline", pid.display())).contains("qemu-system"));
    assert!(read(&format!("{}/cmdline", guest.unwrap().display())).contains("guest=default_web"));
    let rke2 = pids.iter().find(|pid| effects.read_link(&pid.join("exe")).is_ok()).unwrap();
    let mut running = Vec::new();
    effects.open(&rke2.join("exe")).unwrap().read_to_end(&mut running).unwrap();
    assert_eq!(running, binary("v1.34.3+rke2r3"));
    assert_eq!(effects.read_link(p("/proc")).unwrap_err().raw_os_error(), Some(Errno::EINVAL as i32));
    let soon = Duration::from_secs(3);
    let ended = effects.run(p("/usr/local/bin/rke2"), &["--version"], soon).await.unwrap();
    assert!(ended.status.success() && ended.stdout.starts_with("rke2 version v1.34.3+rke2r3 ("));
    let kubelet = SocketAddr::from(([127, 0, 0, 1], 10248));
    assert_eq!(effects.http_get(kubelet, "/healthz", soon).await.unwrap(), (200, "ok".to_owned()));
    machine.break_port(10248, Some(PortFault::Silent));
    assert!(matches!(effects.http_get(kubelet, "/healthz", soon).await, Err(ProbeError::TimedOut { .. })));
    machine.break_port(10248, None);
    machine.next_starts([Fate::Hangs]);
    machine.crash_rke2(137);
    assert!(matches!(effects.http_get(kubelet, "/healthz", soon).await, Err(ProbeError::NoAnswer { .. })));
    let etcd = SocketAddr::from(([127, 0, 0, 1], 2381));
    effects.http_get(etcd, "/health", soon).await.unwrap();
    effects.connect(SocketAddr::from(([127, 0, 0, 1], 9345)), soon).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_harvester_node_keeps_only_what_is_on_its_partition() {
    let machine =
        machine_of(MachineSpec { layout: Layout::Harvester, role: Role::Agent, ..MachineSpec::default() });
    let life = machine.life(LifePlan::quiet());
    let effects = life.effects();
    assert_eq!(effects.file_system(p("/etc")).unwrap(), FsKind::Overlay);
    assert_eq!(effects.file_system(p("/var/lib/rancher")).unwrap(), FsKind::Other("ext4".to_owned()));
    let error = effects.rename(p(ARTIFACT), p("/opt/rke2/x")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::CrossesDevices);
    let devices = [ARTIFACT, "/opt/rke2/bin/rke2"].map(|path| effects.stat(p(path)).unwrap().device);
    assert_eq!(devices[0], devices[1]);
    for path in ["/etc/lost", "/etc/systemd/system/kept"] {
        effects.create(p(path), Opening::New, 0o644).unwrap().sync().unwrap();
    }
    let machine_id = effects.read(p("/etc/machine-id")).unwrap();
    machine.power_cut(CutMode::KeepAll);
    machine.wait_up().await;
    let effects = machine.life(LifePlan::quiet()).effects();
    assert_eq!(effects.stat(p("/etc/lost")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(effects.stat(p("/etc/systemd/system/kept")).unwrap().kind, FileKind::File);
    assert_eq!(effects.read(p("/etc/machine-id")).unwrap(), machine_id);
    assert_eq!(effects.read(p(ARTIFACT)).unwrap(), release("v1.35.6+rke2r1").unwrap().tarball);
    assert_eq!(
        effects.file_system(p(STATE_DIR).parent().unwrap()).unwrap(),
        FsKind::Other("ext4".to_owned())
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(machine.rke2_is_running());
    assert_eq!(machine.starts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tells_the_world_when_rke2_comes_and_goes() {
    let machine = machine_of(MachineSpec { is_only_server: true, ..MachineSpec::default() });
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (note, again, cut) = (Arc::clone(&heard), Arc::clone(&heard), Arc::clone(&heard));
    machine.set_guests(Arc::new(|| vec!["left/behind".to_owned()]));
    machine.on_rke2_ready(Arc::new(move |version| note.lock().unwrap().push(format!("ready {version}"))));
    machine.on_rke2_stopped(Arc::new(move || again.lock().unwrap().push("stopped".to_owned())));
    machine.on_power_cut(Arc::new(move || cut.lock().unwrap().push("cut".to_owned())));
    machine.next_starts([Fate::Reports("v1.33.0+rke2r1".to_owned())]);
    assert!(machine.api_is_up());
    machine.stranger_restarts().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!machine.api_is_up());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(machine.api_is_up());
    machine.power_cut(CutMode::KeepAll);
    assert!(!machine.api_is_up());
    machine.wait_up().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(machine.api_is_up());
    assert_eq!(*heard.lock().unwrap(), ["stopped", "ready v1.33.0+rke2r1", "cut", "ready v1.34.3+rke2r3"]);
    let starts = machine.starts();
    assert_eq!((starts[0].cause.clone(), starts[1].cause.clone()), (Cause::Stranger, Cause::Boot));
    assert_eq!(starts[0].guests, ["left/behind"]);
}

/// Reference `rke2-and-rancher.md` §2.4, §9.2: RKE2 waits for an API server, a quarter of an hour and no longer, and systemd starts it
/// again; etcd knows no leader meanwhile, unless it is alone.
#[tokio::test(start_paused = true)]
async fn an_rke2_that_is_cut_off_ends_after_a_quarter_of_an_hour_and_begins_anew() {
    let machine = machine();
    let life = machine.life(LifePlan::quiet());
    let health = async || {
        let etcd = SocketAddr::from(([127, 0, 0, 1], 2381));
        life.effects().http_get(etcd, "/health", Duration::from_secs(1)).await.unwrap().0
    };
    let minutes = async |minutes| tokio::time::sleep(Duration::from_mins(minutes)).await;
    machine.cut_off(Duration::from_mins(40));
    assert_eq!(health().await, 200, "a single member needs nobody");
    let other = EtcdMember::well("b");
    let own = EtcdMember { is_own: true, ..EtcdMember::well("a") };
    machine.set_etcd(Arc::new(move || vec![own.clone(), other.clone()]));
    assert_eq!(health().await, 503);
    minutes(14).await;
    assert!(machine.rke2_is_running() && !machine.api_is_up() && machine.starts().is_empty());
    minutes(2).await;
    assert_eq!(machine.starts().len(), 1, "it has ended, and is started again");
    minutes(15).await;
    assert_eq!(machine.starts().len(), 2, "that one has waited in vain as well");
    assert!(!machine.rke2_is_running());
    minutes(10).await;
    assert!(machine.rke2_is_running() && machine.api_is_up() && machine.starts().len() == 2);
    assert_eq!(health().await, 200);
    // A short one costs nothing.
    machine.cut_off(Duration::from_mins(14));
    minutes(30).await;
    assert_eq!(machine.starts().len(), 2);
}

/// As `nodeStatusReportFrequency` has it: what it said at its start, every five minutes, and at once when it can be heard again.
#[tokio::test(start_paused = true)]
async fn a_kubelet_reports_as_long_as_it_runs_and_can_be_heard() {
    let machine = machine();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&heard);
    let clock = machine.clone();
    machine.on_kubelet_reports(Arc::new(move |version| {
        note.lock().unwrap().push((clock.elapsed().as_secs() / 60, version.to_owned()));
    }));
    machine.next_starts([Fate::Reports("v1.33.0+rke2r1".to_owned())]);
    machine.stranger_restarts().unwrap();
    tokio::time::sleep(Duration::from_mins(12)).await;
    machine.cut_off(Duration::from_mins(6));
    tokio::time::sleep(Duration::from_mins(7)).await;
    machine.crash_rke2(137);
    tokio::time::sleep(Duration::from_mins(6)).await;
    machine.power_cut(CutMode::KeepAll);
    tokio::time::sleep(Duration::from_secs(59)).await;
    let said = heard.lock().unwrap().clone();
    let minutes: Vec<u64> = said.iter().map(|(minute, _)| *minute).collect();
    assert_eq!(minutes, [5, 10, 18, 24], "{said:?}");
    assert!(said[..3].iter().all(|(_, version)| version == "v1.33.0+rke2r1"), "{said:?}");
    machine.unplug();
}

/// A restart with a power cut in the middle, told in full.
fn story(seed: u64) -> Vec<String> {
    // Nothing but a clock: no I/O, no threads.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let machine = machine_of(MachineSpec { seed, ..MachineSpec::default() });
        let mut told = Vec::new();
        for blow in [Blow::PowerAfter(CutMode::Seeded(seed)), Blow::KillBefore] {
            let life = machine.life(LifePlan::at(9, blow));
            let bus = BusAddress::Given(life.bus().await.unwrap());
            let systemd = Systemd::connect(&bus).await.unwrap();
            replace(life.effects().as_ref(), "new").unwrap();
            let deadline = tokio::time::Instant::now() + Duration::from_mins(5);
            let restarted = systemd.restart_fenced("rke2-server.service", deadline).await;
            told.push(format!("{:?} {:?}", restarted.ok(), machine.boot_id()));
            told.extend(life.trace().iter().map(|effect| format!("{effect:?}")));
            machine.wait_up().await;
        }
        told.push(format!("{:?} {} {:?}", machine.starts(), shown(&machine), machine.elapsed()));
        machine.unplug();
        told
    })
}

#[test]
fn the_same_seed_tells_the_same_story() {
    assert_eq!(story(1), story(1));
    assert_ne!(story(1), story(2));
}
