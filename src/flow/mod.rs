//! Pure rules of one node upgrade: the plan, the records, their fold, and the next step.
//!
//! Never awaits, never reads a clock, never touches a file or a wire. Time arrives in the records.
//!
//! ```text
//! Preflight -> Stage -> Fence -> Cordon -> PreDrain -> Drain -> Swap -> Restart -> Verify -> PostDrain -> Restore -> Done
//!                                             ^           (gate)                                ^
//!                                             |  refused    |                                   |
//!                                             +-------------+        cancelled before the swap -+
//!
//! Restart, Verify: does not serve, and the way back is open -> Rollback -> Restart -> Verify (the old version) -> PostDrain ...
//! ```

pub mod artifacts;
pub mod classify;
pub mod evacuate;
pub mod guard;
pub mod installer;
pub mod next;
pub mod phase;
pub mod place;
pub mod placement;
pub mod plan;
pub mod plan_error;
pub mod prefix;
pub mod progress;
pub mod quantity;
pub mod quorum;
pub mod record;
pub mod report;
pub mod restore;
pub mod room;
pub mod runtime_image;
pub mod skew;
pub mod step;
pub mod sums;
pub mod trail;
pub mod version;
pub mod vm_key;
mod vm_ledger;
pub mod vms;
pub mod way_back;
