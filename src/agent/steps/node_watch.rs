//! One watch on the node for everybody who waits until it is fit for a VM. It only wakes: what it shows may be old, so
//! whoever is woken reads the node before anything is done. Decides nothing.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::{Notify, watch};

use crate::cluster::brief::BriefNode;
use crate::cluster::watch_pace::WatchPace;

/// The watch, which is opened when somebody waits for it.
pub(super) struct NodeWatch {
    /// What it last showed; nothing before it has shown anything.
    shown: Mutex<Option<BriefNode>>,
    /// Wakes in the order in which they began to wait; a `watch` channel wakes in any order.
    changed: Notify,
    asked: watch::Sender<bool>,
}

impl NodeWatch {
    pub(super) fn new() -> Self {
        Self { shown: Mutex::new(None), changed: Notify::new(), asked: watch::Sender::new(false) }
    }

    /// Is what it last showed like that? From now on the watch is open.
    pub(super) fn shows(&self, what: impl Fn(Option<&BriefNode>) -> bool) -> bool {
        self.asked.send_if_modified(|asked| !std::mem::replace(asked, true));
        what(self.shown.lock().unwrap_or_else(PoisonError::into_inner).as_ref())
    }

    /// Waits until it shows that.
    pub(super) async fn until(&self, what: impl Fn(Option<&BriefNode>) -> bool) {
        loop {
            let changed = self.changed.notified();
            if self.shows(&what) {
                return;
            }
            changed.await;
        }
    }

    fn put(&self, node: Option<BriefNode>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = node;
        self.changed.notify_waiters();
    }

    /// Keeps it up; never ends. Nothing is lost when it is dropped and begun anew, but for the place in the watch.
    pub(super) async fn follow(&self, client: Client, node: &str) {
        // The sender is ours: it is not gone while we wait.
        self.asked.subscribe().wait_for(|asked| *asked).await.ok();
        let api: Api<BriefNode> = Api::all(client);
        let only = watcher::Config::default().fields(&format!("metadata.name={node}"));
        let mut events = pin!(watcher(api, only).backoff(WatchPace::of(node)));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(shown) | Event::InitApply(shown)) if shown.name_any() == node => {
                    self.put(Some(shown));
                }
                Ok(Event::Delete(_)) => {
                    self.put(None);
                }
                Ok(Event::Apply(_) | Event::InitApply(_) | Event::Init | Event::InitDone) => {}
                Err(error) => tracing::debug!(%error, node, "the node cannot be watched; trying again"),
            }
        }
        // A watch has no end; should it have one, looks at intervals remain.
        std::future::pending::<()>().await;
    }
}
