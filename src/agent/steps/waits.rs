//! What each VM that is to be started waits for, as all of them tell it while they wait side by side. Tells; decides nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::flow::vms::VmKey;

/// For all VMs of one node.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Since when its start is tried, and what it waits for now.
    all: Mutex<BTreeMap<VmKey, (Instant, String)>>,
    changed: Notify,
}

impl Waits {
    /// What this one waits for from now on.
    pub(super) fn say(&self, vm: &VmKey, what: &str) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = all.entry(vm.clone()).or_insert_with(|| (Instant::now(), String::new()));
        if wait.1 != what {
            what.clone_into(&mut wait.1);
            self.changed.notify_one();
        }
    }

    /// For how long its start has been tried, and what it waits for; none of one whose turn has not come.
    pub(super) fn of(&self, vm: &VmKey) -> Option<(Duration, String)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(vm).map(|(since, what)| (since.elapsed(), what.clone()))
    }

    /// Somebody waits for something else than when this was last asked.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}
