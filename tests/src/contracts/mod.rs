//! What every adapter of a port keeps, as tests that any backend runs: generic functions over [`Backend`], which
//! [`contract_suite!`](crate::contract_suite) makes one test each of.
//!
//! A contract says what `recado_domain::ports` says and no more: orders the ports do not promise are sorted away, and
//! a query is read page by page, since a page may be empty and go on. Must not know: any adapter.

#[cfg(feature = "aws")]
pub mod aws;
pub mod backend;
pub mod bus;
pub mod connections;
pub mod dead_letters;
pub mod inbox;
pub mod mail_claims;
pub mod mailer;
pub mod queue;
mod samples;
pub mod sockets;
pub mod suppressions;
pub mod tickets;

#[cfg(feature = "aws")]
pub use aws::Aws;
pub use backend::{Backend, Embedded, Mail, Memory, Peer};

/// Makes a module of tests that run every contract on a fresh backend each:
/// `contract_suite!(memory: recado_tests::contracts::Memory);`
#[macro_export]
macro_rules! contract_suite {
    ($name:ident: $backend:ty) => {
        mod $name {
            type Fresh = $backend;

            $crate::contract_tests!(
                bus:
                every_event_goes_to_the_inbox_queue,
                only_events_that_ask_for_mail_go_to_the_email_queue,
                events_beyond_one_batch_are_answered_one_by_one,
                an_event_travels_with_its_attributes,
                publishing_nothing_answers_nothing,
            );
            $crate::contract_tests!(
                queue:
                what_was_sent_is_received_with_its_attributes,
                a_received_message_is_hidden_while_its_lease_lasts,
                an_expired_lease_delivers_again_and_counts,
                a_stale_token_changes_nothing,
                an_unknown_token_is_a_permanent_failure,
                an_acknowledged_message_never_comes_back,
                extending_keeps_a_message_hidden,
                a_released_message_comes_back_after_its_delay,
                a_rejected_message_moves_to_the_dead_letters_with_its_reason,
                a_delayed_message_is_hidden_until_its_time,
                a_receive_takes_no_more_than_it_was_asked_for,
                each_entry_of_a_batch_has_its_own_answer,
                concurrent_receivers_never_get_the_same_message,
                a_waiting_receive_gets_what_is_sent_meanwhile,
                a_receive_of_an_empty_queue_answers_nothing,
                queues_do_not_see_each_other,
            );
            $crate::contract_tests!(
                dead_letters:
                the_oldest_is_listed_first,
                a_list_holds_no_more_than_it_was_asked_for,
                a_redriven_message_comes_back_without_reason_and_attempts,
                an_unknown_id_is_a_permanent_failure_and_hides_no_other,
                a_dead_letter_is_redriven_once,
            );
            $crate::contract_tests!(
                inbox:
                append_is_insert_if_absent,
                concurrent_appends_of_the_same_store_each_once,
                a_key_twice_in_one_call_is_stored_once,
                one_event_is_one_entry_for_each_recipient,
                states_survive_a_repeated_append,
                positions_ascend_in_the_order_of_appends,
                positions_are_of_the_moment_of_append,
                a_restamp_moves_an_entry_to_now,
                a_restamp_moves_only_from_the_position_it_was_told,
                a_restamp_keeps_what_read_all_read,
                a_restamp_keeps_every_state,
                a_restamp_of_a_missing_entry_is_a_permanent_failure,
                since_ascends_above_its_start,
                since_goes_on_where_a_page_ended,
                since_shows_what_was_archived_and_acknowledged,
                a_page_holds_no_more_than_the_limit_of_all_pages,
                pending_leaves_out_what_was_acknowledged,
                pending_starts_at_its_mark_and_above_its_start,
                pending_goes_on_where_a_page_ended,
                older_marks_make_pending_read_more,
                pages_bring_the_marks_they_were_read_with,
                the_pending_mark_grows_only_from_what_was_expected,
                updates_by_id_answer_what_they_changed,
                what_read_all_read_is_not_read_a_second_time,
                updates_by_id_never_create_an_entry,
                what_is_archived_leaves_the_inbox_for_the_archive,
                the_unread_filter_leaves_out_what_was_read_or_archived,
                a_page_descends_below_its_start,
                pages_go_on_where_one_ended,
                unread_counts_up_to_its_cap,
                unread_leaves_out_what_was_read_or_archived,
                read_all_marks_the_last_minute_by_id_and_the_rest_by_mark,
                read_all_reaches_no_further_than_it_was_told,
                the_read_mark_only_grows,
                an_entry_appended_after_read_all_is_not_born_read,
                an_expired_entry_is_hidden_everywhere,
                an_expired_entry_is_not_stored_a_second_time,
                inboxes_do_not_reach_into_each_other,
                an_unknown_inbox_is_empty,
            );
            $crate::contract_tests!(
                connections:
                a_registered_connection_is_its_users,
                concurrent_registrations_overwrite_nothing,
                registering_again_replaces_the_row,
                a_registration_that_arrives_late_leaves_a_live_row_live,
                a_stale_row_is_pruned_by_the_next_registration,
                the_oldest_row_above_the_cap_is_replaced,
                the_new_row_is_never_the_one_replaced,
                users_are_answered_in_order_repeated_and_unknown_ones_too,
                more_users_than_one_batch_are_answered,
                the_owner_is_known_with_the_row_as_registered,
                mark_live_proves_a_row,
                mark_live_creates_a_row_only_where_told,
                removing_is_idempotent,
                removing_takes_one_row_of_one_user,
                an_unchanged_row_is_removed,
                a_changed_or_missing_row_is_not_removed,
                users_do_not_reach_into_each_other,
            );
            $crate::contract_tests!(
                mail_claims:
                a_claim_holds_off_others,
                claiming_again_renews_the_lease,
                an_expired_lease_is_anybodys,
                a_confirmed_mail_is_sent_for_everybody,
                a_mail_is_confirmed_whoever_holds_it,
                an_abandoned_claim_is_taken_at_once,
                only_the_holder_abandons,
                a_sent_mail_is_not_abandoned,
                claims_do_not_reach_into_each_other,
            );
            $crate::contract_tests!(
                suppressions:
                nobody_is_suppressed_at_first,
                a_suppressed_address_is_found_with_its_cause_and_since_when,
                the_first_suppression_stays,
                a_repeated_key_of_one_call_is_suppressed_for_its_first_cause,
                a_lifted_address_is_free_and_may_be_suppressed_anew,
                lifting_says_whether_there_was_anything_to_lift,
                addresses_are_answered_in_order_repeated_ones_too,
                more_addresses_than_one_batch_are_suppressed_found_and_lifted,
                addresses_do_not_reach_into_each_other,
            );
            $crate::contract_tests!(
                tickets:
                a_ticket_says_whom_it_was_given_to_and_when_their_token_ends,
                a_ticket_is_taken_once,
                of_all_who_bring_a_ticket_at_once_one_gets_it,
                an_unknown_ticket_is_nobodys,
                a_ticket_ends,
                issuing_again_changes_nothing,
                tickets_do_not_reach_into_each_other,
            );
            $crate::contract_tests!(
                mailer:
                a_mail_is_handed_over_byte_for_byte,
                each_mail_has_an_id_of_its_own,
                what_is_sent_twice_leaves_twice,
            );
            $crate::contract_tests!(
                sockets:
                a_post_to_a_socket_that_never_opened_is_gone,
                frames_arrive_in_the_order_of_their_posts,
                a_frame_at_the_limit_arrives_and_a_larger_one_is_a_permanent_failure,
                a_socket_that_was_closed_is_gone_and_its_client_was_told_why,
                closing_what_is_gone_is_no_failure,
                a_client_that_left_is_gone,
                sockets_do_not_reach_into_each_other,
            );
        }
    };
}

/// The tests of one port; see [`contract_suite!`](crate::contract_suite).
#[macro_export]
macro_rules! contract_tests {
    ($port:ident: $($name:ident),+ $(,)?) => {
        mod $port {
            $(
                #[tokio::test]
                async fn $name() {
                    let backend = <super::Fresh as $crate::contracts::Backend>::fresh().await;
                    $crate::contracts::$port::$name(&backend).await;
                }
            )+
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_contract_is_in_the_suite() {
        let suite = include_str!("mod.rs");
        let ports = [
            include_str!("bus.rs"),
            include_str!("queue.rs"),
            include_str!("dead_letters.rs"),
            include_str!("inbox.rs"),
            include_str!("connections.rs"),
            include_str!("mail_claims.rs"),
            include_str!("mailer.rs"),
            include_str!("sockets.rs"),
            include_str!("suppressions.rs"),
            include_str!("tickets.rs"),
        ];
        let names = ports.iter().flat_map(|source| source.split("pub async fn ").skip(1)).filter_map(|rest| rest.split('<').next());
        let missing: Vec<_> = names.filter(|name| !suite.contains(&format!(" {name},\n"))).collect();
        assert!(missing.is_empty(), "not in contract_suite!: {missing:?}");
    }
}
