//! Fence: keeps everybody else from restarting `RKE2`, and any binary but an approved one from starting. Intent first, so that
//! a crash cannot leave an unknown fence.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::observe::sha256_of;
use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::agent::steps::installer::hold_installer;
use crate::flow::guard::Kept;
use crate::flow::plan::Role;
use crate::flow::progress::Preflighted;
use crate::flow::record::Record;
use crate::host::fs::Fs;
use crate::host::swap_file::{self, SwapError};
use crate::host::systemd::SystemdError;
use crate::host::unpack::UnpackError;
use crate::host::{fence, own_program};

/// How long the guard may take to say its version.
const TRY_GUARD: Duration = Duration::from_secs(30);

/// Keeps the old binary, puts the boot guard on the machine, raises the fence on the `RKE2` unit and sees that systemd has
/// loaded it.
///
/// # Errors
/// Needs an operator when the live binary is not the one that preflight saw, or systemd cannot execute the guard or does not load the fence.
pub async fn raise_fences(run: &mut Run) -> Result<(), StepError> {
    let Some(found) = run.journal.progress().preflighted().cloned() else {
        return Err(StepError::operator("fencing was asked for before preflight; run the whole upgrade"));
    };
    // Before anything is touched: what lies there now could not be put back from anywhere.
    if sha256_of(&run.host, run.host.root.at(&found.live)).await? != found.live_sha256 {
        return Err(changed_since_preflight(&found));
    }
    let units = units_to_fence(run, &found).await?;
    run.record(Record::FenceIntent { units })?;
    let guard = install_guard(run).await?;
    try_guard(run, &guard).await?;
    keep_old(run, &found).await?;
    raise(run, &guard).await?;
    run.guard_is_own = true;
    hold_installer(run).await?;
    Ok(run.record(Record::Fenced)?)
}

/// Sees, once in each life, that the guard of a fence that stands is this very program: that of an agent before it may not know every
/// line of the journal from here on, and bars what it cannot read.
///
/// # Errors
/// Needs an operator when the disk says no.
pub async fn own_guard(run: &mut Run) -> Result<(), StepError> {
    let progress = run.journal.progress();
    if run.guard_is_own || !progress.fenced() || progress.post_drained() {
        return Ok(());
    }
    install_guard(run).await?;
    run.guard_is_own = true;
    Ok(())
}

/// Gives where it is; our own path. systemd may execute what has the label of RKE2's binary.
async fn install_guard(run: &Run) -> Result<PathBuf, StepError> {
    let (program, state_dir) = (run.program.clone(), run.journal.state_dir().to_path_buf());
    let like = run.journal.progress().preflighted().map(|found| run.host.root.at(&found.live));
    let install = move |fs: &Fs| {
        own_program::install(fs, &program, &state_dir, like.as_deref()).map_err(StepError::from)
    };
    run.host.root.fs().blocking(install).await
}

/// Behind a guard that systemd cannot execute RKE2 would not start again, not even after a power cut: found out before there is one.
async fn try_guard(run: &Run, guard: &Path) -> Result<(), StepError> {
    let guard = run.host.root.strip(guard).display().to_string();
    let unit = format!("upgrade-agent-tries-guard-{}.service", run.plan.upgrade_uid);
    let systemd = &run.host.systemd;
    // Of a life before this one.
    systemd.forget(&unit).await?;
    let deadline = Instant::now() + TRY_GUARD;
    let tried =
        systemd.run_once(&unit, "can the boot guard be executed", &guard, &["--version"], deadline).await;
    systemd.forget(&unit).await?;
    tried.map_err(|error| {
        StepError::operator(format!(
            "systemd cannot execute {guard}, without which RKE2 could not start behind the fence: {}; `journalctl -u {unit}` has \
             the reason (status 203: mounted noexec, or barred by SELinux); mend that, then resume. Nothing is fenced yet",
            chain(&error)
        ))
    })
}

/// Raises a fence that should stand: somebody may have taken it away.
///
/// # Errors
/// Needs an operator when systemd does not load it.
pub async fn raise_again(run: &Run) -> Result<(), StepError> {
    let progress = run.journal.progress();
    if !progress.fenced() || progress.post_drained() {
        return Ok(());
    }
    raise(run, &install_guard(run).await?).await
}

/// RKE2's own unit, and that of the other role where the machine has it, as every release brings both: it starts the same binary.
async fn units_to_fence(run: &Run, found: &Preflighted) -> Result<Vec<String>, StepError> {
    let mut units = vec![found.unit.clone()];
    let other = match found.role {
        Role::Server => Role::Agent,
        Role::Agent => Role::Server,
    };
    match run.host.systemd.unit(other.unit()).await {
        // A masked one cannot be started, and has no place for a fence.
        Ok(state) if state.load_state == "loaded" => units.push(other.unit().to_owned()),
        Ok(_) | Err(SystemdError::NoSuchUnit { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(units)
}

fn changed_since_preflight(found: &Preflighted) -> StepError {
    let Preflighted { live, live_sha256, .. } = found;
    StepError::operator(format!(
        "{live} changed since preflight; another installer is at work: stop it, put the rke2 with sha256 {live_sha256} there again, \
         then run again"
    ))
}

async fn raise(run: &Run, guard: &Path) -> Result<(), StepError> {
    let (guard, state_dir) = (run.host.root.strip(guard), run.host.root.strip(run.journal.state_dir()));
    let (state_dir, uid) = (state_dir.display().to_string(), &run.plan.upgrade_uid);
    let call = fence::PreStart::new(
        &guard,
        &["guard", "--upgrade", uid, "--host-root", "/", "--state-dir", &state_dir],
    );
    let units: Vec<&str> = run.journal.progress().fenced_units().iter().map(String::as_str).collect();
    let Some(live) = run.journal.progress().preflighted().map(|found| found.live.clone()) else {
        return Err(StepError::refuse(
            "no fence: there was no preflight; run the whole upgrade instead of this step",
        ));
    };
    Ok(fence::raise(&run.host, &units, &run.plan.upgrade_uid, &call, &live).await?)
}

/// The boot guard puts it back when somebody else replaces it.
///
/// # Errors
/// Needs an operator when the live binary is not the one of preflight any more, or the disk says no.
pub(super) async fn keep_old(run: &Run, found: &Preflighted) -> Result<(), StepError> {
    let kept = run.host.root.at(Kept::of(&found.live, &run.plan.rke2).old);
    let (live, found) = (run.host.root.at(&found.live), found.clone());
    let immutable = run.plan.immutable_binary;
    let keep = move |fs: &Fs| {
        swap_file::keep(fs, &live, &live, &found.live_sha256, &kept).map_err(|error| {
            if let SwapError::NotKept(UnpackError::WrongDigest { .. }) = error {
                return changed_since_preflight(&found);
            }
            StepError::operator(chain(&error))
        })?;
        if immutable {
            for path in [&live, &kept] {
                swap_file::lock(fs, path).map_err(|error| {
                    let cure = "leave immutableBinary out of the plan: cancel, and start again without it";
                    StepError::operator(format!("{}; {cure}", chain(&error)))
                })?;
            }
        }
        Ok(())
    };
    run.host.root.fs().blocking(keep).await
}
