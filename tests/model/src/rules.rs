//! The rules R1 to R8, one switch each where a rule has several parts, so that the search can try without it.
//!
//! Must not know: what follows from a rule.

/// Declares the switches with one list of them, so that none can be forgotten in [`Rules::ALL`].
macro_rules! rules {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Which rules are kept.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Rules {
            $($(#[$doc])+ pub $name: bool,)+
        }

        impl Rules {
            /// All of them, as in the product.
            pub const ALL: Self = Self { $($name: true,)+ };

            /// The name of each.
            pub const NAMES: &[&str] = &[$(stringify!($name),)+];

            /// The names of the rules that are switched off.
            pub fn off(&self) -> Vec<&'static str> {
                let all = [$((stringify!($name), self.$name),)+];
                all.into_iter().filter(|(_, on)| !on).map(|(name, _)| name).collect()
            }
        }
    };
}

rules! {
    // R1 Store, then push.
    /// An entry is durable before a frame mentions it.
    store_then_push,

    // R2 Write, then read, on both sides.
    /// The dispatcher appends, then reads who is connected.
    append_then_look,
    /// A connection becomes live, then the inbox is read.
    live_then_read,
    /// Who reads, reads every write that was answered before.
    reads_are_consistent,

    // R3 Settle, then ack the queue.
    /// A message is deleted when what it asks for is done, not when it is received.
    settle_then_delete,
    /// What a live connection refused for now is sent on.
    refused_is_sent_on,
    /// It is sent on, and then the original is deleted.
    sent_on_then_deleted,
    /// A replay command is such a message too.
    replay_settles_too,
    /// The command names what its connection refused, and brings it also where another device has acknowledged it.
    replay_brings_the_missed,

    // R4 Two-phase connect, with proof.
    /// `$connect` writes the row as connecting, not as live.
    connecting_first,
    /// Dispatchers skip connecting rows.
    connecting_is_skipped,
    /// `$connect` of a client that declared no protocol queues a replay.
    plain_is_promised_a_replay,
    /// A replay marks a row live after a post to it succeeded.
    proof_before_live,
    /// A replay that meets 410 within the grace period queues itself again.
    replay_waits_for_opening,
    /// A 410 within the grace period removes no row that is not proved.
    gone_waits_for_grace,
    /// The grace period is judged by the moment the post was begun, not by that of its answer.
    grace_ends_before_the_post,
    /// A 410 removes a row only if it is as it was read.
    unchanged_is_removed,
    /// `sync` writes a lost row anew.
    sync_writes_a_lost_row,
    /// A replay only updates a row that is there.
    replay_only_updates,
    /// A registration that arrives late leaves a live row live.
    live_stays_live,

    // R5 Only a read moves a cursor, never a push.
    /// Live frames carry no cursor.
    push_moves_no_cursor,
    /// A cursor goes no further than the moment its first query began (rather than ended).
    cursor_stops_at_the_beginning,
    /// A cursor goes no further than what was read, where something was.
    cursor_stops_at_the_highest,
    /// A cursor goes no further back than `since`.
    cursor_never_goes_back,
    /// A handler whose post failed posts no later frame of that answer.
    failed_post_ends_the_answer,
    /// A connected client repeats `sync`.
    sync_is_repeated,
    /// A resume starts at `since` − W.
    resume_overlaps,

    // R6 Bounded lateness.
    /// A position is taken anew for every attempt.
    position_is_taken_anew,
    /// An entry whose answer arrives more than W/2 after its position is stamped again.
    late_is_stamped_again,
    /// The answer to a stamp is judged as well.
    stamp_is_judged_too,
    /// A stamp moves an entry only from where it was read.
    stamp_is_conditional,
    /// What counts is the position that is stored, not the one this attempt would have given.
    stored_position_counts,
    /// What was acknowledged more than a day ago is neither stamped nor pushed.
    old_is_left_alone,
    /// A stamp keeps an entry read that `read_all` marked.
    stamp_keeps_read,
    /// Clocks differ by W/4 at most.
    clocks_agree,

    // R7 Pending is per entry.
    /// A cursor that passes over an entry settles nothing.
    cursor_settles_nothing,
    /// An entry is settled for a plain client after its post succeeded.
    plain_settles_after_the_post,
    /// A push settles nothing for a client that acknowledges by id.
    push_settles_plain_only,
    /// `pending_from` goes no further than the lowest entry found pending.
    mark_stops_at_the_lowest,
    /// `pending_from` stays W behind the query.
    mark_stays_behind_the_query,
    /// A query that did not run to its end advances nothing.
    unfinished_advances_nothing,
    /// `pending_from` rises only from the value that the query began at.
    mark_is_conditional,
    /// An update by id creates no entry.
    updates_create_nothing,

    // R8 No stored counters.
    /// Unread is counted when asked for, not kept.
    unread_is_counted,
    /// `read_up_to` stays W behind.
    read_mark_stays_behind,
    /// `read_all` marks the entries of the last W by id.
    recent_are_marked_by_id,

    // What P2 asks of a client that keeps state.
    /// A client remembers what it showed, and shows it once.
    client_remembers,
    /// A client never forgets what its next resume may bring again.
    client_remembers_the_overlap,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_switched_off_is_named() {
        assert!(Rules::ALL.off().is_empty());
        assert_eq!(Rules { resume_overlaps: false, ..Rules::ALL }.off(), ["resume_overlaps"]);
    }
}
