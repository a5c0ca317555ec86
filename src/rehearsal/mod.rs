//! Rehearsals: the production node role, unchanged, on a simulated cluster and simulated machines in virtual time.

pub mod chart;
pub mod faults;
pub mod timeline;
