//! `Progress`: everything that the records so far say. `law` says which line may come next, `fold` makes
//! it; here are its parts and its reads.

mod fold;
mod law;
#[cfg(test)]
pub(crate) mod tests;
mod trail;

use jiff::Timestamp;

use crate::flow::plan::{NodePlan, Role};
use crate::flow::record::Outcome;
use crate::flow::step::Step;
use crate::flow::vms::VmLedger;

pub use fold::IllegalRecord;

/// A piece of work that must not happen twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Work<T> {
    /// Not begun.
    #[default]
    Not,
    /// Begun; whether it happened has to be probed.
    Intended(T),
    /// Happened.
    Done(T),
}

/// What preflight found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflighted {
    /// Role found on the machine.
    pub role: Role,
    /// systemd unit of `RKE2`.
    pub unit: String,
    /// Absolute path of the live binary, the machine's own view.
    pub live: String,
    /// Its sha256.
    pub live_sha256: String,
}

/// What staging left on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFact {
    /// Absolute path, the machine's own view.
    pub binary: String,
    /// sha256 of the binary.
    pub sha256: String,
}

/// The swap that was intended or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapFact {
    /// sha256 before.
    pub from_sha256: String,
    /// sha256 after.
    pub to_sha256: String,
    /// Where the old binary is kept.
    pub previous: String,
    /// The cluster had no other server then.
    pub is_only_server: bool,
}

/// What the node looked like before it was cordoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CordonBefore {
    /// Cordoned already, by somebody else.
    pub was_cordoned: bool,
    /// Tainted already.
    pub was_tainted: bool,
}

/// Why the run stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// In which step.
    pub step: Step,
    /// Why, and what to do.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// Everything that the records so far say.
#[expect(clippy::struct_excessive_bools, reason = "each is one fact of the journal")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    seq: u64,
    started: Option<Timestamp>,
    last: Option<Timestamp>,
    plan: Option<(NodePlan, String)>,
    preflighted: Option<Preflighted>,
    staged: Option<StagedFact>,
    fence: Work<Vec<String>>,
    installer: Option<bool>,
    cordon: Option<CordonBefore>,
    cordoned: bool,
    ledger: VmLedger,
    pre_drained: Option<u64>,
    drained: bool,
    snapshot: bool,
    swap: Work<SwapFact>,
    restart: Work<String>,
    rollback: Work<String>,
    verified: Option<String>,
    post_drained: bool,
    held: Option<Hold>,
    cancelled: bool,
    outcome: Option<Outcome>,
}

/// Reads of the fold.
impl Progress {
    /// Newest line number; 0 before the first.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When the run began.
    #[must_use]
    pub fn started(&self) -> Option<Timestamp> {
        self.started
    }

    /// When its last line was written.
    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        self.last
    }

    /// The plan that opened the journal.
    #[must_use]
    pub fn plan(&self) -> Option<&NodePlan> {
        self.plan.as_ref().map(|(plan, _)| plan)
    }

    /// Its digest.
    #[must_use]
    pub fn plan_digest(&self) -> Option<&str> {
        self.plan.as_ref().map(|(_, digest)| digest.as_str())
    }

    /// What preflight found.
    #[must_use]
    pub fn preflighted(&self) -> Option<&Preflighted> {
        self.preflighted.as_ref()
    }

    /// What lies staged.
    #[must_use]
    pub fn staged(&self) -> Option<&StagedFact> {
        self.staged.as_ref()
    }

    /// Fences are up.
    #[must_use]
    pub fn fenced(&self) -> bool {
        matches!(self.fence, Work::Done(_))
    }

    /// Units that are, or may be, fenced.
    #[must_use]
    pub fn fenced_units(&self) -> &[String] {
        match &self.fence {
            Work::Not => &[],
            Work::Intended(units) | Work::Done(units) => units,
        }
    }

    /// rancher-system-agent is, or may be, held back; whether it ran before.
    #[must_use]
    pub fn installer_held(&self) -> Option<bool> {
        self.installer
    }

    /// Cordoned and tainted.
    #[must_use]
    pub fn cordoned(&self) -> bool {
        self.cordoned
    }

    /// What the node looked like before; none when it was never touched.
    #[must_use]
    pub fn cordon_before(&self) -> Option<CordonBefore> {
        self.cordon
    }

    /// Has anything on the node or the machine been changed that must be put back?
    #[must_use]
    pub fn touched_node(&self) -> bool {
        self.cordon.is_some() || !self.fenced_units().is_empty()
    }

    /// Nothing was ever changed: the run was refused, or killed, before its first fence.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        !self.touched_node() && self.ledger.lines().next().is_none() && self.outcome.is_none()
    }

    /// Who was here.
    #[must_use]
    pub fn ledger(&self) -> &VmLedger {
        &self.ledger
    }

    /// Pre-drain is recorded, and no refusal has voided it.
    #[must_use]
    pub fn pre_drained(&self) -> bool {
        self.pre_drained.is_some()
    }

    /// The line that recorded it.
    #[must_use]
    pub fn pre_drained_seq(&self) -> Option<u64> {
        self.pre_drained
    }

    /// The other pods are gone.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// A snapshot of etcd is on disk, as fresh as the drain; or this node has no etcd, as every agent.
    #[must_use]
    pub fn snapshot_settled(&self) -> bool {
        self.snapshot || self.preflighted.as_ref().is_some_and(|found| found.role == Role::Agent)
    }

    /// How far the swap is.
    #[must_use]
    pub fn swap(&self) -> &Work<SwapFact> {
        &self.swap
    }

    /// The swap was intended or is done.
    #[must_use]
    pub fn swap_begun(&self) -> bool {
        match self.swap {
            Work::Not => false,
            Work::Intended(_) | Work::Done(_) => true,
        }
    }

    /// An API server that is away is this machine's own: the cluster had no other server when the new binary was put in place.
    #[must_use]
    pub fn is_only_server(&self) -> bool {
        match &self.swap {
            Work::Not => false,
            Work::Intended(fact) | Work::Done(fact) => fact.is_only_server,
        }
    }

    /// How far the restart is; the invocation id before, then after.
    #[must_use]
    pub fn restart(&self) -> &Work<String> {
        &self.restart
    }

    /// How far the way back is, with why it was taken.
    #[must_use]
    pub fn rollback(&self) -> &Work<String> {
        &self.rollback
    }

    /// The old binary is, or is about to be, in place again.
    #[must_use]
    pub fn goes_back(&self) -> bool {
        !matches!(self.rollback, Work::Not)
    }

    /// sha256 of the binary that is, or is to be, in place once the swap is done; none before that.
    #[must_use]
    pub fn placed_sha256(&self) -> Option<&str> {
        match &self.swap {
            Work::Done(fact) if self.goes_back() => Some(&fact.from_sha256),
            Work::Done(fact) => Some(&fact.to_sha256),
            Work::Not | Work::Intended(_) => None,
        }
    }

    /// The version in place serves.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.verified.is_some()
    }

    /// What the kubelet reported then.
    #[must_use]
    pub fn kubelet_version(&self) -> Option<&str> {
        self.verified.as_deref()
    }

    /// Fence, taint and cordon are away again.
    #[must_use]
    pub fn post_drained(&self) -> bool {
        self.post_drained
    }

    /// Why the run stands still.
    #[must_use]
    pub fn held(&self) -> Option<&Hold> {
        self.held.as_ref()
    }

    /// Called off.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }
}
