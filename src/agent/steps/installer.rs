//! Holds rancher-system-agent back while the upgrade lasts, and lets it go once its plan orders what is in place: with any other
//! plan it would install that over the new RKE2, or restart RKE2 under running VMs.

use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::agent::steps::rollback::wanted;
use crate::cluster::machine_plan;
use crate::flow::installer::Ordered;
use crate::flow::record::Record;
use crate::flow::version::Rke2Version;
use crate::host::installer::{self, HoldError, UNIT};

/// Holds it, where it is installed.
///
/// # Errors
/// Tries again while it applies a plan; needs an operator when systemd does not load the hold, or it is another upgrade's.
pub async fn hold_installer(run: &mut Run) -> Result<(), StepError> {
    let Some(was_active) = installer::is_active(&run.host).await.map_err(reaction)? else { return Ok(()) };
    run.record(Record::InstallerHoldIntent { was_active })?;
    installer::hold(&run.host, &run.plan.upgrade_uid).await.map_err(reaction)
}

/// Lets it go.
///
/// # Errors
/// Needs an operator when its plan orders another version than the one in place; tries again while the plan cannot be read.
pub async fn release_installer(run: &mut Run) -> Result<(), StepError> {
    let in_place = in_place(run).clone();
    if let Some(connection) = installer::connection(&run.host).map_err(reaction)? {
        let plan =
            machine_plan::read(&connection.kube_config, &connection.namespace, &connection.secret_name);
        let secret = format!("{}/{}", connection.namespace, connection.secret_name);
        let held = |why: &str| {
            format!(
                "{UNIT} stays held: {why}; let Rancher order {in_place} (spec.kubernetesVersion of the cluster, secret {secret}), \
                 then resume. VMs are not waiting for it"
            )
        };
        let plan = plan.await.map_err(|error| StepError::retry(held(&chain(&error))))?;
        let ordered = Ordered::of(&plan).map_err(|error| StepError::operator(held(&error.to_string())))?;
        if let Some(objection) = ordered.objection(&in_place) {
            return Err(StepError::operator(held(&objection)));
        }
    }
    let was_active = run.journal.progress().installer_held().unwrap_or(true);
    installer::let_go(&run.host, &run.plan.upgrade_uid, was_active).await.map_err(reaction)?;
    Ok(run.record(Record::InstallerReleased)?)
}

/// The version that this machine has now.
fn in_place(run: &Run) -> &Rke2Version {
    if run.journal.progress().swap_begun() { wanted(run) } else { &run.plan.rke2.from }
}

fn reaction(error: HoldError) -> StepError {
    match error {
        HoldError::Systemd(error) => error.into(),
        HoldError::Applying => StepError::retry(chain(&error)),
        HoldError::NotOurs { .. } | HoldError::NotLoaded | HoldError::Io(_) | HoldError::Connection(_) => {
            StepError::operator(chain(&error))
        }
    }
}
