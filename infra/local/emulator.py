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
* where it enforces IAM, requests count as encrypted in transit: there is no TLS here, and the template's policies refuse what came without.

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
import signal
import socket
import socketserver
import sys
import threading
import time
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


def end_functions(runtime, functions, account):
    """Nothing polls for them any more, and their processes end; in a thread, since that takes up to two seconds."""
    for mapping in [key for key in list(functions._esms._data) if key[0] == account]:
        functions._esms._data.pop(mapping, None)
    with runtime._lock:
        pools = [key for key in runtime._workers if key.startswith(f"{account}:")]
        workers = [worker for key in pools for worker in runtime._workers.pop(key)]
    threading.Thread(target=runtime.kill_workers, args=(workers,), daemon=True).start()


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
    from ministack.core import lambda_runtime
    from ministack.services import apigateway, lambda_svc, ses, sqs

    if given.auth:
        pin = ministack.app.pin_request_origin
        ministack.app.pin_request_origin = lambda address, _secure: pin(address, True)
    apigateway.find_api_scope = lambda api: scope_of(apigateway, api)
    sqs.time = ShiftedTime(get_account_id)
    mails = KeptMails(ses, get_account_id)
    ses._send_raw_email = mails.send
    endpoints = Endpoints(lambda_svc)
    lambda_svc._provided_worker_env = endpoints.environment

    def forget(asked):
        mails.forget(asked["account"])
        end_functions(lambda_runtime, lambda_svc, asked["account"])

    routes = {
        "/_recado/forget": forget,
        "/_recado/advance": lambda asked: sqs.time.advance(asked["account"], float(asked["seconds"])),
        "/_recado/endpoint": lambda asked: endpoints.tell(asked["account"], asked["endpoint"]),
        "/_recado/mails": lambda asked: mails.of(asked["account"]),
        "/_recado/mailbox": lambda asked: mails.readable(asked["account"]),
        "/_recado/connections": lambda asked: [
            connection for connection, record in apigateway._ws_connections.items() if record.get("apiId") == asked["api"]
        ],
    }
    subprotocols = Subprotocols(apigateway)
    apigateway._invoke_ws_lambda = subprotocols.invoke
    ministack.app.app = subprotocols.wrap(with_routes(ministack.app.app, routes))
    sys.argv = sys.argv[:1]
    threading.Thread(target=end_with_parent, args=(given.persist,), daemon=True).start()
    threading.Thread(target=announce, args=(port,), daemon=True).start()
    ministack.app.main()


if __name__ == "__main__":
    main()
