//! A player that is away for a while: whoever holds the switch turns it off and on, and the turns take notice at once.

use std::sync::Arc;

use tokio::sync::watch;

/// A switch, on at first; clones are the same one.
#[derive(Debug, Clone)]
pub struct Switch(Arc<watch::Sender<bool>>);

impl Default for Switch {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(true)))
    }
}

impl Switch {
    /// Turns it on or off.
    pub fn turn(&self, on: bool) {
        self.0.send_if_modified(|was| std::mem::replace(was, on) != on);
    }

    /// Is it on?
    #[must_use]
    pub fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    /// Hears of every turn from now on.
    pub(super) fn listen(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}
