#![doc = include_str!("../README.md")]

pub mod action;
pub mod bounds;
mod clients;
mod dispatcher;
mod handler;
pub mod promises;
pub mod protocol;
mod replay;
pub mod rules;
pub mod search;
pub mod sights;
pub mod state;
mod stores;
pub mod words;
pub mod worlds;
