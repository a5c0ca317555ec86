use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

use crate::host::effects::Opening;
use crate::host::systemd::{BusAddress, Systemd, SystemdError};
use crate::sim::machine::SimMachine;
use crate::sim::machine::disk::CutMode;
use crate::sim::machine::image::{MachineImage, MachineSpec};
use crate::sim::machine::life::{Blow, Life, LifePlan};
use crate::sim::machine::release::{binary, sha256};
use crate::sim::machine::rke2::{Cause, Fate};

const UNIT: &str = "rke2-server.service";
const DROP_IN: &str = "/etc/systemd/system/rke2-server.service.d/99-fence.conf";

fn machine() -> SimMachine {
    SimMachine::start(&MachineImage::new(MachineSpec::default()).unwrap())
}

async fn client(life: &Life) -> Systemd {
    Systemd::connect(&BusAddress::Given(life.bus().await.unwrap())).await.unwrap()
}

async fn quiet(machine: &SimMachine) -> (Life, Systemd) {
    let life = machine.life(LifePlan::quiet());
    let systemd = client(&life).await;
    (life, systemd)
}

fn minutes(minutes: u64) -> Instant {
    Instant::now() + Duration::from_mins(minutes)
}

fn fence(machine: &SimMachine) {
    let text = "[Unit]\nRefuseManualStart=yes\nRefuseManualStop=yes\n";
    machine.change_disk(|disk| disk.install(DROP_IN, text, 0o644)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn tells_all_about_a_unit_that_has_long_been_running() {
    let machine = machine();
    let (_life, systemd) = quiet(&machine).await;
    let state = systemd.unit(UNIT).await.unwrap();
    assert_eq!((state.load_state.as_str(), state.active_state.as_str()), ("loaded", "active"));
    assert_eq!(state.fragment_path, "/usr/local/lib/systemd/system/rke2-server.service");
    assert_eq!(state.program(), Some("/usr/local/bin/rke2"));
    assert_eq!((state.invocation_id.len(), state.job_id, state.sub_state.as_str()), (32, 0, "running"));
    assert!(state.main_pid > 1 && !state.need_daemon_reload && state.drop_in_paths.is_empty());
    let absent = systemd.unit("rke2-agent.service").await.unwrap_err();
    assert!(matches!(absent, SystemdError::NoSuchUnit { .. }), "{absent}");
}

#[tokio::test(start_paused = true)]
async fn a_fence_counts_once_it_is_loaded_and_does_not_stop_our_own_restart() {
    let machine = machine();
    let (life, systemd) = quiet(&machine).await;
    fence(&machine);
    let written = systemd.unit(UNIT).await.unwrap();
    assert!(written.need_daemon_reload && !written.refuse_manual_stop);
    systemd.reload().await.unwrap();
    let loaded = systemd.unit(UNIT).await.unwrap();
    assert!(loaded.refuse_manual_start && loaded.refuse_manual_stop && !loaded.need_daemon_reload);
    assert_eq!(loaded.drop_in_paths, [DROP_IN]);
    for refused in [systemd.restart(UNIT, minutes(1)).await.map(|_| ()), systemd.stop(UNIT, minutes(1)).await]
    {
        let error = refused.unwrap_err();
        assert!(matches!(error, SystemdError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("may be requested by dependency only"), "{error}");
    }
    machine.stranger_restarts().unwrap_err();
    assert_eq!(systemd.unit(UNIT).await.unwrap().main_pid, written.main_pid);
    let begun = Instant::now();
    let after = systemd.restart_fenced(UNIT, minutes(5)).await.unwrap();
    // One second to stop, four to start: signals wake the client at once.
    assert_eq!(begun.elapsed().as_secs(), 5, "{:?}", begun.elapsed());
    assert_ne!(after.invocation_id, written.invocation_id);
    let starts = machine.starts();
    assert_eq!(starts.len(), 1);
    assert_eq!(starts[0].cause, Cause::Agent(1));
    assert_eq!(starts[0].sha256, sha256(&binary("v1.34.3+rke2r3")));
    let calls: Vec<String> =
        life.trace().into_iter().map(|effect| format!("{} {}", effect.kind, effect.what)).collect();
    assert_eq!(
        calls,
        [
            "Reload ",
            "RestartUnit rke2-server.service",
            "StopUnit rke2-server.service",
            "StartTransientUnit upgrade-agent-revives-rke2-server.timer",
            "StartTransientUnit Conflicts=rke2-server.service",
            "StopUnit upgrade-agent-stop",
            "StartTransientUnit Wants=rke2-server.service",
            "StopUnit upgrade-agent-revives-rke2-server.timer",
            "StopUnit upgrade-agent-start",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn each_way_of_not_coming_up_looks_as_it_does_in_life() {
    for fate in [Fate::Crashes, Fate::CannotExecute] {
        let machine = machine();
        let (_life, systemd) = quiet(&machine).await;
        machine.every_start_of("v1.34.3+rke2r3", fate.clone());
        let error = systemd.restart_fenced(UNIT, minutes(14)).await.unwrap_err();
        let SystemdError::Failed { state, .. } = error else { panic!("{fate:?}: {error}") };
        let seen = (state.n_restarts, state.exec_main_status, state.main_pid);
        if fate == Fate::Crashes {
            assert!(seen.0 == 3 && seen.1 == 1, "{seen:?}");
        } else {
            assert_eq!(seen, (0, 203, 0));
        }
        assert!(machine.elapsed() < Duration::from_mins(1));
        // A crash loop can be stopped, and started again once it is mended.
        machine.every_start_of("v1.34.3+rke2r3", Fate::ComesUp);
        systemd.restart_fenced(UNIT, minutes(5)).await.unwrap();
        assert!(machine.rke2_is_running());
    }
    let machine = machine();
    let (_life, systemd) = quiet(&machine).await;
    machine.next_starts([Fate::Hangs]);
    let error = systemd.restart_fenced(UNIT, minutes(1)).await.unwrap_err();
    assert!(matches!(error, SystemdError::TimedOut { .. }), "{error}");
    assert_eq!(machine.elapsed().as_secs(), 60);
    systemd.restart_fenced(UNIT, minutes(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_is_ignored_ends_in_failed_and_can_be_started_from_there() {
    let machine = machine();
    let (_life, systemd) = quiet(&machine).await;
    machine.ignore_next_stop();
    systemd.stop_fenced(UNIT, minutes(5)).await.unwrap();
    let state = systemd.unit(UNIT).await.unwrap();
    assert_eq!((state.active_state.as_str(), state.result.as_str()), ("failed", "timeout"));
    assert_eq!(machine.elapsed().as_secs(), 90);
    systemd.start_fenced(UNIT, minutes(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_later_is_started_again_by_systemd() {
    let machine = machine();
    let (_life, systemd) = quiet(&machine).await;
    machine.next_starts([Fate::DiesAfter(Duration::from_mins(1))]);
    let up = systemd.restart_fenced(UNIT, minutes(5)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(62)).await;
    let state = systemd.unit(UNIT).await.unwrap();
    assert_eq!((state.sub_state.as_str(), state.exec_main_status), ("auto-restart", 1));
    tokio::time::sleep(Duration::from_secs(35)).await;
    let state = systemd.unit(UNIT).await.unwrap();
    assert_eq!((state.active_state.as_str(), state.n_restarts), ("active", 1));
    assert_ne!(state.invocation_id, up.invocation_id);
    assert_eq!(machine.starts()[1].cause, Cause::AutoRestart);
}

#[tokio::test(start_paused = true)]
async fn a_new_life_takes_over_a_restart_half_way() {
    let machine = machine();
    fence(&machine);
    // The brake is pulled, and the agent dies before it hears of that.
    let first = machine.life(LifePlan::at(2, Blow::KillAfter));
    let systemd = client(&first).await;
    let lost = systemd.restart_fenced(UNIT, minutes(5)).await.unwrap_err();
    assert!(first.is_dead() && matches!(lost, SystemdError::Bus { .. }), "{lost}");
    systemd.unit(UNIT).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (_life, systemd) = quiet(&machine).await;
    assert_eq!(systemd.unit(UNIT).await.unwrap().active_state, "inactive");
    systemd.restart_fenced(UNIT, minutes(5)).await.unwrap();
    assert_eq!(machine.starts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_agent_has_stopped_systemd_starts_again() {
    let machine = machine();
    fence(&machine);
    let first = machine.life(LifePlan::at(2, Blow::KillAfter));
    client(&first).await.restart_fenced(UNIT, minutes(5)).await.unwrap_err();
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(!machine.rke2_is_running(), "the next agent has some time");
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(machine.rke2_is_running() && machine.starts().len() == 1);
    // Where the agent lives, the timer is gone with its start.
    let (_life, systemd) = quiet(&machine).await;
    systemd.restart_fenced(UNIT, minutes(5)).await.unwrap();
    systemd.stop_fenced(UNIT, minutes(5)).await.unwrap();
    systemd.restart_fenced(UNIT, minutes(5)).await.unwrap();
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(machine.starts().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn killed_before_an_order_it_has_not_been_given() {
    let machine = machine();
    let life = machine.life(LifePlan::at(1, Blow::KillBefore));
    client(&life).await.restart_fenced(UNIT, minutes(5)).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(machine.rke2_is_running() && machine.starts().is_empty());
    let life = machine.life(LifePlan::at(1, Blow::Fail { errno: Errno::EIO, times: 1 }));
    let error = client(&life).await.reload().await.unwrap_err();
    assert!(matches!(error, SystemdError::Bus { .. }) && !life.is_dead(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_starts_whatever_is_at_the_live_path() {
    let machine = machine();
    let (life, systemd) = quiet(&machine).await;
    let boot = machine.boot_id();
    machine.change_disk(|disk| {
        let binary_path = Path::new("/usr/local/bin/rke2");
        let next = Path::new("/usr/local/bin/.next");
        let file = disk.create(next, Opening::New, 0o755).unwrap();
        disk.append(file.ino, &binary("v1.35.6+rke2r1")).unwrap();
        disk.rename(next, binary_path).unwrap();
        disk.sync(Path::new("/usr/local/bin")).unwrap();
    });
    machine.power_cut(CutMode::LoseAll);
    systemd.unit(UNIT).await.unwrap_err();
    assert!(life.is_dead() && !machine.is_up());
    machine.wait_up().await;
    assert_eq!(machine.elapsed().as_secs(), 60);
    assert_ne!(machine.boot_id(), boot);
    // The file's sync was forgotten: what systemd finds there cannot be executed.
    let starts = machine.starts();
    assert_eq!((starts[0].cause.clone(), starts[0].version.clone(), starts[0].boot), (Cause::Boot, None, 2));
    let (_life, systemd) = quiet(&machine).await;
    assert_eq!(systemd.unit(UNIT).await.unwrap().exec_main_status, 203);
}

#[tokio::test(start_paused = true)]
async fn a_program_runs_once_and_whoever_comes_later_learns_how_it_ended() {
    let machine = machine();
    let (_life, systemd) = quiet(&machine).await;
    let (program, folder) = ("/usr/local/bin/rke2", "/var/lib/rancher/rke2/server/db/snapshots");
    let arguments = ["etcd-snapshot", "save", "--name", "pre", "--dir", folder];
    let files = || machine.disk().read_dir(Path::new(folder)).unwrap().len();
    let unit = "upgrade-agent-snapshot-1.service";
    // Somebody else begins it, and dies.
    let (life, first) = quiet(&machine).await;
    let soon = Instant::now() + Duration::from_millis(1);
    let cut = first.run_once(unit, "x", program, &arguments, soon).await.unwrap_err();
    assert!(matches!(cut, SystemdError::TimedOut { .. }), "{cut}");
    life.die();
    systemd.run_once(unit, "x", program, &arguments, minutes(5)).await.unwrap();
    assert_eq!(files(), 1, "it was waited for");
    systemd.forget(unit).await.unwrap();
    systemd.forget(unit).await.unwrap();
    machine.break_snapshots(Some(crate::sim::machine::SnapshotFault::Refused));
    let failed = systemd.run_once(unit, "x", program, &arguments, minutes(5)).await.unwrap_err();
    assert!(matches!(&failed, SystemdError::Failed { state, .. } if state.exec_main_status == 1), "{failed}");
    let again = systemd.run_once(unit, "x", program, &arguments, minutes(5)).await.unwrap_err();
    assert!(
        matches!(again, SystemdError::Failed { .. }),
        "a failure is not tried again under its name: {again}"
    );
    assert_eq!(files(), 1);
}
