//! One module a command: reads what it was given, does it, prints what came of it.

pub mod up;
