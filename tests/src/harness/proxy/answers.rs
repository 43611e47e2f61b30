//! Errors as AWS's services say them, and as whatever stands before them does.
//!
//! Must not know: when one is answered.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use recado_domain::ports::Entropy;
use serde_json::json;

use super::call::{Operation, Reply, Service};
use super::fault::pick;

/// A load balancer's page: no code, no JSON, no XML of AWS.
const BAD_GATEWAY: &str = "<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>";

/// What a service says of what it rejects, beside the code that says more.
pub(super) const REJECTED: &str = "The request is not acceptable";

/// The service failed, which says nothing of whether it had done it.
pub(super) fn server_error(operation: &Operation, entropy: &impl Entropy) -> Reply {
    match pick(&[500_u16, 502, 503], entropy) {
        502 => reply(502, "text/html", BAD_GATEWAY.to_owned()),
        503 => error(operation.service, 503, "ServiceUnavailable", "Service is unavailable"),
        _ => error(operation.service, 500, internal(operation.service), "The request processing has failed because of an unknown error"),
    }
}

fn internal(service: Service) -> &'static str {
    match service {
        Service::DynamoDb => "InternalServerError",
        Service::Connections => "InternalServerErrorException",
        Service::Sqs | Service::Sns | Service::Ses => "InternalFailure",
    }
}

/// The caller asks too often: nothing was done.
pub(super) fn throttle(operation: &Operation, entropy: &impl Entropy) -> Reply {
    if operation.name == "TransactWriteItems" {
        return pick(&[canceled("ThrottlingError"), canceled("TransactionConflict")], entropy);
    }
    let (status, code) = match operation.service {
        Service::DynamoDb => {
            pick(&[(400, "ProvisionedThroughputExceededException"), (400, "ThrottlingException"), (400, "RequestLimitExceeded")], entropy)
        }
        Service::Sqs => pick(&[(403, "RequestThrottled"), (400, "ThrottlingException"), (503, "SlowDown")], entropy),
        Service::Sns => pick(&[(400, "Throttling"), (429, "Throttled")], entropy),
        Service::Ses => (400, "Throttling"),
        Service::Connections => pick(&[(429, "LimitExceededException"), (429, "TooManyRequestsException")], entropy),
    };
    let message = if operation.service == Service::Ses { "Maximum sending rate exceeded." } else { "Rate exceeded" };
    error(operation.service, status, code, message)
}

/// The service will not do it, however often it is asked.
pub(super) fn rejected(operation: &Operation, code: &str) -> Reply {
    error(operation.service, 400, code, REJECTED)
}

/// A transaction says of each of its items why it was given up ("TransactionCanceledException", DynamoDB API Reference).
fn canceled(code: &str) -> Reply {
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": format!("Transaction cancelled, please refer cancellation reasons for specific reasons [{code}, None]"),
        "CancellationReasons": [{ "Code": code, "Message": "Rate exceeded" }, { "Code": "None" }],
    });
    reply(400, "application/x-amz-json-1.0", body.to_string())
}

fn error(service: Service, status: u16, code: &str, message: &str) -> Reply {
    match service {
        Service::DynamoDb => coded(status, &format!("com.amazonaws.dynamodb.v20120810#{code}"), message),
        Service::Sqs => with(coded(status, &format!("com.amazonaws.sqs#{code}"), message), "x-amzn-query-error", &format!("{code};Sender")),
        Service::Connections => {
            with(reply(status, "application/json", json!({ "message": message }).to_string()), "x-amzn-errortype", code)
        }
        Service::Sns | Service::Ses => {
            let kind = if status < 500 { "Sender" } else { "Receiver" };
            let error = format!("<Error><Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>");
            reply(status, "text/xml", format!("<ErrorResponse>{error}<RequestId>a-fault</RequestId></ErrorResponse>"))
        }
    }
}

fn coded(status: u16, code: &str, message: &str) -> Reply {
    reply(status, "application/x-amz-json-1.0", json!({ "__type": code, "message": message }).to_string())
}

fn with(mut reply: Reply, name: &'static str, value: &str) -> Reply {
    reply.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a code is visible text"));
    reply
}

/// An answer of this proxy's own.
pub(super) fn reply(status: u16, kind: &'static str, body: String) -> Reply {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
    Reply { status: StatusCode::from_u16(status).expect("a status of the tables above"), headers, body: body.into() }
}
