//! The node role: driver, steps, gate, reports.
