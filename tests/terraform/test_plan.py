"""What every plan must show, resource by resource."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml
from terraform.offline import ACCOUNT, ENVIRONMENTS, ROOTS
from tests.terraform.roles import CLASSES, REGION
from tests.terraform.roles import NAMES as PREFIXES
from tests.terraform.tool import needs_terraform, resources

pytestmark = needs_terraform
NAMES = [*ROOTS, *(f"bootstrap/{env}" for env in ENVIRONMENTS)]
REASONS = yaml.safe_load((Path(__file__).parent / "wildcards.yaml").read_text())
OWN_NAMES = list(PREFIXES.values())
TAGS = {"Project", "Environment", "Stack", "CostCenter", "ManagedBy"}


@pytest.fixture(params=NAMES)
def plan(request, plans):
    return plans[request.param]


@pytest.fixture
def found(plan):
    return list(resources(plan["planned_values"]["root_module"]))


def references(plan, address):
    """What the code names for each argument of a resource whose value is not known before an apply."""
    module = plan["configuration"]["root_module"]
    *path, kind, name = re.sub(r"\[[^\]]*\]", "", address).split(".")
    for call in path[1::2]:
        module = module["module_calls"][call]["module"]
    (resource,) = [r for r in module["resources"] if (r["type"], r["name"]) == (kind, name)]
    return resource["expressions"]


def encrypted_with(found, plan, bucket):
    kind = "aws_s3_bucket_server_side_encryption_configuration"
    (resource,) = [r for r in found if r["type"] == kind and r["values"]["bucket"] == bucket]
    default = references(plan, resource["address"])["rule"][0]["apply_server_side_encryption_by_default"][0]
    return default["kms_master_key_id"]["references"][-1]


def of(found, kind):
    return [r["values"] for r in found if r["type"] == kind]


def named(found, kind):
    return {values["bucket"]: values for values in of(found, kind)}


def test_every_bucket_is_encrypted_versioned_blocked_and_ages(plan, found):
    for bucket in of(found, "aws_s3_bucket"):
        name = bucket["bucket"]
        encryption = named(found, "aws_s3_bucket_server_side_encryption_configuration")[name]["rule"][0]
        assert encryption["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"
        # known before an apply only if it is no key of this plan
        assert "kms_master_key_id" not in encryption["apply_server_side_encryption_by_default"][0]
        assert encrypted_with(found, plan, name).endswith("aws_kms_key.this"), (
            "the bucket's own key, never AWS's"
        )
        versioning = named(found, "aws_s3_bucket_versioning")[name]["versioning_configuration"][0]
        assert versioning["status"] == "Enabled"
        block = named(found, "aws_s3_bucket_public_access_block")[name]
        assert all(
            block[key]
            for key in (
                "block_public_acls",
                "block_public_policy",
                "ignore_public_acls",
                "restrict_public_buckets",
            )
        )
        owner = named(found, "aws_s3_bucket_ownership_controls")[name]["rule"][0]
        assert owner["object_ownership"] == "BucketOwnerEnforced"
        assert named(found, "aws_s3_bucket_lifecycle_configuration")[name]["rule"]
        policy = json.loads(named(found, "aws_s3_bucket_policy")[name]["policy"])
        assert "OnlyTls" in {s["Sid"] for s in policy["Statement"]}


def test_audit_and_releases_are_locked_in_compliance_mode_for_seven_years_or_more(plans):
    for env in ENVIRONMENTS:
        made = list(resources(plans[f"envs/{env}/data"]["planned_values"]["root_module"]))
        locks = named(made, "aws_s3_bucket_object_lock_configuration")
        assert {name.rpartition("sekisho-")[2].removeprefix("staging-") for name in locks} == {
            "audit",
            "audit-copy",
            "releases",
        }
        for lock in locks.values():
            retention = lock["rule"][0]["default_retention"][0]
            assert retention["mode"] == "COMPLIANCE"
            assert retention["days"] >= 2557
        replication = of(made, "aws_s3_bucket_replication_configuration")
        assert [r["bucket"].rpartition("-")[2] for r in replication] == ["audit"]


def test_every_key_rotates_and_says_who_may_use_it(found):
    for key in of(found, "aws_kms_key"):
        assert key["enable_key_rotation"]
        assert key["deletion_window_in_days"] == 30
        first = json.loads(key["policy"])["Statement"][0]
        assert first["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}


def test_no_endpoint_is_public(found):
    for cluster in of(found, "aws_eks_cluster"):
        access = cluster["vpc_config"][0]
        assert access["endpoint_private_access"]
        assert not access["endpoint_public_access"]
    for subnet in of(found, "aws_subnet"):
        assert not subnet["map_public_ip_on_launch"]
    for rule in of(found, "aws_vpc_security_group_ingress_rule"):
        assert private(rule["cidr_ipv4"])
        assert not rule["cidr_ipv6"]
    for rule in of(found, "aws_security_group_rule"):
        assert rule["type"] != "ingress" or all(private(block) for block in rule["cidr_blocks"] or [])
        assert not rule["ipv6_cidr_blocks"]
    for group in [*of(found, "aws_security_group"), *of(found, "aws_default_security_group")]:
        for rule in group.get("ingress") or []:
            assert all(private(block) for block in rule.get("cidr_blocks") or []), "inline rules count too"
            assert not rule.get("ipv6_cidr_blocks")
    open_kinds = {"aws_lb", "aws_instance", "aws_s3_bucket_acl", "aws_db_instance"}
    assert not open_kinds & {r["type"] for r in found}


def private(block):
    return ip_network(block).is_private and ip_network(block).prefixlen >= 12


def test_every_disk_is_encrypted(plans):
    for env in ENVIRONMENTS:
        made = list(resources(plans[f"envs/{env}/platform"]["planned_values"]["root_module"]))
        assert [e["enabled"] for e in of(made, "aws_ebs_encryption_by_default")] == [True]
        disks = [d["ebs"][0] for v in of(made, "aws_launch_template") for d in v["block_device_mappings"]]
        assert disks
        assert all(str(disk["encrypted"]).lower() == "true" for disk in disks)
        assert all(f["encrypted"] for f in of(made, "aws_efs_file_system"))


def test_the_audit_trails_copy_is_made_and_keeps_what_its_source_loses(plans):
    for env in ENVIRONMENTS:
        made = list(resources(plans[f"envs/{env}/data"]["planned_values"]["root_module"]))
        (copy,) = of(made, "aws_s3_bucket_replication_configuration")
        (rule,) = copy["rule"]
        assert rule["status"] == "Enabled"
        assert rule["delete_marker_replication"] == [{"status": "Disabled"}]
        assert rule["destination"][0]["bucket"].endswith("-audit-copy")
        assert not rule["filter"] or not any(rule["filter"][0].values())


def test_what_is_kept_never_expires_and_logs_not_before_seven_years(found):
    for name, ageing in named(found, "aws_s3_bucket_lifecycle_configuration").items():
        for rule in ageing["rule"]:
            days = [e["days"] for e in rule["expiration"] or []]
            assert not days or (name.endswith("-logs") and min(days) >= 2557), name
            if name.endswith(("audit", "audit-copy", "releases")):
                assert not rule["noncurrent_version_expiration"], f"{name}: versions are kept too"


def test_every_alarm_and_every_budget_tells_somebody(plans):
    for env in ENVIRONMENTS:
        plan = plans[f"envs/{env}/platform"]
        made = list(resources(plan["planned_values"]["root_module"]))
        alarms = [r for r in made if r["type"] == "aws_cloudwatch_metric_alarm"]
        assert alarms
        for alarm in alarms:
            # its topic's ARN is not known before an apply: the list is there, and the code names the topic
            assert alarm["values"].get("alarm_actions") is None or alarm["values"]["alarm_actions"]
            assert "aws_sns_topic.this" in references(plan, alarm["address"])["alarm_actions"]["references"]
            assert alarm["values"].get("actions_enabled", True)
        assert {s["protocol"] for s in of(made, "aws_sns_topic_subscription")} == {"email"}
        limits = sum(
            float(b["limit_amount"]) for b in of(made, "aws_budgets_budget") if b["time_unit"] == "MONTHLY"
        )
        assert 0 < limits * 150 <= 12_000_000
        rules, targets = of(made, "aws_cloudwatch_event_rule"), of(made, "aws_cloudwatch_event_target")
        assert sorted(r["name"] for r in rules) == sorted(t["rule"] for t in targets)


def test_the_network_keeps_flow_logs_of_all_traffic(plans):
    for env in ENVIRONMENTS:
        made = list(resources(plans[f"envs/{env}/platform"]["planned_values"]["root_module"]))
        assert len(of(made, "aws_vpc")) == 1
        (log,) = of(made, "aws_flow_log")
        assert log["traffic_type"] == "ALL"
        assert log["log_destination"].endswith("-logs")


def test_no_backend_asks_for_another_encryption_than_the_buckets_own():
    """`encrypt` without a key asks for AES256, which the state's bucket refuses."""
    for root in ROOTS:
        text = (Path(__file__).parents[2] / f"terraform/{root}/main.tf").read_text()
        backend = re.search(r'(?ms)^  backend "s3" \{(.*?)^  \}', text).group(1)
        assert "use_lockfile = true" in backend
        assert not re.search(r"^\s+encrypt\b", backend, flags=re.MULTILINE)


def test_every_log_group_has_a_retention_and_a_copy_in_cold_storage(found):
    for group in of(found, "aws_cloudwatch_log_group"):
        assert 30 <= group["retention_in_days"] <= 365
        assert group["name"] in {
            f["log_group_name"] for f in of(found, "aws_cloudwatch_log_subscription_filter")
        }


def test_every_resource_that_takes_tags_has_the_cost_tags(plan, found):
    tagged = [r for r in found if "tags_all" in r["values"]]
    assert tagged
    for resource in tagged:
        assert set(resource["values"]["tags_all"] or {}) >= TAGS, resource["address"]
        stack = plan["configuration"]["root_module"].get("module_calls", {})
        assert resource["values"]["tags_all"]["Stack"] == next(
            s for s in ("data", "platform", "state") if s in stack
        ).replace("state", "bootstrap")


def test_no_secret_is_kept_in_a_state(found):
    kinds = {r["type"] for r in found}
    assert not kinds & {
        "aws_secretsmanager_secret_version",
        "aws_iam_access_key",
        "aws_iam_user_login_profile",
        "random_password",
    }
    assert {p["type"] for p in of(found, "aws_ssm_parameter")} <= {"String"}


def test_the_cluster_encrypts_secrets_keeps_every_log_and_lets_in_by_entries_only(plans):
    for env in ENVIRONMENTS:
        made = list(resources(plans[f"envs/{env}/platform"]["planned_values"]["root_module"]))
        (cluster,) = of(made, "aws_eks_cluster")
        assert cluster["encryption_config"][0]["resources"] == ["secrets"]
        assert set(cluster["enabled_cluster_log_types"]) == {
            "api",
            "audit",
            "authenticator",
            "controllerManager",
            "scheduler",
        }
        assert cluster["access_config"][0]["authentication_mode"] == "API"
        assert not cluster["access_config"][0]["bootstrap_cluster_creator_admin_permissions"]
        (template,) = of(made, "aws_launch_template")
        assert template["metadata_options"][0]["http_tokens"] == "required"
        (queue,) = of(made, "aws_sqs_queue")
        assert queue["sqs_managed_sse_enabled"]
        assert len(of(made, "aws_cloudwatch_event_rule")) == 4


def test_budgets_warn_by_forecast_at_50_80_and_100_percent(plans):
    for env in ENVIRONMENTS:
        made = list(resources(plans[f"envs/{env}/platform"]["planned_values"]["root_module"]))
        budgets = of(made, "aws_budgets_budget")
        assert {b["time_unit"] for b in budgets} == {"MONTHLY", "ANNUALLY"}
        for budget in budgets:
            told = {(n["notification_type"], n["threshold"]) for n in budget["notification"]}
            assert told >= {("FORECASTED", 50), ("FORECASTED", 80), ("FORECASTED", 100)}


def documents(found):
    """Every policy document in a plan: where it stands, and its statements."""
    for resource in found:
        for key in ("policy", "assume_role_policy"):
            text = resource["values"].get(key)
            if isinstance(text, str) and text.startswith("{"):
                made = json.loads(text)["Statement"]
                yield resource, made if isinstance(made, list) else [made]


def listed(value):
    return value if isinstance(value, list) else [value]


OBJECTS = re.compile(rf"arn:aws:s3:::({'|'.join(OWN_NAMES)})-({'|'.join(CLASSES)})/([\w-]+/)*\*")
FACTS = re.compile(rf"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/({'|'.join(OWN_NAMES)})/\*")
DATA = re.compile(
    r"s3:(Get|Put|Delete|Restore|Replicate|\*).*|kms:(Decrypt|Encrypt|GenerateDataKey|ReEncrypt|\*).*|iam:PassRole"
)
SETTINGS = re.compile(r"s3:(Get|Put)(Bucket\w*\*?|\*Configuration|\w+Configuration)")


def wide(statement):
    """Resources that hold a wildcard and are neither one bucket's prefix, nor our facts, nor a key told
    by alias or tag.
    """
    told = {key for keys in (statement.get("Condition") or {}).values() for key in keys}
    exact = {
        key for op, keys in (statement.get("Condition") or {}).items() if "IfExists" not in op for key in keys
    }
    for target in listed(statement.get("Resource", [])):
        key = target.endswith(f":{ACCOUNT}:key/*") and exact & {
            "kms:ResourceAliases",
            "aws:ResourceTag/Stack",
        }
        if "*" in target and not (OBJECTS.fullmatch(target) or FACTS.fullmatch(target) or key):
            yield target, told


def wildcards(found):
    for resource, made in documents(found):
        kind = resource["type"]
        name = resource["address"].split("module.")[-1]
        for statement in made:
            if statement["Effect"] == "Allow":
                where = f"{kind}:{statement.get('Sid', name)}"
                actions = [a for a in listed(statement.get("Action", "NotAction: *")) if "*" in a]
                yield where, statement, actions, [target for target, _ in wide(statement)]


def test_no_wildcard_is_allowed_outside_the_reasoned_list(found):
    odd = []
    for where, statement, actions, targets in wildcards(found):
        if where not in REASONS["actions"]:
            odd += [f"{where}: action {action}" for action in actions]
        if where not in REASONS["resources"]:
            odd += [f"{where}: resource {target}" for target in targets]
        if statement.get("Principal") in ("*", {"AWS": "*"}):
            odd.append(f"{where}: anybody")
    assert not odd, odd


def test_data_and_roles_are_never_reached_by_a_wildcard(found):
    """Whatever reason is written down: not for objects, decryption or passing a role on."""
    for where, statement, _, targets in wildcards(found):
        if where.startswith("aws_iam_role_policy:") and targets and where != "aws_iam_role_policy:RolesGiven":
            reached = [
                a for a in listed(statement["Action"]) if DATA.fullmatch(a) and not SETTINGS.fullmatch(a)
            ]
            assert not reached, f"{where}: {reached} on {targets}"


def test_every_reason_for_a_wildcard_is_still_used(plans):
    used = {"actions": set(), "resources": set()}
    for made in plans.values():
        for where, _, actions, targets in wildcards(list(resources(made["planned_values"]["root_module"]))):
            if actions:
                used["actions"].add(where)
            if targets:
                used["resources"].add(where)
    assert set(REASONS["actions"]) == used["actions"]
    assert set(REASONS["resources"]) == used["resources"]
    assert all(len(reason) > 20 for reasons in REASONS.values() for reason in reasons.values())


def test_production_and_staging_differ_by_values_only():
    """Both environments are the same stacks: what differs is a value, never a resource."""
    for stack in ("data", "platform"):
        texts = []
        for env in ENVIRONMENTS:
            text = (Path(__file__).parents[2] / f"terraform/envs/{env}/{stack}/main.tf").read_text()
            text = re.sub(r'"[^"\n]*"|\b\d+\b', "…", text)
            texts.append(re.sub(r"[ \t]+", " ", text))
        assert texts[0] == texts[1]
