"""Who may do what, judged on the policy documents that Terraform renders."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import yaml
from terraform.offline import ENVIRONMENTS
from tests.terraform.iam import Resource, Role, Unknown, decide
from tests.terraform.roles import (
    ATTACHABLE,
    ISSUER,
    MATRIX,
    NAMES,
    Rendered,
    Row,
    answer,
    assumed,
    attached,
    becoming,
    of_environment,
    rendered,
    rows,
)
from tests.terraform.tool import needs_terraform, resources

ROOT = MATRIX.parents[2]


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def access(request, plans):
    env = request.param
    return env, rendered(of_environment(plans, env))


def wrong(found: Rendered, requests: list[Row]) -> list[str]:
    answers = ((row, answer(found, row)) for row in requests)
    return [
        f"{row.text}: by {said.where} {said.statement}"
        for row, said in answers
        if said.allowed != row.allowed
    ]


@needs_terraform
def test_every_row_of_the_matrix_is_decided_as_it_says(access):
    env, found = access
    assert not wrong(found, rows(env))


def test_the_matrix_has_rows_for_every_role_and_both_answers():
    found = rows("production")
    assert len(found) >= 60
    assert {row.allowed for row in found} == {True, False}
    table = yaml.safe_load((MATRIX.parents[2] / "terraform/roles.yaml").read_text())
    named = {row.role.removeprefix("sekisho-").removeprefix("pod-") for row in found}
    assert set(table) <= named


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_pod_role_names_a_namespace_that_deploy_makes(environment):
    root = MATRIX.parents[2]
    table = yaml.safe_load((root / "terraform/roles.yaml").read_text().replace("${environment}", environment))
    named = {role["pod"]["namespace"] for role in table.values() if "pod" in role}
    made = {
        found["metadata"]["name"]
        for path in (root / "deploy/platform/namespaces").rglob("*.yaml")
        for found in yaml.safe_load_all(path.read_text())
        if found and found["kind"] == "Namespace"
    }
    assert named <= made


@needs_terraform
def test_only_those_whom_a_row_allows_become_a_role(access):
    env, found = access
    assert not [asked for asked in becoming(env, found) if assumed(found, asked) != asked.allowed]


@needs_terraform
def test_no_two_roles_trust_the_same_subject(access):
    _, found = access
    subjects = [
        sub
        for role in found.roles.values()
        for s in role.trust
        for sub in s.get("Condition", {}).get("StringLike", {}).get(f"{ISSUER}:sub", [])
    ]
    assert len(subjects) == len(set(subjects)) >= 10
    assert all(re.sub(r"@refs/pull/\*/merge$", "", sub).count("*") == 0 for sub in subjects)


def test_every_subject_names_a_workflow_that_asks_for_a_token():
    for name, role in yaml.safe_load((ROOT / "terraform/roles.yaml").read_text()).items():
        for subject in role.get("github", []):
            text = (ROOT / f".github/workflows/{subject.partition(':workflow:')[2]}.yml").read_text()
            assert "id-token: write" in text, f"{name}: {subject}"


@needs_terraform
def test_every_role_has_the_boundary_but_those_that_apply(access):
    env, found = access
    unbound = {name for name, role in found.roles.items() if role.boundary is None}
    assert unbound == {f"{NAMES[env]}-apply", f"{NAMES[env]}-apply-data"}


@needs_terraform
def test_a_policy_is_no_longer_than_iam_takes(plans):
    """10,240 characters for all of a role's own policies, 6,144 for a managed one, 2,048 for a trust (IAM
    quotas).
    """
    for made in plans.values():
        own: dict[str, int] = {}
        for r in resources(made["planned_values"]["root_module"]):
            if r["type"] == "aws_iam_role_policy":
                own[r["values"]["role"]] = own.get(r["values"]["role"], 0) + len(r["values"]["policy"])
            elif r["type"] == "aws_iam_policy":
                assert len(r["values"]["policy"]) <= 6144
            elif r["type"] == "aws_iam_role":
                assert len(r["values"]["assume_role_policy"]) <= 2048
        assert all(length <= 10240 for length in own.values()), own


def role(*statements, boundary=None):
    return Role("arn:aws:iam::1:role/r", list(statements), boundary, [])


READ = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "arn:aws:s3:::b/*"}


@pytest.mark.parametrize(
    ("operator", "wanted", "context", "met"),
    [
        ("StringEquals", "a", {"k": "a"}, True),
        ("StringEquals", "a", {}, False),
        ("StringNotEquals", "a", {}, True),
        ("StringNotEquals", "a", {"k": "a"}, False),
        ("StringEqualsIfExists", "a", {}, True),
        ("StringEqualsIfExists", "a", {"k": "b"}, False),
        ("StringLike", "a*", {"k": "abc"}, True),
        ("StringLike", "a*", {"k": "bc"}, False),
        ("Bool", "false", {"k": "false"}, True),
        ("Bool", "false", {}, False),
        ("Null", "false", {"k": "a"}, True),
        ("Null", "true", {}, True),
        ("ArnNotEquals", "arn:x", {"k": "arn:y"}, True),
        ("ForAnyValue:StringEquals", "a", {"k": ["b", "a"]}, True),
        ("ForAnyValue:StringEquals", "a", {}, False),
        ("ForAllValues:StringNotEquals", "a", {"k": ["b", "c"]}, True),
        ("ForAllValues:StringNotEquals", "a", {"k": ["b", "a"]}, False),
        ("ForAllValues:StringNotEquals", "a", {}, True),
    ],
)
def test_conditions_mean_what_the_user_guide_says(operator, wanted, context, met):
    limited = role(READ | {"Condition": {operator: {"k": wanted}}})
    assert decide(limited, "s3:GetObject", "arn:aws:s3:::b/x", context).allowed is met


def test_a_denial_wins_and_a_boundary_limits():
    deny = {"Effect": "Deny", "Action": "*", "Resource": "*"}
    assert decide(role(READ), "s3:GetObject", "arn:aws:s3:::b/x", {}).allowed
    assert not decide(role(READ), "s3:GetObject", "arn:aws:s3:::b2/x", {}).allowed
    assert not decide(role(READ, deny), "s3:GetObject", "arn:aws:s3:::b/x", {}).allowed
    assert not decide(role(READ, boundary=[]), "s3:GetObject", "arn:aws:s3:::b/x", {}).allowed
    guard = Resource("1", (deny | {"Principal": "*"},))
    assert not decide(role(READ), "s3:GetObject", "arn:aws:s3:::b/x", {}, guard).allowed


@pytest.mark.parametrize(
    ("owner", "principal", "own", "bounded", "key", "allowed"),
    [
        ("1", "arn:aws:iam::1:role/r", [], False, False, True),  # in one account either allows
        ("1", "arn:aws:iam::1:role/r", [], True, False, False),  # within the boundary
        ("1", "arn:aws:iam::1:root", [], False, False, False),  # its account: the role's own policies decide
        ("1", "arn:aws:iam::1:root", [READ], False, False, True),
        ("2", "arn:aws:iam::1:role/r", [], False, False, False),  # across accounts both must
        ("2", "arn:aws:iam::1:role/r", [READ], False, False, True),
        ("2", "arn:aws:iam::1:root", [READ], False, False, True),
        ("2", "arn:aws:iam::3:root", [READ], False, False, False),
        (
            "1",
            "arn:aws:iam::1:root",
            [READ],
            False,
            True,
            True,
        ),  # a key's policy must allow, be it the account
        ("1", "arn:aws:iam::1:role/other", [READ], False, True, False),
        ("1", "arn:aws:iam::1:role/r", [], False, True, True),
    ],
)
def test_a_resources_policy_allows_as_the_user_guide_says(owner, principal, own, bounded, key, allowed):
    opened = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "s3:GetObject", "Resource": "*"}
    target = Resource(owner, (opened,), must_allow=key)
    asker = role(*own, boundary=[] if bounded else None)
    assert decide(asker, "s3:GetObject", "arn:aws:s3:::b/x", {}, target).allowed is allowed


def test_a_policy_of_aws_that_nobody_reasoned_for_is_refused():
    with pytest.raises(ValueError, match="AmazonS3FullAccess is attached"):
        attached("arn:aws:iam::aws:policy/AmazonS3FullAccess")
    assert not any("s3:" in json.dumps(attached(f"arn:aws:iam::aws:policy/{name}")) for name in ATTACHABLE)


def test_what_the_evaluator_does_not_know_is_not_judged():
    with pytest.raises(Unknown, match="DateGreaterThan"):
        decide(
            role(READ | {"Condition": {"DateGreaterThan": {"k": "1"}}}),
            "s3:GetObject",
            "arn:aws:s3:::b/x",
            {"k": "2"},
        )


@needs_terraform
@pytest.mark.parametrize(
    ("role_name", "grant"),
    [
        (
            "drift",
            {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::sekisho-predictions/*"},
        ),
        ("trainer", {"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::sekisho-releases/*"}),
        (
            "pull-request",
            {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::sekisho-dvc/*"},
        ),
        ("pod-server", {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::sekisho-*/*"}),
        ("auditor", {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "*"}),
    ],
)
def test_a_role_that_is_widened_fails_the_matrix(plans, role_name, grant):
    found = rendered(of_environment(plans, "production"))
    name = f"sekisho-{role_name}"
    whole = found.roles[name]
    wide = replace(whole, statements=[*whole.statements, grant])
    own = [row for row in rows("production") if row.role == name]
    assert wrong(replace(found, roles=found.roles | {name: wide}), own)
