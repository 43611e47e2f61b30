//! What a whole Recado does, over real HTTP and real sockets, as tests that any deployment runs: generic functions over
//! [`Deployment`](crate::harness::Deployment), which [`end_to_end_suite!`](crate::end_to_end_suite) makes one test each of.
//!
//! Must not know: any deployment. Where they differ, [`Expected`](crate::harness::Expected) says so.

#![expect(missing_docs, reason = "a test's name is its documentation")]

pub mod bad_input;
pub mod commands;
pub mod delivery;
pub mod events;
pub mod inbox;
pub mod mail;
pub mod recovery;
pub mod sockets;

/// Makes a module of tests, each on a deployment of its own:
/// `end_to_end_suite!(embedded: recado_tests::harness::Embedded);`
#[macro_export]
macro_rules! end_to_end_suite {
    ($name:ident: $deployment:ty) => {
        mod $name {
            type Deployed = $deployment;

            $crate::end_to_end_tests!(
                delivery:
                an_event_reaches_a_connected_recipient_at_once,
                a_recipient_who_was_away_finds_it_when_connecting,
                a_plain_client_gets_what_is_pending_once_and_then_what_comes,
                a_client_that_returns_with_its_cursor_misses_nothing,
                a_cursor_of_somebody_else_is_a_gap_and_shows_only_ones_own,
                every_device_and_every_tab_gets_it,
                a_hundred_recipients_each_get_their_own,
                a_notification_id_of_the_answer_is_the_one_the_design_computes,
            );
            $crate::end_to_end_tests!(
                events:
                an_event_published_twice_is_shown_once_and_answered_the_same,
                one_batch_answers_for_each_event_and_an_invalid_one_stops_no_other,
                an_event_that_has_expired_is_shown_to_nobody,
            );
            $crate::end_to_end_tests!(
                inbox:
                what_one_device_reads_and_archives_shows_on_the_other,
                what_is_read_over_http_shows_on_the_socket,
            );
            $crate::end_to_end_tests!(
                sockets:
                a_socket_is_closed_when_its_token_ends,
                without_a_valid_token_there_is_neither_socket_nor_inbox,
                an_oversized_message_does_not_disturb_other_sockets,
                a_frame_that_makes_no_sense_is_answered_and_the_socket_stays,
                one_connection_above_the_cap_closes_the_oldest,
            );
            $crate::end_to_end_tests!(
                mail:
                mail_goes_to_those_who_want_it_once_with_values_escaped,
            );
            $crate::end_to_end_tests!(
                recovery:
                a_redelivery_after_a_crash_between_append_and_ack_shows_it_once,
                a_poison_message_becomes_a_dead_letter_with_its_reason_and_blocks_nobody,
                a_redriven_event_reaches_those_it_concerns,
            );
            $crate::end_to_end_tests!(
                bad_input:
                what_is_no_event_becomes_a_dead_letter_that_says_why_and_blocks_nobody,
                an_event_at_the_limit_is_delivered_and_what_is_above_a_limit_is_refused,
            );
            $crate::end_to_end_tests!(
                commands:
                the_commands_publish_and_listen,
            );
        }
    };
}

/// The tests of one subject; see [`end_to_end_suite!`](crate::end_to_end_suite).
#[macro_export]
macro_rules! end_to_end_tests {
    ($subject:ident: $($name:ident),+ $(,)?) => {
        mod $subject {
            $(
                #[tokio::test]
                async fn $name() -> $crate::harness::Tested {
                    $crate::end_to_end::$subject::$name::<super::Deployed>().await
                }
            )+
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_body_is_in_the_suite() {
        let suite = include_str!("mod.rs");
        let subjects = [
            include_str!("bad_input.rs"),
            include_str!("commands.rs"),
            include_str!("delivery.rs"),
            include_str!("events.rs"),
            include_str!("inbox.rs"),
            include_str!("mail.rs"),
            include_str!("recovery.rs"),
            include_str!("sockets.rs"),
        ];
        let names = subjects.iter().flat_map(|source| source.split("pub async fn ").skip(1)).filter_map(|rest| rest.split('<').next());
        let missing: Vec<_> = names.filter(|name| !suite.contains(&format!(" {name},\n"))).collect();
        assert!(missing.is_empty(), "not in end_to_end_suite!: {missing:?}");
    }
}
