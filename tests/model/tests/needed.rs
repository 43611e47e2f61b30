//! Every rule is switched off once: the search then finds a promise broken that is kept with it, so the rule is needed,
//! and a shortest way there is printed.
//!
//! What each of them comes to is a sentence in the document of the guarantees. Must not know: how the model takes a step.
#![expect(clippy::print_stdout, reason = "a counterexample is there to be read")]

use recado_model::bounds::Bounds;
use recado_model::promises::Promise;
use recado_model::protocol::Protocol;
use recado_model::rules::Rules;
use recado_model::search::{search_all, search_for};
use recado_model::words::told;
use recado_model::world;
use recado_model::worlds::{A, APP, L, LATE, LEFT_BEHIND, LISTENER};

const DOCUMENT: &str = include_str!("../../../docs/guarantees.md");

/// The rules that the search finds no use for alone: see `spare.rs`.
const SPARE: [&str; 3] = ["unchanged_is_removed", "cursor_stops_at_the_highest", "position_is_taken_anew"];

/// Finds the way in which `promise` breaks without a rule, and prints it. With the rule nothing breaks in that world.
fn breaks(rules: Rules, bounds: Bounds, promise: Promise) {
    let protocol = Protocol { bounds, rules };
    let found = search_for(protocol, promise);
    let trace = found.broken.iter().find(|(broken, _)| *broken == promise).map(|(_, trace)| trace);
    let trace = trace.unwrap_or_else(|| {
        let others: Vec<_> = found.broken.iter().map(|(other, _)| *other).collect();
        panic!("without {:?} nothing breaks `{}` in {} states; {others:?}", rules.off(), promise.name(), found.states)
    });
    println!("{}", told(&protocol, promise, trace));
    println!("   found among {} states in {:.1?}", found.states, found.took);
    let kept = search_all(Protocol { bounds, rules: Rules::ALL });
    let broken: Vec<_> = kept.broken.iter().map(|(promise, _)| *promise).collect();
    assert!(broken.is_empty(), "this breaks in that world with all rules kept: {broken:?}");
    println!("   with all rules kept nothing breaks in {} states, {:.1?}", kept.states, kept.took);
}

/// A test per rule.
macro_rules! needed {
    ($($test:ident: $rule:ident in $bounds:expr, $promise:ident;)+) => {$(
        #[test]
        fn $test() {
            breaks(Rules { $rule: false, ..Rules::ALL }, $bounds, Promise::$promise);
        }
    )+
        const NEEDED: &[(&str, &str)] = &[$((stringify!($rule), stringify!($test)),)+];
    };
}

#[test]
fn every_rule_is_switched_off_somewhere() {
    for rule in Rules::NAMES {
        let tested = NEEDED.iter().any(|(needed, _)| needed == rule) || SPARE.contains(rule);
        assert!(tested, "no test switches `{rule}` off: add one here, or to spare.rs");
    }
}

#[test]
fn what_comes_of_it_is_written_down() {
    for (_, test) in NEEDED {
        assert!(DOCUMENT.contains(&format!("| `{test}` |")), "docs/guarantees.md has no row that says what `{test}` finds");
    }
}

needed! {
    without_r1_a_client_is_shown_what_is_not_stored: store_then_push in world!(APP), ShownIsStored;
    without_r2_a_dispatcher_misses_who_connects_while_it_appends: append_then_look in world!(APP), NoQuietGap;
    without_r2_a_client_reads_before_it_is_pushed_to_and_misses_what_comes_between: live_then_read in world!(APP), NoQuietGap;
    without_r2_a_stale_read_misses_what_was_written_before: reads_are_consistent in world!(APP), NoQuietGap;
    without_r3_a_dispatcher_that_dies_takes_its_message_along: settle_then_delete in world!(APP; crashes: 1), Kept;
    without_r3_what_a_connection_refused_is_never_tried_again: refused_is_sent_on in world!(APP; refusals: 1), NoQuietGap;
    without_r3_a_dispatcher_that_dies_between_deletes_what_it_did_not_send_on: sent_on_then_deleted in world!(APP; refusals: 1, crashes: 1), NoQuietGap;
    without_r3_a_dispatcher_that_dies_takes_a_replay_along: replay_settles_too in world!(LISTENER; crashes: 1), NoQuietGap;
    without_r3_what_a_connection_missed_is_lost_to_it_once_another_device_acknowledges: replay_brings_the_missed in world!(APP, slots: [A, L, None]; refusals: 1, acks: 1), NoQuietGap;
    without_r4_the_row_of_an_opening_socket_is_removed_as_gone: connecting_first in world!(LISTENER), NoQuietGap;
    without_r4_posts_are_wasted_on_opening_sockets: connecting_is_skipped in world!(LISTENER), NoWastedPost;
    without_r4_a_plain_client_never_becomes_live: plain_is_promised_a_replay in world!(LISTENER), NoQuietGap;
    without_r4_a_replay_trusts_a_socket_that_is_not_open_yet: proof_before_live in world!(LISTENER), NoQuietGap;
    without_r4_a_replay_gives_up_on_a_socket_that_opens_later: replay_waits_for_opening in world!(LISTENER), NoQuietGap;
    without_r4_a_410_removes_a_socket_that_opens_later: gone_waits_for_grace in world!(LISTENER), NoQuietGap;
    without_r4_a_slow_410_removes_a_socket_that_opened_meanwhile: grace_ends_before_the_post in world!(LISTENER), NoQuietGap;
    without_r4_a_client_whose_row_was_lost_is_pushed_nothing_any_more: sync_writes_a_lost_row in world!(APP; lost_rows: 1, syncs: 1), NoQuietGap;
    without_r4_a_replay_brings_back_the_row_of_a_client_that_left: replay_only_updates in world!(LISTENER; drops: 1), RowStaysAway;
    without_r4_a_late_registration_undoes_a_proof: live_stays_live in world!(LISTENER, slots: [A, None, None]; late_writes: 1), NoQuietGap;
    without_r5_a_push_moves_a_cursor_past_what_was_not_delivered: push_moves_no_cursor in world!(APP, notes: 2, ends: 7; refusals: 1), Resumable;
    without_r5_a_slow_answer_moves_a_cursor_past_what_was_appended_meanwhile: cursor_stops_at_the_beginning in world!(APP, ends: 7; drops: 1), Resumable;
    without_r5_a_resume_moves_a_cursor_back: cursor_never_goes_back in world!(APP, ends: 5; syncs: 1), CursorAdvances;
    without_r5_a_cursor_passes_over_a_frame_that_did_not_arrive: failed_post_ends_the_answer in world!(APP, notes: 2, ends: 7, small_frames: true; refusals: 1), Resumable;
    without_r5_a_client_whose_row_was_lost_never_hears_again: sync_is_repeated in world!(APP; lost_rows: 1, syncs: 1), NoQuietGap;
    without_r5_a_resume_misses_what_was_in_flight_when_its_cursor_was_given: resume_overlaps in world!(APP, ends: 5; drops: 1), Resumable;
    without_r6_a_late_append_lands_behind_a_cursor: late_is_stamped_again in world!(APP, ends: 7; drops: 1), Resumable;
    without_r6_a_late_stamp_lands_behind_a_cursor: stamp_is_judged_too in world!(APP, before: LATE, notes: 2, workers: 2, ends: 10; drops: 1, syncs: 1), Resumable;
    without_r6_an_old_stamp_moves_an_entry_back_behind_a_cursor: stamp_is_conditional in world!(APP, before: LATE, notes: 2, ends: 10; crashes: 1, late_writes: 1, drops: 1, syncs: 1), Resumable;
    without_r6_an_entry_of_an_earlier_attempt_stays_behind_a_cursor: stored_position_counts in world!(APP, ends: 7; crashes: 1, late_writes: 1, drops: 1), Resumable;
    without_r6_what_was_acknowledged_long_ago_is_shown_again: old_is_left_alone in world!(APP, before: LEFT_BEHIND, slots: [A, A, None], notes: 2, ends: 7; crashes: 1, acks: 1, weeks: 1), Once;
    without_r6_a_stamp_makes_a_read_entry_unread: stamp_keeps_read in world!(APP, ends: 7; crashes: 1, read_alls: 1), ReadIsRead;
    without_r6_a_clock_that_is_behind_appends_behind_a_cursor: clocks_agree in world!(APP, ends: 6; drops: 1), Resumable;
    without_r7_a_cursor_settles_what_it_passed_over_unseen: cursor_settles_nothing in world!(APP, ends: 5; syncs: 1), Settled;
    without_r7_a_refused_push_settles_an_entry: plain_settles_after_the_post in world!(LISTENER; refusals: 1), Settled;
    without_r7_a_push_into_a_dead_socket_settles_an_entry: push_settles_plain_only in world!(LISTENER, slots: [A, None, None]; drops: 1), Settled;
    without_r7_pending_from_passes_over_what_is_pending: mark_stops_at_the_lowest in world!(APP, ends: 7), Pending;
    without_r7_pending_from_passes_over_what_is_in_flight: mark_stays_behind_the_query in world!(APP, ends: 5), Pending;
    without_r7_a_query_that_broke_off_moves_pending_from: unfinished_advances_nothing in world!(LISTENER, quick_sockets: true; crashes: 1), Pending;
    without_r7_pending_from_goes_back: mark_is_conditional in world!(APP, slots: [A, L, None], ends: 5), MarkAdvances;
    without_r7_an_early_acknowledgement_makes_half_an_entry: updates_create_nothing in world!(APP; wild_acks: 1), Whole;
    without_r8_a_stored_count_goes_wrong: unread_is_counted in world!(APP; crashes: 1), Counted;
    without_r8_an_entry_in_flight_is_born_read: read_mark_stays_behind in world!(APP, notes: 2, workers: 2; read_alls: 1), ReadIsRead;
    without_r8_read_all_leaves_the_newest_unread: recent_are_marked_by_id in world!(APP; read_alls: 1), ReadIsRead;
    without_p2_a_client_shows_an_entry_twice: client_remembers in world!(APP; syncs: 1), Once;
    without_p2_a_client_forgets_what_its_resume_brings_again: client_remembers_the_overlap in world!(APP, slots: [A, A, None]; acks: 1, weeks: 1), Once;
}
