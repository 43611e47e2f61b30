//! Runs the rooms of Recado, not a model of them, on ports in memory, under seeded faults and virtual time.
//!
//! A seed decides everything: who is there, what is published, how long each call takes, what fails, who ends when. So a
//! run that breaks a promise can be repeated, line by line. Time is tokio's paused time on one thread, and chance is drawn
//! by name (`chance`); nothing asks the machine for either.
//!
//! * `scenario` says what a seed means, `run` plays it, `judge` compares what came of it with what is promised.
//! * `process` is where faults happen: between a call and its effect, and between the effect and its answer.
//! * `ports` are the ports of one process; `gateway` is API Gateway, `client` what follows docs/protocol.md, `actors`
//!   the rest. `ledger` keeps what nobody inside can know.
//! * `coverage` counts what happened, for a fault that never comes proves nothing.
//! * `breakage` breaks the rooms by a port, to show that a run can fail.
//!
//! Must not know: any adapter but `recado-memory`, any real clock.

mod actors;
mod breakage;
mod chance;
mod client;
mod coverage;
mod gateway;
mod judge;
mod ledger;
mod ports;
mod process;
mod run;
mod scenario;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use breakage::Breakage;
pub use coverage::{Counts, Happening};
pub use run::{Report, run};
pub use scenario::{DevicePlan, EventPlan, How, Scenario, Stamps, Weather};

/// Locks even after a panic elsewhere, which the report shows.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
