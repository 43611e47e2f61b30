//! Inboxes, connections and claims in one DynamoDB table.
