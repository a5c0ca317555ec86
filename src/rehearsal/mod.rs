//! Rehearsals: the production node role, unchanged, on a simulated cluster and simulated machines in virtual time, with a
//! judge who looks on. One rehearsal needs one thread and no machine of anybody; the same order gives the same result.
//!
//! - [`rehearse`] runs one: `world` is built, `roll` takes its nodes through the upgrade one after the other, each in as
//!   many lives (`life`) as it takes; `director` shows the judge everything that happens.
//! - `storage` tells when Longhorn has rebuilt what a node's turn took away.
//! - [`judge`] has the invariants, [`faults`] what can be given to a rehearsal, [`schedule`] where it hurts.
//! - [`check`] runs thousands of them, [`timeline`] and [`chart`] tell what came of one.

pub mod afflict;
pub mod chart;
pub mod check;
mod director;
pub mod doings;
mod etcd;
pub mod faults;
pub mod judge;
#[cfg(test)]
mod ladder_tests;
mod life;
mod roles;
mod roll;
pub mod schedule;
mod storage;
pub mod timeline;
pub mod unblock;
mod wire;
mod world;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::thread;

use serde_json::Value;
use thiserror::Error;
use tokio::runtime::Runtime;

use crate::flow::plan::Evacuation;
use crate::flow::version::Rke2Version;
use crate::rehearsal::faults::Fault;
use crate::rehearsal::judge::Broken;
use crate::rehearsal::schedule::Places;
use crate::rehearsal::timeline::Timeline;
use crate::rehearsal::unblock::{Change, NodeState};
use crate::rehearsal::world::Ground;
use crate::sim::seed::Preset;

/// What a rehearsal is about.
#[derive(Debug, Clone)]
pub enum Scene {
    /// A made-up cluster.
    Preset(Preset),
    /// Objects of a real one.
    Objects(Arc<Vec<Value>>),
}

/// One rehearsal, whole: the same order gives the same result to the byte.
#[derive(Debug, Clone)]
pub struct Order {
    /// The cluster.
    pub scene: Scene,
    /// Decides whatever varies.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What the plans allow to be done to VMs.
    pub evacuation: Evacuation,
    /// Whether the plans have the live binary made immutable.
    pub immutable_binary: bool,
    /// The RKE2 that runs.
    pub from: Rke2Version,
    /// The RKE2 to run.
    pub to: Rke2Version,
    /// Nodes to upgrade; all when empty.
    pub only: Vec<String>,
    /// What somebody would change in the cluster first.
    pub changes: Vec<Change>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Rehearsed {
    /// What people want to see.
    pub timeline: Timeline,
    /// Promises that were broken; empty, or there is a bug.
    pub broken: Vec<Broken>,
    /// The nodes as they were before it began.
    pub nodes: Vec<NodeState>,
    /// Where it could have been hit.
    pub places: Places,
    /// How often an operator was asked for, and said "go on".
    pub asked: u32,
    /// Whether its faults are such that it may end with an operator being asked for.
    pub may_hold: bool,
    /// What happened in the world before it began that its owner should know: oddities of an exported cluster.
    pub notes: Vec<String>,
}

/// Why there is no rehearsal.
#[derive(Debug, Error)]
pub enum RehearsalError {
    /// Nothing to upgrade.
    #[error("there is no node to upgrade; export the cluster's nodes as well")]
    NoNodes,
    /// A name that the cluster does not have.
    #[error("{what} cannot be used in this rehearsal: {why}")]
    World {
        /// The object.
        what: String,
        /// The API server's word.
        why: String,
    },
    /// Nothing could be told from harming a world that holds by itself.
    #[error(
        "crash schedules need a world that comes through while nothing goes wrong, and this one does not: {why}; a rehearsal without \
         --crashes shows what would unblock it"
    )]
    Holds {
        /// The hold's own sentence, or who stays off.
        why: String,
    },
    /// A simulated machine could not be laid out.
    #[error("a simulated machine cannot be laid out")]
    Machine {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No runtime.
    #[error("the rehearsal's own clock cannot be made")]
    Runtime(#[source] io::Error),
}

/// Runs one rehearsal on this thread.
///
/// # Errors
/// [`RehearsalError`], before anything was rehearsed.
pub fn rehearse(order: &Order) -> Result<Rehearsed, RehearsalError> {
    let runtime = runtime()?;
    let rehearsed = run(&runtime, async { roll::roll(order, Ground::build(order)?).await });
    // Taking a large world apart takes longer than anybody wants to wait for a result that is there.
    if let Err(error) = thread::Builder::new().name("world-ends".to_owned()).spawn(move || drop(runtime)) {
        tracing::debug!(%error, "no thread to take the world apart in: it was done here");
    }
    rehearsed
}

/// Many rehearsals in one cluster: it is built once, and each of them begins where it began. What comes of them is what
/// [`rehearse`] would have given.
#[derive(Debug)]
pub struct Stand {
    ground: Ground,
}

impl Stand {
    /// Builds the cluster of an order.
    ///
    /// # Errors
    /// [`RehearsalError`] as of [`rehearse`].
    pub fn build(order: &Order) -> Result<Self, RehearsalError> {
        Ok(Self { ground: in_own_time(async { Ground::build(order) })?? })
    }

    /// Runs one rehearsal on this thread, of an order for the same scene, seed and first version.
    ///
    /// # Errors
    /// [`RehearsalError`], before anything was rehearsed.
    pub fn rehearse(&self, order: &Order) -> Result<Rehearsed, RehearsalError> {
        in_own_time(roll::roll(order, self.ground.clone()))?
    }
}

/// Lets time pass as soon as everybody waits for it.
fn in_own_time<T>(work: impl Future<Output = T>) -> Result<T, RehearsalError> {
    let runtime = runtime()?;
    Ok(run(&runtime, work))
}

fn runtime() -> Result<Runtime, RehearsalError> {
    // Nothing but the clock: without I/O to wait for, paused time goes on as soon as everybody waits.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().map_err(RehearsalError::Runtime)
}

fn run<T>(runtime: &Runtime, work: impl Future<Output = T>) -> T {
    // What the agent logs is about a machine that does not exist; whoever asks for details gets it all the same.
    if tracing::enabled!(tracing::Level::DEBUG) {
        return runtime.block_on(work);
    }
    let quiet = tracing::subscriber::NoSubscriber::new();
    tracing::subscriber::with_default(quiet, || runtime.block_on(work))
}
