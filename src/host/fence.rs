//! The fence around a unit: a drop-in that makes systemd refuse everybody who starts, stops or restarts it by name, and ask a
//! guard before any start. Knows whose fence it is, and believes it only when systemd has it loaded. Signals, crashes and a
//! reboot get past the first part; the guard stands in their way.

use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::host::fs::FsError;
use crate::host::systemd::{SystemdError, UnitState};
use crate::mutation::{self, Mutation};

/// Sorts last among the drop-ins, so that nobody overrides it by accident.
const DROP_IN: &str = "99-zz-upgrade-agent-fence.conf";
const OWNER_LINE: &str = "# Fence of upgrade ";

/// What systemd runs before each start of a fenced unit; the start fails with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreStart(String);

impl PreStart {
    /// A program with its arguments; all paths are the machine's own.
    #[must_use]
    pub fn new(program: &Path, arguments: &[&str]) -> Self {
        // systemd.syntax(7), systemd.service(5): a quoted word; `%` begins a specifier and `$` a variable.
        let word = |text: &str| {
            let escaped =
                text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
            format!("\"{escaped}\"")
        };
        let program = program.display().to_string();
        let all: Vec<String> =
            std::iter::once(program.as_str()).chain(arguments.iter().copied()).map(word).collect();
        Self(all.join(" "))
    }
}

/// Why a fence is not as asked.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// Another upgrade's fence stands there.
    #[error("{unit} is fenced by upgrade {uid}; finish or cancel that one, or remove {} and run `systemctl daemon-reload`", path.display())]
    NotOurs {
        /// The unit.
        unit: String,
        /// Whose it is.
        uid: String,
        /// The drop-in, as the machine sees it.
        path: PathBuf,
    },
    /// systemd was told and still says otherwise.
    #[error(
        "the fence of {unit} is written and systemd did not load it; see `systemctl cat {unit}` for a later drop-in"
    )]
    NotLoaded {
        /// The unit.
        unit: String,
    },
    /// systemd did not answer.
    #[error("cannot ask systemd about the fence")]
    Systemd(#[from] SystemdError),
    /// The drop-in could not be read, written or removed.
    #[error("cannot change the fence")]
    Io(#[from] FsError),
}

/// What stands around a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceState {
    /// No fence of any upgrade, on disk or loaded.
    Absent,
    /// This upgrade's, on disk and loaded.
    Ours,
    /// Another upgrade's, by its uid.
    Other(String),
    /// This upgrade's, but systemd does not keep to it yet.
    WrittenNotLoaded,
    /// Removed from disk, but systemd still keeps to it.
    RemovedStillLoaded,
}

/// Fences the units for upgrade `uid` and sees to it that systemd has loaded all of it. A fence of ours that stands
/// already is fine; when one unit carries another's fence, none is changed.
///
/// # Errors
/// See [`FenceError`]. What was written stays, for [`lower`] to remove.
pub async fn raise(host: &Host, units: &[&str], uid: &str, guard: &PreStart) -> Result<(), FenceError> {
    let fs = host.root.fs();
    for unit in units {
        host.systemd.unit(unit).await?;
        refuse_strangers(host, unit, uid)?;
    }
    if mutation::is_on(Mutation::DropTheFence) {
        return Ok(());
    }
    for unit in units {
        let path = drop_in(host, unit)?;
        if let Some(dir) = path.parent() {
            fs.create_dir_sync(dir)?;
            // systemd reads it as root, but `systemctl cat` of an operator should work as well.
            fs.effects().set_mode(dir, 0o755).map_err(FsError::on("set mode of", dir))?;
        }
        fs.write_atomic(&path, text(unit, uid, guard).as_bytes(), 0o644)?;
    }
    host.systemd.reload().await?;
    for unit in units {
        if !is_loaded(&host.systemd.unit(unit).await?) {
            return Err(FenceError::NotLoaded { unit: (*unit).to_owned() });
        }
    }
    Ok(())
}

/// Takes the fences of upgrade `uid` away and sees to it that systemd has forgotten them. No fence is fine; when one unit
/// carries another's fence, none is changed.
///
/// # Errors
/// See [`FenceError`].
pub async fn lower(host: &Host, units: &[&str], uid: &str) -> Result<(), FenceError> {
    for unit in units {
        refuse_strangers(host, unit, uid)?;
    }
    for unit in units {
        host.root.fs().remove_opt(&drop_in(host, unit)?)?;
    }
    host.systemd.reload().await?;
    for unit in units {
        match host.systemd.unit(unit).await {
            Ok(state) if names_drop_in(&state) => {
                return Err(FenceError::NotLoaded { unit: (*unit).to_owned() });
            }
            Ok(_) | Err(SystemdError::NoSuchUnit { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What stands around the unit now, seen by upgrade `uid`.
///
/// # Errors
/// [`FenceError::Systemd`] or [`FenceError::Io`].
pub async fn state(host: &Host, unit: &str, uid: &str) -> Result<FenceState, FenceError> {
    if mutation::is_on(Mutation::DropTheFence) {
        return Ok(FenceState::Ours);
    }
    let written = owner(host, unit)?;
    let loaded = host.systemd.unit(unit).await?;
    Ok(match written {
        Some(other) if other != uid => FenceState::Other(other),
        Some(_) if is_loaded(&loaded) => FenceState::Ours,
        Some(_) => FenceState::WrittenNotLoaded,
        None if names_drop_in(&loaded) => FenceState::RemovedStillLoaded,
        None => FenceState::Absent,
    })
}

fn is_loaded(state: &UnitState) -> bool {
    names_drop_in(state) && state.refuse_manual_start && state.refuse_manual_stop
}

fn names_drop_in(state: &UnitState) -> bool {
    state.drop_in_paths.iter().any(|path| path.rsplit('/').next() == Some(DROP_IN))
}

fn refuse_strangers(host: &Host, unit: &str, uid: &str) -> Result<(), FenceError> {
    match owner(host, unit)? {
        Some(other) if other != uid => Err(FenceError::NotOurs {
            unit: unit.to_owned(),
            uid: other,
            path: host.root.strip(&drop_in(host, unit)?),
        }),
        Some(_) | None => Ok(()),
    }
}

/// Whose fence is on disk. One without an owner line is somebody's all the same.
fn owner(host: &Host, unit: &str) -> Result<Option<String>, FsError> {
    let found = host.root.fs().read_opt(&drop_in(host, unit)?)?;
    Ok(found.map(|bytes| {
        let text = String::from_utf8_lossy(&bytes);
        let uid = text.lines().find_map(|line| line.strip_prefix(OWNER_LINE));
        uid.unwrap_or("unknown").trim().to_owned()
    }))
}

fn drop_in(host: &Host, unit: &str) -> Result<PathBuf, FsError> {
    let path = format!("/etc/systemd/system/{unit}.d/{DROP_IN}");
    host.root.resolve(&path).map_err(FsError::on("follow", &host.root.at(&path)))
}

fn text(unit: &str, uid: &str, PreStart(guard): &PreStart) -> String {
    format!(
        "{OWNER_LINE}{uid}\n\
         # upgrade-agent restarts {unit} itself and keeps others from it meanwhile.\n\
         # To remove by hand: rm /etc/systemd/system/{unit}.d/{DROP_IN} && systemctl daemon-reload\n\
         [Unit]\nRefuseManualStart=yes\nRefuseManualStop=yes\n\
         [Service]\nExecStartPre={guard}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Fs;
    use crate::host::root::HostRoot;
    use crate::host::systemd::fake::{Behaviour, Fake, UNIT, machine};

    fn guard() -> PreStart {
        PreStart::new(Path::new("/x/upgrade-agent"), &["guard", "--state-dir", "/a b/50%"])
    }

    #[test]
    fn a_path_is_one_word_for_systemd() {
        assert_eq!(guard().0, "\"/x/upgrade-agent\" \"guard\" \"--state-dir\" \"/a b/50%%\"");
    }

    async fn fenceable() -> (tempfile::TempDir, Host, Fake) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        let (systemd, fake) = machine(Behaviour::ComesUp).await;
        let host = Host { root, systemd };
        let path = drop_in(&host, UNIT).unwrap();
        fake.load_on_reload(move || {
            Fs::kernel().read_opt(&path).unwrap().map(|_| path.display().to_string())
        });
        (dir, host, fake)
    }

    #[tokio::test]
    async fn goes_up_is_ours_and_comes_down_twice() {
        let (_dir, host, _fake) = fenceable().await;
        assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::Absent);
        raise(&host, &[UNIT], "uid-1", &guard()).await.unwrap();
        raise(&host, &[UNIT], "uid-1", &guard()).await.unwrap();
        assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::Ours);
        lower(&host, &[UNIT], "uid-1").await.unwrap();
        lower(&host, &[UNIT], "uid-1").await.unwrap();
        assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::Absent);
    }

    #[tokio::test]
    async fn another_upgrades_fence_is_left_standing() {
        let (_dir, host, _fake) = fenceable().await;
        raise(&host, &[UNIT], "uid-1", &guard()).await.unwrap();
        assert_eq!(state(&host, UNIT, "uid-2").await.unwrap(), FenceState::Other("uid-1".to_owned()));
        let error = lower(&host, &[UNIT], "uid-2").await.unwrap_err();
        assert!(
            error.to_string().contains("rm") || error.to_string().contains("/etc/systemd/system"),
            "{error}"
        );
        raise(&host, &[UNIT], "uid-2", &guard()).await.unwrap_err();
        assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::Ours);
    }

    #[tokio::test]
    async fn a_fence_that_systemd_did_not_load_does_not_count() {
        let (_dir, host, fake) = fenceable().await;
        fake.load_on_reload(|| None);
        assert!(matches!(raise(&host, &[UNIT], "uid-1", &guard()).await, Err(FenceError::NotLoaded { .. })));
        assert_eq!(state(&host, UNIT, "uid-1").await.unwrap(), FenceState::WrittenNotLoaded);
        assert!(raise(&host, &["absent.service"], "uid-1", &guard()).await.is_err());
    }
}
