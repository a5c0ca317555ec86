//! The reporter: the newest picture into `NodeUpgrade.status` and one key of `Upgrade.status.nodeStatuses`.
//!
//! A mirror: that it cannot write is logged and tried again, and never stops the work.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::Api;
use serde_json::json;
use tokio::sync::watch;

use crate::agent::step_error::chain;
use crate::cluster::crd::node_upgrade::{NodeUpgrade, NodeUpgradeStatus, StatusCondition};
use crate::cluster::crd::upgrade::{NodeStatus, Upgrade};
use crate::cluster::names::safe_concat;
use crate::cluster::write::{Part, merge};
use crate::cluster::{Cluster, ClusterError, ask, ask_opt};
use crate::flow::phase::Phase;
use crate::flow::plan::NodePlan;
use crate::flow::report::{Blocker, NodeReport};
use crate::flow::step::Step;
use crate::host::clock::Clock;

/// Between two writes: a run changes faster than people read.
const LEAST_PAUSE: Duration = Duration::from_millis(500);
/// Between two writes when only numbers or blockers have changed.
const COUNTS_PAUSE: Duration = Duration::from_secs(5);
/// After a write that failed.
const BACKOFF: Duration = Duration::from_secs(5);
/// For the last picture, when the process ends.
const LAST_WORD: Duration = Duration::from_secs(15);

/// Mirrors reports until the sender is gone, then writes the last one.
pub struct Reporter {
    cluster: Cluster,
    plan: NodePlan,
    clock: Clock,
    conditions: Vec<StatusCondition>,
    last_state: Option<NodeStatus>,
    last_status: Option<NodeUpgradeStatus>,
    last_news: Option<News>,
    order: Order,
}

/// Says in an order's status that it cannot be carried out, and why. That it cannot be said is logged.
pub async fn refuse(cluster: &Cluster, order: &NodeUpgrade, why: &str, now: Timestamp) {
    let name = order.metadata.name.clone().unwrap_or_default();
    let blocker = Blocker {
        what: why.to_owned(),
        since: now,
        owner: "whoever wrote the order".to_owned(),
        deadline: None,
        then: "it is not begun".to_owned(),
    };
    let degraded = StatusCondition {
        kind: "Degraded".to_owned(),
        status: "True".to_owned(),
        reason: "Refused".to_owned(),
        message: why.to_owned(),
        last_transition_time: now,
    };
    let status = json!({
        "blockers": [blocker], "conditions": [degraded], "observedGeneration": order.metadata.generation,
    });
    let patch = json!({ "status": status });
    let what = format!("report to NodeUpgrade {name}");
    let at = (Some(cluster.namespace.as_str()), name.as_str());
    if let Err(error) = ask(what, merge::<NodeUpgrade>(&cluster.client, at, Part::Status, &patch)).await {
        tracing::warn!(error = chain(&error), "the refusal could not be reported");
    }
}

/// What people want to see at once.
type News = (Phase, Option<Step>, Option<String>, u32);

fn news(report: &NodeReport) -> News {
    (report.phase, report.step, report.reason.clone(), report.attempt)
}

/// The `NodeUpgrade` that is reported to.
#[derive(Clone, Copy)]
enum Order {
    /// Not looked for yet.
    Unknown,
    /// A run from a plan file has none.
    Absent,
    /// There, with this generation of its spec.
    There(Option<i64>),
}

impl Reporter {
    /// A reporter for one run.
    #[must_use]
    pub fn new(cluster: Cluster, plan: NodePlan, clock: Clock) -> Self {
        Self {
            cluster,
            plan,
            clock,
            conditions: Vec::new(),
            last_state: None,
            last_status: None,
            last_news: None,
            order: Order::Unknown,
        }
    }

    /// Runs until the publisher is dropped; then one last try with a deadline.
    pub async fn mirror(mut self, mut reports: watch::Receiver<NodeReport>) {
        // The first value is an empty picture from before the journal was read.
        while reports.changed().await.is_ok() {
            // Numbers that only count up can wait a little, so that a run of many VMs costs few requests.
            let known = news(&reports.borrow());
            if self.last_news.as_ref() == Some(&known) {
                let more = reports.wait_for(|report| news(report) != known);
                if let Ok(Err(_)) = tokio::time::timeout(COUNTS_PAUSE, more).await {
                    break;
                }
            }
            let report = reports.borrow_and_update().clone();
            match self.write(&report).await {
                Ok(()) => {
                    self.last_news = Some(news(&report));
                    tokio::time::sleep(LEAST_PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "the state could not be reported; trying again");
                    reports.mark_changed();
                    if reports.has_changed().is_err() {
                        break;
                    }
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
        let report = reports.borrow().clone();
        if report.journal_seq == 0 {
            return;
        }
        let last_word = async {
            while let Err(error) = self.write(&report).await {
                if !error.is_passing() {
                    tracing::debug!(error = chain(&error), "the state cannot be reported");
                    return;
                }
                tracing::debug!(error = chain(&error), "the last state could not be reported; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        if tokio::time::timeout(LAST_WORD, last_word).await.is_err() {
            tracing::warn!(
                "the last state is not in the cluster; the journal has it, the next start reports it"
            );
        }
    }

    /// Both objects, each for itself: that one cannot be written does not keep the other from being written.
    async fn write(&mut self, report: &NodeReport) -> Result<(), ClusterError> {
        let mut result = Ok(());
        let state = node_status(report);
        if self.last_state.as_ref() != Some(&state) {
            match self.write_upgrade(&state).await {
                Ok(()) => self.last_state = Some(state),
                Err(error) => result = Err(error),
            }
        }
        let status = self.status(report);
        if self.last_status.as_ref() != Some(&status) {
            self.write_node_upgrade(&status).await?;
            self.last_status = Some(status);
        }
        result
    }

    /// One key of the map, by merge patch of the object itself: `Upgrade` has no status subresource.
    async fn write_upgrade(&self, state: &NodeStatus) -> Result<(), ClusterError> {
        let name = &self.plan.upgrade_name;
        let patch = json!({
            // Another Upgrade of the same name is not this one.
            "metadata": { "uid": self.plan.upgrade_uid },
            "status": { "nodeStatuses": { &self.plan.node_name: state } },
        });
        // It lists every node of the cluster, and grows with them.
        let at = (Some(self.cluster.namespace.as_str()), name.as_str());
        let merged = merge::<Upgrade>(&self.cluster.client, at, Part::Whole, &patch);
        ask_opt(format!("report to Upgrade {name}"), merged).await?;
        Ok(())
    }

    async fn write_node_upgrade(&mut self, status: &NodeUpgradeStatus) -> Result<(), ClusterError> {
        let name = safe_concat(&[&self.plan.upgrade_name, &self.plan.node_name]);
        let what = format!("report to NodeUpgrade {name}");
        let generation = match self.order {
            Order::There(generation) => generation,
            Order::Absent => return Ok(()),
            Order::Unknown => {
                let Cluster { client, namespace } = &self.cluster;
                let api: Api<NodeUpgrade> = Api::namespaced(client.clone(), namespace);
                let found = ask_opt(what.clone(), api.get(&name)).await?;
                let ours = found.filter(|found| found.spec.upgrade_uid == self.plan.upgrade_uid);
                let Some(found) = ours else {
                    self.order = Order::Absent;
                    return Ok(());
                };
                self.order = Order::There(found.metadata.generation);
                found.metadata.generation
            }
        };
        let mut status = status.clone();
        status.observed_generation = generation;
        let patch = json!({ "status": status });
        let at = (Some(self.cluster.namespace.as_str()), name.as_str());
        ask(what, merge::<NodeUpgrade>(&self.cluster.client, at, Part::Status, &patch)).await
    }

    fn status(&mut self, report: &NodeReport) -> NodeUpgradeStatus {
        let trouble = report.message.clone().unwrap_or_default();
        let degraded =
            report.reason.as_deref() == Some("NeedsOperator") || report.reason.as_deref() == Some("Refused");
        let ended = matches!(report.phase, Phase::Succeeded | Phase::Failed);
        let said = |yes: bool, reason: &str, message: &str| (yes, reason.to_owned(), message.to_owned());
        let step = report.step.map(|step| step.to_string()).unwrap_or_default();
        let wanted = [
            ("Ready", said(report.phase == Phase::Succeeded, report.phase.as_str(), "")),
            ("Progressing", said(!ended && !degraded, &step, "")),
            ("Degraded", said(degraded, report.reason.as_deref().unwrap_or("AsExpected"), &trouble)),
        ];
        self.conditions = wanted
            .into_iter()
            .map(|(kind, (yes, reason, message))| {
                let status = if yes { "True" } else { "False" };
                let before = self.conditions.iter().find(|one| one.kind == kind && one.status == status);
                StatusCondition {
                    kind: kind.to_owned(),
                    status: status.to_owned(),
                    reason: reason.replace([' ', '-'], ""),
                    message,
                    last_transition_time: before
                        .map_or_else(|| self.clock.now(), |one| one.last_transition_time),
                }
            })
            .collect();
        NodeUpgradeStatus {
            phase: report.phase.as_str().to_owned(),
            step: report.step.map(|step| step.to_string()),
            attempt: report.attempt,
            started_at: report.started,
            step_started_at: report.step_started,
            boot_id: report.boot.clone(),
            journal_seq: report.journal_seq,
            vms: report.vms,
            blockers: report.blockers.clone(),
            conditions: self.conditions.clone(),
            observed_generation: None,
        }
    }
}

fn node_status(report: &NodeReport) -> NodeStatus {
    NodeStatus {
        state: report.phase.as_str().to_owned(),
        reason: report.reason.clone().unwrap_or_default(),
        // Harvester's UI paints any message as an error, so a retry has none.
        message: match report.reason.as_deref() {
            Some("NeedsOperator" | "Refused" | "RolledBack") => report.message.clone().unwrap_or_default(),
            _ => String::new(),
        },
    }
}
