//! Counts the calls that clients make, by operation.
