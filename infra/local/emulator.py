"""Starts ministack, an emulator of AWS, on a free port of this machine; prints one line of JSON when it answers.

    python emulator.py --state DIR [--port N] [--auth] [--persist]

What it adds to ministack:

* mails that were sent can be read: GET /_recado/mails?account=000000000001 as JSON, /_recado/mailbox as text;
* nothing waits for a delayed acknowledgement of TCP (40 ms a Lambda call otherwise);
* the clock of SQS can be set forward for one account, so that tests of leases and delays wait for nothing:
  POST /_recado/advance {"account": "000000000001", "seconds": 3600};
* the functions of one account can be ended when nobody needs them any more: POST /_recado/forget {"account": "000000000001"};
* the functions of one account can be told another endpoint than this one, such as a proxy before it:
  POST /_recado/endpoint {"account": "000000000001", "endpoint": "http://127.0.0.1:4567"};
* a WebSocket opens with the subprotocol that the function of `$connect` answers with, as on AWS ("WebSocket APIs that require
  a subprotocol" in the API Gateway Developer Guide);
* an HTTP API answers whoever asks, in whatever account it is;
* where it enforces IAM (--auth), it asks for what AWS asks for, and tells which role did what: see Permissions.

It ends with its parent's standard input, so that nothing is left over when whoever started it is killed. Where it leads a process
group, the functions that it started end with it, and at once, unless it keeps what it holds.
"""

import argparse
import base64
import contextlib
import contextvars
import email
import email.policy
import json
import os
import pathlib
import re
import signal
import socket
import socketserver
import sys
import threading
import time
import types
import urllib.parse


def arguments():
    parser = argparse.ArgumentParser(description="Starts an emulator of AWS on this machine.")
    parser.add_argument("--state", required=True, type=pathlib.Path, help="a folder of its own; made when it is missing")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--auth", action="store_true", help="enforce IAM")
    parser.add_argument("--persist", action="store_true", help="keep what it holds in the folder when it ends, and begin with what is there")
    parser.add_argument("--log-level", default="WARNING")
    return parser.parse_args()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configure(state, port, auth, persist, log_level):
    """Settings that ministack reads while it is imported."""
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / "tmp"
    temporary.mkdir(exist_ok=True)
    os.environ.update(
        BIND_HOST="127.0.0.1",
        GATEWAY_PORT=str(port),
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        STATE_DIR=str(state),
        TMPDIR=str(temporary),
        SFTP_ENABLED="0",
        IOT_MTLS_ENABLED="0",
        LOG_LEVEL=log_level,
    )
    if auth:
        os.environ["AUTH"] = "true"
        # It checks signatures then, and takes the secret of every account's own key from here.
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            os.environ.pop(name, None)
    if persist:
        os.environ["PERSIST_STATE"] = "1"


class ShiftedTime:
    """The module `time` with a clock that runs ahead for some accounts."""

    def __init__(self, account_of_request):
        self._account_of_request = account_of_request
        self._ahead = {}

    def __getattr__(self, name):
        return getattr(time, name)

    def time(self):
        return time.time() + self._ahead.get(self._account_of_request(), 0.0)

    def advance(self, account, seconds):
        self._ahead[account] = self._ahead.get(account, 0.0) + seconds


class Endpoints:
    """What the functions of some accounts are told instead of this process's own endpoint."""

    def __init__(self, functions):
        self._environment = functions._provided_worker_env
        self._told = {}

    def tell(self, account, endpoint):
        self._told[account] = endpoint

    def environment(self, config, *given):
        environment = self._environment(config, *given)
        # arn:aws:lambda:REGION:ACCOUNT:function:NAME
        endpoint = self._told.get(config.get("FunctionArn", ":::::").split(":")[4])
        return {**environment, "AWS_ENDPOINT_URL": endpoint} if endpoint else environment


class KeptMails:
    """What every account sent with SendRawEmail."""

    def __init__(self, ses, account_of_request):
        self._ses = ses
        self._send = ses._send_raw_email
        self._account_of_request = account_of_request
        self._mails = {}

    def send(self, params):
        answer = self._send(params)
        if answer[0] == 200:
            mail = {
                "from": self._ses._p(params, "Source"),
                "to": self._ses._collect_list(params, "Destinations.member"),
                "message": self._ses._p(params, "RawMessage.Data"),
            }
            self._mails.setdefault(self._account_of_request(), []).append(mail)
        return answer

    def of(self, account):
        return self._mails.get(account, [])

    def readable(self, account):
        """For people: the headers they look at, and the part for those without HTML."""
        mails = [email.message_from_bytes(base64.b64decode(mail["message"]), policy=email.policy.default) for mail in self.of(account)]
        return "\n".join(
            "".join(f"{name}: {mail[name]}\n" for name in ("From", "To", "Subject", "Date"))
            + f"\n{mail.get_body(('plain', 'html')).get_content().strip()}\n{'─' * 72}"
            for mail in mails
        ) or "no mail was sent yet"

    def forget(self, account):
        self._mails.pop(account, None)


def with_routes(app, routes):
    """Answers what Recado's tests ask for, and passes everything else on."""

    async def wrapped(scope, receive, send):
        route = routes.get(scope.get("path")) if scope["type"] == "http" else None
        if route is None:
            return await app(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        query = dict(urllib.parse.parse_qsl(scope.get("query_string", b"").decode()))
        answer = route(json.loads(body) if body else query)
        kind = b"text/plain; charset=utf-8" if isinstance(answer, str) else b"application/json"
        text = f"{answer}\n" if isinstance(answer, str) else json.dumps(answer)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": text.encode()})

    return wrapped


class Subprotocols:
    """Hands the answer of a function of `$connect` on to the handshake, which ministack leaves without one."""

    def __init__(self, apigateway):
        self._invoke = apigateway._invoke_ws_lambda
        self._answer = contextvars.ContextVar("answer")

    async def invoke(self, *given, **named):
        answer = await self._invoke(*given, **named)
        if "CONNECT" in given:
            self._answer.set(answer or {})
        return answer

    def wrap(self, app):
        async def wrapped(scope, receive, send):
            async def opening(message):
                headers = self._answer.get({}).get("headers") or {}
                chosen = next((value for name, value in headers.items() if name.lower() == "sec-websocket-protocol"), None)
                if message["type"] == "websocket.accept" and chosen:
                    message = {**message, "subprotocol": chosen}
                await send(message)

            await app(scope, receive, opening if scope["type"] == "websocket" else send)

        return wrapped


class Several(str):
    """The first of several resources that a request needs a permission for, the others, and what conditions are told of the request."""

    others = ()
    keys = types.MappingProxyType({})


class Permissions:
    """What AWS asks for where ministack asks for something else or for nothing, and what every role was allowed and denied.

    * A batch of SQS or SNS is the action of its single call ("Amazon SQS API permissions: Actions and resource reference").
    * A statement of PartiQL is dynamodb:PartiQLInsert, -Update, -Delete or -Select on its table ("IAM security policies with PartiQL for
      DynamoDB").
    * ses:SendRawEmail is asked for on the sender's identity, as in the sandbox on the recipients' as well, and on the configuration set where
      one is named; conditions are told the sender's address without its name ("Actions, resources, and condition keys for Amazon SES").
    * A function's role receives and deletes for its event source mapping ("Configuring Amazon SQS trigger permissions"), and writes its
      log ("Sending Lambda function logs to CloudWatch Logs"). ministack does both itself.
    * A task gets credentials of its role where that trusts ECS for this account ("Amazon ECS task IAM role"). ministack runs no task.
    * A denial names the resource ("Troubleshoot access denied error messages" in the IAM User Guide).
    * Requests count as encrypted in transit: there is no TLS here, and the template's policies refuse what came without.

    What it does not look at: who may invoke a function, whom a function's role trusts, the keys of KMS, and what a container's platform
    does (images, logs).
    """

    BATCHES = {
        "sqs:SendMessageBatch": "sqs:SendMessage",
        "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
        "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
        "sns:PublishBatch": "sns:Publish",
    }
    STATEMENT = re.compile(r'\s*(?:(INSERT)\s+INTO|(UPDATE)|(DELETE)\s+FROM|(SELECT)\s.*?\sFROM)\s+"([^"]+)"', re.DOTALL)
    VERBS = ("Insert", "Update", "Delete", "Select")

    def __init__(self, actions, evaluator, ses, account_of_request):
        self._actions = actions
        self._evaluator = evaluator
        self._ses = ses
        self._account_of_request = account_of_request
        self._enforce = evaluator.enforce
        self._action_of = actions.extract_iam_action
        self._resource_of = actions.extract_resource_arn
        self._parts_of = actions.dynamodb_transaction_checks
        self._denial = actions.access_denied_response
        self._denied = contextvars.ContextVar("denied", default="*")
        self._decisions = {}
        self._withheld = {}
        self._lock = threading.Lock()

    def install(self, app, functions, queues):
        self._actions.extract_iam_action = self.action_of
        self._actions.extract_resource_arn = self.resource_of
        self._actions.dynamodb_transaction_checks = self.parts_of
        self._actions.access_denied_response = self.denial
        self._evaluator.enforce = self.enforce
        pin = app.pin_request_origin
        app.pin_request_origin = lambda address, _secure: pin(address, True)
        self._functions = functions
        self._receive, self._delete = queues._receive_messages_for_esm, queues._delete_messages_for_esm
        queues._receive_messages_for_esm = self.receive
        queues._delete_messages_for_esm = self.delete
        self._log = functions._emit_lambda_logs
        functions._emit_lambda_logs = self.log

    def action_of(self, *request):
        action = self._action_of(*request)
        return self.BATCHES.get(action, action)

    def resource_of(self, service, method, path, headers, body, query, region, account):
        if service == "ses" and self._ses._p(query, "Action") == "SendRawEmail":
            return self.of_mail(query, f"arn:aws:ses:{region}:{account}")
        return self._resource_of(service, method, path, headers, body, query, region, account)

    def of_mail(self, query, prefix):
        sender = self._ses._p(query, "Source").rsplit("<", 1)[-1].rstrip(">")
        identity = sender if sender in self._ses._identities else sender.rsplit("@", 1)[-1]
        recipients = self._ses._collect_list(query, "Destinations.member")
        configuration = self._ses._p(query, "ConfigurationSetName")
        resources = Several(f"{prefix}:identity/{identity}")
        resources.others = [f"{prefix}:identity/{recipient}" for recipient in recipients]
        resources.others += [f"{prefix}:configuration-set/{configuration}"] if configuration else []
        resources.keys = {"ses:FromAddress": sender}
        return resources

    def parts_of(self, action, body, region, account):
        if action not in ("dynamodb:BatchExecuteStatement", "dynamodb:ExecuteStatement"):
            return self._parts_of(action, body, region, account)
        request = json.loads(body)
        parts = []
        for statement in request.get("Statements", [request]):
            *verbs, table = self.STATEMENT.match(statement["Statement"]).groups()
            verb = next(name for name, found in zip(self.VERBS, verbs) if found)
            part = (f"dynamodb:PartiQL{verb}", f"arn:aws:dynamodb:{region}:{account}:table/{table}")
            if part not in parts:
                parts.append(part)
        return parts

    def enforce(self, key, action, service, region, resource_arn="*", service_context=None):
        account, role, principal = self.role_of(key)
        context = {**(service_context or {}), **getattr(resource_arn, "keys", {})}
        for resource in (str(resource_arn), *getattr(resource_arn, "others", ())):
            denied = self._enforce(key, action, service, region, resource_arn=resource, service_context=context)
            if not denied and any(part in resource for part in self._withheld.get((account, role, action), ())):
                denied = self._evaluator.EvalResult("ImplicitDeny", principal_arn=principal)
            if role:
                self.note(account, (role, action, resource), denied)
            if denied:
                self._denied.set(resource)
                return denied
        return None

    @staticmethod
    def role_of(key):
        """The account and role of an access key, and who it is in full; nothing where it is no role's."""
        from ministack.services import sts

        principal = str((sts._sessions.get(key) or {}).get("Arn", ""))
        if ":assumed-role/" not in principal:
            return None, None, principal
        return principal.split(":")[4], principal.split("/")[1], principal

    def denial(self, service, action, principal, request, **given):
        if not given.get("error_code") and not given.get("message") and not given.get("resource_policy_arn"):
            resource = self._denied.get()
            given["message"] = self._actions.identity_denial_message(action, principal, resource, given.get("explicit_deny", False))
        return self._denial(service, action, principal, request, **given)

    def note(self, account, decision, denied):
        with self._lock:
            counts = self._decisions.setdefault(account, {}).setdefault(decision, [0, 0])
            counts[1 if denied else 0] += 1

    def withhold(self, asked):
        """As if no policy of the role allowed the action on resources that contain one of these texts; no text gives all back."""
        self._withheld[asked["account"], asked["role"], asked["action"]] = tuple(asked["resources"])

    def granted(self, asked):
        """What the policies of every role allow, statement by statement."""
        from ministack.services import iam

        return [
            {"role": role, "action": action, "resource": resource}
            for account, role in list(iam._roles._data)
            if account == asked["account"]
            for policy in self._evaluator._gather_role_policies(role, account)
            for statement in policy
            for action in statement.actions
            for resource in statement.resources
        ]

    def of(self, asked):
        with self._lock:
            decisions = sorted(self._decisions.get(asked["account"], {}).items())
            if asked.get("forget"):
                self._decisions.pop(asked["account"], None)
        return [
            {"role": role, "action": action, "resource": resource, "allowed": allowed, "denied": denied}
            for (role, action, resource), (allowed, denied) in decisions
        ]

    def assume(self, asked):
        """Credentials of a role as ECS hands them to a task: ministack assumes no role for a service that is bound to an account."""
        import secrets

        from ministack.services import iam, sts

        account, role = asked["account"], asked["role"]
        context = self._evaluator.EvalContext(
            # A principal that is a service counts as root there.
            principal_arn=f"arn:aws:iam::{account}:root",
            principal_type="Service",
            principal_account=account,
            action="sts:AssumeRole",
            resource_arn=f"arn:aws:iam::{account}:role/{role}",
            region=asked["region"],
            service_context={"aws:sourceaccount": account, "aws:sourcearn": f"arn:aws:ecs:{asked['region']}:{account}:cluster/recado"},
        )
        trust = iam._roles.get_scoped(account, None, role)["AssumeRolePolicyDocument"]
        if not self._evaluator.evaluate_trust_policy(trust, context.principal_arn, context):
            return {"refused": trust}
        key, secret, token = f"ASIA{secrets.token_hex(8).upper()}", secrets.token_hex(20), secrets.token_hex(32)
        principal = f"arn:aws:sts::{account}:assumed-role/{role}/task"
        session = {"Arn": principal, "UserId": f"{role}:task", "SecretAccessKey": secret, "SessionToken": token}
        sts.register_session(key, session)
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}

    def function_may(self, config, action, resource):
        from ministack.core import lambda_runtime
        from ministack.core.responses import get_region

        self._evaluator.pin_request_origin("127.0.0.1", True)
        key = lambda_runtime.execution_credentials(config)["AWS_ACCESS_KEY_ID"]
        return self.enforce(key, action, action.split(":")[0], get_region(), resource) is None

    def poller_may(self, queue_url, *actions):
        """Whether the role of every function that polls this queue may do all of this with it."""
        account, name = self._account_of_request(), queue_url.rsplit("/", 1)[-1]
        for owner, _region, mapping in self._functions._iter_all_esms():
            arn = mapping.get("EventSourceArn", "")
            if owner != account or arn.rsplit(":", 1)[-1] != name:
                continue
            _record, config = self._functions._get_func_record_for_qualifier(mapping["FunctionName"], mapping.get("Qualifier"))
            if config and not all([self.function_may(config, action, arn) for action in actions]):
                return False
        return True

    def receive(self, queue_url, most):
        allowed = self.poller_may(queue_url, "sqs:ReceiveMessage", "sqs:GetQueueAttributes")
        return self._receive(queue_url, most) if allowed else []

    def delete(self, queue_url, handles):
        if self.poller_may(queue_url, "sqs:DeleteMessage"):
            self._delete(queue_url, handles)

    def log(self, function, request, *said, **more):
        from ministack.core.responses import get_region

        config = function.get("config") or function
        group = (config.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{config['FunctionName']}"
        stream = f"arn:aws:logs:{get_region()}:{self._account_of_request()}:log-group:{group}:log-stream:{request}"
        if all([self.function_may(config, action, stream) for action in ("logs:CreateLogStream", "logs:PutLogEvents")]):
            self._log(function, request, *said, **more)


def end_functions(runtime, functions, account):
    """Nothing polls for them any more, and their processes end; in a thread, since that takes up to two seconds."""
    for mapping in [key for key in list(functions._esms._data) if key[0] == account]:
        functions._esms._data.pop(mapping, None)
    with runtime._lock:
        pools = [key for key in runtime._workers if key.startswith(f"{account}:")]
        workers = [worker for key in pools for worker in runtime._workers.pop(key)]
    threading.Thread(target=runtime.kill_workers, args=(workers,), daemon=True).start()


def logged(logs, asked):
    """What functions of an account wrote into the log groups whose name contains a text."""
    groups = [group for key, group in list(logs._log_groups._data.items()) if key[0] == asked["account"] and asked["group"] in key[-1]]
    return [event["message"] for group in groups for stream in list(group["streams"].values()) for event in list(stream["events"])]


def scope_of(apigateway, api):
    """The account and Region of an API, or None. ministack looks in the caller's account alone, and who calls an API of AWS has none."""
    owner = apigateway._api_owner(api)
    return owner and owner[1:]


def end_with_parent(persist):
    """The parent holds the other end of standard input: when that closes, the parent is gone."""
    sys.stdin.buffer.read()
    # What is kept is written on the way out.
    if os.getpgrp() == os.getpid() and not persist:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGTERM)


def announce(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            print(json.dumps({"ready": True, "endpoint": f"http://127.0.0.1:{port}"}), flush=True)
            return
        time.sleep(0.05)


def main():
    given = arguments()
    port = given.port or free_port()
    configure(given.state.resolve(), port, given.auth, given.persist, given.log_level)
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True

    import ministack.app
    from ministack.core.responses import get_account_id
    from ministack.core import iam_actions, iam_evaluator, lambda_runtime
    from ministack.services import apigateway, cloudwatch_logs, lambda_svc, ses, sqs

    permissions = None
    if given.auth:
        permissions = Permissions(iam_actions, iam_evaluator, ses, get_account_id)
        permissions.install(ministack.app, lambda_svc, sqs)
    apigateway.find_api_scope = lambda api: scope_of(apigateway, api)
    sqs.time = ShiftedTime(get_account_id)
    mails = KeptMails(ses, get_account_id)
    ses._send_raw_email = mails.send
    endpoints = Endpoints(lambda_svc)
    lambda_svc._provided_worker_env = endpoints.environment

    def forget(asked):
        mails.forget(asked["account"])
        if permissions:
            permissions.of({**asked, "forget": True})
        end_functions(lambda_runtime, lambda_svc, asked["account"])

    routes = {
        "/_recado/forget": forget,
        "/_recado/advance": lambda asked: sqs.time.advance(asked["account"], float(asked["seconds"])),
        "/_recado/endpoint": lambda asked: endpoints.tell(asked["account"], asked["endpoint"]),
        "/_recado/logs": lambda asked: logged(cloudwatch_logs, asked),
        "/_recado/mails": lambda asked: mails.of(asked["account"]),
        "/_recado/mailbox": lambda asked: mails.readable(asked["account"]),
        "/_recado/connections": lambda asked: [
            connection for connection, record in apigateway._ws_connections.items() if record.get("apiId") == asked["api"]
        ],
    }
    if permissions:
        routes["/_recado/decisions"] = permissions.of
        routes["/_recado/granted"] = permissions.granted
        routes["/_recado/withhold"] = permissions.withhold
        routes["/_recado/assume"] = permissions.assume
    subprotocols = Subprotocols(apigateway)
    apigateway._invoke_ws_lambda = subprotocols.invoke
    ministack.app.app = subprotocols.wrap(with_routes(ministack.app.app, routes))
    sys.argv = sys.argv[:1]
    threading.Thread(target=end_with_parent, args=(given.persist,), daemon=True).start()
    threading.Thread(target=announce, args=(port,), daemon=True).start()
    ministack.app.main()


if __name__ == "__main__":
    main()
