//! The machine's service manager: RKE2's unit and the short-lived ones around it, spoken to over real D-Bus messages.
//!
//! - [`unit_file`] reads unit files and drop-ins from the machine's disk, as systemd does at boot and at a reload.
//! - [`service`] is RKE2's unit over time; [`orders`] is what starts and stops it.
//! - [`wire`] is the bus: a socket without a file descriptor whose other end is [`calls`].
//!
//! Not played: other services, targets, job modes but `replace`, signals but `PropertiesChanged`.

mod calls;
mod orders;
mod programs;
mod properties;
mod service;
#[cfg(test)]
mod tests;
mod unit_file;
mod wire;

pub(super) use orders::{Order, Refusal, Transient};
pub use programs::SnapshotFault;
pub(super) use service::Service;
pub(super) use unit_file::UnitFile;
pub(super) use wire::{Subscriber, connect};
