//! Where the product decides by a function of its own, the model decides alike.
//!
//! A tick of the model is W/4 here, the finest unit that a rule speaks of. Must not know: what is promised.

use jiff::Timestamp;
use recado_domain::connection::{Connection, Phase, Protocol as Speaks};
use recado_domain::ids::ConnectionId;
use recado_domain::limits;
use recado_domain::notification::{Appended, Freshness};
use recado_domain::ports::Marks;
use recado_domain::position::Position as Stands;
use recado_model::bounds::Bounds;
use recado_model::protocol::Protocol;
use recado_model::rules::Rules;
use recado_model::state::{self, Position, Query, Tick};

const W: Tick = 4;
/// Two and a half W: enough for every difference to be below, at and above each limit.
const TICKS: std::ops::Range<Tick> = W..W * 7 / 2;

fn model() -> Protocol {
    Protocol { bounds: Bounds { w: W, handler_ahead: 1, ..Bounds::NOTHING }, rules: Rules::ALL }
}

fn moment(tick: Tick) -> Timestamp {
    Timestamp::from_second(1_000_000).expect("a moment") + limits::W / u32::from(W) * u32::from(tick)
}

/// The position of the product that the model means.
fn stands(position: Position) -> Option<Stands> {
    (position != Position::MIN).then(|| Stands::new(moment(position.at()), u128::from(position.0 % 4)))
}

/// Every position, and the lowest of each moment.
fn positions() -> impl Iterator<Item = Position> {
    TICKS.flat_map(|at| [Position::floor(at), Position::stamp(at, 0), Position::stamp(at, 1)])
}

#[test]
fn the_moments_of_the_model_are_in_the_proportions_of_the_product() {
    let bounds = model().bounds;
    assert_eq!(limits::RESTAMP_AFTER * u32::from(bounds.w), limits::W * u32::from(bounds.half()));
    assert_eq!(limits::CLOCK_SKEW * u32::from(bounds.w), limits::W * u32::from(bounds.spread()));
}

#[test]
fn pending_from_rises_as_in_the_product() {
    let lowest = || std::iter::once(None).chain(positions().map(Some));
    for from in std::iter::once(Position::MIN).chain(positions()) {
        // From W on: before, the mark of the model would stand before the beginning of its time.
        for began in TICKS.skip(1) {
            for lowest in lowest() {
                let rises = Marks { pending_from: stands(from), ..Marks::default() }.pending_after(lowest.and_then(stands), moment(began));
                let modelled = model().pending_after(Query { from, began, lowest });
                assert_eq!(modelled.and_then(stands), rises, "from {from:?}, began {began}, lowest {lowest:?}");
            }
        }
    }
}

#[test]
fn a_410_is_final_when_it_is_in_the_product() {
    for (seen, phase) in [(state::Phase::Connecting, Phase::Connecting), (state::Phase::Live, Phase::Live)] {
        for at in TICKS {
            for asked in at..TICKS.end {
                let row = Connection {
                    id: ConnectionId::new("c=").expect("an id"),
                    phase,
                    registered_at: moment(at),
                    token_expires_at: Timestamp::MAX,
                    protocol: Speaks::Plain,
                    device: None,
                };
                // However late the answer is.
                let modelled = model().gone_is_final(seen, at, asked, TICKS.end);
                assert_eq!(modelled, row.gone_is_final(moment(asked)), "registered at {at}, asked at {asked}");
            }
        }
    }
}

#[test]
fn an_answer_is_late_when_it_is_in_the_product() {
    for position in positions() {
        for now in position.at()..TICKS.end {
            let position_there = stands(position).expect("a position");
            let appended = Appended { position: position_there, inserted: true, acked_at: None, read_at: None, archived_at: None };
            let late = appended.freshness(moment(now)) == Freshness::Late;
            assert_eq!(model().is_late(position, now), late, "{position:?} judged at {now}");
        }
    }
}
