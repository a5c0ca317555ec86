//! RKE2 on a machine: how its starts turn out, and a record of each of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How a start of RKE2 turns out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fate {
    /// It comes up and stays.
    #[default]
    ComesUp,
    /// It ends with status 1 after a moment; systemd starts it again.
    Crashes,
    /// systemd cannot execute it (status 203).
    CannotExecute,
    /// It stays in `activating`.
    Hangs,
    /// It comes up after so long instead of the usual time.
    ComesUpAfter(Duration),
    /// It comes up, and its kubelet reports another version than the binary's.
    Reports(String),
    /// It comes up and ends with status 1 so long after it was ready.
    DiesAfter(Duration),
}

/// Which start will turn out how.
#[derive(Debug, Clone, Default)]
pub(super) struct Fates {
    pub(super) next: VecDeque<Fate>,
    pub(super) of_version: BTreeMap<String, Fate>,
}

impl Fates {
    pub(super) fn of(&mut self, version: &str) -> Fate {
        let next = self.next.pop_front();
        next.or_else(|| self.of_version.get(version).cloned()).unwrap_or_default()
    }
}

/// Who started RKE2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// systemd, because it is enabled.
    Boot,
    /// A life of the agent, by its number.
    Agent(u64),
    /// Somebody else on the machine.
    Stranger,
    /// systemd, after it had ended by itself.
    AutoRestart,
}

/// One start of RKE2, also one that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRecord {
    /// Since the rehearsal began.
    pub at: Duration,
    /// The boot it happened in, from 1.
    pub boot: u32,
    /// Digest of what was at the live path; of nothing when there was nothing.
    pub sha256: String,
    /// What that says it is; none for a damaged one.
    pub version: Option<String>,
    /// Who did it.
    pub cause: Cause,
    /// The guests whose processes ran on the machine at that moment.
    pub guests: Vec<String>,
}
