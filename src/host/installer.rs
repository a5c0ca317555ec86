//! rancher-system-agent, which installs and restarts RKE2 as Rancher's plan says: holds it back, so that it stays away over a
//! reboot and over everybody who starts it, and lets it go. Knows whose hold it is. Decides nothing about when.
//!
//! The hold is a drop-in with a condition that is never met (`/` is always there), in `/etc`: a start then does nothing (reference `rke2-and-rancher.md`
//! §5.3; a persistent directory on Harvester). Refusing orders to it by name would not be enough: it is enabled, and a boot starts it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::host::Host;
use crate::host::fs::FsError;
use crate::host::systemd::SystemdError;

/// Its unit.
pub const UNIT: &str = "rancher-system-agent.service";
const DROP_IN: &str = "zzz-upgrade-agent-hold.conf";
const OWNER_LINE: &str = "# Hold of upgrade ";
/// Is there while it applies a plan.
const APPLYING: &str = "/var/lib/rancher/agent/interlock/applyinator-active";
/// Which secret holds its plan, and how it gets at that.
const CONNECTION: &str = "/var/lib/rancher/agent/rancher2_connection_info.json";
/// How long it may take to stop; systemd itself gives it 90 s.
const STOP: Duration = Duration::from_secs(100);
const START: Duration = Duration::from_mins(1);

/// Why it is not held, or not let go.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// It is at work.
    #[error(
        "{UNIT} is applying a plan ({APPLYING} is there); wait until it is done, or see `journalctl -u {UNIT}`"
    )]
    Applying,
    /// Another upgrade holds it.
    #[error("{UNIT} is held by upgrade {uid}; finish or cancel that one, or remove {} and run `systemctl daemon-reload`", path.display())]
    NotOurs {
        /// Whose it is.
        uid: String,
        /// The drop-in, as the machine sees it.
        path: PathBuf,
    },
    /// systemd was told and still does otherwise.
    #[error("the hold of {UNIT} is written and systemd did not load it; see `systemctl cat {UNIT}`")]
    NotLoaded,
    /// systemd did not answer.
    #[error("cannot ask systemd about {UNIT}")]
    Systemd(#[from] SystemdError),
    /// The drop-in could not be read, written or removed.
    #[error("cannot change the hold of {UNIT}")]
    Io(#[from] FsError),
    /// What it works with is damaged.
    #[error("{CONNECTION} is not understood; see whether {UNIT} works at all")]
    Connection(#[source] serde_json::Error),
}

/// Where its plan is.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Its own way to Rancher's API server.
    pub kube_config: String,
    /// Of the secret.
    pub namespace: String,
    /// The secret's name.
    pub secret_name: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({}/{})", self.namespace, self.secret_name)
    }
}

/// Is it installed here, and active? None when there is no such unit.
///
/// # Errors
/// The bus's.
pub async fn is_active(host: &Host) -> Result<Option<bool>, HoldError> {
    match host.systemd.unit(UNIT).await {
        Ok(state) => Ok(Some(matches!(state.active_state.as_str(), "active" | "activating" | "reloading"))),
        Err(SystemdError::NoSuchUnit { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where its plan is; none when it was never connected.
///
/// # Errors
/// The file cannot be read or understood.
pub fn connection(host: &Host) -> Result<Option<Connection>, HoldError> {
    let Some(text) = host.root.fs().read_opt(&at(host, CONNECTION)?)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(HoldError::Connection)
}

/// Holds it for upgrade `uid` and stops it. A hold of ours that stands already is fine.
///
/// # Errors
/// See [`HoldError`]; it goes on as before where it is at work or another upgrade's.
pub async fn hold(host: &Host, uid: &str) -> Result<(), HoldError> {
    refuse_strangers(host, uid)?;
    let fs = host.root.fs();
    idle(host).await?;
    let path = drop_in(host)?;
    if let Some(dir) = path.parent() {
        fs.create_dir_sync(dir)?;
        fs.effects().set_mode(dir, 0o755).map_err(FsError::on("set mode of", dir))?;
    }
    fs.write_atomic(&path, text(uid).as_bytes(), 0o644)?;
    host.systemd.reload().await?;
    if !is_loaded(host).await? {
        return Err(HoldError::NotLoaded);
    }
    // A plan may have begun meanwhile; none begins once it has been started again, which the hold prevents.
    idle(host).await?;
    host.systemd.stop(UNIT, Instant::now() + STOP).await?;
    Ok(())
}

/// Lets it go, and starts it where it ran before. No hold is fine.
///
/// # Errors
/// See [`HoldError`].
pub async fn let_go(host: &Host, uid: &str, start: bool) -> Result<(), HoldError> {
    refuse_strangers(host, uid)?;
    host.root.fs().remove_opt(&drop_in(host)?)?;
    host.systemd.reload().await?;
    if is_active(host).await?.is_none() {
        return Ok(());
    }
    if is_loaded(host).await? {
        return Err(HoldError::NotLoaded);
    }
    if start {
        host.systemd.start(UNIT, Instant::now() + START).await?;
    }
    Ok(())
}

/// Nobody cuts a plan off in the middle.
async fn idle(host: &Host) -> Result<(), HoldError> {
    let mark = at(host, APPLYING)?;
    match host.root.fs().effects().stat(&mark) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FsError::on("look at", &mark)(error).into()),
        // What a dead one has left behind says nothing.
        Ok(_) if is_active(host).await? == Some(true) => Err(HoldError::Applying),
        Ok(_) => Ok(()),
    }
}

async fn is_loaded(host: &Host) -> Result<bool, HoldError> {
    let state = host.systemd.unit(UNIT).await?;
    Ok(state.drop_in_paths.iter().any(|path| path.rsplit('/').next() == Some(DROP_IN)))
}

fn refuse_strangers(host: &Host, uid: &str) -> Result<(), HoldError> {
    let path = drop_in(host)?;
    let Some(bytes) = host.root.fs().read_opt(&path)? else { return Ok(()) };
    let text = String::from_utf8_lossy(&bytes);
    let owner = text.lines().find_map(|line| line.strip_prefix(OWNER_LINE)).unwrap_or("unknown").trim();
    if owner == uid {
        return Ok(());
    }
    Err(HoldError::NotOurs { uid: owner.to_owned(), path: host.root.strip(&path) })
}

fn drop_in(host: &Host) -> Result<PathBuf, FsError> {
    at(host, &format!("/etc/systemd/system/{UNIT}.d/{DROP_IN}"))
}

fn at(host: &Host, path: &str) -> Result<PathBuf, FsError> {
    host.root.resolve(path).map_err(FsError::on("follow", Path::new(path)))
}

fn text(uid: &str) -> String {
    format!(
        "{OWNER_LINE}{uid}\n\
         # upgrade-agent swaps RKE2 itself and keeps {UNIT} from doing it as well.\n\
         # To remove by hand: rm /etc/systemd/system/{UNIT}.d/{DROP_IN} && systemctl daemon-reload\n\
         # && systemctl start {UNIT}\n\
         [Unit]\nConditionPathExists=!/\n"
    )
}
