//! Pure rules of one node upgrade: plan, records, progress, the next step.
//! Never awaits, never reads a clock, never touches a file.
