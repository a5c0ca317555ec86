//! The fence around a unit: a drop-in that makes systemd refuse everybody who starts, stops or restarts it by name, and ask a
//! guard before any start. Knows whose fence it is, and believes it only when systemd has it loaded. Signals, crashes and a
//! reboot get past the first part; the guard stands in their way.

#[cfg(test)]
mod tests;
mod words;

use std::path::PathBuf;

use crate::host::Host;
use crate::host::fs::FsError;
use crate::host::systemd::{SystemdError, UnitState};
use crate::mutation::{self, Mutation};
use words::line_of;

pub use words::PreStart;

/// Sorts last among the drop-ins, so that nobody overrides it by accident: systemd goes by the bytes of the names, and Harvester and
/// `systemctl edit` write an `override.conf`.
const DROP_IN: &str = "zzz-upgrade-agent-fence.conf";
const OWNER_LINE: &str = "# Fence of upgrade ";
const PIN: &str = "ExecStart=";
const GUARD: &str = "ExecStartPre=";

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
    /// What would start is not what is looked after.
    #[error(
        "{unit} is to start {} by now, and not {live}: another installer has changed its unit file or a drop-in; `systemctl cat {unit}` \
         shows which; take the change back, `systemctl daemon-reload`, then resume",
        if program.is_empty() { "nothing" } else { program }
    )]
    StartsAnother {
        /// The unit.
        unit: String,
        /// What its `ExecStart=` names; empty for nothing.
        program: String,
        /// What it should.
        live: String,
    },
    /// systemd was told and still says otherwise.
    #[error(
        "the fence of {unit} is written and systemd does not keep to all of it; `systemctl cat {unit}` shows the later drop-in that takes \
         it back: remove that, `systemctl daemon-reload`, then resume"
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
/// already is fine; when one unit carries another's fence, none is changed. The first unit has to start `live`, the binary that
/// the guard looks at (the machine's own view); from then on every unit that starts it does, whoever changes its file.
///
/// # Errors
/// See [`FenceError`]. What was written stays, for [`lower`] to remove.
pub async fn raise(
    host: &Host,
    units: &[&str],
    uid: &str,
    guard: &PreStart,
    live: &str,
) -> Result<(), FenceError> {
    let fs = host.root.fs();
    let mut pins = Vec::new();
    for (place, unit) in units.iter().enumerate() {
        let state = host.systemd.unit(unit).await?;
        refuse_strangers(host, unit, uid)?;
        if place == 0 {
            refuse_another(unit, &state, live)?;
        }
        pins.push(state.exec_start.filter(|starts| starts.program == live).map(|starts| line_of(&starts)));
    }
    if mutation::is_on(Mutation::DropTheFence) {
        return Ok(());
    }
    for (unit, pin) in units.iter().zip(&pins) {
        let path = drop_in(host, unit)?;
        if let Some(dir) = path.parent() {
            fs.create_dir_sync(dir)?;
            // systemd reads it as root, but `systemctl cat` of an operator should work as well.
            fs.effects().set_mode(dir, 0o755).map_err(FsError::on("set mode of", dir))?;
        }
        fs.write_atomic(&path, text(unit, uid, guard, pin.as_deref()).as_bytes(), 0o644)?;
    }
    host.systemd.reload().await?;
    for (unit, pin) in units.iter().zip(&pins) {
        let state = host.systemd.unit(unit).await?;
        if !is_loaded(&state, Some(guard.line())) || !is_kept_to(pin.as_deref(), &state) {
            return Err(FenceError::NotLoaded { unit: (*unit).to_owned() });
        }
    }
    Ok(())
}

/// Takes the fences of upgrade `uid` away and sees to it that systemd has forgotten them. No fence is fine; when one unit
/// carries another's fence, none is changed. The first unit has to start `live` by itself (the machine's own view): who has changed its
/// file behind the fence would have another binary started at the next crash, and by then nobody looks.
///
/// # Errors
/// See [`FenceError`]; after [`FenceError::StartsAnother`] the fence stands as it stood.
pub async fn lower(host: &Host, units: &[&str], uid: &str, live: &str) -> Result<(), FenceError> {
    for unit in units {
        refuse_strangers(host, unit, uid)?;
    }
    if let Some(unit) = units.first() {
        look_behind(host, unit, live).await?;
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
    let written = written(host, unit)?;
    let loaded = host.systemd.unit(unit).await?;
    Ok(match &written {
        Some(text) if owner_in(text) != uid => FenceState::Other(owner_in(text).to_owned()),
        Some(text) if is_loaded(&loaded, last(text, GUARD)) && is_kept_to(last(text, PIN), &loaded) => {
            FenceState::Ours
        }
        Some(_) => FenceState::WrittenNotLoaded,
        None if names_drop_in(&loaded) => FenceState::RemovedStillLoaded,
        None => FenceState::Absent,
    })
}

/// What would the unit start without the fence's own word about it? It keeps everybody out meanwhile.
async fn look_behind(host: &Host, unit: &str, live: &str) -> Result<(), FenceError> {
    let fs = host.root.fs();
    let Some(fence) = written(host, unit)? else { return Ok(()) };
    let without: String = fence.split_inclusive('\n').filter(|line| !line.starts_with(PIN)).collect();
    let path = drop_in(host, unit)?;
    if without != fence {
        fs.write_atomic(&path, without.as_bytes(), 0o644)?;
        host.systemd.reload().await?;
    }
    let seen = match host.systemd.unit(unit).await {
        Ok(state) => refuse_another(unit, &state, live),
        // Nothing starts where there is no unit.
        Err(SystemdError::NoSuchUnit { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if seen.is_err() && without != fence {
        fs.write_atomic(&path, fence.as_bytes(), 0o644)?;
        host.systemd.reload().await?;
    }
    seen
}

fn refuse_another(unit: &str, state: &UnitState, live: &str) -> Result<(), FenceError> {
    if state.program() == Some(live) {
        return Ok(());
    }
    let program = state.program().unwrap_or_default().to_owned();
    Err(FenceError::StartsAnother { unit: unit.to_owned(), program, live: live.to_owned() })
}

/// Does systemd refuse orders, and ask the guard? A later drop-in may say otherwise.
fn is_loaded(state: &UnitState, guard: Option<&str>) -> bool {
    let asks = |guard: &str| state.exec_start_pre.iter().any(|command| line_of(command) == guard);
    names_drop_in(state) && state.refuse_manual_start && state.refuse_manual_stop && guard.is_some_and(asks)
}

/// Does systemd start what the fence says? A later drop-in may say otherwise.
fn is_kept_to(pin: Option<&str>, loaded: &UnitState) -> bool {
    let starts = || loaded.exec_start.as_ref().map(line_of);
    pin.is_none_or(|pin| starts().as_deref() == Some(pin))
}

fn names_drop_in(state: &UnitState) -> bool {
    state.drop_in_paths.iter().any(|path| path.rsplit('/').next() == Some(DROP_IN))
}

fn refuse_strangers(host: &Host, unit: &str, uid: &str) -> Result<(), FenceError> {
    match written(host, unit)? {
        Some(text) if owner_in(&text) != uid => Err(FenceError::NotOurs {
            unit: unit.to_owned(),
            uid: owner_in(&text).to_owned(),
            path: host.root.strip(&drop_in(host, unit)?),
        }),
        Some(_) | None => Ok(()),
    }
}

/// The fence on disk.
fn written(host: &Host, unit: &str) -> Result<Option<String>, FsError> {
    let found = host.root.fs().read_opt(&drop_in(host, unit)?)?;
    Ok(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whose fence it is. One without an owner line is somebody's all the same.
fn owner_in(text: &str) -> &str {
    text.lines().find_map(|line| line.strip_prefix(OWNER_LINE)).unwrap_or("unknown").trim()
}

/// What it says of a setting last.
fn last<'a>(text: &'a str, setting: &str) -> Option<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(setting)).next_back()
}

fn drop_in(host: &Host, unit: &str) -> Result<PathBuf, FsError> {
    let path = format!("/etc/systemd/system/{unit}.d/{DROP_IN}");
    host.root.resolve(&path).map_err(FsError::on("follow", &host.root.at(&path)))
}

fn text(unit: &str, uid: &str, guard: &PreStart, pin: Option<&str>) -> String {
    // An empty one first: a drop-in adds to what the unit file says.
    let pin = pin.map(|pin| format!("{PIN}\n{PIN}{pin}\n")).unwrap_or_default();
    format!(
        "{OWNER_LINE}{uid}\n\
         # upgrade-agent restarts {unit} itself and keeps others from it meanwhile.\n\
         # To remove by hand: rm /etc/systemd/system/{unit}.d/{DROP_IN} && systemctl daemon-reload\n\
         [Unit]\nRefuseManualStart=yes\nRefuseManualStop=yes\n\
         [Service]\n{GUARD}{}\n{pin}",
        guard.line()
    )
}
