//! One file a step. A step reads what it needs, does one thing, and records it.

mod bring_back;
pub mod cordon;
pub mod drain;
pub mod fence;
pub mod finish;
pub mod installer;
pub mod ledger;
pub mod let_go;
mod migration_watch;
mod node_watch;
pub mod post_drain;
pub mod pre_drain;
mod pre_drain_world;
pub mod preflight;
mod premises;
mod reconsider;
pub mod restart;
pub mod restore;
pub mod rollback;
mod settle_stop;
pub mod snapshot;
pub mod stage;
pub mod swap;
mod targets;
pub mod verify;
pub mod vm_actions;
mod waits;
