//! The inbox over HTTP, and CloudEvents in.
