//! The ports on AWS: SNS, SQS, DynamoDB, API Gateway and SES.
//!
//! The only library of the house that knows an AWS SDK. Must not know: any rule of delivery.

mod batch;
pub mod calls;
mod clients;
#[cfg(any(feature = "container", feature = "lambda"))]
mod clocked;
#[cfg(feature = "container")]
pub mod container;
pub mod dynamo;
pub mod failure;
#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(test)]
mod script;
mod ses;
pub mod settings;
pub mod skew;
mod sns;
mod sockets;
mod sqs;

pub use calls::Calls;
pub use clients::Clients;
pub use ses::SesMailer;
pub use sns::SnsBus;
pub use sockets::GatewaySockets;
pub use sqs::{SqsDeadLetters, SqsQueue};
