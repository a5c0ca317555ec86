//! One life of the agent on a node: the production role on the life's own wires, until it ends or dies. Dying is being
//! dropped where it waits, as `kill -9` does it; nothing of it is told.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::carry_out::{Carried, Part, Site, carry_out};
use crate::agent::guard;
use crate::agent::run::Published;
use crate::agent::step_error::chain;
use crate::cluster::Cluster;
use crate::cluster::crd::node_upgrade::Control;
use crate::flow::plan::NodePlan;
use crate::flow::record::Entry;
use crate::flow::report::NodeReport;
use crate::host::Host;
use crate::host::clock::Clock;
use crate::host::fs::Fs;
use crate::host::root::HostRoot;
use crate::host::systemd::{BusAddress, Systemd};
use crate::rehearsal::faults::{Blow, Fault};
use crate::rehearsal::wire::LifeWire;
use crate::sim::api::ApiServer;
use crate::sim::machine::SimMachine;
use crate::sim::machine::disk::CutMode;
use crate::sim::machine::image::{PROGRAM, STATE_DIR};
use crate::sim::machine::life::{self, Life, LifePlan};
use crate::sim::troubles::Troubles;

/// As long as an agent looks that nobody has told otherwise.
const SOAK: Duration = Duration::from_secs(90);
/// Harvester's namespace.
pub(super) const NAMESPACE: &str = "harvester-system";

/// How a life came to its end.
#[derive(Debug)]
pub(super) enum Lived {
    /// The role ended by itself.
    Ended(Box<Carried>),
    /// It could not begin.
    CouldNotBegin,
    /// It was killed, or its machine lost its power.
    Died,
}

/// What it did, whatever its end.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) lived: Lived,
    /// Effects that it had or tried to have.
    pub(super) effects: Vec<life::Effect>,
    /// How often it waited.
    pub(super) awaits: u64,
    /// Requests that it sent.
    pub(super) requests: u64,
}

/// Who hears what a life publishes.
pub(super) trait Listener: Send + Sync {
    /// A line that is durable.
    fn line(&self, node: &str, entry: &Entry);
    /// A life begins; its newest picture can be looked at as long as it lives.
    fn begins(&self, report: watch::Receiver<NodeReport>);
    /// The same life, for those who end it or cut its wires.
    fn lives(&self, life: &Life, wire: &LifeWire);
    /// It is over.
    fn ends(&self);
}

/// What is the same for all lives of a rehearsal.
pub(super) struct Stage {
    pub(super) server: ApiServer,
    pub(super) clock: Clock,
    pub(super) listener: Arc<dyn Listener>,
    pub(super) troubles: Troubles,
}

/// The faults of a whole rehearsal, as one life meets them: its own numbers begin behind those of the lives before it.
pub(super) fn plan_of(faults: &[Fault], seed: u64, before: u64) -> (LifePlan, BTreeSet<u64>) {
    let mut plan = LifePlan::quiet();
    let mut on_wire = BTreeSet::new();
    for fault in faults {
        let Fault::At(number, blow) = fault else { continue };
        let Some(number) = number.checked_sub(before).filter(|number| *number > 0) else { continue };
        let torn = CutMode::Seeded(seed ^ number.rotate_left(17));
        let blow = match *blow {
            Blow::Kill => life::Blow::KillBefore,
            Blow::KillAfter => life::Blow::KillAfter,
            Blow::Power => life::Blow::PowerBefore(CutMode::LoseAll),
            Blow::PowerAfter => life::Blow::PowerAfter(CutMode::LoseAll),
            Blow::PowerTorn => life::Blow::PowerAfter(torn),
            Blow::Full => life::Blow::Fail { errno: Errno::ENOSPC, times: 1 },
            Blow::Broken => life::Blow::Fail { errno: Errno::EIO, times: 1 },
            Blow::Stranger(deed) => life::Blow::Stranger(deed),
            Blow::Away(seconds) => life::Blow::CutOff(Duration::from_secs(u64::from(seconds))),
            Blow::Lost => {
                on_wire.insert(number);
                continue;
            }
        };
        plan.blows.insert(number, blow);
    }
    (plan, on_wire)
}

/// Lives one life.
pub(super) async fn live(
    stage: &Stage,
    machine: &SimMachine,
    plan: NodePlan,
    (blows, on_wire): (LifePlan, BTreeSet<u64>),
    killed_at_await: Option<u64>,
) -> Account {
    let life = machine.life(blows);
    let wire = LifeWire::new(stage.server.service(), life.clone(), on_wire, stage.troubles.clone());
    stage.listener.lives(&life, &wire);
    let awaits = Arc::new(AtomicU64::new(0));
    let agent = Waiting {
        agent: Box::pin(begin(stage, &life, &wire, plan)),
        life: life.clone(),
        awaits: Arc::clone(&awaits),
        killed_at: killed_at_await,
    };
    let lived = tokio::select! {
        biased;
        // Dropping the agent where it waits is the kill.
        () = life.died() => Lived::Died,
        lived = agent => if life.is_dead() { Lived::Died } else { lived },
    };
    // A process that has ended has no connections and no locks.
    life.die();
    wire.hang_up();
    stage.listener.ends();
    Account {
        lived,
        effects: life.trace(),
        awaits: awaits.load(Ordering::Relaxed),
        requests: wire.requests(),
    }
}

async fn begin(stage: &Stage, life: &Life, wire: &LifeWire, plan: NodePlan) -> Lived {
    let systemd = async { Systemd::connect(&BusAddress::Given(life.bus().await.ok()?)).await.ok() };
    let Some(systemd) = systemd.await else {
        return Lived::CouldNotBegin;
    };
    let root = HostRoot::on(Fs::new(life.effects()), PathBuf::from("/"));
    let site = Site {
        host: Host { root, systemd },
        cluster: Cluster { client: wire.client(), namespace: NAMESPACE.to_owned() },
        state_dir: PathBuf::from(STATE_DIR),
        program: PathBuf::from(PROGRAM),
        soak: SOAK,
        local_address: std::net::IpAddr::from([127, 0, 0, 1]),
        clock: stage.clock,
        shutdown: CancellationToken::new(),
    };
    let (listener, node) = (Arc::clone(&stage.listener), plan.node_name.clone());
    let narrate = move |published: Published| {
        let Published { report, mut entries } = published;
        listener.begins(report);
        async move {
            while let Some(entry) = entries.recv().await {
                listener.line(&node, &entry);
            }
        }
    };
    match carry_out(site, plan, Part::Everything, Some(Control::Run), narrate).await {
        Ok(carried) => Lived::Ended(Box::new(carried)),
        Err(error) => {
            tracing::debug!(error = chain(&error), "the agent could not begin");
            Lived::CouldNotBegin
        }
    }
}

/// The boot guard, as systemd on the machine would run it: a process of its own that nothing befalls.
pub(super) fn lets_start(machine: &SimMachine, uid: &str) -> bool {
    let life = machine.life(LifePlan::quiet());
    let root = HostRoot::on(Fs::new(life.effects()), PathBuf::from("/"));
    let stood = guard::stand(&root, Path::new(STATE_DIR), uid);
    life.die();
    if let Err(barred) = &stood {
        tracing::debug!(error = barred as &dyn std::error::Error, "the guard lets nothing start");
    }
    stood.is_ok()
}

/// The agent's future; counts how often it waits, and kills it at one of these.
struct Waiting<'a> {
    agent: Pin<Box<dyn Future<Output = Lived> + Send + 'a>>,
    life: Life,
    awaits: Arc<AtomicU64>,
    killed_at: Option<u64>,
}

impl Future for Waiting<'_> {
    type Output = Lived;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Lived> {
        if let Poll::Ready(lived) = self.agent.as_mut().poll(context) {
            return Poll::Ready(lived);
        }
        let waited = self.awaits.fetch_add(1, Ordering::Relaxed) + 1;
        if self.killed_at == Some(waited) {
            self.life.die();
        }
        Poll::Pending
    }
}
