//! Queues and dead letters on SQS.
