//! One set of clients for a process, and how they wait and retry.
