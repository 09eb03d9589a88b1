"""Who may do what, judged on the policy documents that Terraform renders."""

from __future__ import annotations

import pytest
import yaml
from terraform.offline import ACCOUNT, ENVIRONMENTS
from tests.terraform.iam import Role, Unknown, assumable, decide
from tests.terraform.roles import MATRIX, NAMES, rendered, rows
from tests.terraform.tool import needs_terraform

ISSUER = "token.actions.githubusercontent.com"


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def access(request, plans):
    env = request.param
    return env, rendered(
        [plans[f"bootstrap/{env}"], plans[f"envs/{env}/data"], plans[f"envs/{env}/platform"]]
    )


@needs_terraform
def test_every_row_of_the_matrix_is_decided_as_it_says(access):
    env, found = access
    wrong = []
    for row in rows(env):
        policy = found.buckets.get(row.bucket or "", [])
        decision = decide(found.roles[row.role], row.action, row.resource, row.context, policy)
        if decision.allowed != row.allowed:
            wrong.append(f"{row.text}: by {decision.where} {decision.statement}")
    assert not wrong, "\n".join(wrong)


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
def test_only_the_exact_subject_and_audience_become_a_role(access):
    env, found = access
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"
    for row in yaml.safe_load(MATRIX.read_text())["trust"]:
        role = found.roles[f"{NAMES[env]}-{row['role']}"]
        sub = f"repo:{row.get('repository', 'sekisho/sekisho')}:{row['sub'].format(environment=env)}"
        claims = {f"{ISSUER}:aud": row.get("aud", "sts.amazonaws.com"), f"{ISSUER}:sub": sub}
        got = assumable(role, provider, "sts:AssumeRoleWithWebIdentity", claims)
        assert got == (row["is"] == "allow"), row


@needs_terraform
def test_no_two_roles_trust_the_same_subject(access):
    _, found = access
    subjects = [
        sub
        for role in found.roles.values()
        for s in role.trust
        for sub in s.get("Condition", {}).get("StringEquals", {}).get(f"{ISSUER}:sub", [])
    ]
    assert len(subjects) == len(set(subjects)) >= 7


@needs_terraform
def test_every_role_has_the_boundary_but_apply(access):
    env, found = access
    assert [name for name, role in found.roles.items() if role.boundary is None] == [f"{NAMES[env]}-apply"]


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
    guard = [deny | {"Principal": "*"}]
    assert not decide(role(READ), "s3:GetObject", "arn:aws:s3:::b/x", {}, guard).allowed


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
    found = rendered(
        [plans["bootstrap/production"], plans["envs/production/data"], plans["envs/production/platform"]]
    )
    name = f"sekisho-{role_name}"
    whole = found.roles[name]
    wide = Role(whole.arn, [*whole.statements, grant], whole.boundary, whole.trust)
    wrong = [
        row
        for row in rows("production")
        if row.role == name
        and decide(
            wide, row.action, row.resource, row.context, found.buckets.get(row.bucket or "", [])
        ).allowed
        != row.allowed
    ]
    assert wrong
