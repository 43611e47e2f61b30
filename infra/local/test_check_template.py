"""Breaks the template in one place at a time, and sees that the rule for it says so.

    python -m unittest discover --start-directory infra/local
"""

import copy
import pathlib
import re
import tempfile
import unittest

import check_template

SOURCE = check_template.read(check_template.TEMPLATE)


class TheTemplate(unittest.TestCase):
    def test_keeps_every_rule(self):
        self.assertEqual(check_template.broken_rules(SOURCE), [])

    def test_each_rule_has_a_test_that_breaks_it(self):
        tested = {case.rule for case in Broken.__subclasses__()}
        self.assertEqual({rule.__name__ for rule in check_template.RULES} - tested, set())

    def test_that_cannot_be_translated_is_a_problem(self):
        source = copy.deepcopy(SOURCE)
        del source["Resources"]["Sockets"]["Properties"]["Routes"]
        (problem,) = check_template.broken_rules(source)
        self.assertIn("cannot be translated", problem)


class TheLinter(unittest.TestCase):
    def test_finds_a_property_that_does_not_exist(self):
        template = "Resources: {Queue: {Type: AWS::SQS::Queue, Properties: {Retention: 3}}}"
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "template.yaml"
            path.write_text(template, encoding="utf-8")
            problems = check_template.linted(path)
        self.assertTrue(any("'Retention' was unexpected" in problem for problem in problems), problems)

    def test_finds_nothing_in_a_template_that_is_well(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "template.yaml"
            path.write_text("Resources: {Queue: {Type: AWS::SQS::Queue}}", encoding="utf-8")
            self.assertEqual(check_template.linted(path), [])


class Broken(unittest.TestCase):
    """A case for one rule."""

    rule = None

    def problems(self, change):
        """What the rule says after `change` of the source, which the template as it is does not make it say."""
        rule = getattr(check_template, self.rule)
        source = copy.deepcopy(SOURCE)
        change(source["Resources"], source)
        return list(rule(check_template.plain(source), source))

    def assert_says(self, expected, change):
        problems = self.problems(change)
        self.assertTrue(any(expected in problem for problem in problems), problems)


def statements_of(resources, role):
    return resources[role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]


class Actions(Broken):
    rule = "actions_are_named"

    def test_a_star_in_an_action(self):
        def change(resources, _):
            statements_of(resources, "ConnectRole")[1]["Action"] = ["dynamodb:*"]

        self.assert_says("ConnectRole: the action dynamodb:* is not named", change)

    def test_a_star_behind_a_prefix(self):
        def change(resources, _):
            resources["DispatcherPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Action"].append("sqs:Send*")

        self.assert_says("DispatcherPolicy: the action sqs:Send* is not named", change)

    def test_a_star_in_one_branch_of_a_condition(self):
        def change(resources, _):
            for statement in statements_of(resources, "HttpRole"):
                if statement.get("Fn::If", [None])[0] == "HasPublishKeys":
                    statement["Fn::If"][1]["Action"] = "sns:*"

        self.assert_says("HttpRole: the action sns:* is not named", change)

    def test_everything_but(self):
        def change(resources, _):
            statement = statements_of(resources, "ConnectRole")[1]
            statement["NotAction"] = statement.pop("Action")

        self.assert_says("a statement says what it is not about", change)


class Resources(Broken):
    rule = "resources_are_named"

    def test_all_resources_for_an_action_that_can_name_one(self):
        def change(resources, _):
            statements_of(resources, "DisconnectRole")[1]["Resource"] = "*"

        self.assert_says("DisconnectRole: dynamodb:GetItem can name a resource", change)

    def test_all_resources_beside_an_action_that_can_name_none(self):
        def change(resources, _):
            statements_of(resources, "ImagesRole")[0]["Action"] = ["ecr:GetAuthorizationToken", "ecr:BatchGetImage"]

        self.assert_says("ImagesRole: ecr:BatchGetImage can name a resource", change)

    def test_a_resource_that_is_open_in_the_middle(self):
        def change(resources, _):
            statements_of(resources, "MessageRole")[3]["Resource"] = {"Fn::Sub": "arn:aws:execute-api:*:*:*/live/POST/@connections/*"}

        self.assert_says("MessageRole: the resource arn:aws:execute-api:*", change)

    def test_a_statement_without_resources(self):
        def change(resources, _):
            del statements_of(resources, "MessageRole")[1]["Resource"]

        self.assert_says("MessageRole: a statement without resources", change)


    def test_mail_to_anybody_from_anybody(self):
        def change(resources, _):
            del statement_of_mail(resources)["Condition"]

        self.assert_says("EmailWorkerPolicy: the resource arn:", change)

    def test_mail_bound_by_something_else_than_the_sender(self):
        def change(resources, _):
            statement_of_mail(resources)["Condition"] = {"StringEquals": {"ses:FromDisplayName": "Example"}}

        self.assert_says("identity/* is open where a name is known", change)

    def test_mail_from_whoever_is_like_the_sender(self):
        def change(resources, _):
            statement_of_mail(resources)["Condition"] = {"StringLike": {"ses:FromAddress": "*"}}

        self.assert_says("identity/* is open where a name is known", change)

    def test_a_condition_of_mail_opens_nothing_else(self):
        def change(resources, _):
            statement_of_mail(resources)["Action"] = ["ses:SendRawEmail", "ses:DeleteIdentity"]

        self.assert_says("identity/* is open where a name is known", change)

    def test_mail_of_every_account(self):
        def change(resources, _):
            statement_of_mail(resources)["Resource"] = "arn:aws:ses:eu-west-1:*:identity/*"

        self.assert_says("EmailWorkerPolicy: the resource arn:aws:ses:eu-west-1:*:identity/*", change)


def statement_of_mail(resources):
    (statement,) = [one for one in resources["EmailWorkerPolicy"]["Properties"]["PolicyDocument"]["Statement"] if "Condition" in one]
    return statement


class PoliciesOfAws(Broken):
    rule = "policies_of_aws_are_known"

    def test_a_wide_policy_on_a_function(self):
        def change(resources, _):
            resources["HttpRole"]["Properties"]["ManagedPolicyArns"] = ["arn:aws:iam::aws:policy/AmazonDynamoDBFullAccess"]

        self.assert_says("HttpRole: the policy AmazonDynamoDBFullAccess", change)

    def test_a_role_that_the_transform_makes(self):
        def change(resources, _):
            del resources["MessageFunction"]["Properties"]["Role"]

        self.assert_says("MessageFunctionRole: the policy AWSLambdaBasicExecutionRole", change)


class Roles(Broken):
    rule = "processes_have_their_own_roles"

    def test_two_functions_with_one_role(self):
        def change(resources, _):
            resources["MessageFunction"]["Properties"]["Role"] = {"Fn::GetAtt": ["ConnectRole", "Arn"]}

        self.assert_says("shares ConnectRole", change)

    def test_a_role_that_others_may_take(self):
        def change(resources, _):
            document = resources["ConnectRole"]["Properties"]["AssumeRolePolicyDocument"]
            document["Statement"][0]["Principal"] = {"AWS": "*"}

        self.assert_says("ConnectRole: is for lambda.amazonaws.com alone", change)


class DeadLetterQueues(Broken):
    rule = "queues_have_dead_letter_queues"

    def test_a_queue_without(self):
        def change(resources, _):
            del resources["InboxQueue"]["Properties"]["RedrivePolicy"]

        self.assert_says("InboxQueue: has no dead-letter queue", change)

    def test_a_subscription_without(self):
        def change(resources, _):
            del resources["EmailSubscription"]["Properties"]["RedrivePolicy"]

        self.assert_says("EmailSubscription: what SNS cannot deliver is dropped", change)

    def test_a_subscription_that_wraps(self):
        def change(resources, _):
            resources["FeedbackSubscription"]["Properties"]["RawMessageDelivery"] = False

        self.assert_says("FeedbackSubscription: is not raw", change)

    def test_dead_letters_that_go_elsewhere(self):
        def change(resources, _):
            resources["InboxQueue"]["Properties"]["RedrivePolicy"]["deadLetterTargetArn"] = {"Fn::GetAtt": ["Topic", "Arn"]}

        self.assert_says("InboxQueue: its dead letters go to Topic", change)


class Retention(Broken):
    rule = "dead_letters_outlast_their_queues"

    def test_a_dead_letter_queue_that_forgets_first(self):
        def change(resources, _):
            resources["EmailDeadLetters"]["Properties"]["MessageRetentionPeriod"] = 345_600

        self.assert_says("EmailDeadLetters: keeps messages for less time than EmailQueue", change)


class Attempts(Broken):
    rule = "consumers_reject_before_the_queue_does"

    def test_the_source_says_how_often_consumers_try(self):
        most, mail = check_template.attempts()
        self.assertGreater(most, 1)
        self.assertGreater(mail, most)

    def test_a_queue_that_gives_up_with_its_consumer(self):
        def change(resources, _):
            resources["InboxQueue"]["Properties"]["RedrivePolicy"]["maxReceiveCount"] = check_template.attempts()[0]

        self.assert_says("InboxQueue: gives up after", change)

    def test_mail_is_tried_more_often(self):
        def change(resources, _):
            resources["EmailQueue"]["Properties"]["RedrivePolicy"]["maxReceiveCount"] = check_template.attempts()[0] + 1

        self.assert_says("EmailQueue: gives up after", change)


class Encryption(Broken):
    rule = "queues_are_closed_and_encrypted"

    def test_a_queue_that_is_not_encrypted(self):
        def change(resources, _):
            resources["InboxDeadLetters"]["Properties"]["SqsManagedSseEnabled"] = False

        self.assert_says("InboxDeadLetters: is not encrypted at rest", change)

    def test_a_queue_without_a_policy(self):
        def change(resources, _):
            del resources["EmailDeadLettersPolicy"]

        self.assert_says("EmailDeadLetters: takes requests that are not encrypted", change)

    def test_a_topic_that_does_not_refuse_clear_text(self):
        def change(resources, _):
            statement = resources["TopicPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]
            statement["Condition"]["Bool"]["aws:SecureTransport"] = "true"

        self.assert_says("Topic: takes requests that are not encrypted", change)


class Sources(Broken):
    rule = "only_named_sources_may_send"

    def test_a_queue_for_every_topic(self):
        def change(resources, _):
            del resources["InboxQueuePolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Condition"]

        self.assert_says("InboxQueuePolicy: lets in more than one named source", change)

    def test_a_topic_for_everybody(self):
        def change(resources, _):
            resources["FeedbackTopicPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Principal"] = "*"

        self.assert_says("FeedbackTopicPolicy: lets in more than one named source", change)

    def test_more_than_sending(self):
        def change(resources, _):
            resources["InboxQueuePolicy"]["Properties"]["PolicyDocument"]["Statement"][0]["Action"] = "sqs:*"

        self.assert_says("InboxQueuePolicy: allows more than sending", change)


class Visibility(Broken):
    rule = "queues_hide_messages_longer_than_functions_run"

    def test_a_function_that_runs_longer(self):
        def change(resources, _):
            resources["DispatcherFunction"]["Properties"]["Timeout"] = 31

        self.assert_says("InboxQueue: hides messages for 180 s", change)

    def test_a_batch_that_fails_as_a_whole(self):
        def change(resources, _):
            del resources["EmailWorkerFunction"]["Properties"]["Events"]["Email"]["Properties"]["FunctionResponseTypes"]

        self.assert_says("one message that fails would fail its whole batch", change)


class Logs(Broken):
    rule = "logs_are_kept_for_a_time"

    def test_a_log_that_is_kept_for_ever(self):
        def change(resources, _):
            del resources["HttpLog"]["Properties"]["RetentionInDays"]

        self.assert_says("HttpLog: keeps logs for ever", change)

    def test_a_function_whose_log_lambda_makes(self):
        def change(resources, _):
            del resources["MessageFunction"]["Properties"]["LoggingConfig"]

        self.assert_says("MessageFunction: Lambda would make its log group", change)


class AccessLogs(Broken):
    rule = "access_logs_hold_no_token"

    def test_a_query_string(self):
        def change(resources, _):
            resources["HttpStage"]["Properties"]["AccessLogSettings"]["Format"] = '{"query":"$context.requestOverride.querystring.token"}'

        self.assert_says("HttpStage: its access log has $requestOverride.querystring.token", change)

    def test_a_path(self):
        def change(resources, _):
            settings = resources["Sockets"]["Properties"]["AccessLogSettings"]["Fn::If"][1]
            settings["Format"] = settings["Format"].replace("$context.routeKey", "$context.path")

        self.assert_says("its access log has $path", change)

    def test_an_address(self):
        def change(resources, _):
            resources["HttpStage"]["Properties"]["AccessLogSettings"]["Format"] = '{"ip":"$context.identity.sourceIp"}'

        self.assert_says("its access log has $identity.sourceIp", change)

    def test_no_log(self):
        def change(resources, _):
            del resources["HttpStage"]["Properties"]["AccessLogSettings"]

        self.assert_says("HttpStage: has no access log", change)

    def test_execution_logs(self):
        def change(resources, _):
            resources["Sockets"]["Properties"]["DefaultRouteSettings"]["LoggingLevel"] = "INFO"

        self.assert_says("an execution log holds whole requests", change)

    def test_a_format_that_is_not_json(self):
        def change(resources, _):
            resources["HttpStage"]["Properties"]["AccessLogSettings"]["Format"] = "$context.requestId"

        self.assert_says("its access log is not JSON", change)


class Environments(Broken):
    rule = "environments_hold_what_is_read"

    def test_a_secret_that_a_function_does_not_read(self):
        def change(resources, _):
            variables = resources["DisconnectFunction"]["Properties"]["Environment"]["Variables"]
            variables["RECADO_TOKEN_SECRET"] = {"Ref": "TokenSecret"}

        self.assert_says("DisconnectFunction: RECADO_TOKEN_SECRET is not read by ws-disconnect", change)

    def test_a_name_in_a_container(self):
        def change(resources, _):
            environment = resources["DispatcherTask"]["Properties"]["ContainerDefinitions"][0]["Environment"]
            environment.append({"Fn::If": ["HasTokenSecret", {"Name": "RECADO_TOKEN_SECRET", "Value": "x"}, {"Ref": "AWS::NoValue"}]})

        self.assert_says("DispatcherTask: RECADO_TOKEN_SECRET is not read by dispatcher", change)

    def test_an_unknown_process(self):
        def change(resources, _):
            resources["HttpFunction"]["Properties"]["CodeUri"] = "../target/package/other.zip"

        self.assert_says("other is not a process of Recado", change)


    def test_a_function_that_would_listen(self):
        def change(resources, _):
            resources["DispatcherFunction"]["Properties"]["Environment"]["Variables"]["RECADO_LISTEN"] = "127.0.0.1:8421"

        self.assert_says("DispatcherFunction: RECADO_LISTEN is not read by dispatcher", change)


def variables_of(resources, function):
    return resources[function]["Properties"]["Environment"]["Variables"]


def container_of(resources, task):
    return resources[task]["Properties"]["ContainerDefinitions"][0]


def drop(environment, name):
    environment[:] = [entry for entry in environment if entry.get("Name") != name]


class Shares(Broken):
    rule = "processes_know_with_how_many_they_share"

    def test_how_many_run_comes_from_the_template(self):
        most = check_template.at_most(check_template.plain(SOURCE), SOURCE)
        self.assertEqual(most["EmailWorkerFunction"], {"Ref": "EmailConcurrency"})
        self.assertEqual(most["DispatcherTask"], {"Ref": "DispatcherMaxTasks"})
        self.assertEqual(most["EmailWorkerTask"], 2)

    def test_a_function_that_believes_to_be_alone(self):
        def change(resources, _):
            del variables_of(resources, "EmailWorkerFunction")["RECADO_MAIL_PROCESSES"]

        self.assert_says("EmailWorkerFunction: RECADO_MAIL_PROCESSES is None", change)

    def test_functions_that_share_with_others_than_run(self):
        def change(resources, _):
            variables_of(resources, "DispatcherFunction")["RECADO_DISPATCHER_PROCESSES"] = {"Ref": "DispatcherMaxTasks"}

        self.assert_says("DispatcherFunction: RECADO_DISPATCHER_PROCESSES is {'Ref': 'DispatcherMaxTasks'}", change)

    def test_tasks_that_share_with_others_than_run(self):
        def change(resources, _):
            resources["DispatcherScaling"]["Properties"]["MaxCapacity"] = 1000

        self.assert_says("DispatcherTask: RECADO_DISPATCHER_PROCESSES is {'Ref': 'DispatcherMaxTasks'}, and 1000 run", change)

    def test_a_second_task_of_the_email_worker(self):
        def change(resources, _):
            resources["EmailWorkerService"]["Properties"]["DesiredCount"] = 2

        self.assert_says("EmailWorkerTask: RECADO_MAIL_PROCESSES is 2, and 4 run", change)

    def test_posts_that_nothing_limits(self):
        def change(resources, _):
            del variables_of(resources, "DispatcherFunction")["RECADO_POSTS_PER_SECOND"]
            drop(container_of(resources, "DispatcherTask")["Environment"], "RECADO_POSTS_PER_SECOND")

        self.assert_says("DispatcherFunction: without RECADO_POSTS_PER_SECOND", change)
        self.assert_says("DispatcherTask: without RECADO_POSTS_PER_SECOND", change)


class Health(Broken):
    rule = "containers_are_asked_for_their_health"

    def test_the_program_is_that_of_the_image(self):
        self.assertEqual(check_template.entrypoint("email-worker"), ["/usr/local/bin/recado-email-worker"])

    def test_a_container_that_nobody_asks(self):
        def change(resources, _):
            del container_of(resources, "DispatcherTask")["HealthCheck"]

        self.assert_says("DispatcherTask: nobody asks whether it is well", change)

    def test_a_probe_of_another_program(self):
        def change(resources, _):
            container_of(resources, "EmailWorkerTask")["HealthCheck"]["Command"][1] = "/usr/local/bin/recado-dispatcher"

        self.assert_says("EmailWorkerTask: nobody asks whether it is well", change)

    def test_a_start_that_counts_as_illness(self):
        def change(resources, _):
            del container_of(resources, "DispatcherTask")["HealthCheck"]["StartPeriod"]

        self.assert_says("DispatcherTask: has no time to start", change)

    def test_a_container_that_answers_nobody(self):
        def change(resources, _):
            drop(container_of(resources, "EmailWorkerTask")["Environment"], "RECADO_LISTEN")

        self.assert_says("EmailWorkerTask: listens at no address", change)

    def test_a_container_that_answers_everybody(self):
        def change(resources, _):
            environment = container_of(resources, "EmailWorkerTask")["Environment"]
            drop(environment, "RECADO_LISTEN")
            environment.append({"Name": "RECADO_LISTEN", "Value": "0.0.0.0:8421"})

        self.assert_says("EmailWorkerTask: listens at 0.0.0.0:8421", change)


class Secrets(Broken):
    rule = "secrets_are_not_shown"

    def test_a_secret_that_is_shown(self):
        def change(_, source):
            del source["Parameters"]["TokenSecret"]["NoEcho"]

        self.assert_says("TokenSecret: is a secret, and would be shown", change)

    def test_a_secret_in_an_output(self):
        def change(_, source):
            source["Outputs"]["Keys"] = {"Value": {"Ref": "PublishKeys"}}

        self.assert_says("PublishKeys: is a secret, and an output shows it", change)


class Parameters(Broken):
    rule = "parameters_are_explained_and_bounded"

    def test_a_parameter_without_a_word(self):
        def change(_, source):
            del source["Parameters"]["LogLevel"]["Description"]

        self.assert_says("LogLevel: says nothing about itself", change)

    def test_a_parameter_without_bounds(self):
        def change(_, source):
            del source["Parameters"]["LogLevel"]["AllowedPattern"]

        self.assert_says("LogLevel: takes anything", change)

    def test_a_parameter_of_no_group(self):
        def change(_, source):
            source["Parameters"]["Extra"] = {"Type": "String", "AllowedValues": ["a"], "Description": "one more than there should be"}

        self.assert_says("differ in ['Extra']", change)


class Alarms(Broken):
    rule = "every_dead_letter_queue_has_an_alarm"

    def test_a_dead_letter_queue_that_nobody_watches(self):
        def change(resources, _):
            del resources["EmailUndeliveredAlarm"]

        self.assert_says("EmailUndelivered: has no alarm", change)

    def test_a_function_that_nobody_watches(self):
        def change(resources, _):
            del resources["HttpErrorsAlarm"]

        self.assert_says("HttpFunction: has no alarm", change)

    def test_an_alarm_that_tells_nobody(self):
        def change(resources, _):
            del resources["InboxAgeAlarm"]["Properties"]["AlarmActions"]

        self.assert_says("InboxAgeAlarm: tells nobody", change)

    def test_an_alarm_that_leaves_one_alone(self):
        def change(resources, _):
            resources["InboxAgeAlarm"]["Properties"]["AlarmDescription"] = "old"

        self.assert_says("InboxAgeAlarm: does not say where to read", change)


class Counted(Broken):
    rule = "what_fails_in_logs_is_counted"

    def test_the_source_writes_what_is_counted(self):
        worker = (check_template.ROOT / "email-worker/src/worker.rs").read_text(encoding="utf-8")
        for literal in ("mail not sent", "transient"):
            self.assertIn(f'"{literal}"', worker)
            self.assertIn(f'"{literal}"', check_template.NOT_SENT)

    def test_a_function_whose_failures_nobody_counts(self):
        def change(resources, _):
            del resources["MessageFailures"]

        self.assert_says("MessageFunction: nobody counts the lines in MessageLog that say that its work failed", change)

    def test_containers_whose_failures_nobody_counts(self):
        def change(resources, _):
            resources["TasksFailures"]["Properties"]["FilterPattern"] = '{ $.level = "error" }'

        self.assert_says("DispatcherTask: nobody counts the lines in TasksLog that say that its work failed", change)

    def test_mails_that_nobody_counts(self):
        for name, where in (("EmailWorkerNotSent", "EmailWorkerFunction"), ("TasksNotSent", "EmailWorkerTask")):
            with self.subTest(name):

                def change(resources, _, name=name):
                    del resources[name]

                self.assert_says(f"{where}: nobody counts the lines in", change)

    def test_a_count_that_no_alarm_looks_at(self):
        for name, says in (("FailuresAlarm", "HttpFailures"), ("MailNotSentAlarm", "TasksNotSent")):
            with self.subTest(name):

                def change(resources, _, name=name):
                    resources[name]["Properties"]["MetricName"] = "other"

                self.assert_says(f"{says}: no alarm looks at what it counts", change)

    def test_a_count_of_all_stacks(self):
        def change(resources, _):
            resources["ConnectFailures"]["Properties"]["MetricTransformations"][0]["MetricName"] = "failures"

        self.assert_says("ConnectFailures: counts together with every other stack", change)

    def test_a_count_that_does_not_say_that_nothing_failed(self):
        def change(resources, _):
            del resources["ConnectFailures"]["Properties"]["MetricTransformations"][0]["DefaultValue"]

        self.assert_says("ConnectFailures: does not count lines", change)


class TheImages(unittest.TestCase):
    def test_are_built_with_every_member_of_the_workspace(self):
        root = check_template.ROOT
        members = re.findall(r'"([^"]+)",', (root / "Cargo.toml").read_text(encoding="utf-8").split("members = [")[1].split("]")[0])
        self.assertIn("dispatcher", members)
        copied = {line.removeprefix("!") for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
        self.assertEqual({member.split("/")[0] for member in members} - copied, set())


if __name__ == "__main__":
    unittest.main()
