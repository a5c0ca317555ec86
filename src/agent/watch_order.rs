//! The node's orders: `NodeUpgrade`s for this node, and the one mutable field of the order that is being carried out.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::{mpsc, watch};

use crate::cluster::Cluster;
use crate::cluster::crd::node_upgrade::{Control, NodeUpgrade};
use crate::cluster::names::safe_concat;
use crate::cluster::watch_pace::WatchPace;
use crate::flow::phase::Phase;
use crate::flow::plan::NodePlan;

/// How long the operator's word is waited for before a run goes on without.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Sends every unfinished order of this node, whenever it changes; runs until nobody listens.
pub async fn watch_orders(cluster: Cluster, node: String, orders: mpsc::Sender<NodeUpgrade>) {
    let api: Api<NodeUpgrade> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let only_mine = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut stream = pin!(watcher(api, only_mine).backoff(WatchPace::of(&node)));
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Apply(order) | Event::InitApply(order)) => {
                if !is_finished(&order) && orders.send(order).await.is_err() {
                    return;
                }
            }
            Ok(Event::Delete(_) | Event::Init | Event::InitDone) => {}
            Err(error) => tracing::warn!(%error, "the orders for this node cannot be watched; trying again"),
        }
    }
}

/// The last line of its journal was written: nothing is left to do.
#[must_use]
pub fn is_finished(order: &NodeUpgrade) -> bool {
    let phase = order.status.as_ref().map(|status| status.phase.as_str()).unwrap_or_default();
    phase == Phase::Succeeded.as_str() || phase == Phase::Failed.as_str()
}

/// What the operator wants now; `Run` when there is no order, or the API does not answer at once: the journal then decides.
pub async fn present_control(cluster: &Cluster, plan: &NodePlan) -> Control {
    let name = safe_concat(&[&plan.upgrade_name, &plan.node_name]);
    let api: Api<NodeUpgrade> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    match tokio::time::timeout(FIRST_WORD, api.get_opt(&name)).await {
        Ok(Ok(Some(order))) if order.spec.upgrade_uid == plan.upgrade_uid => order.spec.control,
        Ok(Ok(_)) | Err(_) => Control::Run,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the operator's word could not be read");
            Control::Run
        }
    }
}

/// Follows `spec.control` of the order that belongs to a plan; the newest value wins. Runs until nobody listens.
pub async fn follow_control(cluster: Cluster, plan: NodePlan, control: watch::Sender<Control>) {
    let name = safe_concat(&[&plan.upgrade_name, &plan.node_name]);
    let api: Api<NodeUpgrade> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let only_this = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut stream = pin!(watcher(api, only_this).backoff(WatchPace::of(&plan.node_name)));
    loop {
        tokio::select! {
            biased;
            // Cancel-safe: a watch stream keeps its place.
            () = control.closed() => return,
            event = stream.next() => match event {
                Some(Ok(Event::Apply(order) | Event::InitApply(order))) if order.spec.upgrade_uid == plan.upgrade_uid => {
                    control.send_if_modified(|known| {
                        let changed = *known != order.spec.control;
                        *known = order.spec.control;
                        changed
                    });
                }
                Some(Ok(_)) => {}
                // The CRD may be absent, or the API away: a run goes on without either.
                Some(Err(error)) => {
                    tracing::debug!(%error, "control of NodeUpgrade {name} cannot be watched; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                None => return,
            }
        }
    }
}
