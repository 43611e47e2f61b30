//! One state of the world: what the stores hold, what every actor is about to do, and what may still go wrong.
//!
//! Small and `Copy`: a search holds millions of them. Must not know: how one state follows another.

/// Notifications, at the most.
pub const NOTES: usize = 3;
/// Connections that are ever made, at the most.
pub const SLOTS: usize = 3;
/// Dispatchers.
pub const WORKERS: usize = 2;
/// Handlers of client frames that run at the same time.
pub const HANDLERS: usize = 2;

/// A moment.
pub type Tick = u8;

/// Some of up to eight numbered things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Set(pub u8);

impl Set {
    /// None.
    pub const NONE: Self = Self(0);

    /// One.
    pub fn one(n: u8) -> Self {
        Self(1 << n)
    }

    /// Whether `n` is among them.
    pub fn has(self, n: u8) -> bool {
        self.0 & 1 << n != 0
    }

    /// With `n`.
    #[must_use]
    pub fn with(self, n: u8) -> Self {
        Self(self.0 | 1 << n)
    }

    /// Without `n`.
    #[must_use]
    pub fn without(self, n: u8) -> Self {
        Self(self.0 & !(1 << n))
    }

    /// Those in either.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |n| self.has(*n))
    }
}

/// Where an entry stands: ordered by moment, then by notification, as ULIDs order by moment, then by chance. The
/// lowest of a moment belongs to no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position(pub u8);

impl Position {
    /// Before every entry.
    pub const MIN: Self = Self(0);

    /// That of `note` at a moment.
    pub fn stamp(at: Tick, note: u8) -> Self {
        Self(at * 4 + 1 + note)
    }

    /// The lowest of a moment.
    pub fn floor(at: Tick) -> Self {
        Self(at * 4)
    }

    /// Its moment.
    pub fn at(self) -> Tick {
        self.0 / 4
    }

    /// The lowest position `by` earlier.
    #[must_use]
    pub fn back(self, by: Tick) -> Self {
        Self::floor(self.at().saturating_sub(by))
    }
}

/// What a queue carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    /// The event of this notification.
    Event(u8),
    /// The command to bring this connection what is pending.
    Replay(u8),
}

impl Message {
    /// Its place in [`State::queue`].
    pub fn place(self) -> usize {
        match self {
            Self::Event(note) => note as usize,
            Self::Replay(slot) => NOTES + slot as usize,
        }
    }
}

/// All messages of one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pile {
    /// Can be received. A delay is a message that nobody happens to receive yet.
    pub visible: u8,
    /// Leased.
    pub hidden: u8,
}

impl Pile {
    /// How many there are.
    pub fn total(self) -> u8 {
        self.visible + self.hidden
    }
}

/// An inbox entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// Whether it is settled (R7).
    pub acked: bool,
    /// Whether that was more than a day ago.
    pub long_ago: bool,
    /// Whether it was read by id.
    pub read: bool,
    /// Whether it has its content. It always should.
    pub whole: bool,
}

/// How much is known of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// `$connect` ran.
    Connecting,
    /// Proved open.
    Live,
}

/// A connection as the rooms know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// What removals compare.
    pub phase: Phase,
    /// When it was registered. Counts only while it is connecting, and is zero afterwards.
    pub at: Tick,
}

/// What a client can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The app: it keeps a cursor and what it showed, syncs, and acknowledges by id.
    App,
    /// The listener: a plain client that only listens and keeps nothing.
    Listener,
}

/// A socket as the gateway knows it, `$connect` included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Socket {
    /// Not asked for yet.
    Unused,
    /// `$connect` runs since then.
    Asked(Tick),
    /// Its row is written.
    Registered(Tick),
    /// `$connect` has answered, and the socket is about to open.
    Admitted(Tick),
    /// Open.
    Open,
    /// The client has gone and the gateway has not noticed: posts answer 200 and nobody gets them.
    Dead,
    /// Gone: posts answer 410. `told` once `$disconnect` ran.
    Closed {
        /// Whether `$disconnect` ran, or never will.
        told: bool,
    },
}

impl Socket {
    /// Since when it has been opening, where it is.
    pub fn opening_since(self) -> Option<Tick> {
        match self {
            Self::Asked(at) | Self::Registered(at) | Self::Admitted(at) => Some(at),
            _ => None,
        }
    }
}

/// A write to a store, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Write {
    /// Insert the entry of `note` if absent.
    Insert {
        /// Which.
        note: u8,
        /// Where.
        at: Position,
    },
    /// Move the entry of `note` if it stands at `from`.
    Stamp {
        /// Which.
        note: u8,
        /// Where it was read.
        from: Position,
        /// Where to.
        to: Position,
    },
    /// Write the row of a new connection.
    Register {
        /// Which.
        slot: u8,
        /// When `$connect` took the time.
        at: Tick,
    },
    /// Mark a row live.
    Live {
        /// Which.
        slot: u8,
        /// Whether to write a missing one.
        create: bool,
    },
    /// Remove a row that is as it was read.
    Remove {
        /// Which.
        slot: u8,
        /// As it was read.
        seen: Phase,
    },
    /// Raise `pending_from` if it still is `from`.
    Advance {
        /// As it was read.
        from: Position,
        /// Where to.
        to: Position,
    },
}

/// A dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Worker {
    /// Waits for a message.
    Idle,
    /// Delivers an event.
    Event {
        /// Of which notification.
        note: u8,
        /// Whether its lease is good.
        held: bool,
        /// What it does next.
        step: EventStep,
    },
    /// Replays.
    Replay {
        /// To which connection.
        slot: u8,
        /// Whether its lease is good.
        held: bool,
        /// What it does next.
        step: ReplayStep,
    },
}

/// What a dispatcher that delivers an event does next. Each step is one access to something shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventStep {
    /// Takes a position and sends the append.
    Begin,
    /// The append, or a stamp, is under way.
    Write {
        /// The position to give.
        to: Position,
        /// The position to move from; [`Position::MIN`] for an append.
        from: Position,
        /// Who was connected, where that was read too early.
        found: Option<Posts>,
    },
    /// An answer is there, and is judged.
    Judge {
        /// As answered.
        position: Position,
        /// Whether it answers a stamp.
        stamped: bool,
        /// As in `Write`.
        found: Option<Posts>,
    },
    /// Without R8: raises the stored counter.
    Count {
        /// As in `Write`.
        found: Option<Posts>,
    },
    /// Reads who is connected.
    Look,
    /// Posts, or goes on where nothing is left.
    Post(Posts),
    /// A post to a plain client succeeded: settles the entry.
    Settle(Posts),
    /// A post answered 410: judges that.
    Gone {
        /// Whose.
        slot: u8,
        /// The row as read.
        seen: Phase,
        /// When the post was begun.
        asked: Tick,
        /// What is left then.
        then: Posts,
    },
    /// Removes a row.
    Remove {
        /// Whose.
        slot: u8,
        /// The row as read.
        seen: Phase,
        /// What is left then.
        then: Posts,
    },
    /// Sends replays for these connections.
    SendOn(Set),
    /// Deletes its message.
    Delete {
        /// Then, where the order of R3 is off, sends replays for these.
        then_send: Set,
    },
}

/// The posts of an event that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Posts {
    /// Connections to post to.
    pub left: Set,
    /// Those that were read as connecting.
    pub opening: Set,
    /// Those that refused for now.
    pub refused: Set,
    /// Whether the entry is still to be stored, since the order of R1 is off.
    pub early: bool,
}

/// What a dispatcher that replays does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReplayStep {
    /// Reads the row.
    Begin,
    /// Posts to a connecting socket, as a proof.
    Prove {
        /// When the row, as read, was registered.
        at: Tick,
    },
    /// A post answered 410: judges that.
    Gone {
        /// The row as read.
        seen: Phase,
        /// When it was registered.
        at: Tick,
        /// When the post was begun.
        asked: Tick,
    },
    /// Removes the row.
    Remove {
        /// As read.
        seen: Phase,
    },
    /// Marks the row live.
    MarkLive {
        /// What was read before, where the order of R2 is off.
        early: Option<Handed>,
    },
    /// Reads the marks.
    Marks {
        /// Whether the row is still to be marked live.
        early: bool,
    },
    /// Reads what is pending.
    Pending {
        /// The marks as read.
        query: Query,
        /// As in `Marks`.
        early: bool,
    },
    /// Posts, or goes on where nothing is left.
    Post(Handed),
    /// A post to a plain client succeeded: settles the entry.
    Settle {
        /// Which.
        note: u8,
        /// What is left then.
        then: Handed,
    },
    /// Raises `pending_from`.
    Advance {
        /// As read.
        from: Position,
        /// Where to.
        to: Position,
        /// Whether it then sends itself again, since it did not come to its end.
        again: bool,
    },
    /// Sends itself again, naming what its connection missed.
    Again(Set),
    /// Deletes its message.
    Delete,
}

/// What a replay has to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handed {
    /// Notifications to post.
    pub left: Set,
    /// What they came from.
    pub query: Query,
}

/// What a pending query is to be remembered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Query {
    /// `pending_from` as read before it.
    pub from: Position,
    /// When it began.
    pub began: Tick,
    /// The lowest position it returned.
    pub lowest: Option<Position>,
}

/// A handler that answers a `sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sync {
    /// On which connection.
    pub slot: u8,
    /// Where the client stopped.
    pub since: Option<Position>,
    /// What it confirms.
    pub acks: Set,
    /// What is next.
    pub step: SyncStep,
}

/// What a handler of a `sync` does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SyncStep {
    /// Acknowledges.
    Acknowledge,
    /// Marks the row live.
    MarkLive {
        /// What was read before, where the order of R2 is off.
        early: Option<Answer>,
    },
    /// Takes the time.
    Begin,
    /// Reads a page of what stands after the cursor, or the newest page and the marks.
    Read(Answer),
    /// Without `since`: reads what is pending.
    Pending(Answer),
    /// Posts the next frame, or the last one.
    Post(Answer),
    /// Raises `pending_from`.
    Advance {
        /// As read.
        from: Position,
        /// Where to.
        to: Position,
    },
}

/// An answer as it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Answer {
    /// When its first query began.
    pub began: Tick,
    /// Items that were read and not posted yet.
    pub items: Set,
    /// The highest position read.
    pub highest: Option<Position>,
    /// Where the next page begins.
    pub after: Position,
    /// Without `since`: what its pending query came to.
    pub query: Query,
}

/// The app: a client that keeps state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct App {
    /// On which connection it is, or wants to be.
    pub at: Option<u8>,
    /// What it remembers that it showed.
    pub known: Set,
    /// Its cursor.
    pub cursor: Option<Position>,
    /// Whether it waits for the answer to a `sync`.
    pub waits: bool,
    /// Whether a `sync` was answered on this connection.
    pub synced: bool,
    /// The highest position it showed, where it sends `read_all`.
    pub top: Position,
}

/// What nobody in the world knows, and the promises are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Witness {
    /// What the app ever showed.
    pub app: Set,
    /// What the app showed twice.
    pub twice: Set,
    /// What the listener ever got.
    pub listener: Set,
    /// What was posted with success to an open socket of a plain client.
    pub handed: Set,
    /// Per connection, what was pushed to it, refused for now, and did not arrive since.
    pub owed: [Set; SLOTS],
    /// Whether the app's row was lost since its last `sync`, by no fault of the protocol.
    pub row_lost: bool,
    /// What `read_all` was to mark.
    pub read: Set,
    /// What arrived later than R8 provides for.
    pub too_late: Set,
    /// Whether the app's cursor ever went back.
    pub cursor_back: bool,
    /// Whether `pending_from` ever went back.
    pub mark_back: bool,
    /// Whether a row of a plain client came back after its `$disconnect`.
    pub row_back: bool,
    /// Whether a post was wasted on a connecting socket by a dispatcher.
    pub wasted_post: bool,
}

/// What may still go wrong, and what may still be done at will: each is a number that falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// A dispatcher or handler dies, or loses an answer, at any step.
    pub crashes: u8,
    /// A write lands after its sender has died, at any later moment.
    pub late_writes: u8,
    /// A lease ends while its holder still works.
    pub expiries: u8,
    /// A post answers 429, or nothing in time, whether or not it arrived.
    pub refusals: u8,
    /// A client goes, or its network does.
    pub drops: u8,
    /// The row of a live connection is lost (replaced above the cap, and the close failed).
    pub lost_rows: u8,
    /// A publisher loses the answer and publishes again.
    pub repeats: u8,
    /// A store refuses an append for good.
    pub rejects: u8,
    /// An operator sends a dead letter back.
    pub redrives: u8,
    /// The app acknowledges what it never got.
    pub wild_acks: u8,
    /// Every process is killed at once.
    pub kills: u8,
    /// A week passes.
    pub weeks: u8,
    /// The app syncs though nothing asks for it.
    pub syncs: u8,
    /// The app sends `ack` by itself.
    pub acks: u8,
    /// The user reads all.
    pub read_alls: u8,
}

/// The whole world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// The true time.
    pub now: Tick,
    /// What may still happen.
    pub budget: Budget,
    /// What was accepted.
    pub published: Set,
    /// Messages by [`Message::place`].
    pub queue: [Pile; NOTES + SLOTS],
    /// Per connection, what its replay commands name.
    pub missed: [Set; SLOTS],
    /// Dead letters.
    pub dead: Set,
    /// Entries.
    pub inbox: [Option<Entry>; NOTES],
    /// Entries at or below were read.
    pub read_up_to: Position,
    /// Entries below are not pending.
    pub pending_from: Position,
    /// The stored counter, where R8 is off.
    pub counter: u8,
    /// A write on its way whose sender has died.
    pub late: Option<Write>,
    /// Notifications whose entry an inconsistent read may miss.
    pub unseen_notes: Set,
    /// Connections whose row an inconsistent read may miss.
    pub unseen_rows: Set,
    /// Sockets.
    pub sockets: [Socket; SLOTS],
    /// Rows.
    pub rows: [Option<Row>; SLOTS],
    /// Connections with a reverse item.
    pub owners: Set,
    /// Dispatchers.
    pub workers: [Worker; WORKERS],
    /// Handlers.
    pub handlers: [Option<Sync>; HANDLERS],
    /// The client that keeps state.
    pub app: App,
    /// On which connection the plain client is, or wants to be.
    pub listener: Option<u8>,
    /// What the promises are judged by.
    pub witness: Witness,
}

impl State {
    /// Before anything happened.
    pub fn new(now: Tick, budget: Budget) -> Self {
        Self {
            now,
            budget,
            published: Set::NONE,
            queue: [Pile::default(); NOTES + SLOTS],
            missed: [Set::NONE; SLOTS],
            dead: Set::NONE,
            inbox: [None; NOTES],
            read_up_to: Position::MIN,
            pending_from: Position::MIN,
            counter: 0,
            late: None,
            unseen_notes: Set::NONE,
            unseen_rows: Set::NONE,
            sockets: [Socket::Unused; SLOTS],
            rows: [None; SLOTS],
            owners: Set::NONE,
            workers: [Worker::Idle; WORKERS],
            handlers: [None; HANDLERS],
            app: App::default(),
            listener: None,
            witness: Witness::default(),
        }
    }

    /// The stored entry of `note`.
    pub fn entry(&self, note: u8) -> Option<&Entry> {
        self.inbox[note as usize].as_ref()
    }

    /// The stored notifications.
    pub fn stored(&self) -> Set {
        self.select(|_| true)
    }

    /// The stored notifications of which `fits` is so.
    pub fn select(&self, fits: impl Fn(&Entry) -> bool) -> Set {
        let fitting = (0..NOTES as u8).filter(|note| self.entry(*note).is_some_and(&fits));
        fitting.fold(Set::NONE, Set::with)
    }

    /// The lowest position among `notes`.
    pub fn lowest(&self, notes: Set) -> Option<Position> {
        notes.iter().filter_map(|note| self.entry(note)).map(|entry| entry.position).min()
    }

    /// The highest position among `notes`.
    pub fn highest(&self, notes: Set) -> Option<Position> {
        notes.iter().filter_map(|note| self.entry(note)).map(|entry| entry.position).max()
    }

    /// That of `notes` which stands lowest.
    pub fn first(&self, notes: Set) -> Option<u8> {
        notes.iter().min_by_key(|note| self.entry(*note).map_or(Position(u8::MAX), |entry| entry.position))
    }

    /// Whether a message of `note` is in the queue, leased or not.
    pub fn carried(&self, note: u8) -> bool {
        self.queue[Message::Event(note).place()].total() > 0
    }

    /// Whether an entry counts as read.
    pub fn is_read(&self, note: u8) -> bool {
        self.entry(note).is_some_and(|entry| entry.read || entry.position <= self.read_up_to)
    }

    /// Whether nothing is in motion: no message, nobody at work, no socket opening, no client waiting.
    pub fn is_quiet(&self) -> bool {
        self.queue.iter().all(|pile| pile.total() == 0)
            && self.workers.iter().all(|worker| *worker == Worker::Idle)
            && self.handlers.iter().all(Option::is_none)
            && self.sockets.iter().all(|socket| socket.opening_since().is_none())
            && !self.app.waits
    }
}
