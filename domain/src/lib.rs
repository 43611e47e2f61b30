//! The words and rules of Recado: ids, events, notifications, frames, and the ports between rooms and the world.
//!
//! Must not know: any IO, any async runtime, any store, AWS. Whatever needs the present or chance takes a
//! [`ports::Clock`] or a [`ports::Entropy`].

pub mod address;
pub mod connection;
pub mod event;
pub mod failure;
pub mod frame;
mod hex;
pub mod ids;
pub mod limits;
pub mod message;
pub mod notification;
pub mod opening;
pub mod ports;
pub mod position;
pub mod ticket;
