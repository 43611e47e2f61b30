"""Deploys every variant of the template that the emulator can take, each into an account of its own.

    python -m unittest discover --start-directory infra/local
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import boto3
import botocore.exceptions

FOLDER = pathlib.Path(__file__).resolve().parent
REGION = "us-east-1"
TOKENS = {"TokenSecret": "0123456789abcdef0123456789abcdef"}
MAIL = {"MailFrom": "Example <news@example.com>"}
# What the emulator can take (infra/README.md).
LOCALLY = {"Monitoring": "basic", "DispatcherMaxTasks": "1"}
OUTPUTS = {
    "ConfigurationSet",
    "DispatcherPolicyArn",
    "EmailDeadLettersUrl",
    "EmailQueueUrl",
    "EmailUndeliveredUrl",
    "EmailWorkerPolicyArn",
    "FeedbackDeadLettersUrl",
    "FeedbackQueueUrl",
    "FeedbackTopicArn",
    "FeedbackUndeliveredUrl",
    "HttpApiUrl",
    "InboxDeadLettersUrl",
    "InboxQueueUrl",
    "InboxUndeliveredUrl",
    "SocketsEndpoint",
    "TableName",
    "TopicArn",
    "WebSocketUrl",
}


class OnAnEmulator(unittest.TestCase):
    # How it is started.
    options = []

    @classmethod
    def setUpClass(cls):
        state = tempfile.TemporaryDirectory()
        cls.addClassCleanup(state.cleanup)
        # It ends when its standard input does, and so with this process.
        emulator = subprocess.Popen(
            [sys.executable, FOLDER / "emulator.py", "--state", state.name, "--log-level", "CRITICAL", *cls.options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        cls.addClassCleanup(emulator.wait, timeout=30)
        cls.addClassCleanup(emulator.stdout.close)
        cls.addClassCleanup(emulator.stdin.close)
        cls.endpoint = json.loads(emulator.stdout.readline())["endpoint"]

    def deploy(self, account, **parameters):
        given = {**TOKENS, **MAIL, **LOCALLY, "SocketsEndpointBase": f"{self.endpoint}/_aws/execute-api", **parameters}
        command = [sys.executable, FOLDER / "deploy.py", "--endpoint", self.endpoint, "--account", account, "--stack", "recado"]
        for key, value in given.items():
            command += ["--parameter", f"{key}={value}"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)

    def outputs(self, account, **parameters):
        run = self.deploy(account, **parameters)
        self.assertEqual(run.returncode, 0, run.stderr)
        return json.loads(run.stdout)

    def client(self, service, account, **credentials):
        keys = {"aws_access_key_id": account, "aws_secret_access_key": "test", **credentials}
        return boto3.client(service, endpoint_url=self.endpoint, region_name=REGION, **keys)


class Deployed(OnAnEmulator):
    def test_with_functions_alone(self):
        outputs = self.outputs("100000000001", DispatcherMode="lambda")
        self.assertEqual(OUTPUTS | {"AlarmTopicArn"}, set(outputs))
        self.assertTrue(outputs["WebSocketUrl"].startswith("ws://127.0.0.1:"), outputs["WebSocketUrl"])
        self.assertEqual(outputs["SocketsEndpoint"], "http" + outputs["WebSocketUrl"].removeprefix("ws"))

    def test_with_workers_that_run_elsewhere(self):
        outputs = self.outputs(
            "100000000002", DispatcherMode="external", EmailWorkerMode="external", Monitoring="none", PublishKeys="0123456789abcdef"
        )
        self.assertEqual(OUTPUTS, set(outputs))

    def test_with_containers(self):
        self.outputs("100000000003", DispatcherMode="fargate", EmailWorkerMode="fargate", ImageTag="a1")

    def test_with_everything_that_may_be_named(self):
        self.outputs(
            "100000000004",
            DispatcherMode="lambda",
            DispatcherBatchWindow="5",
            Architecture="arm64",
            TokenIssuer="https://login.example.com",
            TokenAudience="recado",
            AllowOrigins="https://app.example.com,https://example.com",
            PublishKeys="0123456789abcdef,fedcba9876543210",
            PostsPerSecond="500",
            MailBaseUrl="https://app.example.com",
            TopicKey="arn:aws:kms:us-east-1:100000000004:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            AlarmEmail="operations@example.com",
            SocketsLogRole="none",
            LogLevel="recado_dispatcher=debug,info",
        )

    def test_a_deployment_can_be_changed(self):
        before = self.outputs("100000000005", DispatcherMode="external", Monitoring="none")
        self.assertEqual(before, self.outputs("100000000005", DispatcherMode="external", Monitoring="none"))
        after = self.outputs("100000000005", DispatcherMode="lambda", Monitoring="none")
        self.assertEqual(before["TableName"], after["TableName"])

    def test_what_contradicts_itself_is_refused_with_the_reason(self):
        refused = {
            "Give either TokenKeys": {"TokenKeys": "https://login.example.com/jwks.json", "DispatcherMode": "external"},
            "say which with ImageTag": {"DispatcherMode": "fargate"},
            "need SecurityGroups": {"DispatcherMode": "external", "Subnets": "subnet-01234567"},
            "belong to a VPC": {"DispatcherMode": "external", "SecurityGroups": "sg-01234567"},
            "no alarms to send": {"DispatcherMode": "external", "Monitoring": "none", "AlarmEmail": "a@example.com"},
            "an https URL, or nothing": {"TokenKeys": "http://login.example.com", "TokenSecret": ""},
            "news@example.com, or Example <news@example.com>": {"MailFrom": "nobody", "DispatcherMode": "external"},
        }
        for reason, parameters in refused.items():
            with self.subTest(reason):
                run = self.deploy("100000000006", **parameters)
                self.assertEqual(run.returncode, 1)
                self.assertIn(reason, run.stderr)

    def test_the_sender_is_the_address_of_mail_from(self):
        iam = self.client("iam", "100000000007")
        for sender in ("Example <news@example.com>", "news@example.com"):
            with self.subTest(sender):
                policy = self.outputs("100000000007", DispatcherMode="external", MailFrom=sender)["EmailWorkerPolicyArn"]
                version = iam.get_policy(PolicyArn=policy)["Policy"]["DefaultVersionId"]
                document = iam.get_policy_version(PolicyArn=policy, VersionId=version)["PolicyVersion"]["Document"]
                (condition,) = [statement["Condition"] for statement in document["Statement"] if "Condition" in statement]
                self.assertEqual(condition, {"StringEquals": {"ses:FromAddress": "news@example.com"}})

    def test_logs_are_counted_where_there_are_any(self):
        logs = self.client("logs", "100000000008")
        for parameters, expected in [
            ({"DispatcherMode": "lambda"}, 5 + 2 + 1),
            ({"DispatcherMode": "external", "EmailWorkerMode": "fargate", "ImageTag": "a1"}, 5 + 2),
            ({"DispatcherMode": "external", "EmailWorkerMode": "external"}, 5),
            ({"DispatcherMode": "lambda", "Monitoring": "none"}, 0),
        ]:
            with self.subTest(parameters):
                self.outputs("100000000008", **parameters)
                self.assertEqual(len(logs.describe_metric_filters()["metricFilters"]), expected)

    def test_only_this_machine_is_deployed_to(self):
        command = [sys.executable, FOLDER / "deploy.py", "--endpoint", "https://aws.example.com", "--account", "1", "--stack", "recado"]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(run.returncode, 2)
        self.assertIn("only an emulator on this machine", run.stderr)


class Enforced(OnAnEmulator):
    options = ["--auth"]

    def asked(self, route, **question):
        request = urllib.request.Request(f"{self.endpoint}/_recado/{route}", json.dumps(question).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def test_mail_may_go_to_anybody_and_come_from_the_sender_alone(self):
        account = "100000000001"
        outputs = self.outputs(account, DispatcherMode="external", EmailWorkerMode="fargate", ImageTag="a1")
        resources = self.client("cloudformation", account).list_stack_resources(StackName="recado")["StackResourceSummaries"]
        (role,) = [resource["PhysicalResourceId"] for resource in resources if resource["LogicalResourceId"] == "EmailWorkerTaskRole"]
        for address in ("news@example.com", "other@example.com", "alice@elsewhere.example"):
            self.client("ses", account).verify_email_identity(EmailAddress=address)
        given = {name.lower(): value for name, value in self.asked("assume", account=account, role=role, region=REGION).items()}
        worker = self.client("ses", account, **given)

        def send(sender):
            message = {"Data": f"From: {sender}\r\nTo: alice@elsewhere.example\r\nSubject: hi\r\n\r\nhi\r\n".encode()}
            envelope = {"Source": sender, "Destinations": ["alice@elsewhere.example"], "ConfigurationSetName": outputs["ConfigurationSet"]}
            return worker.send_raw_email(RawMessage=message, **envelope)

        send("news@example.com")
        send("Example <news@example.com>")
        with self.assertRaisesRegex(botocore.exceptions.ClientError, "ses:SendRawEmail on resource.*identity/other@example.com"):
            send("other@example.com")
        decisions = self.asked("decisions", account=account)
        asked = {decision["resource"].split(":")[-1] for decision in decisions if decision["role"] == role and decision["allowed"]}
        self.assertEqual(asked, {"identity/news@example.com", "identity/alice@elsewhere.example", f"configuration-set/{outputs['ConfigurationSet']}"})


if __name__ == "__main__":
    unittest.main()
