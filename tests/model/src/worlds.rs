//! Small worlds to begin from, and the words to change them with.
//!
//! Must not know: what is found in them.

use crate::action::{Action, How};
use crate::bounds::Bounds;
use crate::state::{Kind, Message};

/// A connection of the app.
pub const A: Option<Kind> = Some(Kind::App);
/// A connection of the listener.
pub const L: Option<Kind> = Some(Kind::Listener);

/// One app, one event, one dispatcher; sockets open at once, and time stands.
pub const APP: Bounds = Bounds { slots: [A, None, None], quick_sockets: true, ..Bounds::NOTHING };
/// One listener whose socket opens as sockets do; time runs for the grace period and as long again as a socket takes to open.
pub const LISTENER: Bounds = Bounds { slots: [L, None, None], ends: 7, ..Bounds::NOTHING };

const WORK: Action = Action::Work { worker: 0, how: How::Well };
const HANDLE: Action = Action::Handle { handler: 0, how: How::Well };

/// An append was sent at 4 and is still under way at 7, when the app asks for the first time, and is told that there is
/// nothing: its cursor has passed the entry by more than W before that lands.
pub const LATE: &[Action] = &[
    Action::Publish(0),
    Action::Receive { worker: 0, message: Message::Event(0) },
    WORK,
    Action::Tick,
    Action::Tick,
    Action::Tick,
    Action::Connect(0),
    Action::Sync { at_will: false },
    HANDLE,
    HANDLE,
    HANDLE,
    HANDLE,
    HANDLE,
];

/// An entry is stored at 4 and its dispatcher dies before it deletes the message; another event follows at 7.
pub const LEFT_BEHIND: &[Action] = &[
    Action::Publish(0),
    Action::Receive { worker: 0, message: Message::Event(0) },
    WORK,
    WORK,
    Action::Crash { worker: 0, late: false },
    Action::Tick,
    Action::Tick,
    Action::Tick,
    Action::Publish(1),
];

/// A world like another, with some bounds changed; after `;` what may go wrong in it, and how often.
///
/// ```
/// use recado_model::world;
/// use recado_model::worlds::APP;
///
/// let world = world!(APP, notes: 2; crashes: 1);
/// assert_eq!((world.notes, world.budget.crashes, world.budget.drops), (2, 1, 0));
/// ```
#[macro_export]
macro_rules! world {
    ($base:expr $(, $field:ident: $value:expr)* $(; $($fault:ident: $count:expr),+)?) => {
        $crate::bounds::Bounds {
            $($field: $value,)*
            budget: $crate::state::Budget { $($($fault: $count,)+)? ..$crate::bounds::NO_BUDGET },
            ..$base
        }
    };
}
