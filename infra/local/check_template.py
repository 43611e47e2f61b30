"""Checks infra/template.yaml: that it is a template, and that it keeps the rules of the house.

    python check_template.py [FILE]

Three steps: cfn-lint on the template as it is written; its translation into plain CloudFormation, as AWS does it; the rules below on the outcome.
Prints every problem, one a line, and ends with exit code 1 when there is one. test_check_template.py breaks each rule and sees it reported.
"""

import copy
import functools
import json
import logging
import os
import pathlib
import re
import subprocess
import sys
import types

# The translator asks for a Region; none of the rules depends on which.
os.environ.setdefault("AWS_DEFAULT_REGION", "eu-central-1")

from samtranslator.public.exceptions import InvalidDocumentException  # noqa: E402
from samtranslator.translator.transform import transform  # noqa: E402
from samtranslator.yaml_helper import yaml_parse  # noqa: E402

# It warns that nobody collects its metrics.
logging.getLogger("samtranslator").setLevel(logging.ERROR)

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEMPLATE = ROOT / "infra" / "template.yaml"

# Actions that can name no resource, each with the page of the Service Authorization Reference that says so.
NAMES_NO_RESOURCE = {
    "ecr:GetAuthorizationToken": "Actions, resources, and condition keys for Amazon Elastic Container Registry",
    "ses:GetSendQuota": "Actions, resources, and condition keys for Amazon SES",
}
# The one policy of AWS that is used as it is: API Gateway checks that its account-wide role has what this has.
AWS_POLICIES = {("ApiGatewayLogRole", "AmazonAPIGatewayPushToCloudWatchLogs")}
# A connection's id is known only once it is open, so the last part of this resource stays open.
OPEN_ENDED = re.compile(r"^[^*]+/(POST|DELETE)/@connections/\*$")
# Actions on what nobody knows before, each with the key of a condition that has to name what matters instead, and the resource that may stay open then.
# In its sandbox SES asks for the recipient's identity beside the sender's; who sends is what a role must not choose.
BOUND = {"ses:SendRawEmail": ("ses:FromAddress", re.compile(r"^[^*]+:identity/\*$"))}

# What access logs may say. Query strings hold tokens, paths may hold anything, addresses are somebody's.
LOGGED = {
    "connectionId",
    "error.message",
    "eventType",
    "httpMethod",
    "integrationErrorMessage",
    "integrationLatency",
    "integrationStatus",
    "requestId",
    "requestTime",
    "responseLatency",
    "routeKey",
    "status",
}

# What each process reads of its environment (docs/configuration.md).
EVERY = {"RECADO_LOG", "RECADO_LOG_FORMAT"}
TOKENS = {
    "RECADO_ALLOW_ORIGIN",
    "RECADO_TOKEN_AUDIENCE",
    "RECADO_TOKEN_ISSUER",
    "RECADO_TOKEN_KEYS",
    "RECADO_TOKEN_LEEWAY",
    "RECADO_TOKEN_SECRET",
    "RECADO_TOKEN_TENANT_CLAIM",
}
READS = {
    "ws-connect": EVERY | TOKENS | {"RECADO_TABLE", "RECADO_INBOX_QUEUE_URL", "RECADO_SOCKETS_ENDPOINT"},
    "ws-disconnect": EVERY | {"RECADO_TABLE"},
    "ws-message": EVERY | {"RECADO_TABLE", "RECADO_SOCKETS_ENDPOINT"},
    "http-api": EVERY | TOKENS | {"RECADO_TABLE", "RECADO_SOCKETS_ENDPOINT", "RECADO_TOPIC_ARN", "RECADO_PUBLISH_KEY"},
    "dispatcher": EVERY
    | {
        "RECADO_TABLE",
        "RECADO_SOCKETS_ENDPOINT",
        "RECADO_INBOX_QUEUE_URL",
        "RECADO_INBOX_DEAD_LETTERS_URL",
        "RECADO_EMAIL_QUEUE_URL",
        "RECADO_POSTS_PER_SECOND",
        "RECADO_DISPATCHER_PROCESSES",
    },
    "email-worker": EVERY
    | {
        "RECADO_TABLE",
        "RECADO_EMAIL_QUEUE_URL",
        "RECADO_EMAIL_DEAD_LETTERS_URL",
        "RECADO_SES_CONFIGURATION_SET",
        "RECADO_MAIL_FROM",
        "RECADO_MAIL_BASE_URL",
        "RECADO_TEMPLATES",
        "RECADO_MAIL_PROCESSES",
    },
    "mail-feedback": EVERY | {"RECADO_TABLE", "RECADO_FEEDBACK_QUEUE_URL", "RECADO_FEEDBACK_DEAD_LETTERS_URL"},
}
# What a container reads beside that: where it answers the probe of its health check.
LISTEN = "RECADO_LISTEN"
# What is one for all processes of a kind, and how each is told with how many it shares it.
SHARED = {
    "dispatcher": ("RECADO_DISPATCHER_PROCESSES", {"RECADO_POSTS_PER_SECOND"}),
    # SES itself says how many mails a second.
    "email-worker": ("RECADO_MAIL_PROCESSES", set()),
}

# The lines of a log that are counted: every work that failed, and every mail that was not sent and is tried again.
FAILED = '{ $.level = "ERROR" }'
NOT_SENT = '{ ($.message = "mail not sent") && ($.kind = "transient") }'

# ── Reading a template ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(path):
    return yaml_parse(path.read_text(encoding="utf-8"))


def plain(template):
    """The template in plain CloudFormation, as the transform AWS::Serverless makes it."""
    template = copy.deepcopy(template)
    for _, properties in of_type(template, "AWS::Serverless::Function"):
        # `sam deploy` uploads a package and puts its place here; the transform takes nothing else.
        properties["CodeUri"] = {"Bucket": "packages", "Key": package_of(properties)}
    no_managed_policies = types.SimpleNamespace(load=lambda: {})
    return transform(template, {}, no_managed_policies)


def of_type(template, *names):
    for logical, resource in template["Resources"].items():
        if resource["Type"] in names:
            yield logical, resource.get("Properties", {})


def branches(value):
    """Every value that a conditional one may have."""
    if isinstance(value, dict) and set(value) == {"Fn::If"}:
        _, yes, no = value["Fn::If"]
        yield from branches(yes)
        yield from branches(no)
    elif isinstance(value, dict) and value == {"Ref": "AWS::NoValue"}:
        return
    elif value is not None:
        yield value


def listed(value):
    """The elements of what may be one element or a list, with every branch of each."""
    for whole in branches(value):
        for element in whole if isinstance(whole, list) else [whole]:
            yield from branches(element)


def referred(value):
    """The logical id that a Ref or a GetAtt names."""
    if isinstance(value, dict):
        if "Ref" in value:
            return value["Ref"]
        if "Fn::GetAtt" in value:
            target = value["Fn::GetAtt"]
            return target.split(".")[0] if isinstance(target, str) else target[0]
    return None


def text_of(value):
    """A value's text, placeholders included."""
    if isinstance(value, dict) and "Fn::Sub" in value:
        sub = value["Fn::Sub"]
        return sub if isinstance(sub, str) else sub[0]
    return value if isinstance(value, str) else ""


def statements(document):
    yield from listed(document.get("Statement", []))


def identity_statements(template):
    """Every statement that says what a role may do, with where it stands."""
    for logical, properties in of_type(template, "AWS::IAM::Role"):
        for policy in properties.get("Policies", []):
            for statement in statements(policy["PolicyDocument"]):
                yield logical, statement
    for logical, properties in of_type(template, "AWS::IAM::ManagedPolicy", "AWS::IAM::Policy"):
        for statement in statements(properties["PolicyDocument"]):
            yield logical, statement


def functions(template):
    yield from of_type(template, "AWS::Lambda::Function")


def package_of(properties):
    """The package that a function runs: the name of its file."""
    return pathlib.PurePosixPath(properties["CodeUri"]).name.removesuffix(".zip")


def containers(template):
    for logical, properties in of_type(template, "AWS::ECS::TaskDefinition"):
        for container in properties["ContainerDefinitions"]:
            yield logical, container


def environments(template, source):
    """Each process with its environment: (where, package, variables)."""
    for logical, properties in of_type(source, "AWS::Serverless::Function"):
        yield logical, package_of(properties), properties.get("Environment", {}).get("Variables", {})
    for logical, container in containers(template):
        yield logical, container["Name"], {entry["Name"]: entry["Value"] for entry in listed(container["Environment"])}


def at_most(template, source):
    """How many of each worker run at the same time: a number, or the parameter that says it."""
    most = {}
    for logical, properties in of_type(source, "AWS::Serverless::Function"):
        for event in properties.get("Events", {}).values():
            most[logical] = in_numbers(event["Properties"].get("ScalingConfig", {}).get("MaximumConcurrency"))
    scaled = {text_of(properties["ResourceId"]): properties for _, properties in of_type(template, "AWS::ApplicationAutoScaling::ScalableTarget")}
    for service, properties in of_type(template, "AWS::ECS::Service"):
        task = referred(properties["TaskDefinition"])
        targets = [target for resource, target in scaled.items() if f"${{{service}.Name}}" in resource]
        # While a deployment replaces tasks that do not scale, the old ones are still there.
        overlap = properties["DeploymentConfiguration"]["MaximumPercent"] / 100
        most[task] = in_numbers(targets[0]["MaxCapacity"]) if targets else int(properties["DesiredCount"] * overlap)
    return most


def in_numbers(value):
    """What a number is looked up by in the mapping of numbers, or the number itself."""
    return value["Fn::FindInMap"][1] if isinstance(value, dict) and "Fn::FindInMap" in value else value


def entrypoint(room):
    """The program that the image of a room runs."""
    return json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", (ROOT / room / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE).group(1))


def written_logs(template):
    """Each process with the log group that it writes: (where, log group)."""
    for logical, properties in functions(template):
        yield logical, referred(properties.get("LoggingConfig", {}).get("LogGroup"))
    for logical, container in containers(template):
        yield logical, referred(container["LogConfiguration"]["Options"]["awslogs-group"])


# ── The rules: each yields its problems ─────────────────────────────────────────────────────────────────────────────────────────────────


def actions_are_named(template, _source):
    for where, statement in identity_statements(template):
        for action in listed(statement.get("Action", [])):
            if "*" in action:
                yield f"{where}: the action {action} is not named"
        if "NotAction" in statement or "NotResource" in statement:
            yield f"{where}: a statement says what it is not about; name what it is about"
        if "Action" not in statement:
            yield f"{where}: a statement without actions"


def resources_are_named(template, _source):
    for where, statement in identity_statements(template):
        actions = list(listed(statement.get("Action", [])))
        for resource in listed(statement.get("Resource", [])):
            text = text_of(resource)
            if text == "*":
                for action in actions:
                    if action not in NAMES_NO_RESOURCE:
                        yield f"{where}: {action} can name a resource, and is allowed on all"
            elif "*" in text and not OPEN_ENDED.match(text) and not is_bound(statement, text):
                yield f"{where}: the resource {text} is open where a name is known"
        if not list(listed(statement.get("Resource", []))):
            yield f"{where}: a statement without resources"


def is_bound(statement, resource):
    """Whether a condition names what the resource leaves open, for every action of the statement."""
    named = statement.get("Condition", {}).get("StringEquals", {})
    bounds = [BOUND.get(action) for action in listed(statement.get("Action", []))]
    return bool(bounds) and all(bound and named.get(bound[0]) and bound[1].match(resource) for bound in bounds)


def policies_of_aws_are_known(template, _source):
    own = {logical for logical, _ in of_type(template, "AWS::IAM::ManagedPolicy")}
    for where, properties in of_type(template, "AWS::IAM::Role"):
        for policy in listed(properties.get("ManagedPolicyArns", [])):
            name = text_of(policy).rsplit("/", 1)[-1]
            if referred(policy) not in own and (where, name) not in AWS_POLICIES:
                yield f"{where}: the policy {name or policy} is not of this template, so nobody here decides what it allows"


def processes_have_their_own_roles(template, _source):
    trusted = {}
    users = [(logical, properties.get("Role"), "lambda.amazonaws.com") for logical, properties in functions(template)]
    users += [
        (logical, properties.get("TaskRoleArn"), "ecs-tasks.amazonaws.com") for logical, properties in of_type(template, "AWS::ECS::TaskDefinition")
    ]
    roles = dict(of_type(template, "AWS::IAM::Role"))
    for user, role, service in users:
        role = referred(role)
        if role not in roles:
            yield f"{user}: has no role of this template"
            continue
        if role in trusted:
            yield f"{user}: shares {role} with {trusted[role]}"
        trusted[role] = user
        principals = [statement.get("Principal") for statement in statements(roles[role]["AssumeRolePolicyDocument"])]
        if principals != [{"Service": service}]:
            yield f"{role}: is for {service} alone, and trusts {principals}"


def dead_letter_targets(template):
    """What has a redrive policy, and where that leads: (where, target)."""
    for logical, properties in of_type(template, "AWS::SQS::Queue", "AWS::SNS::Subscription"):
        redrive = properties.get("RedrivePolicy")
        if redrive:
            yield logical, referred(redrive.get("deadLetterTargetArn"))


def queues_have_dead_letter_queues(template, _source):
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    targets = {target for _, target in dead_letter_targets(template)}
    for logical, target in dead_letter_targets(template):
        if target not in queues:
            yield f"{logical}: its dead letters go to {target}, which is no queue here"
    for logical, properties in queues.items():
        if logical not in targets and "RedrivePolicy" not in properties:
            yield f"{logical}: has no dead-letter queue"
    for logical, properties in of_type(template, "AWS::SNS::Subscription"):
        if properties.get("Protocol") != "sqs":
            continue
        if "RedrivePolicy" not in properties:
            yield f"{logical}: what SNS cannot deliver is dropped; give it a dead-letter queue"
        if properties.get("RawMessageDelivery") is not True:
            yield f"{logical}: is not raw, so that a consumer would find an envelope"


def dead_letters_outlast_their_queues(template, _source):
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    for logical, target in dead_letter_targets(template):
        source, dead = queues.get(logical), queues.get(target)
        if source and dead and dead.get("MessageRetentionPeriod", 345_600) < source.get("MessageRetentionPeriod", 345_600):
            yield f"{target}: keeps messages for less time than {logical}, whose age they keep"


@functools.cache
def attempts(root=ROOT):
    """How often the consumers try, as the source says: of most queues, and of the one with mail."""
    def of(file, schedule):
        text = (root / file).read_text(encoding="utf-8").split(schedule)[1]
        return int(re.search(r"max_attempts: (\d+)", text).group(1))

    return of("runtime/src/backoff.rs", "impl Default for RetrySchedule"), of("email-worker/src/operator.rs", "RETRY: RetrySchedule =")


def consumers_reject_before_the_queue_does(template, _source):
    most, mail = attempts()
    for logical, properties in of_type(template, "AWS::SQS::Queue"):
        redrive = properties.get("RedrivePolicy")
        tries = mail if logical.startswith("Email") else most
        if redrive and redrive["maxReceiveCount"] <= tries:
            yield f"{logical}: gives up after {redrive['maxReceiveCount']} receives, and its consumer after {tries} with a reason: allow more"


def queues_are_closed_and_encrypted(template, _source):
    closed = set()
    for _, properties in of_type(template, "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"):
        for statement in statements(properties["PolicyDocument"]):
            if denies_clear_text(statement):
                closed |= {referred(target) for target in properties.get("Queues", properties.get("Topics"))}
    for logical, properties in of_type(template, "AWS::SQS::Queue"):
        if properties.get("SqsManagedSseEnabled") is not True and "KmsMasterKeyId" not in properties:
            yield f"{logical}: is not encrypted at rest"
    for logical, _ in of_type(template, "AWS::SQS::Queue", "AWS::SNS::Topic"):
        if logical not in closed:
            yield f"{logical}: takes requests that are not encrypted in transit"


def denies_clear_text(statement):
    condition = statement.get("Condition", {}).get("Bool", {})
    return statement.get("Effect") == "Deny" and statement.get("Principal") == "*" and condition.get("aws:SecureTransport") == "false"


def only_named_sources_may_send(template, _source):
    for where, properties in of_type(template, "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"):
        for statement in statements(properties["PolicyDocument"]):
            if statement["Effect"] != "Allow":
                continue
            conditions = {key for keys in statement.get("Condition", {}).values() for key in keys}
            if "aws:SourceArn" not in conditions or statement["Principal"] == "*":
                yield f"{where}: lets in more than one named source"
            if any("*" in action for action in listed(statement["Action"])):
                yield f"{where}: allows more than sending"


def queues_hide_messages_longer_than_functions_run(template, _source):
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    timeouts = {logical: properties.get("Timeout", 3) for logical, properties in functions(template)}
    for logical, properties in of_type(template, "AWS::Lambda::EventSourceMapping"):
        queue, function = referred(properties["EventSourceArn"]), referred(properties["FunctionName"])
        visibility = queues[queue].get("VisibilityTimeout", 30)
        if visibility < 6 * timeouts[function]:
            yield f"{queue}: hides messages for {visibility} s, less than six times the {timeouts[function]} s of {function}"
        if properties.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{logical}: one message that fails would fail its whole batch"


def logs_are_kept_for_a_time(template, _source):
    groups = dict(of_type(template, "AWS::Logs::LogGroup"))
    for logical, properties in groups.items():
        if not properties.get("RetentionInDays"):
            yield f"{logical}: keeps logs for ever"
    for logical, properties in functions(template):
        if referred(properties.get("LoggingConfig", {}).get("LogGroup")) not in groups:
            yield f"{logical}: Lambda would make its log group, which keeps logs for ever"


def access_logs_hold_no_token(template, _source):
    for logical, properties in of_type(template, "AWS::ApiGatewayV2::Stage"):
        settings = list(branches(properties.get("AccessLogSettings")))
        if not settings:
            yield f"{logical}: has no access log"
        for setting in settings:
            yield from unwanted_in_format(logical, text_of(setting["Format"]))
        route = properties.get("DefaultRouteSettings", {})
        if route.get("LoggingLevel", "OFF") != "OFF" or route.get("DataTraceEnabled", False) is not False:
            yield f"{logical}: an execution log holds whole requests, and so tokens"


def unwanted_in_format(logical, log_format):
    for variable in re.findall(r"\$(?:context\.)?([\w.]+)", log_format):
        if variable not in LOGGED:
            yield f"{logical}: its access log has ${variable}, which is not among what may be logged"
    try:
        json.loads(log_format)
    except ValueError as error:
        yield f"{logical}: its access log is not JSON: {error}"


def environments_hold_what_is_read(template, source):
    in_containers = {logical for logical, _ in containers(template)}
    for where, package, variables in environments(template, source):
        if package not in READS:
            yield f"{where}: {package} is not a process of Recado"
            continue
        read = READS[package] | ({LISTEN} if where in in_containers else set())
        for name in sorted(set(variables) - read):
            yield f"{where}: {name} is not read by {package}"


def processes_know_with_how_many_they_share(template, source):
    most = at_most(template, source)
    for where, package, variables in environments(template, source):
        count, shared = SHARED.get(package, (None, set()))
        for name in sorted(shared - set(variables)):
            yield f"{where}: without {name} nothing limits all of them together"
        if count and str(variables.get(count)) != str(most[where]):
            yield f"{where}: {count} is {variables.get(count)}, and {most[where]} run at the most"


def containers_are_asked_for_their_health(template, _source):
    for where, container in containers(template):
        check = container.get("HealthCheck", {})
        if check.get("Command") != ["CMD", *entrypoint(container["Name"]), "probe"]:
            yield f"{where}: nobody asks whether it is well"
        if not check.get("StartPeriod"):
            yield f"{where}: has no time to start before it counts as ill"
        listens = {entry["Name"]: entry["Value"] for entry in listed(container["Environment"])}.get(LISTEN, "")
        if not listens.startswith("127.0.0.1:"):
            yield f"{where}: listens at {listens or 'no address'}, and a probe asks within the task"


def secrets_are_not_shown(_template, source):
    parameters = source["Parameters"]
    for name in ("TokenSecret", "PublishKeys"):
        if parameters[name].get("NoEcho") is not True:
            yield f"{name}: is a secret, and would be shown"
        if any(f"${{{name}}}" in text or f"'Ref': '{name}'" in text for text in [str(source.get("Outputs", {}))]):
            yield f"{name}: is a secret, and an output shows it"


def parameters_are_explained_and_bounded(_template, source):
    bounds = {"AllowedPattern", "AllowedValues", "MinValue", "MaxLength"}
    for name, parameter in source["Parameters"].items():
        if len(parameter.get("Description", "")) < 20:
            yield f"{name}: says nothing about itself"
        if not bounds & set(parameter):
            yield f"{name}: takes anything"
        if "AllowedPattern" in parameter and "ConstraintDescription" not in parameter:
            yield f"{name}: would answer with its pattern; say what is allowed"
    grouped = [name for group in source["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"] for name in group["Parameters"]]
    if sorted(grouped) != sorted(source["Parameters"]):
        yield f"the groups of parameters and the parameters differ in {sorted(set(grouped) ^ set(source['Parameters']))}"


def every_dead_letter_queue_has_an_alarm(template, _source):
    watched = set()
    for logical, properties in of_type(template, "AWS::CloudWatch::Alarm"):
        if not properties.get("AlarmActions"):
            yield f"{logical}: tells nobody"
        if "docs/runbook.md" not in properties.get("AlarmDescription", ""):
            yield f"{logical}: does not say where to read what to do"
        watched |= {referred(dimension.get("Value")) for dimension in properties.get("Dimensions", [])}
    for _, target in dead_letter_targets(template):
        if target not in watched:
            yield f"{target}: has no alarm"
    for logical, _ in functions(template):
        if logical not in watched:
            yield f"{logical}: has no alarm"


def what_fails_in_logs_is_counted(template, source):
    watched = {metric_of(properties) for _, properties in of_type(template, "AWS::CloudWatch::Alarm")}
    counted = set()
    for logical, properties in of_type(template, "AWS::Logs::MetricFilter"):
        (metric,) = properties["MetricTransformations"]
        counted.add((referred(properties["LogGroupName"]), properties["FilterPattern"]))
        if metric_of(metric) not in watched:
            yield f"{logical}: no alarm looks at what it counts"
        if "${AWS::StackName}" not in text_of(metric["MetricName"]):
            yield f"{logical}: counts together with every other stack of the account"
        if metric.get("MetricValue") != "1" or metric.get("DefaultValue") != 0:
            yield f"{logical}: does not count lines"
    mails = {where for where, package, _ in environments(template, source) if package == "email-worker"}
    for where, log in written_logs(template):
        if (log, FAILED) not in counted:
            yield f"{where}: nobody counts the lines in {log} that say that its work failed"
        if where in mails and (log, NOT_SENT) not in counted:
            yield f"{where}: nobody counts the lines in {log} that say that a mail is tried again"


def metric_of(properties):
    return properties.get("Namespace") or properties.get("MetricNamespace"), text_of(properties.get("MetricName"))


RULES = [
    actions_are_named,
    resources_are_named,
    policies_of_aws_are_known,
    processes_have_their_own_roles,
    queues_have_dead_letter_queues,
    dead_letters_outlast_their_queues,
    consumers_reject_before_the_queue_does,
    queues_are_closed_and_encrypted,
    only_named_sources_may_send,
    queues_hide_messages_longer_than_functions_run,
    logs_are_kept_for_a_time,
    access_logs_hold_no_token,
    environments_hold_what_is_read,
    processes_know_with_how_many_they_share,
    containers_are_asked_for_their_health,
    secrets_are_not_shown,
    parameters_are_explained_and_bounded,
    every_dead_letter_queue_has_an_alarm,
    what_fails_in_logs_is_counted,
]

# ── Everything ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def linted(path):
    """What cfn-lint finds, warnings included."""
    command = [sys.executable, "-c", "import sys; from cfnlint.runner import main; sys.exit(main())", "--format", "parseable", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if run.returncode == 0:
        return []
    return (run.stdout + run.stderr).splitlines() or [f"cfn-lint ended with {run.returncode}"]


def broken_rules(source):
    try:
        template = plain(source)
    except InvalidDocumentException as error:
        return [f"cannot be translated: {error.message}; {[cause.message for cause in error.causes]}"]
    return [problem for rule in RULES for problem in rule(template, source)]


def main():
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else TEMPLATE
    problems = linted(path) or broken_rules(read(path))
    for problem in problems:
        print(f"{path}: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{path.name}: cfn-lint and {len(RULES)} rules hold")


if __name__ == "__main__":
    main()
