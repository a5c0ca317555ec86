//! What comes of looking at an object: writes now, or another look later.

use tokio::time::Instant;

use crate::sim::wire::Write;

/// What `decide` wants: writes now, or a look again later.
#[derive(Debug, Default, PartialEq)]
pub(in crate::sim) struct Decision {
    pub(in crate::sim) writes: Vec<Write>,
    pub(in crate::sim) again: Option<Instant>,
}

impl Decision {
    pub(in crate::sim) fn write(writes: impl Into<Vec<Write>>) -> Self {
        Self { writes: writes.into(), again: None }
    }

    pub(in crate::sim) fn at(again: Instant) -> Self {
        Self { writes: Vec::new(), again: Some(again) }
    }

    pub(in crate::sim) fn nothing() -> Self {
        Self::default()
    }

    /// The other decision if this one writes nothing; the earlier of the two times otherwise.
    pub(in crate::sim) fn or(self, other: impl FnOnce() -> Self) -> Self {
        if !self.writes.is_empty() {
            return self;
        }
        let mut next = other();
        next.again = next.again.into_iter().chain(self.again).min();
        next
    }
}
