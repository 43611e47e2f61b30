//! Publish domain events from application code.
