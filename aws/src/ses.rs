//! Mail through SES.
