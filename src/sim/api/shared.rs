//! What all handles of one server share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Aggregated;
use super::store::Store;

pub(super) struct Shared {
    store: Mutex<Store>,
    handlers: Mutex<Vec<(String, Aggregated)>>,
    requests: AtomicU64,
}

impl Shared {
    pub(super) fn of(store: Store) -> Self {
        Self { store: Mutex::new(store), handlers: Mutex::new(Vec::new()), requests: AtomicU64::new(0) }
    }

    /// The objects. Nothing that holds them awaits.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        // A write is finished before anything that could panic.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn version(&self) -> u64 {
        self.store().version
    }

    pub(super) fn downgrade(self: &Arc<Self>) -> Weak<Self> {
        Arc::downgrade(self)
    }

    pub(super) fn aggregate(&self, prefix: &str, handler: Aggregated) {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner).push((prefix.to_owned(), handler));
    }

    pub(super) fn disaggregate(&self) {
        let handlers = std::mem::take(&mut *self.handlers.lock().unwrap_or_else(PoisonError::into_inner));
        // Outside of the lock: the last handler may hold the last handle of this server.
        drop(handlers);
    }

    /// Who answers for this path instead of the store; the newest comes first.
    pub(super) fn handler(&self, path: &str) -> Option<Aggregated> {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.iter().rev().find(|(prefix, _)| path.starts_with(prefix)).map(|(_, handler)| handler.clone())
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_on_from(&self, requests: u64) {
        self.requests.store(requests, Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("requests", &self.requests()).finish_non_exhaustive()
    }
}
