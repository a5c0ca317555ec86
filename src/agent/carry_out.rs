//! One upgrade from the first to the last line: lock, journal, driver, reporter. The command line runs it on the machine, a
//! rehearsal runs it on a machine in memory; neither adds anything in between.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::driver::{Ended, drive, drive_back, drive_one};
use crate::agent::events::Announcer;
use crate::agent::report::Reporter;
use crate::agent::run::{Published, Publisher, Run};
use crate::agent::watch_order::{follow_control, present_control};
use crate::cluster::Cluster;
use crate::cluster::crd::node_upgrade::Control;
use crate::flow::plan::NodePlan;
use crate::flow::progress::Progress;
use crate::flow::step::Step;
use crate::host::Host;
use crate::host::boot::BootId;
use crate::host::clock::Clock;
use crate::host::fs::FsError;
use crate::host::lock::{LockError, MachineLock};
use crate::journal::{Journal, JournalError};

/// Where an upgrade is carried out, and on whose behalf it may be stopped.
#[derive(Clone)]
pub struct Site {
    /// The machine.
    pub host: Host,
    /// The cluster that it is a node of.
    pub cluster: Cluster,
    /// The folder of all journals, and of the machine's lock.
    pub state_dir: PathBuf,
    /// Where this node's own health ports listen.
    pub local_address: IpAddr,
    /// This program's own file, for the copy that guards the machine's RKE2.
    pub program: PathBuf,
    /// How long the new RKE2 has to serve without a break.
    pub soak: Duration,
    /// What dates lines and deadlines.
    pub clock: Clock,
    /// Told to stop.
    pub shutdown: CancellationToken,
}

/// Which part of a run is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From where the journal says to the end.
    Everything,
    /// One step, if the journal and the gate allow it.
    Only(Step),
    /// The old RKE2 again, if the rules leave the way open; then to the end.
    Back,
}

/// How far it came.
#[derive(Debug)]
pub struct Carried {
    /// How driving ended.
    pub ended: Ended,
    /// What the journal says now.
    pub progress: Progress,
}

/// Why a run could not even begin; nothing was changed but the folder of the journals.
#[derive(Debug, Error)]
pub enum CannotBegin {
    /// There is no folder for journals.
    #[error("the state folder cannot be made")]
    StateDir(#[source] FsError),
    /// Another agent is at work here.
    #[error("another agent may be at work on this machine")]
    Lock(#[source] LockError),
    /// It is not known which boot this is.
    #[error("the machine's boot id cannot be read")]
    Boot(#[source] std::io::Error),
    /// The journal cannot be read or begun.
    #[error("the journal cannot be used")]
    Journal(#[source] JournalError),
}

/// Carries one plan out. `narrate` gets every line once it is durable, and ends when both its channels have.
///
/// # Errors
/// [`CannotBegin`].
pub async fn carry_out<F>(
    site: Site,
    plan: NodePlan,
    part: Part,
    word: Option<Control>,
    narrate: impl FnOnce(Published) -> F,
) -> Result<Carried, CannotBegin>
where
    F: Future<Output = ()> + Send + 'static,
{
    let Site { host, cluster, state_dir, program, local_address, soak, clock, shutdown } = site;
    let fs = host.root.fs().clone();
    fs.create_dir_sync(&state_dir).map_err(CannotBegin::StateDir)?;
    let _lock = MachineLock::acquire(&fs, &state_dir.join("lock")).map_err(CannotBegin::Lock)?;
    let boot = BootId::read(&host.root).map_err(CannotBegin::Boot)?;
    let journal = match part {
        Part::Everything => Journal::open(&fs, &state_dir, &plan, boot.as_str(), clock),
        // A step alone never begins a run.
        Part::Only(_) | Part::Back => {
            Journal::reopen(&fs, &state_dir, &plan.upgrade_uid, boot.as_str(), clock)
        }
    }
    .map_err(CannotBegin::Journal)?;
    // The operator's word from before the start counts: a run must not go a step further than a pause or cancel allows.
    let first_word = match word {
        Some(word) => word,
        None => present_control(&cluster, &plan).await,
    };
    let (publisher, listeners) = Publisher::new();
    let reporter = Reporter::new(cluster.clone(), plan.clone(), clock).mirror(listeners.report.clone());
    let reporting = tokio::spawn(reporter);
    let announcer = Announcer::new(cluster.clone(), plan.clone(), clock).announce(listeners.report.clone());
    let announcing = tokio::spawn(announcer);
    let narrator = tokio::spawn(narrate(listeners));
    let (control, orders) = watch::channel(first_word);
    let follower = tokio::spawn(follow_control(cluster.clone(), plan.clone(), control));
    let (seen_live, guard_is_own) = (None, false);
    let mut run = Run {
        host,
        cluster,
        plan,
        journal,
        program,
        local_address,
        soak,
        seen_live,
        guard_is_own,
        shutdown,
        publisher,
    };
    let ended = match part {
        Part::Everything => Box::pin(drive(&mut run, orders)).await,
        Part::Only(step) => drive_one(&mut run, step).await,
        Part::Back => Box::pin(drive_back(&mut run, orders)).await,
    };
    let progress = run.journal.progress().clone();
    // Dropping the run closes the publisher: narrator, reporter and announcer say their last word and end.
    drop(run);
    follower.abort();
    for (name, task) in [("narrator", narrator), ("reporter", reporting), ("announcer", announcing)] {
        if let Err(error) = task.await {
            tracing::warn!(%error, "the {name} ended badly");
        }
    }
    Ok(Carried { ended, progress })
}
