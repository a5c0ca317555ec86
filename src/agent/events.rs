//! Kubernetes Events: what a run waits for, once it has waited long enough to matter, in the words of `status.blockers`.
//! One event for all waits that come to matter together, none twice. That one cannot be written never stops the work.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::api::{Api, PostParams};
use tokio::sync::watch;

use crate::agent::step_error::chain;
use crate::cluster::crd::node_upgrade::NodeUpgrade;
use crate::cluster::crd::upgrade::Upgrade;
use crate::cluster::names::safe_concat;
use crate::cluster::{Cluster, ClusterError, ask, ask_opt};
use crate::flow::plan::NodePlan;
use crate::flow::report::{Blocker, NodeReport};
use crate::host::clock::Clock;

/// A wait that somebody has to end matters after this.
const MATTERS: SignedDuration = SignedDuration::from_secs(30);
/// One that ends by itself after this.
const SLOW: SignedDuration = SignedDuration::from_mins(5);
/// Between two events: what comes to matter meanwhile is told in one.
const LEAST_PAUSE: Duration = Duration::from_secs(30);
/// After one that could not be written.
const BACKOFF: Duration = Duration::from_mins(1);
/// For the last one, when the process ends.
const LAST_WORD: Duration = Duration::from_secs(10);
/// Waits that are named in one event; `status.blockers` names them all.
const NAMED: usize = 3;
/// The API server takes no longer ones.
const LONGEST: usize = 1000;
const COMPONENT: &str = "upgrade-agent";

/// Announces what a run waits for.
pub struct Announcer {
    cluster: Cluster,
    plan: NodePlan,
    clock: Clock,
    about: Option<ObjectReference>,
    told: BTreeSet<(String, Timestamp)>,
}

impl Announcer {
    /// An announcer for one run.
    #[must_use]
    pub fn new(cluster: Cluster, plan: NodePlan, clock: Clock) -> Self {
        Self { cluster, plan, clock, about: None, told: BTreeSet::new() }
    }

    /// Runs until the publisher is dropped.
    pub async fn announce(mut self, mut reports: watch::Receiver<NodeReport>) {
        loop {
            let report = reports.borrow_and_update().clone();
            let pause = match self.tell(&report).await {
                Ok(false) => None,
                Ok(true) => Some(LEAST_PAUSE),
                Err(error) => {
                    tracing::debug!(error = chain(&error), "an event could not be written; trying again");
                    Some(BACKOFF)
                }
            };
            let goes_on = if let Some(pause) = pause {
                // The last word does not wait for the end of a pause.
                tokio::time::timeout(pause, reports.wait_for(|_| false)).await.is_err()
            } else {
                tokio::select! {
                    biased;
                    // Cancel-safe: both arms only wait.
                    changed = reports.changed() => changed.is_ok(),
                    () = wait_for(self.next_due(&report)) => true,
                }
            };
            if !goes_on {
                break;
            }
        }
        let report = reports.borrow().clone();
        match tokio::time::timeout(LAST_WORD, self.tell(&report)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "the last event could not be written"),
            Err(_) => tracing::debug!("the last event could not be written in time"),
        }
    }

    /// Writes one event about all that has come to matter; whether there was any.
    async fn tell(&mut self, report: &NodeReport) -> Result<bool, ClusterError> {
        let now = self.clock.now();
        let due: Vec<&Blocker> = report
            .blockers
            .iter()
            .filter(|blocker| now >= matters_at(blocker, report) && !self.told.contains(&identity(blocker)))
            .collect();
        if due.is_empty() {
            return Ok(false);
        }
        let (kind, reason) = kind_of(&due, report);
        let message = message(&due, now);
        let told: Vec<_> = due.into_iter().map(identity).collect();
        match self.write(kind, reason, message, now).await {
            // Somebody has taken the right away, or the namespace is going: it will not be given back by asking.
            // Whoever watches the terminal or the object has its words, and a refused run says why in one sentence.
            Err(error) if !error.is_passing() => {
                tracing::debug!(error = chain(&error), "an event cannot be written; status.blockers has it");
            }
            written => written?,
        }
        self.told.extend(told);
        Ok(true)
    }

    /// How long until something comes to matter that was not told.
    fn next_due(&self, report: &NodeReport) -> Option<Duration> {
        let untold = report.blockers.iter().filter(|blocker| !self.told.contains(&identity(blocker)));
        let next = untold.map(|blocker| matters_at(blocker, report)).min()?;
        let left = next.duration_since(self.clock.now());
        Some(Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1)))
    }

    async fn write(
        &mut self,
        kind: &str,
        reason: &str,
        message: String,
        now: Timestamp,
    ) -> Result<(), ClusterError> {
        let about = self.about().await?;
        let api: Api<Event> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let name = format!("{}.{:x}", about.name.clone().unwrap_or_default(), now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(self.cluster.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: about,
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource {
                component: Some(COMPONENT.to_owned()),
                host: Some(self.plan.node_name.clone()),
            }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(self.plan.node_name.clone()),
            ..Event::default()
        };
        let what = format!("write an event about node {}", self.plan.node_name);
        match ask(what, api.create(&PostParams::default(), &event)).await {
            // It was written, and the answer was lost.
            Ok(_) | Err(ClusterError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The `NodeUpgrade`; the `Upgrade` where a plan file began the run.
    async fn about(&mut self) -> Result<ObjectReference, ClusterError> {
        if let Some(about) = &self.about {
            return Ok(about.clone());
        }
        let api: Api<NodeUpgrade> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let name = safe_concat(&[&self.plan.upgrade_name, &self.plan.node_name]);
        let order = ask_opt(format!("read NodeUpgrade {name}"), api.get(&name)).await?;
        let order = order.filter(|order| order.spec.upgrade_uid == self.plan.upgrade_uid);
        let about = match order {
            Some(order) => order.object_ref(&()),
            None => ObjectReference {
                api_version: Some(Upgrade::api_version(&()).into_owned()),
                kind: Some(Upgrade::kind(&()).into_owned()),
                namespace: Some(self.cluster.namespace.clone()),
                name: Some(self.plan.upgrade_name.clone()),
                uid: Some(self.plan.upgrade_uid.clone()),
                ..ObjectReference::default()
            },
        };
        Ok(self.about.insert(about).clone())
    }
}

async fn wait_for(next: Option<Duration>) {
    match next {
        Some(next) => tokio::time::sleep(next).await,
        None => std::future::pending().await,
    }
}

/// What an operator was asked for by name matters at once.
fn matters_at(blocker: &Blocker, report: &NodeReport) -> Timestamp {
    let patience = match (is_hold(report), blocker.needs_somebody()) {
        (true, true) => SignedDuration::ZERO,
        (false, true) => MATTERS,
        (_, false) => SLOW,
    };
    blocker.since + patience
}

fn is_hold(report: &NodeReport) -> bool {
    matches!(report.reason.as_deref(), Some("NeedsOperator" | "Refused"))
}

/// The same wait, however its reasons change while it lasts.
fn identity(blocker: &Blocker) -> (String, Timestamp) {
    let what = blocker.what.split(": ").next().unwrap_or_default();
    (what.to_owned(), blocker.since)
}

fn kind_of(due: &[&Blocker], report: &NodeReport) -> (&'static str, &'static str) {
    match report.reason.as_deref() {
        Some("NeedsOperator" | "Refused") => ("Warning", "NeedsOperator"),
        Some("AdministrativelyPaused") => ("Normal", "Paused"),
        _ if due.iter().any(|blocker| blocker.needs_somebody()) => ("Warning", "Blocked"),
        _ => ("Normal", "Waiting"),
    }
}

fn message(due: &[&Blocker], now: Timestamp) -> String {
    let named = due.iter().take(NAMED).map(|blocker| blocker.sentence(now)).collect::<Vec<_>>().join(". ");
    let mut text = match due.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}. And {more} more, see status.blockers"),
    };
    if let Some((cut, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::run::Publisher;
    use crate::flow::report::NOBODY;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn wait(what: &str, owner: &str) -> Blocker {
        let (what, owner, then) = (what.to_owned(), owner.to_owned(), "hold".to_owned());
        Blocker { what, since: at(100), owner, deadline: Some(at(1900)), then }
    }

    fn report(reason: Option<&str>) -> NodeReport {
        let (_publisher, published) = Publisher::new();
        let mut report = published.report.borrow().clone();
        report.reason = reason.map(str::to_owned);
        report
    }

    #[test]
    fn a_wait_matters_the_sooner_the_more_somebody_is_needed() {
        let (mine, nobodys) = (wait("VM a/b waits", "operator: uncordon node2"), wait("VM a/c goes", NOBODY));
        for (reason, blocker, expected) in [
            (None, &mine, 130),
            (None, &nobodys, 400),
            (Some("Retrying"), &nobodys, 400),
            (Some("NeedsOperator"), &mine, 100),
            (Some("NeedsOperator"), &nobodys, 400),
        ] {
            assert_eq!(matters_at(blocker, &report(reason)), at(expected), "{reason:?} {}", blocker.what);
        }
        assert_eq!(kind_of(&[&nobodys], &report(None)), ("Normal", "Waiting"));
        assert_eq!(kind_of(&[&nobodys, &mine], &report(None)), ("Warning", "Blocked"));
        assert_eq!(kind_of(&[&mine], &report(Some("Refused"))), ("Warning", "NeedsOperator"));
    }

    #[test]
    fn a_wait_whose_reasons_change_is_the_same_wait() {
        let of = |what: &str| identity(&wait(what, NOBODY));
        assert_eq!(
            of("VM a/b waits for a target: node2 is full"),
            of("VM a/b waits for a target: node2 is away")
        );
        assert_ne!(
            of("VM a/b waits for a target: node2 is full"),
            of("VM a/c waits for a target: node2 is full")
        );
        let again = Blocker { since: at(900), ..wait("VM a/b waits", NOBODY) };
        assert_ne!(identity(&again), of("VM a/b waits"));
    }

    #[test]
    fn one_message_names_some_counts_the_rest_and_is_never_too_long() {
        let many: Vec<Blocker> =
            (0..9).map(|number| wait(&format!("VM a/b{number} waits"), "operator: act")).collect();
        let all: Vec<&Blocker> = many.iter().collect();
        let text = message(&all, at(160));
        assert!(
            text.starts_with("VM a/b0 waits; since 60 s; at 30 min: hold; operator: act. VM a/b1 waits"),
            "{text}"
        );
        assert!(text.ends_with("And 6 more, see status.blockers"), "{text}");
        let long = wait(&"ä".repeat(3000), NOBODY);
        assert_eq!(message(&[&long], at(160)).chars().count(), LONGEST + 1);
    }
}
