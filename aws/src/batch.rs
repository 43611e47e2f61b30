//! Entries in calls of up to ten, a few calls at once, and one answer for each entry in order.
//!
//! An entry that a call refused for the moment is tried again, and a call that fails for good is taken apart, so that
//! no entry hides the others. Must not know: which service is called.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use recado_domain::failure::Failure;
use recado_domain::limits::AWS_BATCH_ENTRIES;
use recado_domain::ports::Outcome;

use crate::failure::{failure_of_entry, unanswered};

/// Bytes of all entries of a call: what SNS takes ("Amazon SNS endpoints and quotas", PublishBatch), and every SQS queue
/// whatever its own limit is.
pub(crate) const CALL_BYTES: usize = 256 * 1024;
/// Calls at once: enough to hide their latency, without a burst that is throttled.
const CALLS_AT_ONCE: usize = 8;
/// How often an entry is tried in all.
const TRIES: u32 = 3;
/// The wait before the second try; doubled before the third.
const PAUSE: Duration = Duration::from_millis(100);

/// What a call answered: for each entry it mentions, by its number in the call.
pub(crate) type Answers = Vec<(usize, Outcome<()>)>;

/// Calls `call` for entries in groups, until each is answered. `size` says an entry's bytes, attributes included, or why
/// no service would take it.
pub(crate) async fn in_batches<T, F>(
    name: &str,
    entries: &[T],
    size: impl Fn(&T) -> Outcome<usize>,
    call: impl Fn(Vec<T>) -> F,
) -> Vec<Outcome<()>>
where
    T: Copy,
    F: Future<Output = Outcome<Answers>>,
{
    let sizes: Vec<Outcome<usize>> = entries.iter().map(size).collect();
    let mut open = cut(sizes.iter().enumerate().filter_map(|(at, size)| Some((at, *size.as_ref().ok()?))));
    let unanswered = |size: Outcome<usize>| Err(size.err().unwrap_or_else(|| unanswered(name)));
    let mut settled: Vec<Outcome<()>> = sizes.into_iter().map(unanswered).collect();
    for tried in 1..=TRIES {
        let calls: Vec<_> = open.iter().map(|group| call(group.iter().map(|at| entries[*at]).collect())).collect();
        let answers: Vec<_> = stream::iter(calls).buffered(CALLS_AT_ONCE).collect().await;
        let mut again = Vec::new();
        for (group, answer) in open.iter().zip(answers) {
            settle(&mut settled, group, answer, &mut again);
        }
        if again.is_empty() || tried == TRIES {
            break;
        }
        tokio::time::sleep(PAUSE * 2_u32.pow(tried - 1)).await;
        open = again;
    }
    settled
}

/// Records what a group's call answered; collects what to try again.
fn settle(settled: &mut [Outcome<()>], group: &[usize], answer: Outcome<Answers>, again: &mut Vec<Vec<usize>>) {
    match answer {
        Ok(answers) => {
            for (number, outcome) in answers {
                if let Some(at) = group.get(number) {
                    settled[*at] = outcome;
                }
            }
            let refused = group.iter().copied().filter(|at| settled[*at].as_ref().is_err_and(Failure::is_transient));
            let refused: Vec<usize> = refused.collect();
            if !refused.is_empty() {
                again.push(refused);
            }
        }
        Err(failure) => {
            // The SDK tried a call that may pass again already.
            if !failure.is_transient() && group.len() > 1 {
                again.extend(group.iter().map(|at| vec![*at]));
            }
            for at in group {
                settled[*at] = Err(failure.clone());
            }
        }
    }
}

/// Groups of neighbours within both limits. An entry that is too large by itself is alone in its group.
fn cut(entries: impl Iterator<Item = (usize, usize)>) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, size) in entries {
        match groups.last_mut() {
            Some(group) if group.len() < AWS_BATCH_ENTRIES && bytes + size <= CALL_BYTES => {
                group.push(at);
                bytes += size;
            }
            _ => {
                groups.push(vec![at]);
                bytes = size;
            }
        }
    }
    groups
}

/// The id of an entry within its call.
pub(crate) fn id_of(number: usize) -> String {
    number.to_string()
}

/// An entry that the service took.
pub(crate) fn taken(id: &str) -> Option<(usize, Outcome<()>)> {
    Some((id.parse().ok()?, Ok(())))
}

/// An entry that the service refused.
pub(crate) fn refused(name: &str, id: &str, code: &str, message: Option<&str>) -> Option<(usize, Outcome<()>)> {
    Some((id.parse().ok()?, Err(failure_of_entry(name, code, message))))
}

/// A body in characters that SNS and SQS take: U+FFFE and U+FFFF, which they do not (SQS API, SendMessage), stand in
/// the strings of JSON alone, and are escaped there.
pub(crate) fn escaped(json: String) -> String {
    if json.contains(['\u{FFFE}', '\u{FFFF}']) { json.replace('\u{FFFE}', "\\ufffe").replace('\u{FFFF}', "\\uffff") } else { json }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    const NAME: &str = "SQS SendMessageBatch";
    const UNFIT: usize = 1_000;

    fn all_taken(group: &[usize]) -> Answers {
        (0..group.len()).map(|number| (number, Ok(()))).collect()
    }

    /// Answers each call by `answer`, and keeps what was called.
    async fn run(entries: &[usize], answer: impl Fn(usize, &[usize]) -> Outcome<Answers>) -> (Vec<Outcome<()>>, Vec<Vec<usize>>) {
        let calls = Mutex::new(Vec::new());
        let call = |group: Vec<usize>| {
            let mut calls = calls.lock().unwrap();
            let answer = answer(calls.len(), &group);
            calls.push(group);
            std::future::ready(answer)
        };
        let answers = in_batches(NAME, entries, |entry| if *entry == UNFIT { Err(Failure::permanent("unfit")) } else { Ok(1) }, call).await;
        (answers, calls.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_is_refused_for_the_moment_is_tried_again_alone() {
        let entries: Vec<usize> = (0..12).collect();
        let (answers, calls) = run(&entries, |call, group| {
            let mut answers = all_taken(group);
            if call == 0 {
                answers[3].1 = Err(failure_of_entry(NAME, "InternalError", None));
                answers[5].1 = Err(failure_of_entry(NAME, "InvalidMessageContents", None));
            }
            Ok(answers)
        })
        .await;
        assert_eq!(calls, [(0..10).collect(), vec![10, 11], vec![3]]);
        let failed: Vec<usize> = (0..12).filter(|at| answers[*at].is_err()).collect();
        assert_eq!(failed, [5]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_is_refused_for_good_hides_no_other_when_it_fails_the_whole_call() {
        let (answers, calls) =
            run(&[7, 8, 9], |_, group| if group.contains(&8) { Err(Failure::permanent("invalid")) } else { Ok(all_taken(group)) }).await;
        assert_eq!(calls, [vec![7, 8, 9], vec![7], vec![8], vec![9]]);
        assert_eq!(answers, [Ok(()), Err(Failure::permanent("invalid")), Ok(())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_may_pass_is_not_repeated_and_answers_for_each_of_its_entries() {
        let (answers, calls) = run(&[1, 2], |_, _| Err(Failure::transient("down"))).await;
        assert_eq!(calls.len(), 1);
        assert_eq!(answers, vec![Err(Failure::transient("down")); 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_service_would_take_is_answered_without_a_call() {
        let (answers, calls) = run(&[1, UNFIT, 2], |_, group| Ok(all_taken(group))).await;
        assert_eq!(calls, [vec![1, 2]]);
        assert_eq!(answers, [Ok(()), Err(Failure::permanent("unfit")), Ok(())]);
        let (answers, calls) = run(&[UNFIT], |_, group| Ok(all_taken(group))).await;
        assert!(calls.is_empty() && answers[0].is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_is_never_mentioned_has_not_succeeded() {
        let (answers, calls) = run(&[1, 2], |_, _| Ok(vec![(1, Ok(())), (99, Ok(()))])).await;
        assert_eq!(calls, [vec![1, 2], vec![1], vec![1]]);
        assert!(answers[0].as_ref().is_err_and(Failure::is_transient));
        assert_eq!(answers[1], Ok(()));
    }

    #[test]
    fn what_has_no_place_in_a_message_is_escaped() {
        let json = serde_json::to_string("a\u{FFFE}b\u{FFFF}c\u{0}").unwrap();
        assert_eq!(serde_json::from_str::<String>(&escaped(json.clone())).unwrap(), "a\u{FFFE}b\u{FFFF}c\u{0}");
        assert!(!escaped(json).contains(['\u{FFFE}', '\u{FFFF}', '\u{0}']));
    }

    proptest! {
        #[test]
        fn groups_keep_both_limits_and_every_entry(sizes in proptest::collection::vec(0..2 * CALL_BYTES, 0..40)) {
            let groups = cut(sizes.iter().copied().enumerate());
            for group in &groups {
                let bytes: usize = group.iter().map(|at| sizes[*at]).sum();
                prop_assert!(group.len() <= AWS_BATCH_ENTRIES && (bytes <= CALL_BYTES || group.len() == 1));
            }
            prop_assert_eq!(groups.concat(), (0..sizes.len()).collect::<Vec<_>>());
        }
    }
}
