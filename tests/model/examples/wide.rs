//! Goes through wider worlds than the tests do, and says how many states there are: `cargo xtask model`.
//!
//! With names, only those worlds. Must not know: how the model takes a step.
#![expect(clippy::print_stdout, reason = "a chore speaks on its output")]

use std::process::ExitCode;
use std::thread::available_parallelism;

use recado_model::bounds::Bounds;
use recado_model::protocol::Protocol;
use recado_model::rules::Rules;
use recado_model::search::search_all_with;
use recado_model::words::{grouped, told};
use recado_model::world;
use recado_model::worlds::{A, APP, L};

/// Worlds that cost more than a test may.
const WIDE: [(&str, Bounds); 5] = [
    ("late_writes_and_a_sync_at_will", world!(APP, slots: [A, A, None], ends: 7; crashes: 1, late_writes: 1, drops: 1, syncs: 1)),
    (
        "handlers_are_ahead_and_a_sync_at_will",
        world!(APP, w: 4, ends: 10, handler_ahead: 1; crashes: 1, late_writes: 1, drops: 1, syncs: 1),
    ),
    (
        "dispatchers_are_ahead_and_a_sync_at_will",
        world!(APP, w: 4, ends: 10, dispatcher_ahead: [1, 1]; crashes: 1, late_writes: 1, drops: 1, syncs: 1),
    ),
    ("everything_is_killed_and_time_runs", world!(APP, slots: [A, A, L], notes: 2, ends: 6; kills: 1, acks: 1)),
    ("both_clients_and_a_crash", world!(APP, slots: [A, L, None], notes: 2, workers: 2; crashes: 1, refusals: 1, acks: 1)),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let threads = available_parallelism().map_or(1, usize::from);
    let worlds = WIDE.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name));
    let outcomes: Vec<bool> = worlds.map(|(name, bounds)| keeps_its_promises(name, *bounds, threads)).collect();
    // A name of no world must not look like a success.
    if outcomes.is_empty() || outcomes.contains(&false) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Goes through a whole world; prints its row, and what is wrong with it.
fn keeps_its_promises(name: &str, bounds: Bounds, threads: usize) -> bool {
    let protocol = Protocol { bounds, rules: Rules::ALL };
    let found = search_all_with(protocol, threads);
    println!("| `{name}` | {} | {} | {:.0?} |", grouped(found.states), grouped(found.steps), found.took);
    for (promise, trace) in &found.broken {
        println!("{}", told(&protocol, *promise, trace));
    }
    let unseen = found.unseen(&bounds);
    for sight in &unseen {
        println!("   not {sight}");
    }
    found.broken.is_empty() && unseen.is_empty()
}
