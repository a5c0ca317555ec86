//! `Run`: one upgrade under way: the two wires, the plan, the journal, and whom to tell.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::alien::Seen;
use crate::agent::step_error::StepError;
use crate::cluster::Cluster;
use crate::flow::phase::Phase;
use crate::flow::plan::NodePlan;
use crate::flow::record::{Entry, Record};
use crate::flow::report::{Blocker, NodeReport};
use crate::flow::step::Step;
use crate::host::Host;
use crate::journal::{Journal, JournalError};
use crate::mutation::{self, Mutation};

/// One upgrade under way. The driver owns it; steps borrow it.
pub struct Run {
    /// This machine.
    pub host: Host,
    /// The cluster.
    pub cluster: Cluster,
    /// The order sheet.
    pub plan: NodePlan,
    /// The truth.
    pub journal: Journal,
    /// This program's own file.
    pub program: PathBuf,
    /// Where this node's own health ports listen.
    pub local_address: IpAddr,
    /// How long the new RKE2 has to serve without a break.
    pub soak: Duration,
    /// The live binary as it was seen last, and found good.
    pub seen_live: Seen,
    /// The guard's program on the machine is known to be this one.
    pub guard_is_own: bool,
    /// Told to stop.
    pub shutdown: CancellationToken,
    /// Whom to tell.
    pub publisher: Publisher,
}

/// Where reports and lines go. Only what is durable is published.
pub struct Publisher {
    report: watch::Sender<NodeReport>,
    entries: mpsc::UnboundedSender<Entry>,
}

/// The receiving ends of a [`Publisher`].
pub struct Published {
    /// The newest picture.
    pub report: watch::Receiver<NodeReport>,
    /// Every journal line, once it is durable.
    pub entries: mpsc::UnboundedReceiver<Entry>,
}

impl Publisher {
    /// A publisher and its receiving ends.
    #[must_use]
    pub fn new() -> (Self, Published) {
        let (report, report_rx) = watch::channel(NodeReport {
            phase: Phase::ImagesPreloading,
            step: None,
            attempt: 1,
            reason: None,
            message: None,
            started: None,
            step_started: None,
            boot: String::new(),
            journal_seq: 0,
            vms: crate::flow::vms::VmCounts::default(),
            blockers: Vec::new(),
        });
        let (entries, entries_rx) = mpsc::unbounded_channel();
        (Self { report, entries }, Published { report: report_rx, entries: entries_rx })
    }
}

impl Run {
    /// Makes a record durable, then publishes it.
    ///
    /// # Errors
    /// [`JournalError`]; nothing was written or published then.
    pub fn record(&mut self, record: Record) -> Result<(), JournalError> {
        if mutation::is_on(Mutation::PublishBeforeAppend) {
            let next = self.journal.progress().seq() + 1;
            self.publisher.report.send_modify(|report| report.journal_seq = next);
        }
        let entry = self.journal.append(record)?.clone();
        // Nobody may be listening (tests, a narrator that has ended); the journal has it.
        if self.publisher.entries.send(entry).is_err() {
            tracing::debug!("nobody narrates this run");
        }
        let progress = self.journal.progress();
        self.publisher.report.send_modify(|report| {
            report.journal_seq = progress.seq();
            report.vms = progress.ledger().counts();
            report.started = progress.started();
            self.journal.boot().clone_into(&mut report.boot);
            report.phase = Phase::of(progress, report.step);
        });
        Ok(())
    }

    /// Tells that a step begins.
    pub fn publish_step(&mut self, step: Option<Step>, attempt: u32) {
        let now = self.journal.now();
        let progress = self.journal.progress();
        self.publisher.report.send_modify(|report| {
            if report.step != step {
                report.step_started = Some(now);
            }
            report.step = step;
            report.attempt = attempt;
            report.phase = Phase::of(progress, step);
            // Another attempt still waits for what the last one did not get.
            if attempt <= 1 {
                report.reason = None;
                report.message = None;
                report.blockers = Vec::new();
            }
            report.journal_seq = progress.seq();
            report.vms = progress.ledger().counts();
            report.started = progress.started();
            self.journal.boot().clone_into(&mut report.boot);
        });
    }

    /// Tells what is waited for.
    pub fn publish_blockers(&mut self, blockers: Vec<Blocker>) {
        self.publisher.report.send_if_modified(|report| {
            let changed = report.blockers != blockers;
            report.blockers = blockers;
            changed
        });
    }

    /// Tells that an operator is needed.
    pub fn publish_trouble(&mut self, reason: &str, message: String) {
        self.publisher.report.send_modify(|report| {
            report.reason.replace(reason.to_owned());
            report.message = Some(message);
        });
    }

    /// Tells that the operator has paused the run.
    pub fn publish_pause(&mut self) {
        self.publisher.report.send_modify(|report| {
            // Harvester's word for it exists only before the first VM is touched.
            match report.phase {
                Phase::ImagesPreloading | Phase::ImagesPreloaded => report.phase = Phase::NodeUpgradePaused,
                Phase::NodeUpgradePaused
                | Phase::PreDraining
                | Phase::PreDrained
                | Phase::PostDraining
                | Phase::WaitingReboot
                | Phase::Succeeded
                | Phase::Failed => {}
            }
            report.reason.replace("AdministrativelyPaused".to_owned());
        });
    }

    /// Waits, unless the agent is told to stop.
    ///
    /// # Errors
    /// Interrupted.
    pub async fn pause(&self, time: Duration) -> Result<(), StepError> {
        tokio::select! {
            biased;
            // Cancel-safe: both arms only wait.
            () = self.shutdown.cancelled() => Err(StepError::interrupted()),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// The journal's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.journal.now()
    }
}
