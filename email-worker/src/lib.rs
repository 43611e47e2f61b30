//! Email queue to a sent mail.
