//! What a Lambda function needs around a room: events in, answers out, within the time of an invocation.
//!
//! Events are read from raw JSON, so that what is wrong with one never looks like a failure of the platform. Every
//! invocation writes one line that says what it came to. Must not know: any room.

mod queue;
mod records;
mod sockets;

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use lambda_runtime::{Context, LambdaEvent, service_fn};
use recado_domain::ports::Clock;
use recado_runtime::system::SystemClock;
use serde::Serialize;
use serde_json::value::RawValue;

pub use self::queue::{answer_batch, serve_queue};
pub use self::sockets::{Answer, Event, Opening, Route, serve_sockets};
use crate::settings::Ended;

/// One invocation.
struct Invocation {
    /// The event, as JSON.
    event: Box<RawValue>,
    /// What is left of its time.
    within: Duration,
}

/// Answers invocations, one after the other, until the platform ends the process.
async fn serve<T, F>(handle: impl Fn(Invocation) -> F) -> Result<(), Ended>
where
    T: Serialize,
    F: Future<Output = Result<T, lambda_runtime::Error>>,
{
    let handle = &handle;
    let answer = |event: LambdaEvent<Box<RawValue>>| {
        let invocation = Invocation { event: event.payload, within: left(&event.context, SystemClock.now()) };
        // Erased: the futures of a room and of the SDK below it nest too deep for the compiler otherwise.
        handle(invocation).boxed_local()
    };
    lambda_runtime::run(service_fn(answer)).await.map_err(Ended::Platform)
}

/// How long an invocation may still take. Nothing once its deadline has passed, or lies beyond the calendar.
fn left(context: &Context, now: Timestamp) -> Duration {
    let deadline = i64::try_from(context.deadline).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    deadline.and_then(|deadline| Duration::try_from(deadline.duration_since(now)).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_ends_at_the_deadline() {
        let now = Timestamp::from_second(1_000).unwrap();
        let mut context = Context::default();
        for (deadline, expected) in [(1_029_500, 29_500), (1_000_000, 0), (999_000, 0), (u64::MAX, 0)] {
            context.deadline = deadline;
            assert_eq!(left(&context, now), Duration::from_millis(expected), "{deadline}");
        }
    }
}
