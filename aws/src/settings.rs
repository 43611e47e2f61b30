//! What a process on AWS reads from its environment.
