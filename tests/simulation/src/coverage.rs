//! How often what happened: a fault that never came, or a path that nobody took, proves nothing.
//!
//! Must not know: what follows from any of it.

use std::fmt;
use std::ops::AddAssign;

/// Declares what is counted, each with its words.
macro_rules! happenings {
    ($($(#[doc = $doc:literal])+ $name:ident => $words:literal,)+) => {
        /// Something that happens in a run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Happening {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Happening {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What it is, for a person.
            pub fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)+
                }
            }
        }
    };
}

happenings! {
    /// A port was called.
    Call => "calls of ports",
    /// An entry changed nothing and may be tried again.
    Transient => "entries that fail for the moment",
    /// An entry changed nothing, for good.
    Permanent => "entries that fail for good",
    /// An entry was applied and its answer lost.
    LostAnswer => "entries applied whose answer is lost",
    /// One way of a call took a second or more.
    Slow => "calls that take seconds",
    /// A write was under way for longer than an overlap reaches.
    LateWrite => "entries that arrive more than W/2 late",
    /// A process ended before its call left.
    DiedBefore => "processes that end before a call leaves",
    /// A process ended while its call was under way.
    DiedUnderway => "processes that end while a call is under way",
    /// A process ended before it had its answer.
    DiedUnanswered => "processes that end before an answer arrives",
    /// A Lambda took too long.
    TimedOut => "functions whose time is over",
    /// A process drained and stopped.
    Stopped => "processes told to stop, that drained",
    /// A process started whose clock is a second or more off.
    Skewed => "processes whose clock is wrong by a second or more",
    /// A post was answered 429.
    Throttled => "posts answered 429",
    /// A post was answered 410 though the socket was open.
    WronglyGone => "posts answered 410 to an open socket",
    /// A post was answered 410 since the socket was not open yet, or never was.
    NotYetOpen => "posts answered 410 to a socket that was not open yet",
    /// A post was answered 410 since the socket had been closed.
    Gone => "posts answered 410 to a closed socket",
    /// A lease ended while somebody worked on the message.
    LeaseEnded => "leases that end early",
    /// A message was received again.
    ReceivedAgain => "messages received again",
    /// A message was delivered twice.
    DeliveredTwice => "messages delivered twice",
    /// A message was held back.
    HeldBack => "messages held back, so that others overtake them",
    /// A client's socket broke or was closed by it.
    SocketEnded => "sockets that break or are closed by a client",
    /// `$disconnect` was never called.
    Forgotten => "`$disconnect` never called",
    /// A socket was accepted and never opened.
    NeverOpened => "sockets accepted that never open",
    /// The row of a connection was removed, and its reverse item not.
    Halfway => "removals that end halfway",
    /// A frame of a client came to a closed socket.
    Unheard => "client frames lost with their socket",
    /// A frame was lost, since its client had vanished.
    FrameLost => "frames lost with a vanished client",
    /// Somebody was not let in.
    Refused => "sockets refused",
    /// Somebody connected.
    Opened => "sockets opened",
    /// A frame reached a socket.
    Frame => "frames delivered",
    /// A frame reached the socket of a plain client.
    PlainFrame => "frames delivered to plain clients",
    /// An answer to a `sync` was complete.
    Synced => "complete answers to `sync`",
    /// An answer had the verdict `gap`.
    Gap => "answers with the verdict `gap`",
    /// A client was asked to come again elsewhere.
    GoneAway => "clients sent away with `goaway`",
    /// A client was told that its connection is not known.
    Unknown => "clients told that their connection is unknown",
    /// A socket was closed by the server.
    Evicted => "sockets closed by the server",
    /// A `sync` wrote a lost row anew.
    RowWritten => "lost rows written anew by `sync`",
    /// A row was removed after a 410, or since it had ended.
    RowRemoved => "rows removed by who posts",
    /// An entry was stored.
    Stored => "entries stored",
    /// An append found its entry.
    Duplicate => "appends that find their entry",
    /// An entry was stamped again.
    Stamped => "entries stamped again",
    /// A replay command was queued.
    Replay => "replay commands queued",
    /// What was left of an event was sent on.
    Narrowed => "events sent on for those who are left",
    /// An event came to the email queue by the dispatcher.
    Forwarded => "events forwarded to the email queue",
    /// A message was rejected.
    DeadLetter => "dead letters",
    /// A dead letter was sent back.
    Redriven => "dead letters sent back",
    /// The pending mark moved.
    MarkMoved => "pending marks moved",
    /// Everything was marked as read.
    ReadAll => "inboxes marked as read",
    /// A mail left.
    Mail => "mails that leave",
    /// A mail left for the second time, with an excuse.
    MailTwice => "mails that leave again, with an excuse",
    /// A claim was not given, since another process had it or had sent it.
    ClaimHeld => "claims not given",
    /// Somebody was found suppressed.
    Suppressed => "mails not sent to who is suppressed",
    /// A bounce or a complaint came.
    Feedback => "bounces and complaints",
}

/// How much of it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts([u64; Happening::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Happening::ALL.len()])
    }
}

impl Counts {
    /// How often.
    pub fn of(&self, what: Happening) -> u64 {
        self.0[what as usize]
    }

    pub(crate) fn add(&mut self, what: Happening, times: usize) {
        self.0[what as usize] += times as u64;
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, others)| *mine += others);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Happening::ALL.iter().try_for_each(|what| writeln!(f, "{:>12}  {}", self.of(*what), what.words()))
    }
}
