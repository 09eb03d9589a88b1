"""Every role can do its job: what Terraform's provider and our own commands call is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from terraform.offline import ACCOUNT, TERRAFORM
from tests.terraform.roles import NAMES, REGION, Rendered, answer, expanded, of_environment, rendered, request
from tests.terraform.tool import needs_terraform, resources

CALLS = yaml.safe_load((Path(__file__).parent / "calls.yaml").read_text())
APPLIES = {"data": "apply-data", "platform": "apply"}


@pytest.fixture(scope="module", params=["staging", "production"])
def access(request, plans):
    return request.param, rendered(of_environment(plans, request.param))


def asked(found: Rendered, stack: str, action: str, at: str, made: dict) -> tuple[str, dict[str, str]]:
    """What a call is made on, as the matrix writes it, and its context."""
    values, tag = made["values"], {"aws:RequestTag/Stack": stack, "aws:ResourceTag/Stack": stack}
    role = f"arn:aws:iam::{ACCOUNT}:role/{values.get('role') or values.get('name')}"
    if action == "kms:CreateKey":  # nothing is there yet
        return "*", {"aws:RequestTag/Stack": stack}
    places = {
        "any": ("*", {}),
        "bucket": (str(values.get("bucket")).removeprefix(f"{found.name}-"), {}),
        "key": (f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1", tag),
        "alias": (f"arn:aws:kms:{REGION}:{ACCOUNT}:{values.get('name')}", {}),
        "role": (role, {"iam:PermissionsBoundary": f"arn:aws:iam::{ACCOUNT}:policy/{found.name}-boundary"}),
        "fact": (f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter{values.get('name')}", {}),
    }
    return ("*", {}) if action == "ssm:DescribeParameters" else places[at]


@needs_terraform
@pytest.mark.parametrize("stack", ["data", "platform"])
def test_terraform_may_call_what_the_provider_calls_and_a_plan_only_reads(access, plans, stack):
    env, found = access
    wrong = set()
    for made in resources(plans[f"envs/{env}/{stack}"]["planned_values"]["root_module"]):
        calls = CALLS["terraform"][made["type"]]  # KeyError: say there what the new type's calls are
        for action in [*calls["read"], *calls["write"]]:
            place, context = asked(found, stack, action, calls["at"], made)
            for role, allowed in ((APPLIES[stack], True), ("plan", action in calls["read"])):
                row = request(NAMES[env], role, action, place, {"is": "allow", "with": context})
                said = answer(found, row)
                if said.allowed != allowed:
                    wrong.add(f"{made['type']}: {row.text}: {said.where} {said.statement}")
    assert not wrong, "\n".join(sorted(wrong))


@needs_terraform
def test_every_role_may_do_what_its_commands_do(access):
    env, found = access
    said = {
        row.text: answer(found, row)
        for row in expanded(env, [row | {"is": "allow"} for row in CALLS["others"]])
    }
    assert not {text: f"{a.where} {a.statement}" for text, a in said.items() if not a.allowed}


@needs_terraform
def test_every_role_has_calls_and_every_type_is_still_in_the_code(access):
    env, found = access
    for_roles = {row.role for row in expanded(env, [row | {"is": "allow"} for row in CALLS["others"]])}
    assert set(found.roles) - for_roles == {f"{found.name}-eks"}  # EKS's own: AmazonEKSClusterPolicy, whole
    code = "\n".join(path.read_text() for path in TERRAFORM.rglob("*.tf"))
    assert set(CALLS["terraform"]) <= set(re.findall(r'(?m)^resource "(\w+)"', code))
