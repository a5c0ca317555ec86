use std::path::Path;

use super::*;
use crate::host::fs::Fs;
use crate::host::root::HostRoot;
use crate::host::systemd::fake::{Behaviour, Fake, UNIT, machine};

const GUARD_ARGV: [&str; 4] = ["/x/upgrade-agent", "guard", "--state-dir", "/a b/50%"];

fn guard() -> PreStart {
    PreStart::new(Path::new(GUARD_ARGV[0]), &GUARD_ARGV[1..])
}

const LIVE: &str = "/opt/rke2/bin/rke2";

#[tokio::test]
async fn a_unit_that_starts_another_binary_is_not_fenced() {
    let (_dir, host, _fake) = fenceable().await;
    let error = raise(&host, &[UNIT], "uid-1", &guard(), "/usr/local/bin/rke2").await.unwrap_err();
    assert!(error.to_string().contains("is to start /opt/rke2/bin/rke2 by now"), "{error}");
    assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::Absent);
}

async fn fenceable() -> (tempfile::TempDir, Host, Fake) {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path().to_path_buf());
    let (systemd, fake) = machine(Behaviour::ComesUp).await;
    let host = Host { root, systemd };
    let path = drop_in(&host, UNIT).unwrap();
    fake.load_on_reload(move || Fs::kernel().read_opt(&path).unwrap().map(|_| path.display().to_string()));
    fake.runs_before(&GUARD_ARGV, false);
    (dir, host, fake)
}

#[tokio::test]
async fn goes_up_is_ours_and_comes_down_twice() {
    let (_dir, host, _fake) = fenceable().await;
    assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::Absent);
    raise(&host, &[UNIT], "uid-1", &guard(), LIVE).await.unwrap();
    raise(&host, &[UNIT], "uid-1", &guard(), LIVE).await.unwrap();
    assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::Ours);
    lower(&host, &[UNIT], "uid-1", LIVE).await.unwrap();
    lower(&host, &[UNIT], "uid-1", LIVE).await.unwrap();
    assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::Absent);
}

#[tokio::test]
async fn another_upgrades_fence_is_left_standing() {
    let (_dir, host, _fake) = fenceable().await;
    raise(&host, &[UNIT], "uid-1", &guard(), LIVE).await.unwrap();
    assert_eq!(state(&host, UNIT, "uid-2").await.unwrap(), FenceState::Other("uid-1".to_owned()));
    let error = lower(&host, &[UNIT], "uid-2", LIVE).await.unwrap_err();
    assert!(error.to_string().contains("rm") || error.to_string().contains("/etc/systemd/system"), "{error}");
    raise(&host, &[UNIT], "uid-2", &guard(), LIVE).await.unwrap_err();
    assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::Ours);
}

#[tokio::test]
async fn a_fence_that_systemd_did_not_load_does_not_count() {
    let (_dir, host, fake) = fenceable().await;
    fake.load_on_reload(|| None);
    assert!(matches!(
        raise(&host, &[UNIT], "uid-1", &guard(), LIVE).await,
        Err(FenceError::NotLoaded { .. })
    ));
    assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::WrittenNotLoaded);
    assert!(raise(&host, &["absent.service"], "uid-1", &guard(), LIVE).await.is_err());
}

#[tokio::test]
async fn a_fence_whose_guard_is_not_asked_or_not_heard_does_not_count() {
    for (asked, may_fail) in [(&["/bin/true"][..], false), (&GUARD_ARGV, true), (&GUARD_ARGV[..3], false)] {
        let (_dir, host, fake) = fenceable().await;
        raise(&host, &[UNIT], "uid-1", &guard(), LIVE).await.unwrap();
        fake.runs_before(asked, may_fail);
        assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::WrittenNotLoaded, "{asked:?}");
        let error = raise(&host, &[UNIT], "uid-1", &guard(), LIVE).await.unwrap_err().to_string();
        assert!(error.contains("systemctl cat rke2-server.service"), "{error}");
    }
}
