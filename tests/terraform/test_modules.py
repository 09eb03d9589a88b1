"""Form, validity, Terraform's own tests, and wrong input that is refused at plan with its remedy."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from terraform.offline import ROOTS, TERRAFORM, Workspace
from tests.terraform.tool import needs_terraform

LONGEST_MODULE = 150  # lines of code, without variables and outputs
MODULES = sorted(p.parent.relative_to(TERRAFORM).as_posix() for p in TERRAFORM.rglob("variables.tf"))
TESTED = sorted(f"modules/{p.parents[1].name}" for p in TERRAFORM.glob("modules/*/tests/*.hcl"))


def block(text, kind):
    return re.findall(rf'(?ms)^{kind} "(\w+)" \{{(.*?)^\}}', text)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_small_and_its_variables_are_typed_described_and_validated(module):
    folder = TERRAFORM / module
    code = [p for p in folder.glob("*.tf") if p.name not in ("variables.tf", "outputs.tf", "versions.tf")]
    lines = [
        line for p in code for line in p.read_text().splitlines() if line.strip() and line.strip()[0] != "#"
    ]
    assert len(lines) <= LONGEST_MODULE
    variables = block((folder / "variables.tf").read_text(), "variable")
    assert len(variables) <= 10
    for name, body in variables:
        assert "description" in body, name
        assert re.search(r"^  type\s+=", body, flags=re.MULTILINE), name
        assert "validation {" in body or re.search(r"type\s+= bool", body), name


@needs_terraform
def test_the_code_is_formatted():
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", "-diff", str(TERRAFORM)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@needs_terraform
@pytest.mark.slow
def test_every_root_is_valid(tmp_path):
    workspace = Workspace(tmp_path)
    for root in ["bootstrap", *ROOTS]:
        workspace.init(root)
        workspace.must(root, "validate")


@needs_terraform
@pytest.mark.slow
def test_terraforms_own_tests_pass(tmp_path):
    workspace = Workspace(tmp_path)

    def run(module):
        workspace.must(module, "init")
        done = workspace.must(module, "test")
        return int(re.search(r"(\d+) passed, 0 failed", done.output).group(1))

    with ThreadPoolExecutor(2) as pool:
        passed = sum(pool.map(run, TESTED))
    runs = sum(p.read_text().count("\nrun ") for p in TERRAFORM.glob("modules/*/tests/*.hcl"))
    assert passed == runs >= 15


@needs_terraform
@pytest.mark.slow
@pytest.mark.parametrize(
    ("root", "file", "old", "new", "message"),
    [
        (
            "envs/production/platform",
            None,
            '"10.20.0.0/16"',
            '"10.20.0.0/40"',
            "cidr must be a private /16 such as 10.20.0.0/16",
        ),
        (
            "envs/production/platform",
            None,
            'environment = "production"',
            'environment = "live"',
            "environment must be staging or production",
        ),
        (
            "envs/production/platform",
            "budget.yaml",
            "monthly_jpy: {production: 10000000",
            "monthly_jpy: {production: 0",
            "monthly_jpy must be more than 0 and at most 12,000,000",
        ),
        (
            "envs/production/platform",
            None,
            "nat_gateways = 3",
            "nat_gateways = 1",
            "network.nat_gateways must be 3 in production",
        ),
        (
            "envs/production/data",
            None,
            "retention_days = 2557",
            "retention_days = 365",
            "retention_days must be whole days from 2557 (seven years, the legal minimum",
        ),
        (
            "envs/production/platform",
            None,
            '"sekisho"\n  tags',
            '"sekisho-staging"\n  tags',
            "name must end with -staging in staging and nowhere else",
        ),
        (
            "envs/production/data",
            None,
            '"sekisho"\n  tags',
            '"sekisho-staging"\n  tags',
            "name must end with -staging in staging and nowhere else",
        ),
        (
            "envs/production/platform",
            None,
            'kubernetes_version = "1.34"',
            'kubernetes_version = "1.99"',
            "kubernetes_version must be 1.32, 1.33 or 1.34",
        ),
        (
            "envs/production/platform",
            None,
            'region             = "ap-northeast-1"',
            'region             = "us-west-1"',
            "region must be ap-northeast-1",
        ),
        (
            "envs/production/platform",
            None,
            "var.people",
            "merge(var.people, { page = [] })",
            "people must name somebody in each of",
        ),
        (
            "envs/production/platform",
            None,
            "count = 3",
            "count = 1",
            "system_nodes.count must be 3 or more in production",
        ),
        (
            "envs/staging/data",
            None,
            "= var.account_id\n  retention",
            '= "000000000000"\n  retention',
            "zeros mean that terraform.tfvars does not name one yet",
        ),
    ],
)
def test_wrong_input_is_refused_at_plan_with_the_rule(tmp_path, root, file, old, new, message):
    workspace = Workspace(tmp_path)
    main = workspace.path / "terraform" / (file or f"{root}/main.tf")
    assert old in main.read_text()
    main.write_text(main.read_text().replace(old, new))
    workspace.init(root)
    done = workspace.run(root, "plan", "-lock=false")
    assert done.code == 1
    assert message in done.text
