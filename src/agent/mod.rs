//! The node role: one driver that replays, decides, performs, records and publishes, and one reporter.
//!
//! ```text
//!            control (watch)                          report (watch)
//!   CR ─────────────────────> driver ──perform──> steps ───────────────> reporter ──> NodeUpgrade.status, Upgrade
//!                               │  ^                │                       narrator ──> terminal
//!                               │  ^                │                       announcer ──> Events
//!                               └──┴─── journal <───┘ append + fsync, then publish
//! ```
//! `driver` is the one owner of the journal. The others only read what was published; that one fails never stops the work.

pub mod alien;
mod attempt;
pub mod carry_out;
pub mod checks;
pub mod driver;
pub mod events;
pub mod gate;
pub mod guard;
pub mod narrate;
pub mod observe;
pub mod perform;
pub mod placement;
pub mod quorum;
pub mod report;
pub mod room;
pub mod run;
pub mod runtime_images;
pub mod step_error;
pub mod steps;
pub mod watch_order;
