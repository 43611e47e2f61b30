//! Ways to break the code under test, as a port that does not do what it should: each must be caught.
//!
//! A search that finds nothing proves little unless it finds what is there. Must not know: how a run is judged.

/// One port that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Breakage {
    /// The inbox answers before an entry is stored: frames are pushed before it is (R1).
    AnswersBeforeItStores,
    /// Who is connected is read from a cache of 5 s: one side does not see the other (R2).
    CachedLookup,
    /// A message is deleted when it is received (R3).
    AcksOnReceive,
    /// A connection is live at once: a 410 while its socket opens ends it (R4).
    LiveAtOnce,
    /// A `sync` does not write a lost row anew (R4).
    SyncCreatesNothing,
    /// A resume starts at the cursor, without the overlap (R5).
    NoOverlap,
    /// An entry is said to be stamped again, and is not (R6).
    ForgetsStamps,
    /// The pending mark moves to the present (R7).
    PendingMarkAhead,
    /// `read_all` marks everything up to its position, what is in flight included (R8).
    ReadsWhatIsInFlight,
    /// A rejected message is deleted (P1).
    DropsRejected,
    /// A frame goes to somebody else's socket now and then (P5).
    PostsToOthers,
    /// Every claim of a mail is given, a mail that was sent included.
    ClaimsAreFree,
    /// Every append is a new notification (P2).
    ForgetsWhatIsThere,
    /// Any 410 removes a row, whatever became of it meanwhile (R4).
    RemovesOnAny410,
    /// A row is live some time after that was answered: the other side does not see it (R2).
    LiveTooLate,
    /// What a client reads of an inbox is some seconds old (R2).
    StaleReads,
    /// Replay commands are dropped: what a connection did not take is left to its next `sync` (R3).
    DropsReplays,
    /// Inboxes are told apart by user alone (P5).
    IgnoresTenant,
    /// Nobody is suppressed who complains.
    ForgetsComplaints,
}

impl Breakage {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::AnswersBeforeItStores,
        Self::CachedLookup,
        Self::AcksOnReceive,
        Self::LiveAtOnce,
        Self::SyncCreatesNothing,
        Self::NoOverlap,
        Self::ForgetsStamps,
        Self::PendingMarkAhead,
        Self::ReadsWhatIsInFlight,
        Self::DropsRejected,
        Self::PostsToOthers,
        Self::ClaimsAreFree,
        Self::ForgetsWhatIsThere,
        Self::RemovesOnAny410,
        Self::LiveTooLate,
        Self::StaleReads,
        Self::DropsReplays,
        Self::IgnoresTenant,
        Self::ForgetsComplaints,
    ];
}
