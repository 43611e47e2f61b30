//! Events into an SNS topic.
