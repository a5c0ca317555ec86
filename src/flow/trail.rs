//! `Trail`: what a VM's way out of the node has left in the journal besides its fate: a wait for a target, a migration that
//! was aborted, a power cut. Owns no rule; `flow::progress` writes it, `flow::evacuate` and people read it.

use jiff::Timestamp;

/// What a VM's way out has left behind so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trail {
    /// Since when the agent has tried; an operator's "go on" begins it anew. None in tests without a journal.
    pub since: Option<Timestamp>,
    /// A target is waited for.
    pub awaited: Option<Awaited>,
    /// The last migration that was aborted.
    pub abort: Option<Abort>,
    /// One of somebody else's was aborted: the mark of an eviction may have stayed on the instance.
    pub foreign_abort: bool,
    /// It did not shut down by itself.
    pub cut: Option<Cut>,
}

/// A wait for a node that can take the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// Since when.
    pub since: Timestamp,
    /// Every node and what kept the VM from it when the wait began.
    pub why: String,
}

/// A migration that was deleted because it did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// Its name.
    pub migration: String,
    /// Its uid; none in journals of earlier agents.
    pub uid: Option<String>,
    /// This upgrade had asked for it.
    pub ours: bool,
    /// Why it was given up.
    pub why: String,
    /// When the abort was first asked for.
    pub since: Timestamp,
    /// When it was last asked for.
    pub asked: Timestamp,
}

impl Abort {
    /// Is it about this migration? A name may come again.
    #[must_use]
    pub fn is_of(&self, name: &str, uid: &str) -> bool {
        match &self.uid {
            Some(own) => own == uid,
            None => self.migration == name,
        }
    }
}

/// Who cut a guest's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The agent, because the plan says so.
    Policy,
    /// `KubeVirt`, when the VM's own termination grace period was over: so many seconds.
    KubeVirt {
        /// The grace period.
        seconds: u32,
    },
    /// It ended badly before its time was over: a crash, or somebody else.
    Before,
}

/// The grace that `KubeVirt` gives a VM that names none (reference `kubevirt.md` §1.3).
pub const DEFAULT_GRACE_SECONDS: u32 = 30;

impl Cut {
    /// How the end of a guest came about that did not shut down by itself.
    #[must_use]
    pub fn of(forced: bool, told: Timestamp, off: Timestamp, grace_seconds: Option<u32>) -> Self {
        let seconds = grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
        if forced {
            Self::Policy
        } else if off.duration_since(told).as_secs() >= i64::from(seconds) {
            Self::KubeVirt { seconds }
        } else {
            Self::Before
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_cut_is_laid_at_the_right_door() {
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        for (forced, off, grace, expected) in [
            (true, 400, Some(120), Cut::Policy),
            (false, 121, Some(120), Cut::KubeVirt { seconds: 120 }),
            (false, 31, None, Cut::KubeVirt { seconds: 30 }),
            (false, 7, Some(120), Cut::Before),
        ] {
            assert_eq!(Cut::of(forced, at(0), at(off), grace), expected);
        }
    }
}
