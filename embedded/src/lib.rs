//! Every port of Recado on SQLite and an in-process WebSocket server.

pub mod sockets;
