//! Whole-system suites of Recado: port contracts, end to end, faults.

pub mod contracts;
pub mod end_to_end;
pub mod harness;
pub mod load;
pub mod torture;
