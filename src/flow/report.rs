//! `NodeReport` and `Blocker`: what is told to people, in the CR, the events and the terminal, in the same words.

use jiff::{SignedDuration, Timestamp};
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

/// The owner of a wait that ends by itself.
pub const NOBODY: &str = "nobody has to act yet";

impl Blocker {
    /// Has somebody to do something?
    #[must_use]
    pub fn needs_somebody(&self) -> bool {
        self.owner != NOBODY
    }

    /// What, since when and who has to act: the sentence without what happens at the end of a wait.
    #[must_use]
    pub fn chain(&self, now: Timestamp) -> String {
        let Self { what, since, owner, .. } = self;
        format!("{what}; since {}; {owner}", spoken(now.duration_since(*since)))
    }

    /// One sentence for a terminal or an event: where nobody has to act, how much of its time is left; else since when,
    /// until when, and who has to do what.
    #[must_use]
    pub fn sentence(&self, now: Timestamp) -> String {
        let Self { what, since, owner, deadline, then } = self;
        let waited = spoken(now.duration_since(*since));
        let Some(deadline) = deadline else {
            let owner = if self.needs_somebody() { format!("; {owner}") } else { String::new() };
            return format!("{what}; since {waited}; {then}{owner}");
        };
        let (left, total) = (deadline.duration_since(now), deadline.duration_since(*since));
        let is_over = left <= SignedDuration::ZERO;
        match (self.needs_somebody(), is_over) {
            (true, false) => format!("{what}; since {waited}; at {}: {then}; {owner}", spoken(total)),
            (true, true) => format!("{what}; since {waited}; now: {then}; {owner}"),
            (false, false) => format!("{what}: {}, then {then}", left_of(left, total)),
            (false, true) => format!("{what}; since {waited}; now: {then}"),
        }
    }
}

/// A span for people: `45 s`, `4 min`, `1 h 5 min`.
#[must_use]
pub fn spoken(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    let (hours, minutes) = (seconds / 3600, seconds % 3600 / 60);
    match (hours, minutes) {
        _ if seconds < 120 => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// A countdown: `84 s of 300 s left`; in seconds as long as somebody may stand there and wait.
fn left_of(left: SignedDuration, total: SignedDuration) -> String {
    if total.as_secs() <= 600 {
        return format!("{} s of {} s left", left.as_secs(), total.as_secs());
    }
    format!("{} of {} left", spoken(left), spoken(total))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_as_people_tell_them() {
        for (seconds, expected) in [
            (-3, "0 s"),
            (45, "45 s"),
            (119, "119 s"),
            (120, "2 min"),
            (299, "4 min"),
            (3600, "1 h"),
            (3900, "1 h 5 min"),
            (90_000, "25 h"),
        ] {
            assert_eq!(spoken(SignedDuration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_wait_is_one_sentence_with_its_end_and_who_has_to_act() {
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let wait = |what: &str, owner: &str, deadline: Option<i64>, then: &str| Blocker {
            what: what.to_owned(),
            since: at(0),
            owner: owner.to_owned(),
            deadline: deadline.map(at),
            then: then.to_owned(),
        };
        let target = || {
            wait(
                "VM a/b waits for a target: node3 is cordoned",
                "operator: uncordon node3",
                Some(1800),
                "hold",
            )
        };
        let shut = |seconds| wait("VM a/b is shutting down", NOBODY, Some(seconds), "hold");
        for (blocker, now, expected) in [
            (
                target(),
                240,
                "VM a/b waits for a target: node3 is cordoned; since 4 min; at 30 min: hold; operator: uncordon node3",
            ),
            (
                target(),
                1860,
                "VM a/b waits for a target: node3 is cordoned; since 31 min; now: hold; operator: uncordon node3",
            ),
            (shut(300), 216, "VM a/b is shutting down: 84 s of 300 s left, then hold"),
            (shut(3600), 60, "VM a/b is shutting down: 59 min of 1 h left, then hold"),
            (shut(300), 301, "VM a/b is shutting down; since 5 min; now: hold"),
            (
                wait("paused", "operator: resume", None, "it stays so"),
                30,
                "paused; since 30 s; it stays so; operator: resume",
            ),
            (wait("b goes after a", NOBODY, None, "shut down"), 30, "b goes after a; since 30 s; shut down"),
        ] {
            assert_eq!(blocker.sentence(at(now)), expected);
        }
    }
}
