//! What happens on connect, message and disconnect of a WebSocket: `$connect`, `$default` and `$disconnect` of API
//! Gateway, and of the embedded server.
//!
//! Each is a function over ports that may be dropped at any await, as a Lambda is that runs out of time: whatever was
//! done until then is repeated without harm by the client's next try. Must not know: which gateway calls, which store
//! answers, how a token is signed.

mod connect;
mod message;
mod sync;
#[cfg(test)]
mod tests;

pub use connect::{ConnectPorts, ConnectRequest, Connected, REPLAY_DELAY, Refused, connect, disconnect};
pub use message::{MessagePorts, message};
