//! `NodeReport` and `Blocker`: what is told to people, in the CR, the events and the terminal, in the same words.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::phase::Phase;
use crate::flow::step::Step;
use crate::flow::vms::VmCounts;

/// Something that the run waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Blocker {
    /// What is waited for, with the object's name and the cause.
    pub what: String,
    /// Since when.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
    /// Who can make it go on.
    pub owner: String,
    /// When the wait ends.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What happens then.
    pub then: String,
}

impl Blocker {
    /// One sentence for a terminal or an event.
    #[must_use]
    pub fn sentence(&self, now: Timestamp) -> String {
        let waited = now.duration_since(self.since).as_secs().max(0);
        match self.deadline {
            Some(deadline) => {
                let left = deadline.duration_since(now).as_secs();
                if left > 0 {
                    format!("{}; since {waited} s; in {left} s: {}; {}", self.what, self.then, self.owner)
                } else {
                    format!("{}; since {waited} s; now: {}; {}", self.what, self.then, self.owner)
                }
            }
            None => format!("{}; since {waited} s; {}; {}", self.what, self.then, self.owner),
        }
    }
}

/// The newest picture of a run. Only the newest matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// What operators see.
    pub phase: Phase,
    /// The step under way; none before the first and after the last.
    pub step: Option<Step>,
    /// Counts from 1; more than 1 after a retry.
    pub attempt: u32,
    /// One word for machines.
    pub reason: Option<String>,
    /// Only for real trouble: Harvester's UI paints it as an error.
    pub message: Option<String>,
    /// When the run began.
    pub started: Option<Timestamp>,
    /// When the step began.
    pub step_started: Option<Timestamp>,
    /// The machine's boot id.
    pub boot: String,
    /// Newest journal line that this picture contains.
    pub journal_seq: u64,
    /// Numbers.
    pub vms: VmCounts,
    /// What is waited for.
    pub blockers: Vec<Blocker>,
}
