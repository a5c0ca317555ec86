//! The subset of each custom resource that the agent reads or writes. Everything else in an object survives, because
//! objects of others are only ever patched.

pub mod kubevirt;
pub mod node_upgrade;
pub mod upgrade;
