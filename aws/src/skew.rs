//! How far this machine's clock is from that of AWS (R6), by the `Date` of its answers.
//!
//! Positions are taken from this machine's clock. Two machines may differ by [`limits::CLOCK_SKEW`]; one that is further
//! off could append behind a cursor that has passed, and must neither be ready nor handle messages. Must not know: what a call is
//! made for.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use aws_smithy_types::date_time::Format;
use jiff::{SignedDuration, Timestamp};
use recado_domain::limits;
use recado_domain::ports::Clock;

/// A request that took longer says too little of when its `Date` was written: a poll waits up to 20 s.
const SHARP: SignedDuration = SignedDuration::from_secs(3);
/// A `Date` counts whole seconds (RFC 9110, 5.6.7): the moment it means is up to this much later.
const DATE_UNIT: SignedDuration = SignedDuration::from_secs(1);

/// This machine's clock is too far from that of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clock of this machine is at least {} s {} that of AWS, and may differ by {} s: set it by NTP",
    .offset.unsigned_abs().as_secs(),
    if .offset.is_negative() { "ahead of" } else { "behind" },
    limits::CLOCK_SKEW.as_secs()
)]
pub struct ClockOff {
    /// What has to be added to this machine's clock, at least.
    pub offset: SignedDuration,
}

/// The last offset that an answer showed. Clones measure together.
#[derive(Clone)]
pub struct Skew {
    clock: Arc<dyn Clock>,
    offset: Arc<Mutex<SignedDuration>>,
}

impl Skew {
    /// Nothing measured yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, offset: Arc::default() }
    }

    /// Whether this machine's clock may be used for positions.
    ///
    /// # Errors
    /// When the last answer showed a clock further off than [`limits::CLOCK_SKEW`].
    pub fn check(&self) -> Result<(), ClockOff> {
        let offset = *self.offset.lock().unwrap_or_else(PoisonError::into_inner);
        if offset.unsigned_abs() > limits::CLOCK_SKEW { Err(ClockOff { offset }) } else { Ok(()) }
    }

    /// Takes in what an answer shows.
    pub(crate) fn measure(&self, sent: Timestamp, date: Timestamp) {
        let received = self.clock.now();
        if received.duration_since(sent) > SHARP {
            return;
        }
        let offset = least_offset(sent, received, date);
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner) = offset;
        metrics::gauge!("recado_clock_offset_seconds").set(offset.as_secs_f64());
    }
}

/// How much a clock that showed `sent` and then `received` is off at least, when `date` was written in between.
fn least_offset(sent: Timestamp, received: Timestamp, date: Timestamp) -> SignedDuration {
    let lowest = date.duration_since(received);
    let highest = date.duration_since(sent) + DATE_UNIT;
    SignedDuration::ZERO.clamp(lowest.min(highest), highest)
}

impl fmt::Debug for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Skew").field("offset", &self.offset).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Sent(Timestamp);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

#[dyn_dispatch_hint]
impl Intercept for Skew {
    fn name(&self) -> &'static str {
        "Skew"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(Sent(self.clock.now()));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(moment);
        if let (Some(date), Some(Sent(sent))) = (date, config.load::<Sent>()) {
            self.measure(*sent, date);
        }
        Ok(())
    }
}

fn moment(date: &str) -> Option<Timestamp> {
    let parsed = aws_smithy_types::DateTime::from_str(date, Format::HttpDate).ok()?;
    Timestamp::from_second(parsed.secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use recado_memory::ManualClock;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn measured(sent: i64, received: i64, date: i64) -> Skew {
        let clock = ManualClock::new(at(received));
        let skew = Skew::new(Arc::new(clock));
        skew.measure(at(sent), at(date));
        skew
    }

    #[test]
    fn an_offset_is_no_more_than_what_the_answer_proves() {
        for (sent, received, date, offset) in
            [(100, 100, 100, 0), (100, 103, 101, 0), (100, 101, 120, 19), (100, 101, 90, -9), (100, 100, 99, 0)]
        {
            assert_eq!(least_offset(at(sent), at(received), at(date)), SignedDuration::from_secs(offset), "{sent} {received} {date}");
        }
    }

    #[test]
    fn a_clock_may_differ_by_a_quarter_of_the_grace_period() {
        let quarter = i64::try_from(limits::CLOCK_SKEW.as_secs()).unwrap();
        assert_eq!(measured(1_000, 1_000, 1_000 + quarter).check(), Ok(()));
        assert_eq!(measured(1_000, 1_000, 1_000 - quarter - 1).check(), Ok(()));
        let behind = measured(1_000, 1_000, 1_000 + quarter + 1).check().unwrap_err();
        assert_eq!(
            behind.to_string(),
            "the clock of this machine is at least 16 s behind that of AWS, and may differ by 15 s: set it by NTP"
        );
        let ahead = measured(1_000, 1_000, 1_000 - quarter - 2).check().unwrap_err();
        assert!(ahead.to_string().contains("at least 16 s ahead of"), "{ahead}");
    }

    #[test]
    fn an_answer_that_took_long_says_nothing() {
        let clock = ManualClock::new(at(1_004));
        let skew = Skew::new(Arc::new(clock));
        skew.measure(at(1_000), at(2_000));
        assert_eq!(skew.check(), Ok(()));
        skew.measure(at(1_001), at(2_000));
        assert!(skew.check().is_err());
    }

    #[test]
    fn a_date_is_read_as_servers_write_it() {
        assert_eq!(moment("Thu, 01 Jan 1970 00:01:40 GMT"), Some(at(100)));
        for nonsense in ["", "yesterday", "100", "1970-01-01T00:01:40Z"] {
            assert_eq!(moment(nonsense), None, "{nonsense}");
        }
    }
}
