//! How large a world is searched. Whatever is not bounded here is tried in every order.
//!
//! Must not know: how one state follows another.

use crate::action::Action;
use crate::state::{Budget, Kind, SLOTS, Tick, WORKERS};

/// The bounds of one search.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// What has happened before the search begins, from the very beginning on.
    pub before: &'static [Action],
    /// Notifications, published in the order of their numbers.
    pub notes: u8,
    /// Whose connections are made, in this order. More than one of a client: it connects again.
    pub slots: [Option<Kind>; SLOTS],
    /// Dispatchers.
    pub workers: u8,
    /// Handlers of client frames that run at the same time.
    pub handlers: u8,
    /// W. W/2 and W/4 are derived, so it is even, and a multiple of four where clocks differ.
    pub w: Tick,
    /// When the world begins. Late enough for clocks that are behind.
    pub begins: Tick,
    /// When time stops.
    pub ends: Tick,
    /// What each dispatcher's clock is ahead.
    pub dispatcher_ahead: [i8; WORKERS],
    /// What the handlers' clocks are ahead.
    pub handler_ahead: i8,
    /// Whether a page has one entry, rather than all.
    pub small_pages: bool,
    /// Whether a frame has one item, rather than all of an answer.
    pub small_frames: bool,
    /// Whether a socket opens and closes in one step, where that is not what the world is about. Its row stays.
    pub quick_sockets: bool,
    /// What may go wrong, and what clients do at will.
    pub budget: Budget,
}

impl Bounds {
    /// One notification, nobody connects, time stands, nothing goes wrong.
    pub const NOTHING: Self = Self {
        before: &[],
        notes: 1,
        slots: [None; SLOTS],
        workers: 1,
        handlers: 1,
        w: 2,
        begins: 4,
        ends: 4,
        dispatcher_ahead: [0; WORKERS],
        handler_ahead: 0,
        small_pages: false,
        small_frames: false,
        quick_sockets: false,
        budget: NO_BUDGET,
    };

    /// W/2: an answer that comes later is late (R6), and a socket opens no later.
    pub fn half(&self) -> Tick {
        self.w / 2
    }

    /// How far apart clocks are.
    pub fn spread(&self) -> Tick {
        let clocks = [0, self.handler_ahead, self.dispatcher_ahead[0], self.dispatcher_ahead[1]];
        let (low, high) = clocks.iter().fold((0, 0), |(low, high), ahead| (low.min(*ahead), high.max(*ahead)));
        low.abs_diff(high)
    }

    /// Whether dispatchers differ in nothing but their number.
    pub fn dispatchers_are_alike(&self) -> bool {
        self.dispatcher_ahead[0] == self.dispatcher_ahead[1]
    }
}

/// Nothing goes wrong.
pub const NO_BUDGET: Budget = Budget {
    crashes: 0,
    late_writes: 0,
    expiries: 0,
    refusals: 0,
    drops: 0,
    lost_rows: 0,
    repeats: 0,
    rejects: 0,
    redrives: 0,
    wild_acks: 0,
    kills: 0,
    weeks: 0,
    syncs: 0,
    acks: 0,
    read_alls: 0,
};
