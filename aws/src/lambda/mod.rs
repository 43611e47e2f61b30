//! What a Lambda function needs around a room: events in, answers out.
