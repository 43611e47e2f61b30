"""Deploys infra/template.yaml onto an emulator of AWS, as `sam deploy` would, and prints the stack's outputs as one line of JSON.

    python deploy.py --endpoint URL --account 000000000001 --stack NAME [--parameter KEY=VALUE …] [--package-dir DIR] [--template FILE] [--verify DOMAIN]
                     [--instead changes|resources|delete]

It uploads the packages that the template names, puts the template with their places beside them, creates or updates the stack, and waits for it.
With --instead it does not deploy: it prints what a deployment would change, or the id of every resource, or deletes the stack.
A stack that does not come up ends it with exit code 1 and the reason of every resource that failed. It refuses any endpoint but one on this machine:
for AWS itself use `sam deploy` (docs/deploy.md).
"""

import argparse
import io
import json
import pathlib
import sys
import time
import urllib.parse
import zipfile

import boto3
import botocore.config
import botocore.exceptions
from samtranslator.yaml_helper import yaml_parse

TEMPLATE = pathlib.Path(__file__).resolve().parent.parent / "template.yaml"
# An emulator takes seconds, and nothing may wait for ever.
DEADLINE_SECONDS = 120
CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
NOTHING_TO_DO = "No updates are to be performed"
NO_CHANGES = "didn't contain changes"


class NotDeployed(Exception):
    """The stack did not come up; the message says why."""


def parameter(text):
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def loopback(text):
    if urllib.parse.urlsplit(text).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise argparse.ArgumentTypeError("only an emulator on this machine; for AWS use sam deploy")
    return text.rstrip("/")


def arguments():
    parser = argparse.ArgumentParser(description="Deploys the template onto an emulator of AWS on this machine.")
    parser.add_argument("--endpoint", required=True, type=loopback, help="the emulator's URL")
    parser.add_argument("--account", required=True, help="twelve digits: the access key id, which is the account")
    parser.add_argument("--secret", default="test", help="the secret access key")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--stack", required=True, help="the stack's name")
    parser.add_argument("--parameter", action="append", default=[], type=parameter, metavar="KEY=VALUE")
    parser.add_argument("--package-dir", type=pathlib.Path, help="where the zips are; without it each is an empty program that fails")
    parser.add_argument("--template", type=pathlib.Path, default=TEMPLATE)
    parser.add_argument("--verify", metavar="DOMAIN", help="let mail of this domain out, as SES does once its DNS records are set")
    parser.add_argument("--instead", choices=INSTEAD, help="what to do instead of deploying")
    return parser.parse_args()


def client(given, service):
    # One try and short timeouts: the emulator is on this machine, and an error is an answer.
    config = botocore.config.Config(
        retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=60, s3={"addressing_style": "path"}
    )
    return boto3.client(
        service,
        endpoint_url=given.endpoint,
        region_name=given.region,
        aws_access_key_id=given.account,
        aws_secret_access_key=given.secret,
        config=config,
    )


def empty_package():
    """A package whose program does nothing: enough to see that the template deploys."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as package:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        package.writestr(entry, "#!/bin/sh\nexit 1\n")
    return content.getvalue()


def package(given, name):
    if given.package_dir is None:
        return empty_package()
    path = given.package_dir / name
    if not path.is_file():
        raise NotDeployed(f"{path} is missing; `cargo xtask package` makes it")
    return path.read_bytes()


def upload(given, s3, template):
    """Puts each package into the bucket once, and its place into the template."""
    # Names of buckets are one space for all accounts.
    bucket = f"recado-packages-{given.account}"
    s3.create_bucket(Bucket=bucket)
    uploaded = set()
    for resource in template["Resources"].values():
        code = resource.get("Properties", {}).get("CodeUri")
        if resource["Type"] != "AWS::Serverless::Function" or not isinstance(code, str):
            continue
        name = pathlib.PurePosixPath(code).name
        key = f"{given.stack}/{name}"
        if key not in uploaded:
            s3.put_object(Bucket=bucket, Key=key, Body=package(given, name))
            uploaded.add(key)
        resource["Properties"]["CodeUri"] = {"Bucket": bucket, "Key": key}
    # Above 51,200 bytes a template has to be passed by its URL ("Understand CloudFormation quotas"), as sam deploy does.
    key = f"{given.stack}/template.json"
    s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(template).encode())
    return f"{given.endpoint}/{bucket}/{key}"


def stack_of(cloudformation, name):
    try:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except botocore.exceptions.ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def request_of(given, url):
    return {
        "StackName": given.stack,
        "TemplateURL": url,
        "Capabilities": CAPABILITIES,
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in given.parameter],
    }


def put_stack(given, cloudformation, url):
    """Starts the deployment; says whether there is one to wait for."""
    request = request_of(given, url)
    existing = stack_of(cloudformation, given.stack)
    if existing is None or existing["StackStatus"] == "DELETE_COMPLETE":
        cloudformation.create_stack(**request)
        return
    try:
        cloudformation.update_stack(**request)
    except botocore.exceptions.ClientError as error:
        if NOTHING_TO_DO not in str(error):
            raise


def finished(ask):
    """What is described once it is no longer in progress."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = 0.05
    while time.monotonic() < deadline:
        described, status = ask()
        if not status.endswith(("_IN_PROGRESS", "_PENDING")):
            return described, status
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)
    return described, status


def wait_for(given, cloudformation, *wanted):
    def ask():
        stack = stack_of(cloudformation, given.stack)
        return stack, stack["StackStatus"] if stack else "DELETE_COMPLETE"

    stack, status = finished(ask)
    if status not in wanted:
        raise NotDeployed(f"stack {given.stack} is {status}\n" + "\n".join(failures(given, cloudformation)))
    return stack


def failures(given, cloudformation):
    pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=given.stack)
    for event in reversed([event for page in pages for event in page["StackEvents"]]):
        if event["ResourceStatus"].endswith("_FAILED"):
            yield f"  {event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason', 'no reason')}"


def uploaded(given):
    template = yaml_parse(given.template.read_text(encoding="utf-8"))
    return upload(given, client(given, "s3"), template)


def deploy(given, cloudformation):
    if given.verify:
        client(given, "ses").verify_domain_identity(Domain=given.verify)
    put_stack(given, cloudformation, uploaded(given))
    stack = wait_for(given, cloudformation, "CREATE_COMPLETE", "UPDATE_COMPLETE")
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def changes(given, cloudformation):
    """What a deployment would do to each resource: {"Table": "Modify"}."""
    named = {"StackName": given.stack, "ChangeSetName": "look"}
    cloudformation.create_change_set(**request_of(given, uploaded(given)), ChangeSetName="look")

    def ask():
        described = cloudformation.describe_change_set(**named)
        return described, described["Status"]

    described, status = finished(ask)
    cloudformation.delete_change_set(**named)
    if status == "FAILED" and NO_CHANGES in described.get("StatusReason", ""):
        return {}
    if status != "CREATE_COMPLETE":
        raise NotDeployed(f"the change set is {status}: {described.get('StatusReason', 'no reason')}")
    resources = [change["ResourceChange"] for change in described["Changes"]]
    replaced = {resource["LogicalResourceId"] for resource in resources if resource.get("Replacement") == "True"}
    return {resource["LogicalResourceId"]: "Replace" if resource["LogicalResourceId"] in replaced else resource["Action"] for resource in resources}


def resources(given, cloudformation):
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=given.stack)
    listed = [resource for page in pages for resource in page["StackResourceSummaries"]]
    return {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in listed}


def delete(given, cloudformation):
    cloudformation.delete_stack(StackName=given.stack)
    wait_for(given, cloudformation, "DELETE_COMPLETE")
    return {}


INSTEAD = {"changes": changes, "resources": resources, "delete": delete}


def main():
    try:
        given = arguments()
        print(json.dumps(INSTEAD.get(given.instead, deploy)(given, client(given, "cloudformation"))))
    except (NotDeployed, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        print(f"not deployed: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
