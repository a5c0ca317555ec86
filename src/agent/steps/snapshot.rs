//! Snapshot: a server's `RKE2` saves etcd before its binary is replaced. It is the only way back over a change of etcd's or the API
//! server's format, so a node without one goes no further.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::flow::plan::Role;
use crate::flow::record::Record;
use crate::flow::step::Step;
use crate::host::etcd_snapshot;
use crate::host::fs::{Fs, FsError};
use crate::host::systemd::SystemdError;

/// Has the running `RKE2` save a snapshot (`rke2 etcd-snapshot save`, which asks the server process), and looks whether it is whole.
///
/// # Errors
/// Needs an operator when there is no whole snapshot: nothing is swapped then.
pub async fn save_etcd(run: &mut Run) -> Result<(), StepError> {
    let Some(found) = run.journal.progress().preflighted().cloned() else {
        return Err(StepError::operator("a snapshot was asked for before preflight; run the whole upgrade"));
    };
    if found.role == Role::Agent {
        return Ok(run.record(Record::NoSnapshot { why: "an agent node has no etcd".to_owned() })?);
    }
    let root = run.host.root.clone();
    let find = move |_: &Fs| {
        etcd_snapshot::folder(&root).map_err(|error| StepError::operator(hopeless(&chain(&error))))
    };
    let Some(folder) = run.host.root.fs().blocking(find).await? else {
        let why = "the cluster's datastore is not on this node".to_owned();
        return Ok(run.record(Record::NoSnapshot { why })?);
    };
    let folder_name = folder.display().to_string();
    // The same names after a crash, so that the snapshot under way is waited for; others at every new attempt.
    let turn = run.journal.progress().seq();
    let unit = format!("upgrade-agent-snapshot-{}-{turn}.service", run.plan.upgrade_uid);
    let name = format!(
        "pre-{}-{}-{turn}",
        run.plan.rke2.to.to_string().replace('+', "-"),
        run.plan.upgrade_uid.chars().take(8).collect::<String>()
    );
    let arguments = ["etcd-snapshot", "save", "--name", &name, "--dir", &folder_name];
    // Half a minute less than the step has, so that the reason is systemd's and not the driver's.
    let time = Step::Snapshot.deadline(&run.plan).saturating_sub(Duration::from_secs(30));
    let purpose = format!("etcd snapshot before RKE2 {}", run.plan.rke2.to);
    let saved =
        run.host.systemd.run_once(&unit, &purpose, &found.live, &arguments, Instant::now() + time).await;
    if let Err(error) = saved {
        return Err(no_snapshot(run, &unit, error).await);
    }
    let (root, named) = (run.host.root.clone(), name.clone());
    let check = move |fs: &Fs| {
        let folder = root.resolve(&folder).map_err(FsError::on("follow", &folder))?;
        let checked = etcd_snapshot::check(fs, &folder, &named);
        checked.map_err(|error| StepError::operator(hopeless(&chain(&error))))
    };
    let checked = run.host.root.fs().blocking(check).await;
    let snapshot = match checked {
        Ok(snapshot) => snapshot,
        Err(error) => {
            forget(run, &unit).await;
            return Err(error);
        }
    };
    let file = run.host.root.strip(Path::new(&snapshot.path)).display().to_string();
    run.record(Record::SnapshotTaken { file, bytes: snapshot.bytes })?;
    forget(run, &unit).await;
    Ok(())
}

async fn no_snapshot(run: &Run, unit: &str, error: SystemdError) -> StepError {
    match error {
        SystemdError::Failed { state, .. } => {
            forget(run, unit).await;
            let why = format!(
                "`rke2 etcd-snapshot save` ended with status {}; `journalctl -u {unit}` has its words",
                state.exec_main_status
            );
            StepError::operator(hopeless(&why))
        }
        SystemdError::TimedOut { last_state, .. } => {
            forget(run, unit).await;
            StepError::operator(hopeless(&format!(
                "`rke2 etcd-snapshot save` did not end, it was {last_state}"
            )))
        }
        error @ (SystemdError::NoBus { .. }
        | SystemdError::NoSuchUnit { .. }
        | SystemdError::Refused { .. }
        | SystemdError::Bus { .. }) => error.into(),
    }
}

fn hopeless(why: &str) -> String {
    format!("no etcd snapshot, so no swap: {why}; mend etcd, then resume, or cancel")
}

/// A spent unit that stays only shows up in `systemctl`, under a name that is not used again.
async fn forget(run: &Run, unit: &str) {
    if let Err(error) = run.host.systemd.forget(unit).await {
        tracing::debug!(error = &error as &dyn std::error::Error, unit, "left a spent unit");
    }
}
