//! The watch on the migrations of VMs of this node. `KubeVirt` keeps the last five of every VM: in a large cluster that are
//! far more than the few that matter here, so only those of known VMs are asked for. Decides nothing.

use std::collections::BTreeSet;
use std::pin::Pin;

use futures::stream::{self, Stream, StreamExt};
use kube::Client;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};

use crate::cluster::crd::kubevirt::{VMI_NAME_LABEL, VirtualMachineInstanceMigration};
use crate::cluster::watch_pace::WatchPace;

/// A longer name cannot be the value of a label: then all migrations are watched.
const LONGEST_LABEL: usize = 63;

/// What the watch tells.
pub(super) type MigrationEvent = Result<Event<VirtualMachineInstanceMigration>, watcher::Error>;

/// The watch, opened anew whenever a VM is to be covered that was not.
pub(super) struct MigrationWatch {
    api: Api<VirtualMachineInstanceMigration>,
    pace: WatchPace,
    names: BTreeSet<String>,
    events: Pin<Box<dyn Stream<Item = MigrationEvent> + Send>>,
}

impl MigrationWatch {
    /// Covers nobody yet.
    pub(super) fn new(client: Client, node: &str) -> Self {
        let (api, pace) = (Api::all(client), WatchPace::of(node));
        Self { api, pace, names: BTreeSet::new(), events: Box::pin(stream::pending()) }
    }

    /// From now on these are covered, too. True when one of them was not before: a new list comes.
    pub(super) fn cover<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> bool {
        let before = self.names.len();
        for name in names {
            if !self.names.contains(name) {
                self.names.insert(name.to_owned());
            }
        }
        let is_new = self.names.len() != before;
        if is_new {
            let only = selector(&self.names).map(|only| watcher::Config::default().labels(&only));
            let events = watcher(self.api.clone(), only.unwrap_or_default()).backoff(self.pace.clone());
            self.events = Box::pin(events);
        }
        is_new
    }

    /// The next event; cancel-safe, and waits for ever while nobody is covered.
    pub(super) async fn next(&mut self) -> Option<MigrationEvent> {
        self.events.next().await
    }
}

/// `KubeVirt`'s webhook puts the label on every migration (reference `kubevirt.md` §1.5); none where it cannot.
fn selector(names: &BTreeSet<String>) -> Option<String> {
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let fit = all.iter().all(|name| name.len() <= LONGEST_LABEL);
    fit.then(|| format!("{VMI_NAME_LABEL} in ({})", all.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_labels_are_not_asked_for_by_label() {
        let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(selector(&names(&["db", "web"])).as_deref(), Some("kubevirt.io/vmi-name in (db,web)"));
        assert_eq!(selector(&names(&["db", &"x".repeat(64)])), None);
    }
}
