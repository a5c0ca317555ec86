//! `upgrade-agent` takes a Harvester node through an upgrade without losing a VM.
//!
//! Reading order: [`flow`] (pure rules), [`journal`] (durable truth), [`agent`] (the driver and its steps), then
//! [`host`] and [`cluster`] (the two wires). `ARCHITECTURE.md` is the map.

pub mod agent;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod flow;
pub mod host;
pub mod journal;
mod mutation;
pub mod notify;
pub mod rehearsal;
pub mod shutdown;
pub mod sim;
pub mod telemetry;
