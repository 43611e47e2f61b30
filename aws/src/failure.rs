//! What an error of an SDK means to the rooms: the one place that tells transient from permanent.
//!
//! What concerns one message alone is permanent: it will be refused again. What an operator has to repair (a
//! permission, a queue or table that is missing, credentials, the region) concerns every message alike and is
//! transient, so that a mistake in a role does not make dead letters of everything that comes while it lasts; its
//! reason says what to repair. A reason is made of AWS's error *codes*, and of the action and resource of a refusal:
//! never of its message as it is, which may repeat an address, a key or a payload. Must not know: what a call is for.

use std::any::type_name;
use std::error::Error;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use recado_domain::failure::Failure;

const GATEWAY: &str = "API Gateway";

/// Classifies an error of a call.
pub fn failure_of<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let call = call_of::<E>();
    let response = error.raw_response();
    let refusal = Refusal {
        code: error.code().unwrap_or_default(),
        message: error.message().unwrap_or_default(),
        status: response.map(|response| response.status().as_u16()),
        retry_after: response.and_then(retry_after),
    };
    match error {
        SdkError::ServiceError(_) => refusal.failure(&call),
        SdkError::TimeoutError(_) => Failure::transient(format!("{call}: no answer in time")),
        SdkError::ResponseError(_) => unreadable(&call, &refusal),
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => unsent(&call, error),
        _ => Failure::transient(format!("{call}: an error of an unknown kind")),
    }
}

/// Classifies what a batch call answered for one of its entries. `call` names it for the reason, such as
/// `SQS SendMessageBatch`.
pub fn failure_of_entry(call: &str, code: &str, message: Option<&str>) -> Failure {
    Refusal { code, message: message.unwrap_or_default(), status: None, retry_after: None }.failure(call)
}

/// What a batch call means that answered neither success nor failure for an entry.
pub(crate) fn unanswered(call: &str) -> Failure {
    Failure::transient(format!("{call}: the answer does not mention the entry"))
}

/// What AWS said.
struct Refusal<'a> {
    code: &'a str,
    message: &'a str,
    status: Option<u16>,
    retry_after: Option<Duration>,
}

/// What a code means. Codes are compared without namespace and without the endings that protocols add or leave out.
enum Meaning {
    Throttled,
    Unavailable,
    Forbidden,
    BadCredentials,
    BadClock,
    Missing,
    Paused,
    Key,
    TooLarge,
    LeaseOver,
    PartitionFull,
    NotVerified,
    Invalid,
}

impl Refusal<'_> {
    fn failure(&self, call: &str) -> Failure {
        let code = if self.code.is_empty() { "no code" } else { self.code };
        let status = self.status.map_or(String::new(), |status| format!(", HTTP {status}"));
        let transient = |what: String| Failure::Transient { retry_after: self.retry_after, reason: format!("{call}: {what}") };
        let permanent = |what: String| Failure::permanent(format!("{call}: {what}"));
        match self.meaning() {
            Meaning::Throttled => transient(format!("throttled ({code}{status}){}", self.quota())),
            Meaning::Unavailable => transient(format!("the service failed ({code}{status})")),
            Meaning::Forbidden => transient(format!("{} ({code})", self.permission(call))),
            Meaning::BadCredentials => {
                transient(format!("AWS does not accept the credentials of this process ({code}); check the role, the keys and the region"))
            }
            Meaning::BadClock => transient(format!("AWS finds the request's time wrong ({code}); set the clock of this machine by NTP")),
            Meaning::Missing => transient(format!(
                "what it names does not exist in this account and region ({code}); check the name or URL in the environment, and AWS_REGION"
            )),
            Meaning::Paused => transient(format!("sending is paused or not set up ({code}); see the SES console")),
            Meaning::Key => transient(format!("the encryption key of the resource cannot be used ({code}); check the key and its policy")),
            Meaning::TooLarge => permanent(format!("larger than the service takes ({code}{status})")),
            Meaning::LeaseOver => permanent(format!("the lease on the message has ended ({code})")),
            Meaning::PartitionFull => permanent(format!(
                "one user's items are at the 10 GB that a table with a local secondary index holds per partition ({code})"
            )),
            Meaning::NotVerified => permanent(format!(
                "SES rejected the mail ({code}); the sender must be a verified identity of this region, and in the sandbox the recipient too"
            )),
            Meaning::Invalid => permanent(format!("refused as invalid ({code}{status})")),
        }
    }

    fn meaning(&self) -> Meaning {
        // `com.amazonaws.sqs#QueueDoesNotExist`, `AWS.SimpleQueueService.NonExistentQueue`, `QueueDoesNotExistException`.
        let code = self.code.rsplit(['#', '.']).next().unwrap_or_default();
        let code = code.trim_end_matches("Exception").trim_end_matches("Error");
        match code {
            "Throttling"
            | "Throttled"
            | "RequestThrottled"
            | "TooManyRequests"
            | "ProvisionedThroughputExceeded"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "LimitExceeded"
            | "SlowDown"
            | "PriorRequestNotComplete"
            | "TransactionInProgress"
            | "TransactionConflict"
            | "KMSThrottling"
            | "KmsThrottled"
            | "OverLimit" => Meaning::Throttled,
            "InternalFailure" | "Internal" | "InternalServer" | "ServiceUnavailable" | "RequestTimeout" => Meaning::Unavailable,
            "AccessDenied"
            | "Authorization"
            | "NotAuthorized"
            | "UnauthorizedOperation"
            | "Forbidden"
            | "OptInRequired"
            | "KMSAccessDenied"
            | "KmsAccessDenied" => Meaning::Forbidden,
            "RequestExpired" | "RequestTimeTooSkewed" => Meaning::BadClock,
            // The same code for a wrong key and for a wrong clock; the message tells them apart.
            "InvalidSignature" | "SignatureDoesNotMatch" if self.message.contains("Signature expired") => Meaning::BadClock,
            "InvalidSignature" | "SignatureDoesNotMatch" if self.message.contains("Signature not yet current") => Meaning::BadClock,
            "InvalidSignature"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "InvalidClientTokenId"
            | "UnrecognizedClient"
            | "ExpiredToken"
            | "InvalidToken"
            | "MissingAuthenticationToken"
            | "InvalidAccessKeyId"
            | "InvalidSecurity" => Meaning::BadCredentials,
            "QueueDoesNotExist"
            | "NonExistentQueue"
            | "InvalidAddress"
            | "NotFound"
            | "ResourceNotFound"
            | "TableNotFound"
            | "ConfigurationSetDoesNotExist" => Meaning::Missing,
            "AccountSendingPaused" | "ConfigurationSetSendingPaused" | "MailFromDomainNotVerified" => Meaning::Paused,
            _ if code.starts_with("Kms") || code.starts_with("KMS") => Meaning::Key,
            "BatchRequestTooLong" | "PayloadTooLarge" | "RequestEntityTooLarge" => Meaning::TooLarge,
            "ReceiptHandleIsInvalid" | "InvalidReceiptHandle" | "MessageNotInflight" => Meaning::LeaseOver,
            "InvalidParameterValue" if self.message.contains("ReceiptHandle") => Meaning::LeaseOver,
            // SNS says so of the ARN of a topic that is not of its region.
            "InvalidParameter" if self.message.contains("TopicArn") => Meaning::Missing,
            "InvalidParameterValue" | "InvalidParameter" if self.says_too_long() => Meaning::TooLarge,
            "ItemCollectionSizeLimitExceeded" => Meaning::PartitionFull,
            "MessageRejected" => Meaning::NotVerified,
            _ => self.meaning_of_status(),
        }
    }

    /// For codes that are not listed: an answer that comes from in between AWS and us often has none.
    fn meaning_of_status(&self) -> Meaning {
        match self.status {
            Some(429) => Meaning::Throttled,
            Some(401 | 403) => Meaning::Forbidden,
            Some(404) => Meaning::Missing,
            Some(413) => Meaning::TooLarge,
            Some(408 | 500..) => Meaning::Unavailable,
            _ if self.code.is_empty() => Meaning::Unavailable,
            _ => Meaning::Invalid,
        }
    }

    /// SQS: "Message must be shorter than 262144 bytes"; SNS: "Message too long".
    fn says_too_long(&self) -> bool {
        ["must be shorter than", "too long"].iter().any(|words| self.message.contains(words))
    }

    /// SES has one code for both of its quotas ("Managing your Amazon SES sending limits").
    fn quota(&self) -> &'static str {
        match self.message {
            message if message.contains("Daily message quota") => ": the daily quota of SES is used up",
            message if message.contains("Maximum sending rate") => ": the sending rate of SES is exceeded",
            _ => "",
        }
    }

    /// "User: … is not authorized to perform: sqs:SendMessage on resource: arn:aws:sqs:… because …"; SES writes
    /// `ses:SendRawEmail' on resource `arn:…' (IAM User Guide, "Troubleshoot access denied error messages").
    fn permission(&self, call: &str) -> String {
        let action = word_after(self.message, "perform");
        let resource = word_after(self.message, "on resource").map(without_address);
        match (action, resource) {
            (Some(action), Some(resource)) => format!("no permission for {action} on {resource}; allow it in the role of this process"),
            (Some(action), None) => format!("no permission for {action}; allow it in the role of this process"),
            // API Gateway says no more than "Forbidden".
            (None, _) if call.starts_with(GATEWAY) => {
                "no permission for execute-api:ManageConnections on this API and stage; allow it in the role of this process, and check the sockets' endpoint"
                    .to_owned()
            }
            (None, _) => "no permission; allow this action in the role of this process, and check the resource's own policy".to_owned(),
        }
    }
}

fn word_after<'a>(message: &'a str, mark: &str) -> Option<&'a str> {
    let rest = message.split_once(mark)?.1.trim_start_matches([':', ' ', '`', '\'']);
    let word = rest.split([' ', '\'', '`', ',']).next()?.trim_end_matches('.');
    (!word.is_empty() && word.contains(':')).then_some(word)
}

/// An identity of SES may be an e-mail address.
fn without_address(resource: &str) -> &str {
    match resource.split_once("identity/") {
        Some((before, _)) => &resource[..before.len() + "identity".len()],
        None => resource,
    }
}

/// How long AWS asks us to wait: seconds (RFC 9110, 10.2.3) or milliseconds (AWS's own header).
fn retry_after(response: &HttpResponse) -> Option<Duration> {
    let number = |name: &str| response.headers().get(name).and_then(|text| text.trim().parse::<u64>().ok());
    number("retry-after").map(Duration::from_secs).or_else(|| number("x-amz-retry-after").map(Duration::from_millis))
}

fn unreadable(call: &str, refusal: &Refusal<'_>) -> Failure {
    let status = refusal.status.map_or(String::new(), |status| format!(" (HTTP {status})"));
    Failure::Transient {
        retry_after: refusal.retry_after,
        reason: format!("{call}: the answer cannot be read{status}; check that the endpoint is that of this service"),
    }
}

/// The request never left, or nobody answered it.
fn unsent<E: Error + 'static>(call: &str, error: &SdkError<E, HttpResponse>) -> Failure {
    let chain = chain(error);
    let says = |words: &[&str]| words.iter().any(|word| chain.iter().any(|text| text.contains(word)));
    let reason = if says(&["Missing Region", "missing region"]) {
        "no region is set; set AWS_REGION".to_owned()
    } else if says(&["credential", "Credential", "identity", "Identity"]) {
        "no credentials were found; give the process a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned()
    } else if matches!(error, SdkError::ConstructionFailure(_)) {
        return Failure::permanent(format!("{call}: the request cannot be made of this input"));
    } else if says(&["dns error", "failed to lookup address"]) {
        "the endpoint's name is unknown; check AWS_REGION, AWS_ENDPOINT_URL and the network's DNS".to_owned()
    } else if says(&["certificate", "invalid peer"]) {
        "the endpoint's certificate is not trusted; check AWS_ENDPOINT_URL and the root certificates of the machine".to_owned()
    } else if matches!(error, SdkError::DispatchFailure(dispatch) if dispatch.is_timeout()) {
        "no connection or answer in time; check AWS_ENDPOINT_URL, security groups and VPC endpoints".to_owned()
    } else {
        "no connection, or it broke; check AWS_ENDPOINT_URL and the network".to_owned()
    };
    Failure::transient(format!("{call}: {reason}"))
}

fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect()
}

/// `SQS SendMessageBatch`, of `aws_sdk_sqs::operation::send_message_batch::SendMessageBatchError`. A type's name is
/// meant for diagnosis, as this is.
fn call_of<E>() -> String {
    let name = type_name::<E>();
    let service = match name.split("::").next().unwrap_or_default() {
        "aws_sdk_sns" => "SNS",
        "aws_sdk_sqs" => "SQS",
        "aws_sdk_dynamodb" => "DynamoDB",
        "aws_sdk_apigatewaymanagement" => GATEWAY,
        "aws_sdk_ses" => "SES",
        _ => "AWS",
    };
    let operation = name.rsplit("::").next().unwrap_or_default();
    format!("{service} {}", operation.strip_suffix("Error").unwrap_or(operation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_sqs::operation::receive_message::ReceiveMessageError;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;

    fn answer(status: u16) -> HttpResponse {
        HttpResponse::new(status.try_into().unwrap(), SdkBody::empty())
    }

    fn refused(code: &str, message: &str, response: HttpResponse) -> Failure {
        let metadata = ErrorMetadata::builder().code(code).message(message).build();
        failure_of(&SdkError::service_error(ReceiveMessageError::generic(metadata), response))
    }

    #[test]
    fn every_code_means_what_its_service_says() {
        let table = [
            ("ThrottlingException", 400, true, "throttled"),
            ("RequestThrottled", 400, true, "throttled"),
            ("LimitExceededException", 429, true, "throttled"),
            ("OverLimit", 403, true, "throttled"),
            ("ProvisionedThroughputExceeded", 400, true, "throttled"),
            ("KmsThrottled", 400, true, "throttled"),
            ("InternalServerError", 500, true, "the service failed"),
            ("ServiceUnavailable", 503, true, "the service failed"),
            ("AccessDeniedException", 400, true, "no permission"),
            ("AuthorizationErrorException", 403, true, "no permission"),
            ("ForbiddenException", 403, true, "no permission"),
            ("UnrecognizedClientException", 400, true, "does not accept the credentials"),
            ("ExpiredTokenException", 403, true, "does not accept the credentials"),
            ("AWS.SimpleQueueService.NonExistentQueue", 400, true, "does not exist in this account and region"),
            ("com.amazonaws.sqs#QueueDoesNotExist", 400, true, "does not exist in this account and region"),
            ("NotFoundException", 404, true, "does not exist in this account and region"),
            ("ResourceNotFoundException", 400, true, "does not exist in this account and region"),
            ("ConfigurationSetDoesNotExist", 400, true, "does not exist"),
            ("AccountSendingPausedException", 400, true, "sending is paused"),
            ("KmsDisabled", 400, true, "the encryption key"),
            ("BatchRequestTooLong", 400, false, "larger than the service takes"),
            ("PayloadTooLargeException", 413, false, "larger than the service takes"),
            ("ReceiptHandleIsInvalid", 400, false, "the lease on the message has ended"),
            ("ItemCollectionSizeLimitExceededException", 400, false, "10 GB"),
            ("MessageRejected", 400, false, "verified identity"),
            ("ValidationException", 400, false, "refused as invalid"),
            ("InvalidMessageContents", 400, false, "refused as invalid"),
            ("SomethingNew", 503, true, "the service failed"),
            ("SomethingNew", 429, true, "throttled"),
            ("SomethingNew", 400, false, "refused as invalid"),
            ("", 502, true, "the service failed"),
        ];
        for (code, status, transient, says) in table {
            let failure = refused(code, "", answer(status));
            assert_eq!(failure.is_transient(), transient, "{code}: {failure}");
            assert!(failure.reason().starts_with("SQS ReceiveMessage: "), "{code}: {failure}");
            assert!(failure.reason().contains(says), "{code}: {failure}");
        }
    }

    #[test]
    fn some_codes_mean_what_their_message_says() {
        let table = [
            ("InvalidParameterValue", "Value abc for parameter ReceiptHandle is invalid. Reason: expired.", false, "the lease"),
            (
                "InvalidParameterValue",
                "One or more parameters are invalid. Reason: Message must be shorter than 262144 bytes.",
                false,
                "larger",
            ),
            ("InvalidParameter", "Invalid parameter: Message too long", false, "larger"),
            ("InvalidParameter", "Invalid parameter: TopicArn", true, "check the name or URL in the environment, and AWS_REGION"),
            ("InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier than 20260101T001500Z", true, "by NTP"),
            ("SignatureDoesNotMatch", "The request signature we calculated does not match", true, "credentials"),
            ("Throttling", "Daily message quota exceeded.", true, "the daily quota of SES is used up"),
            ("Throttling", "Maximum sending rate exceeded.", true, "the sending rate of SES is exceeded"),
        ];
        for (code, message, transient, says) in table {
            let failure = refused(code, message, answer(400));
            assert_eq!(failure.is_transient(), transient, "{failure}");
            assert!(failure.reason().contains(says), "{failure}");
        }
    }

    #[test]
    fn a_missing_permission_names_the_action_and_the_resource_and_no_address() {
        let user = "User: arn:aws:sts::123456789012:assumed-role/dispatcher/x is not authorized to perform";
        let table = [
            (
                format!(
                    "{user}: sqs:SendMessage on resource: arn:aws:sqs:eu-west-1:123456789012:inbox because no identity-based policy allows the sqs:SendMessage action"
                ),
                "no permission for sqs:SendMessage on arn:aws:sqs:eu-west-1:123456789012:inbox;",
            ),
            (
                format!("{user} `ses:SendRawEmail' on resource `arn:aws:ses:us-west-2:123456789012:identity/bia@example.com'"),
                "no permission for ses:SendRawEmail on arn:aws:ses:us-west-2:123456789012:identity;",
            ),
            (format!("{user}: dynamodb:Query"), "no permission for dynamodb:Query;"),
            ("Access to the resource is denied.".to_owned(), "no permission; allow this action"),
        ];
        for (message, says) in table {
            let failure = refused("AccessDenied", &message, answer(403));
            assert!(failure.is_transient() && failure.reason().contains(says), "{failure}");
            assert!(!failure.reason().contains('@'), "{failure}");
        }
    }

    #[test]
    fn a_message_is_never_repeated_as_it_is() {
        let secret = "alice@example.com wrote: payload";
        for code in ["MessageRejected", "ValidationException", "Throttling", "AccessDenied", "InternalFailure", "New", ""] {
            let failure = refused(code, secret, answer(400));
            assert!(!failure.reason().contains("alice") && !failure.reason().contains("payload"), "{failure}");
        }
    }

    #[test]
    fn the_wait_that_the_answer_asks_for_is_kept() {
        for (header, value, wait) in [
            ("retry-after", "7", Some(Duration::from_secs(7))),
            ("x-amz-retry-after", "1500", Some(Duration::from_millis(1500))),
            ("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT", None),
            ("retry-after", "-1", None),
        ] {
            let mut response = answer(429);
            response.headers_mut().insert(header, value);
            let Failure::Transient { retry_after, .. } = refused("LimitExceededException", "", response) else { panic!("transient") };
            assert_eq!(retry_after, wait, "{header}: {value}");
        }
    }

    #[test]
    fn what_never_reached_aws_says_what_to_look_at() {
        type Error = SdkError<ReceiveMessageError, HttpResponse>;
        let io = |text: &str| Error::dispatch_failure(ConnectorError::io(text.into()));
        let table = [
            (Error::construction_failure("Invalid Configuration: Missing Region"), true, "set AWS_REGION"),
            (
                Error::dispatch_failure(ConnectorError::other("the credential provider was not enabled".into(), None)),
                true,
                "no credentials",
            ),
            (Error::construction_failure("a field is missing"), false, "cannot be made of this input"),
            (io("dns error: failed to lookup address information"), true, "name is unknown"),
            (io("invalid peer certificate: UnknownIssuer"), true, "certificate"),
            (io("tcp connect error: Connection refused (os error 111)"), true, "check AWS_ENDPOINT_URL"),
            (Error::dispatch_failure(ConnectorError::timeout("connect".into())), true, "in time"),
            (Error::timeout_error("operation timeout"), true, "no answer in time"),
            (Error::response_error("not JSON", answer(200)), true, "cannot be read (HTTP 200)"),
        ];
        for (error, transient, says) in table {
            let failure = failure_of(&error);
            assert_eq!(failure.is_transient(), transient, "{failure}");
            assert!(failure.reason().contains(says), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_wrong_setting_is_named() {
        use aws_config::{BehaviorVersion, Region};
        use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
        let loader = || crate::Clients::loader().credentials_provider(Credentials::new("a", "b", None, None, "test"));
        let region = || Region::new("eu-west-1");
        let nobody_listens = "http://127.0.0.1:1";
        let table = [
            (
                aws_config::SdkConfig::builder()
                    .behavior_version(BehaviorVersion::latest())
                    .credentials_provider(SharedCredentialsProvider::new(Credentials::new("a", "b", None, None, "test")))
                    .build(),
                "set AWS_REGION",
            ),
            (aws_config::SdkConfig::builder().behavior_version(BehaviorVersion::latest()).region(region()).build(), "no credentials"),
            (loader().region(region()).endpoint_url(nobody_listens).load().await, "check AWS_ENDPOINT_URL and the network"),
            (loader().region(region()).endpoint_url("http://nowhere.invalid").load().await, "the endpoint's name is unknown"),
        ];
        for (config, says) in table {
            let queue = crate::SqsQueue::new(&crate::Clients::from_sdk(config), "https://sqs.example/1/q", "https://sqs.example/1/d");
            let failure = recado_domain::ports::Queue::receive(&queue, 1, Duration::ZERO, Duration::ZERO).await.unwrap_err();
            assert!(failure.is_transient() && failure.reason().contains(says), "{failure}");
        }
    }

    #[test]
    fn an_entry_of_a_batch_is_classified_as_a_call_is() {
        assert!(!failure_of_entry("SQS DeleteMessageBatch", "ReceiptHandleIsInvalid", None).is_transient());
        assert!(failure_of_entry("SQS SendMessageBatch", "InternalError", Some("try again")).is_transient());
        assert!(failure_of_entry("DynamoDB BatchExecuteStatement", "ThrottlingError", None).is_transient());
        assert!(failure_of_entry("SNS PublishBatch", "", None).is_transient());
    }
}
