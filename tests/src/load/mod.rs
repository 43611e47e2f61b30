//! Load on a real `recado up` over loopback: steady rates, crowds of sockets, clients that do not read, and what of it
//! costs memory.
//!
//! `recado-load` measures with it and prints; tests/suites/load.rs runs it small and judges. Must not know: what is a good figure.

mod crowd;
mod memory;
mod soak;
mod steady;
mod stuck;

pub use crowd::Crowd;
pub use memory::{Growth, growth, resident_mib};
pub use soak::{Soak, SoakPlan, soak};
pub use steady::{Times, at, batch, latency, throughput};
pub use stuck::{Beside, beside_stuck_clients};
