//! With all rules kept, no promise breaks in any state of these worlds.
//!
//! How many states there are is part of the document of the guarantees, and compared with it. Must not know: how the
//! model takes a step.
#![expect(clippy::print_stdout, reason = "a counterexample is there to be read")]

use recado_model::bounds::Bounds;
use recado_model::protocol::Protocol;
use recado_model::rules::Rules;
use recado_model::search::search_all;
use recado_model::words::{grouped, told};
use recado_model::world;
use recado_model::worlds::{A, APP, L, LATE, LISTENER};

const DOCUMENT: &str = include_str!("../../../docs/guarantees.md");

/// Goes through a whole world.
fn keeps_its_promises(name: &str, bounds: Bounds) {
    let protocol = Protocol { bounds, rules: Rules::ALL };
    let found = search_all(protocol);
    for (promise, trace) in &found.broken {
        println!("{}", told(&protocol, *promise, trace));
    }
    assert!(found.broken.is_empty(), "a promise breaks in the world `{name}`; the way there is printed above");
    assert_eq!(
        found.unseen(&bounds),
        Vec::<&str>::new(),
        "the search of the world `{name}` went through {} states and did not see this",
        found.states
    );
    let row = format!("| `{name}` | {} |", grouped(found.states));
    println!("{row} {} steps, the longest way {}, {:.1?}", grouped(found.steps), found.depth, found.took);
    assert!(DOCUMENT.contains(&row), "docs/guarantees.md has no row that begins `{row}`; bring its table up to date");
}

/// A test per world.
macro_rules! kept {
    ($($world:ident: $bounds:expr;)+) => {$(
        #[test]
        fn $world() {
            keeps_its_promises(stringify!($world), $bounds);
        }
    )+};
}

kept! {
    crashes_and_ended_leases: world!(APP, notes: 2, workers: 2; crashes: 1, expiries: 1, repeats: 1, syncs: 1);
    refusals_and_lost_rows: world!(APP, notes: 2, workers: 2; crashes: 1, refusals: 1, lost_rows: 1, syncs: 1);
    an_app_connects: world!(LISTENER, slots: [A, A, None], ends: 5; crashes: 1, late_writes: 1, drops: 1);
    a_plain_client_connects: world!(LISTENER, ends: 6, workers: 2; crashes: 1, refusals: 1, expiries: 1);
    a_plain_client_connects_again: world!(LISTENER, slots: [L, L, None], ends: 6; crashes: 1, late_writes: 1, drops: 1);
    a_plain_client_is_handed_what_waits: world!(LISTENER, quick_sockets: true, ends: 4, notes: 2, workers: 2; crashes: 1, refusals: 1, expiries: 1);
    both_clients_connect: world!(LISTENER, slots: [A, L, None], ends: 4, workers: 2; crashes: 1, expiries: 1);
    both_clients_and_two_dispatchers: world!(APP, slots: [A, L, None], notes: 2, workers: 2; refusals: 1, acks: 1);
    both_clients_and_time: world!(APP, slots: [A, L, None], notes: 2, ends: 5; refusals: 1, drops: 1);
    late_writes: world!(APP, slots: [A, A, None], ends: 7; crashes: 1, late_writes: 1, drops: 1);
    late_writes_behind_a_cursor: world!(APP, before: LATE, slots: [A, A, None], notes: 2, ends: 9; crashes: 1, late_writes: 1, drops: 1, syncs: 1);
    a_client_catches_up_by_small_steps: world!(APP, notes: 2, ends: 7, small_frames: true, small_pages: true; refusals: 1, drops: 1);
    two_answers_at_once: world!(APP, handlers: 2, notes: 2, ends: 5; syncs: 2, drops: 1);
    three_events: world!(APP, notes: 3, workers: 2, ends: 5; drops: 1);
    the_user_reads_all: world!(APP, notes: 2, workers: 2, ends: 7; read_alls: 1);
    the_user_reads_all_and_a_dispatcher_dies: world!(APP, notes: 2, ends: 6; crashes: 1, late_writes: 1, read_alls: 1);
    handlers_are_ahead: world!(APP, w: 4, ends: 10, handler_ahead: 1; crashes: 1, late_writes: 1, drops: 1);
    dispatchers_are_ahead: world!(APP, w: 4, ends: 10, dispatcher_ahead: [1, 1]; crashes: 1, late_writes: 1, drops: 1);
    dispatchers_differ: world!(APP, w: 4, ends: 9, dispatcher_ahead: [1, 0], workers: 2; crashes: 1, drops: 1);
    the_registrar_is_ahead: world!(LISTENER, w: 4, ends: 9, handler_ahead: 1; crashes: 1, refusals: 1);
    dead_letters_come_back: world!(APP, slots: [A, A, None], notes: 2, workers: 2; rejects: 1, redrives: 1, repeats: 1, drops: 1);
    a_week_passes: world!(APP, slots: [A, A, None]; crashes: 1, acks: 1, weeks: 1, rejects: 1, redrives: 1);
    everything_is_killed: world!(APP, slots: [A, A, L], notes: 2; kills: 1, acks: 1);
}
