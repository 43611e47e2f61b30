//! Rules that the search finds no use for alone. Each is kept for a reason that stands beside it, and would be missed
//! where that reason holds.
//!
//! Must not know: how the model takes a step.
#![expect(clippy::print_stdout, reason = "a counterexample is there to be read")]

use recado_model::bounds::Bounds;
use recado_model::promises::Promise;
use recado_model::protocol::Protocol;
use recado_model::rules::Rules;
use recado_model::search::{search_all, search_for};
use recado_model::words::told;
use recado_model::world;
use recado_model::worlds::{A, APP, L, LISTENER};

/// Goes through a whole world without a rule, and finds nothing broken.
fn is_not_missed(rules: Rules, bounds: Bounds) {
    let protocol = Protocol { bounds, rules };
    let found = search_all(protocol);
    for (promise, trace) in &found.broken {
        println!("{}", told(&protocol, *promise, trace));
    }
    assert!(found.broken.is_empty(), "without {:?} a promise breaks: move the rule to needed.rs", rules.off());
}

/// Finds the way in which `promise` breaks.
fn is_missed(rules: Rules, bounds: Bounds, promise: Promise) {
    let protocol = Protocol { bounds, rules };
    let found = search_for(protocol, promise);
    let trace = found.broken.iter().find(|(broken, _)| *broken == promise).map(|(_, trace)| trace);
    println!("{}", told(&protocol, promise, trace.expect("the promise breaks")));
}

/// A 410 to a post that was begun after the grace period is the truth, whatever the row says meanwhile. Where the
/// grace period is judged by the moment of the answer, this condition is what saves a connection that was proved since.
#[test]
fn without_r4_that_a_row_is_unchanged_is_a_second_line_behind_the_grace_period() {
    let without = Rules { unchanged_is_removed: false, ..Rules::ALL };
    is_not_missed(without, world!(LISTENER, ends: 6, workers: 2; expiries: 1));
    is_not_missed(without, world!(LISTENER, slots: [A, L, None], ends: 6; late_writes: 1));
    let careless = Rules { grace_ends_before_the_post: false, ..without };
    is_missed(careless, world!(LISTENER, workers: 2; expiries: 1), Promise::NoQuietGap);
}

/// A cursor at the beginning of the query is as good, as long as clocks agree. The lower one costs nothing, and where
/// something was read it leans on no clock but those that gave the positions.
#[test]
fn without_r5_a_cursor_at_the_moment_of_its_query_is_as_good_as_one_at_the_highest_position_read() {
    let without = Rules { cursor_stops_at_the_highest: false, ..Rules::ALL };
    is_not_missed(without, world!(APP, w: 4, ends: 9, handler_ahead: 1; crashes: 1, drops: 1, syncs: 1));
    is_not_missed(without, world!(APP, notes: 2, ends: 7, small_frames: true, small_pages: true; drops: 1));
}

/// An entry at an old position is stamped again before anything is settled, so an attempt could as well use the position
/// of the one before. A new one saves that second write in nearly all cases.
#[test]
fn without_r6_a_position_of_its_own_for_each_attempt_saves_a_stamp() {
    let without = Rules { position_is_taken_anew: false, ..Rules::ALL };
    is_not_missed(without, world!(APP, slots: [A, A, None], ends: 7; crashes: 1, drops: 1, syncs: 1));
}
