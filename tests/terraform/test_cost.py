"""The estimate follows the plan, refuses what it does not know, and the gate holds the budgets."""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
import shutil

import pytest
import yaml
from terraform.cost.gate import main
from terraform.cost.model import HERE, Ageing, CannotEstimate, estimate, growth, load
from terraform.offline import ROOTS
from tests.terraform.tool import needs_terraform, resources

PRICES, USAGE = load(HERE / "prices.yaml"), load(HERE / "usage.yaml")
TODAY = PRICES["date"] + dt.timedelta(days=1)
LIFECYCLE = {
    "rule": [
        {
            "status": "Enabled",
            "transition": [
                {"days": 30, "storage_class": "STANDARD_IA"},
                {"days": 90, "storage_class": "GLACIER_IR"},
            ],
            "expiration": [{"days": 360}],
        }
    ]
}


def plan(*found, environment="staging"):
    """A plan with these resources: (type, values)."""
    tags = {"tags_all": {"Environment": environment}}
    made = [
        {"address": f"{kind}.r{n}", "type": kind, "mode": "managed", "values": values | tags}
        for n, (kind, values) in enumerate(found)
    ]
    return {"planned_values": {"root_module": {"resources": made}}}


def test_a_resource_costs_its_list_price_by_the_hour():
    found = estimate({"p": plan(("aws_nat_gateway", {}), ("aws_nat_gateway", {}))}, PRICES, USAGE, TODAY)
    assert found.monthly("base") == pytest.approx(2 * 730 * 0.062)


def test_storage_grows_by_the_lifecycle_of_the_plan():
    months = growth(Ageing.read(LIFECYCLE), 1000, 0, PRICES)
    classes = PRICES["s3_gb_month"]
    assert months[0] == pytest.approx(1000 * classes["STANDARD"])
    assert months[1] == pytest.approx(1000 * (classes["STANDARD"] + classes["STANDARD_IA"]))
    at_rest = classes["STANDARD"] + 2 * classes["STANDARD_IA"] + 9 * classes["GLACIER_IR"]
    assert months[11] == months[83] == pytest.approx(1000 * at_rest)  # after 360 days as much goes as comes


def test_an_object_pays_for_each_transition_once():
    with_objects = growth(Ageing.read(LIFECYCLE), 0, 10, PRICES)
    puts = PRICES["s3_1k_puts"]
    assert with_objects[0] == 0
    assert with_objects[83] == pytest.approx(10 * (puts["STANDARD_IA"] + puts["GLACIER_IR"]))


def test_a_disabled_rule_moves_nothing():
    off = copy.deepcopy(LIFECYCLE)
    off["rule"][0]["status"] = "Disabled"
    assert Ageing.read(off).at(400) == "STANDARD"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (plan(("aws_redshift_cluster", {})), "aws_redshift_cluster.r0: no price is known"),
        (
            plan(
                (
                    "aws_eks_node_group",
                    {"scaling_config": [{"desired_size": 1}], "instance_types": ["x9.huge"]},
                )
            ),
            "ec2_hour has no x9.huge",
        ),
        (plan(("aws_nat_gateway", {}), environment="lab"), "environments has no lab"),
        (
            plan(("aws_s3_bucket", {"bucket": "b", "tags": {"DataClass": "odd"}})),
            "no class 'odd', which bucket b",
        ),
        ({"planned_values": {"root_module": {}}}, "must carry one tag Environment"),
    ],
)
def test_what_is_not_known_is_not_estimated(made, message):
    with pytest.raises(CannotEstimate, match=message):
        estimate({"p": made}, PRICES, USAGE, TODAY)


def test_prices_older_than_a_year_are_refused():
    with pytest.raises(CannotEstimate, match=r"prices.yaml is \d+ days old"):
        estimate({"p": plan(("aws_nat_gateway", {}))}, PRICES, USAGE, PRICES["date"] + dt.timedelta(days=400))


@pytest.fixture(scope="module")
def folder(plans, tmp_path_factory):
    made = tmp_path_factory.mktemp("plans")
    for name, content in plans.items():
        (made / f"{name.replace('/', '-')}.json").write_text(json.dumps(content))
    return made


@needs_terraform
def test_the_committed_platform_is_within_its_budgets(folder, capsys):
    assert main([str(folder)]) == 0
    assert "of ¥12,000,000 a month" in capsys.readouterr().out


@needs_terraform
def test_every_bucket_and_every_kind_of_the_platform_is_counted(plans):
    found = estimate(plans, PRICES, USAGE, TODAY)
    counted = {line.what for line in found.lines}
    for made in plans.values():
        for resource in resources(made["planned_values"]["root_module"]):
            if resource["type"] == "aws_s3_bucket":
                assert f"{resource['values']['bucket']}, stored for 7 years" in counted
    assert found.monthly("high") > found.monthly("base") > 10_000  # dollars


@needs_terraform
def test_a_dearer_plan_breaks_the_monthly_budget_and_says_by_how_much(folder, tmp_path, capsys):
    usage = copy.deepcopy(USAGE)
    usage["environments"]["production"]["nodes"].append(
        {
            "for": "40 GPU machines day and night",
            "instance": "p4d.24xlarge",
            "hours": {"base": 0, "high": 29200},
            "price_factor": {"base": 1, "high": 1},
        }
    )
    (tmp_path / "usage.yaml").write_text(yaml.safe_dump(usage))
    assert main([str(folder), "--usage", str(tmp_path / "usage.yaml")]) == 1
    assert "a month at worst, over the budget of ¥12,000,000" in capsys.readouterr().err


@needs_terraform
def test_without_lifecycle_rules_the_storage_budget_breaks(folder, tmp_path, capsys):
    for path in folder.glob("*.json"):
        made = json.loads(path.read_text())
        for resource in resources(made["planned_values"]["root_module"]):
            if resource["type"] == "aws_s3_bucket_lifecycle_configuration":
                for rule in resource["values"]["rule"]:
                    rule["status"] = "Disabled"
        (tmp_path / path.name).write_text(json.dumps(made))
    assert main([str(tmp_path)]) == 1
    assert "storage ¥" in capsys.readouterr().err


@needs_terraform
def test_a_pull_request_shows_what_changes(folder, tmp_path, capsys):
    before = tmp_path / "before"
    shutil.copytree(folder, before)
    path = next(before.glob("*production-platform.json"))
    made = json.loads(path.read_text())

    def drop(module):
        module["resources"] = [r for r in module.get("resources", []) if r["type"] != "aws_nat_gateway"]
        for child in module.get("child_modules", []):
            drop(child)

    drop(made["planned_values"]["root_module"])
    path.write_text(json.dumps(made))
    assert main([str(folder), "--against", str(before), "--out", str(tmp_path / "cost.md")]) == 0
    text = (tmp_path / "cost.md").read_text()
    assert text.count("aws_nat_gateway") == 3
    assert "| both | **total** | **+136** | **+136** |" in text
    assert main([str(folder), "--against", str(folder)]) == 0
    assert "No change in cost." in capsys.readouterr().out


def test_a_folder_without_plans_or_with_something_else_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "holds no plan" in capsys.readouterr().err
    (tmp_path / "x.json").write_text("{}")
    assert main([str(tmp_path)]) == 2
    assert "is no plan of" in capsys.readouterr().err


def test_the_shares_of_the_environments_make_up_the_budgets_of_the_estimate():
    texts = [(HERE.parent / root / "main.tf").read_text() for root in ROOTS if root.endswith("platform")]
    for key in ("monthly_jpy", "storage_yearly_jpy"):
        shares = [int(re.search(rf"\b{key}\s*=\s*(\d+)", text).group(1)) for text in texts]
        assert sum(shares) == USAGE["budget"][key]
    rates = {re.search(r"jpy_per_usd\s*=\s*(\d+)", text).group(1) for text in texts}
    assert rates == {str(USAGE["budget"]["jpy_per_usd"])}
