//! Receipts: old, durable proofs. Only the journal mints them.

use crate::flow::progress::Progress;

/// Proof that pre-drain of one upgrade stands in its journal and has not been voided since.
///
/// Nobody but the journal can make one:
///
/// ```compile_fail,E0451
/// use upgrade_agent::journal::receipt::PreDrainReceipt;
/// let forged = PreDrainReceipt { upgrade_uid: String::new(), seq: 1 };
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct PreDrainReceipt {
    upgrade_uid: String,
    seq: u64,
}

impl PreDrainReceipt {
    pub(super) fn mint(progress: &Progress) -> Option<Self> {
        let upgrade_uid = progress.plan()?.upgrade_uid.clone();
        Some(Self { upgrade_uid, seq: progress.pre_drained_seq()? })
    }

    /// The upgrade whose pre-drain it proves.
    #[must_use]
    pub fn upgrade_uid(&self) -> &str {
        &self.upgrade_uid
    }

    /// The journal line that proves it.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }
}
