"""What every plan must show, resource by resource."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from terraform.offline import ACCOUNT, ENVIRONMENTS, ROOTS
from tests.terraform.tool import needs_terraform, resources

pytestmark = needs_terraform
NAMES = [*ROOTS, *(f"bootstrap/{env}" for env in ENVIRONMENTS)]
REASONS = yaml.safe_load((Path(__file__).parent / "wildcards.yaml").read_text())
TAGS = {"Project", "Environment", "Stack", "CostCenter", "ManagedBy"}


@pytest.fixture(params=NAMES)
def found(request, plans):
    return list(resources(plans[request.param]["planned_values"]["root_module"]))


def of(found, kind):
    return [r["values"] for r in found if r["type"] == kind]


def named(found, kind):
    return {values["bucket"]: values for values in of(found, kind)}


def test_every_bucket_is_encrypted_versioned_blocked_and_ages(found):
    for bucket in of(found, "aws_s3_bucket"):
        name = bucket["bucket"]
        encryption = named(found, "aws_s3_bucket_server_side_encryption_configuration")[name]["rule"][0]
        assert encryption["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"
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
        assert re.match(r"10\.", rule["cidr_ipv4"])
    open_kinds = {"aws_lb", "aws_instance", "aws_security_group_rule", "aws_s3_bucket_acl", "aws_db_instance"}
    assert not open_kinds & {r["type"] for r in found}


def test_every_log_group_has_a_retention_and_a_copy_in_cold_storage(found):
    for group in of(found, "aws_cloudwatch_log_group"):
        assert 30 <= group["retention_in_days"] <= 365
        assert group["name"] in {
            f["log_group_name"] for f in of(found, "aws_cloudwatch_log_subscription_filter")
        }


def test_every_resource_that_takes_tags_has_the_cost_tags(found):
    tagged = [r for r in found if "tags_all" in r["values"]]
    assert tagged
    for resource in tagged:
        assert set(resource["values"]["tags_all"] or {}) >= TAGS, resource["address"]


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


def test_no_wildcard_is_allowed_outside_the_reasoned_list(found):
    odd = []
    for resource, made in documents(found):
        kind = resource["type"]
        name = resource["address"].split("module.")[-1]
        for statement in made:
            if statement["Effect"] == "Deny":
                continue
            where = f"{kind}:{statement.get('Sid', name)}"
            for action in listed(statement["Action"]):
                if "*" in action and where not in REASONS["actions"]:
                    odd.append(f"{where}: action {action}")
            for target in listed(statement.get("Resource", [])):
                if target == "*" and where not in REASONS["resources"]:
                    odd.append(f"{where}: resource *")
            if statement.get("Principal") in ("*", {"AWS": "*"}):
                odd.append(f"{where}: anybody")
    assert not odd, odd


def test_every_reason_for_a_wildcard_is_still_used(plans):
    used = {"actions": set(), "resources": set()}
    for made in plans.values():
        for resource, all_statements in documents(list(resources(made["planned_values"]["root_module"]))):
            for s in all_statements:
                where = f"{resource['type']}:{s.get('Sid', '')}"
                if s["Effect"] == "Allow" and any("*" in a for a in listed(s["Action"])):
                    used["actions"].add(where)
                if s["Effect"] == "Allow" and "*" in listed(s.get("Resource", [])):
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
