//! Every rule is switched off once: where the search then finds a promise broken, the rule is needed, and the way there
//! is printed.
//!
//! Must not know: how the model takes a step.

#![expect(clippy::print_stdout, reason = "a counterexample is there to be read")]

use recado_model::bounds::Bounds;
use recado_model::promises::Promise;
use recado_model::protocol::Protocol;
use recado_model::rules::Rules;
use recado_model::search::search_for;
use recado_model::words::told;
use recado_model::world;
use recado_model::worlds::{A, APP, L, LATE, LISTENER};

/// Finds the way in which `promise` breaks without a rule, and prints it.
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
}

/// A test per rule.
macro_rules! needed {
    ($($test:ident: $rule:ident in $bounds:expr, $promise:ident;)+) => {$(
        #[test]
        fn $test() {
            breaks(Rules { $rule: false, ..Rules::ALL }, $bounds, Promise::$promise);
        }
    )+};
}

needed! {
    r1_an_entry_is_stored_before_it_is_pushed: store_then_push in world!(APP), ShownIsStored;
    r2_a_dispatcher_looks_after_the_append: append_then_look in world!(APP), NoQuietGap;
    r2_a_connection_is_live_before_the_inbox_is_read: live_then_read in world!(APP), NoQuietGap;
    r2_reads_are_consistent: reads_are_consistent in world!(APP), NoQuietGap;
    r3_a_message_is_deleted_when_it_is_settled: settle_then_delete in world!(APP; crashes: 1), Kept;
    r3_what_a_connection_refuses_is_sent_on: refused_is_sent_on in world!(APP; refusals: 1), NoQuietGap;
    r3_it_is_sent_on_before_the_original_is_deleted: sent_on_then_deleted in world!(APP; refusals: 1, crashes: 1), NoQuietGap;
    r3_a_replay_is_settled_too: replay_settles_too in world!(LISTENER; crashes: 1), NoQuietGap;
    r3_a_replay_brings_what_another_device_acknowledged: replay_brings_the_missed in world!(APP, slots: [A, L, None]; refusals: 1, acks: 1), NoQuietGap;
    r4_a_row_begins_as_connecting: connecting_first in world!(LISTENER), NoQuietGap;
    r4_a_connecting_row_is_skipped: connecting_is_skipped in world!(LISTENER), NoWastedPost;
    r4_a_plain_client_is_promised_a_replay: plain_is_promised_a_replay in world!(LISTENER), NoQuietGap;
    r4_a_replay_proves_before_it_marks_live: proof_before_live in world!(LISTENER), NoQuietGap;
    r4_a_replay_waits_for_a_socket_to_open: replay_waits_for_opening in world!(LISTENER), NoQuietGap;
    r4_a_410_waits_for_the_grace_period: gone_waits_for_grace in world!(LISTENER), NoQuietGap;
    r4_the_grace_period_ends_before_the_post: grace_ends_before_the_post in world!(LISTENER), NoQuietGap;
    r4_a_sync_writes_a_lost_row_anew: sync_writes_a_lost_row in world!(APP; lost_rows: 1, syncs: 1), NoQuietGap;
    r4_a_replay_only_updates: replay_only_updates in world!(LISTENER; drops: 1), RowStaysAway;
    r4_a_late_registration_leaves_a_live_row_live: live_stays_live in world!(LISTENER, slots: [A, None, None]; late_writes: 1), NoQuietGap;
    r5_a_push_moves_no_cursor: push_moves_no_cursor in world!(APP, notes: 2, ends: 7; refusals: 1), Resumable;
    r5_a_cursor_stops_at_the_beginning_of_the_query: cursor_stops_at_the_beginning in world!(APP, ends: 7; drops: 1), Resumable;
    r5_a_cursor_never_goes_back: cursor_never_goes_back in world!(APP, ends: 5; syncs: 1), CursorAdvances;
    r5_a_failed_post_ends_the_answer: failed_post_ends_the_answer in world!(APP, notes: 2, ends: 7, small_frames: true; refusals: 1), Resumable;
    r5_a_connected_client_repeats_sync: sync_is_repeated in world!(APP; lost_rows: 1, syncs: 1), NoQuietGap;
    r5_a_resume_overlaps: resume_overlaps in world!(APP, ends: 5; drops: 1), Resumable;
    r6_a_late_answer_is_stamped_again: late_is_stamped_again in world!(APP, ends: 7; drops: 1), Resumable;
    r6_the_answer_to_a_stamp_is_judged_too: stamp_is_judged_too in world!(APP, before: LATE, notes: 2, workers: 2, ends: 10; drops: 1, syncs: 1), Resumable;
    r6_a_stamp_is_conditional: stamp_is_conditional in world!(APP, before: LATE, notes: 2, ends: 10; crashes: 1, late_writes: 1, drops: 1, syncs: 1), Resumable;
    r6_the_stored_position_counts: stored_position_counts in world!(APP, ends: 7; crashes: 1, late_writes: 1, drops: 1), Resumable;
    r6_what_was_acknowledged_long_ago_is_left_alone: old_is_left_alone in world!(APP, slots: [A, A, None]; crashes: 1, acks: 1, weeks: 1), Once;
    r6_a_stamp_keeps_an_entry_read: stamp_keeps_read in world!(APP, ends: 7; crashes: 1, read_alls: 1), ReadIsRead;
    r6_clocks_agree: clocks_agree in world!(APP, ends: 6; drops: 1), Resumable;
    r7_a_cursor_settles_nothing: cursor_settles_nothing in world!(APP, ends: 5; syncs: 1), Settled;
    r7_a_plain_client_is_settled_after_the_post: plain_settles_after_the_post in world!(LISTENER; refusals: 1), Settled;
    r7_a_push_settles_for_plain_clients_only: push_settles_plain_only in world!(LISTENER, slots: [A, None, None]; drops: 1), Settled;
    r7_pending_from_stops_at_the_lowest: mark_stops_at_the_lowest in world!(APP, ends: 7), Pending;
    r7_pending_from_stays_behind_the_query: mark_stays_behind_the_query in world!(APP, ends: 5), Pending;
    r7_an_unfinished_query_advances_nothing: unfinished_advances_nothing in world!(LISTENER, quick_sockets: true; crashes: 1), Pending;
    r7_pending_from_is_raised_conditionally: mark_is_conditional in world!(APP, slots: [A, L, None], ends: 5), MarkAdvances;
    r7_an_update_creates_no_entry: updates_create_nothing in world!(APP; wild_acks: 1), Whole;
    r8_unread_is_counted_when_asked: unread_is_counted in world!(APP; crashes: 1), Counted;
    r8_the_read_mark_stays_behind: read_mark_stays_behind in world!(APP, notes: 2, workers: 2; read_alls: 1), ReadIsRead;
    r8_recent_entries_are_marked_by_id: recent_are_marked_by_id in world!(APP; read_alls: 1), ReadIsRead;
    p2_a_client_remembers_what_it_showed: client_remembers in world!(APP; syncs: 1), Once;
    p2_a_client_remembers_what_a_resume_may_bring: client_remembers_the_overlap in world!(APP, slots: [A, A, None]; acks: 1, weeks: 1), Once;
}
