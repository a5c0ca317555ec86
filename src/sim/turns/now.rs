//! What simulators may know besides the view: the time, and how long things take.

use serde_json::Value;
use tokio::time::Instant;

use super::Decision;
use crate::sim::Timing;
use crate::sim::view::Kind;
use crate::sim::wire::Write;

/// What every `decide` may know besides the view.
#[derive(Debug)]
pub(in crate::sim) struct Now<'a> {
    pub(in crate::sim) timing: &'a Timing,
    pub(in crate::sim) instant: Instant,
}

impl Now<'_> {
    /// The time as Kubernetes writes it, to the second.
    pub(in crate::sim) fn stamp(&self) -> String {
        self.timing.at(self.instant).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// An event about `object`, as `component` records it; nothing of it is made where nobody records events.
    pub(in crate::sim) fn event(
        &self,
        kind: Kind,
        object: &Value,
        warning: bool,
        component: &str,
        said: (&str, &str),
    ) -> Write {
        if self.timing.events {
            Write::event(kind, object, warning, component, said)
        } else {
            Write::Event { body: Value::Null }
        }
    }

    /// Decides once the instant has come, and asks to be woken for it before.
    pub(in crate::sim) fn once(&self, due: Instant, then: impl FnOnce() -> Decision) -> Decision {
        if self.instant >= due { then() } else { Decision::at(due) }
    }
}
