//! Checks of this machine: unit, binary, disk, leftovers of other agents.

use std::path::Path;

use crate::agent::checks::{Check, CheckVerdict, Preflight, install};
use crate::agent::observe::{sha256_of, sha256_of_process};
use crate::agent::step_error::StepError;
use crate::flow::plan::{NodePlan, Role};
use crate::flow::progress::Preflighted;
use crate::flow::version::Rke2Version;
use crate::host::fence::{self, FenceState};
use crate::host::fs::{Fs, FsKind};
use crate::host::systemd::{SystemdError, UnitState};
use crate::host::{Host, command};
use crate::journal::{self, Journal};

const SCOPE: &str = "machine";
const ARMED: &str = "armed node";

pub(super) async fn check(preflight: &mut Preflight, host: &Host, plan: &NodePlan, state_dir: &Path) {
    preflight.checks.push(persistence(host.root.fs(), state_dir));
    preflight.checks.push(other_runs(host.root.fs(), state_dir, &plan.upgrade_uid));
    let unit = match find_unit(host, plan.role).await {
        Ok((role, unit)) => {
            let why = format!("{} is {}", unit.name, unit.active_state);
            preflight.checks.push(Check::pass("rke2 unit", SCOPE, why));
            Some((role, unit))
        }
        Err(check) => {
            preflight.checks.push(check);
            None
        }
    };
    if let Some((role, unit)) = unit {
        preflight.checks.push(fence_check(host, &unit.name, &plan.upgrade_uid).await);
        binary(preflight, host, plan, role, &unit).await;
    }
}

/// A run that stands half-way has its own idea of which binary and which VMs belong here.
fn other_runs(fs: &Fs, state_dir: &Path, upgrade_uid: &str) -> Check {
    const NAME: &str = "other upgrades";
    let uids = match journal::upgrades(fs, state_dir) {
        Ok(uids) => uids,
        Err(error) => return Check::unknown(NAME, SCOPE, &error),
    };
    for uid in uids.iter().filter(|uid| *uid != upgrade_uid) {
        match Journal::peek(fs, &journal::path_of(state_dir, uid)) {
            Ok(progress) if progress.outcome().is_some() || progress.is_untouched() => {}
            Ok(_) => {
                let why = format!("upgrade {uid} of this machine has begun and not ended");
                let fix = "finish or cancel that one first; `upgrade-agent status` shows how far it is";
                return Check::fail(NAME, SCOPE, why, fix);
            }
            Err(error) => return Check::unknown(NAME, SCOPE, &error),
        }
    }
    Check::pass(NAME, SCOPE, "none is under way")
}

fn persistence(fs: &Fs, state_dir: &Path) -> Check {
    const NAME: &str = "state on disk";
    // The folder may not be there yet: its nearest parent says which file system it will be on.
    let parent = state_dir.ancestors().find(|path| fs.free_bytes(path).is_ok());
    let Some(parent) = parent else {
        return Check::fail(
            NAME,
            SCOPE,
            format!("{} has no readable parent", state_dir.display()),
            "mount it",
        );
    };
    match fs.filesystem(parent) {
        Ok(FsKind::Tmpfs | FsKind::Overlay) => Check::fail(
            NAME,
            SCOPE,
            format!("{} would not survive a reboot", state_dir.display()),
            "choose a folder on a persistent disk with --state-dir",
        ),
        Ok(FsKind::Other(kind)) => Check::pass(NAME, SCOPE, format!("{} is on {kind}", state_dir.display())),
        Err(error) => Check::unknown(NAME, SCOPE, &error),
    }
}

/// The unit that runs `RKE2` here, by the plan's role or by looking.
async fn find_unit(host: &Host, role: Option<Role>) -> Result<(Role, UnitState), Check> {
    const NAME: &str = "rke2 unit";
    let roles = role.map_or(vec![Role::Server, Role::Agent], |role| vec![role]);
    let mut seen = Vec::new();
    for role in roles {
        match host.systemd.unit(role.unit()).await {
            Ok(state) if state.active_state == "active" && state.main_pid != 0 => return Ok((role, state)),
            Ok(state) => seen.push(format!("{} is {}", role.unit(), state.active_state)),
            Err(SystemdError::NoSuchUnit { unit }) => seen.push(format!("there is no {unit}")),
            Err(error) => return Err(Check::unknown(NAME, SCOPE, &error)),
        }
    }
    let fix = "start RKE2 on this machine first, or correct the plan's node or role";
    Err(Check::fail(NAME, SCOPE, seen.join(", "), fix))
}

async fn fence_check(host: &Host, unit: &str, upgrade_uid: &str) -> Check {
    const NAME: &str = "foreign fence";
    match fence::state(host, unit, upgrade_uid).await {
        Ok(FenceState::Other(uid)) => Check::fail(
            NAME,
            SCOPE,
            format!("{unit} is fenced by upgrade {uid}"),
            format!("finish or cancel that upgrade; its drop-in is named in `systemctl cat {unit}`"),
        ),
        Ok(
            FenceState::Absent
            | FenceState::Ours
            | FenceState::WrittenNotLoaded
            | FenceState::RemovedStillLoaded,
        ) => Check::pass(NAME, SCOPE, "none"),
        Err(error) => Check::unknown(NAME, SCOPE, &error),
    }
}

async fn binary(preflight: &mut Preflight, host: &Host, plan: &NodePlan, role: Role, unit: &UnitState) {
    const NAME: &str = "live binary";
    let Some(live) = unit.program().map(str::to_owned) else {
        let why = format!("{} has no ExecStart", unit.name);
        preflight.checks.push(Check::fail(NAME, SCOPE, why, "reinstall RKE2's unit file"));
        return;
    };
    let (live_sha256, armed) = match is_armed(host, unit, &live).await {
        Ok(found) => found,
        Err(error) => {
            preflight.checks.push(Check::unknown(NAME, SCOPE, &error));
            return;
        }
    };
    preflight.checks.push(armed);
    preflight.checks.push(match command::rke2_version(&host.root, Path::new(&live)).await {
        Ok(text) => version(plan, &live, &text),
        Err(error) => Check::unknown("rke2 version", SCOPE, &error),
    });
    preflight.checks.push(install::prefix(host, &live, &unit.fragment_path).await);
    preflight.checks.push(install::room(host, plan, &live).await);
    preflight.checks.extend(install::runtime_images(host, plan, role).await);
    preflight.found = Some(Preflighted { role, unit: unit.name.clone(), live, live_sha256 });
}

/// sha256 of what lies at the live path, and whether that is what runs.
async fn is_armed(host: &Host, unit: &UnitState, live: &str) -> Result<(String, Check), StepError> {
    let live_sha256 = sha256_of(host, host.root.at(live)).await?;
    let running = sha256_of_process(host, unit.main_pid).await?;
    let check = if live_sha256 == running {
        Check::pass(ARMED, SCOPE, "the running RKE2 is the binary on disk")
    } else {
        let why =
            format!("{live} is not the binary that runs: the next restart of {} would upgrade it", unit.name);
        let fix =
            "drain this node by hand and restart RKE2, or put the old binary back, before you upgrade it";
        Check::fail(ARMED, SCOPE, why, fix)
    };
    Ok((live_sha256, check))
}

/// Would the next restart of RKE2 upgrade this machine? For an agent that has nothing else to do; a machine without a running RKE2
/// has nothing to be armed with.
pub async fn armed_node(host: &Host) -> Check {
    let (_, unit) = match find_unit(host, None).await {
        Ok(found) => found,
        Err(check) if check.verdict == CheckVerdict::Fail => return Check::pass(ARMED, SCOPE, check.why),
        Err(check) => return check,
    };
    let Some(live) = unit.program().map(str::to_owned) else {
        return Check::pass(ARMED, SCOPE, format!("{} has no ExecStart", unit.name));
    };
    is_armed(host, &unit, &live)
        .await
        .map_or_else(|error| Check::unknown(ARMED, SCOPE, &error), |(_, check)| check)
}

fn version(plan: &NodePlan, live: &str, text: &str) -> Check {
    const NAME: &str = "rke2 version";
    match text.parse::<Rke2Version>() {
        Ok(found) if found == plan.rke2.from => Check::pass(NAME, SCOPE, format!("{live} is {found}")),
        Ok(found) if found == plan.rke2.to => Check::fail(
            NAME,
            SCOPE,
            format!("{live} is {found} already"),
            "nothing is left to upgrade here; take the node out of the plan",
        ),
        Ok(found) => Check::fail(
            NAME,
            SCOPE,
            format!("{live} is {found}, the plan starts from {}", plan.rke2.from),
            "correct rke2.from in the plan",
        ),
        Err(error) => Check::unknown(NAME, SCOPE, &error),
    }
}
