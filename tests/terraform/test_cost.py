"""The estimate follows the plan, refuses what it does not know, and the gate holds the budgets."""

from __future__ import annotations

import copy
import datetime as dt
import json
import shutil

import pytest
import yaml
from terraform.cost import inputs
from terraform.cost.gate import main, over
from terraform.cost.inputs import HERE, CannotEstimate
from terraform.cost.model import Ageing, Book, estimate, growth
from tests.terraform.tool import needs_terraform, resources

PRICES, USAGE, BUDGET = inputs.prices(), inputs.usage(), inputs.budget()
TEXTS = {name: yaml.safe_load((HERE / f"{name}.yaml").read_text()) for name in ("prices", "usage")}
TEXTS["budget"] = yaml.safe_load((HERE.parent / "budget.yaml").read_text())
BOOK = Book(PRICES, USAGE["staging"])
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
    found = estimate({"p": plan(("aws_nat_gateway", {}), ("aws_nat_gateway", {}))}, PRICES, USAGE)
    assert found.monthly("base") == pytest.approx(2 * 730 * 0.062)


def test_storage_grows_by_the_lifecycle_of_the_plan():
    months = growth(Ageing.read(LIFECYCLE), 1000, 0, BOOK)
    classes = PRICES.s3_gb_month
    assert months[0] == pytest.approx(1000 * classes["STANDARD"])
    assert months[1] == pytest.approx(1000 * (classes["STANDARD"] + classes["STANDARD_IA"]))
    at_rest = classes["STANDARD"] + 2 * classes["STANDARD_IA"] + 9 * classes["GLACIER_IR"]
    assert months[11] == months[83] == pytest.approx(1000 * at_rest)  # after 360 days as much goes as comes


def test_an_object_pays_for_each_transition_once():
    with_objects = growth(Ageing.read(LIFECYCLE), 0, 10, BOOK)
    puts = PRICES.s3_1k_puts
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
                    {"scaling_config": [{"desired_size": 1, "max_size": 2}], "instance_types": ["x9.huge"]},
                )
            ),
            "ec2 has no x9.huge",
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
        estimate({"p": made}, PRICES, USAGE)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("aws_vpc_endpoint", {"vpc_endpoint_type": "GatewayLoadBalancer"}, "GatewayLoadBalancer endpoint"),
        ("aws_vpc_endpoint", {"vpc_endpoint_type": "Interface"}, "over 0 zones"),
        ("aws_cloudwatch_log_group", {"retention_in_days": 0}, "without retention_in_days it grows for ever"),
        ("aws_ssm_parameter", {"tier": "Advanced"}, "only parameters of the tier Standard are free"),
    ],
)
def test_a_kind_that_costs_otherwise_than_is_counted_is_refused(kind, values, message):
    with pytest.raises(CannotEstimate, match=message):
        estimate({"p": plan((kind, values))}, PRICES, USAGE)


def test_a_lifecycle_rule_for_a_part_of_a_bucket_is_refused():
    part = copy.deepcopy(LIFECYCLE)
    part["rule"][0]["filter"] = [{"prefix": "old/", "tag": []}]
    with pytest.raises(CannotEstimate, match="a rule for a part of a bucket"):
        Ageing.read(part)


def test_a_transition_on_day_0_counts_from_the_first_day():
    rule = {"status": "Enabled", "transition": [{"days": 0, "storage_class": "GLACIER_IR"}]}
    assert Ageing.read({"rule": [rule]}).at(0) == "GLACIER_IR"


def test_a_storage_class_without_a_price_is_refused():
    rule = {"status": "Enabled", "transition": [{"days": 30, "storage_class": "INTELLIGENT_TIERING"}]}
    with pytest.raises(CannotEstimate, match="no price of the storage class INTELLIGENT_TIERING"):
        growth(Ageing.read({"rule": [rule]}), 1, 1, BOOK)


def test_a_node_group_costs_at_worst_as_many_nodes_as_it_may_have_with_their_disks():
    group = {"scaling_config": [{"desired_size": 2, "max_size": 3}], "instance_types": ["m7i.large"]}
    disk = {"block_device_mappings": [{"ebs": [{"volume_size": 200}]}]}
    found = estimate({"p": plan(("aws_eks_node_group", group), ("aws_launch_template", disk))}, PRICES, USAGE)
    one = 730 * PRICES.ec2["m7i.large"].hour + 200 * PRICES.gp3_gb_month
    assert (found.monthly("base"), found.monthly("high")) == pytest.approx((2 * one, 3 * one))


def test_a_cluster_that_may_stay_in_extended_support_costs_six_times_as_much():
    def cost(support):
        made = plan(("aws_eks_cluster", {"upgrade_policy": [{"support_type": support}]}))
        return next(x.usd["base"] for x in estimate({"p": made}, PRICES, USAGE).lines if "aws_eks" in x.what)

    assert cost("EXTENDED") == pytest.approx(6 * cost("STANDARD"))


def test_reading_what_has_aged_costs_its_retrieval():
    bucket = {"bucket": "b", "tags": {"DataClass": "dvc"}}
    made = plan(
        ("aws_s3_bucket", bucket), ("aws_s3_bucket_lifecycle_configuration", {"bucket": "b"} | LIFECYCLE)
    )
    (line,) = [x for x in estimate({"p": made}, PRICES, USAGE).lines if x.what == "b, read when cold"]
    assert (
        line.usd["high"]
        == USAGE["staging"].objects["dvc"].cold_gb.high * PRICES.s3_retrieval_gb["GLACIER_IR"]
    )


def test_prices_older_than_a_year_are_said_to_be_and_those_older_than_two_are_refused():
    day = dt.timedelta(days=1)
    assert PRICES.judge_age(PRICES.date + 365 * day) is None
    assert "366 days old and not checked since" in (PRICES.judge_age(PRICES.date + 366 * day) or "")
    with pytest.raises(CannotEstimate, match="731 days old"):
        PRICES.judge_age(PRICES.date + 731 * day)
    with pytest.raises(CannotEstimate, match="in the future"):
        PRICES.judge_age(PRICES.date - day)


@pytest.mark.parametrize(
    ("file", "path", "value", "message"),
    [
        ("prices", ["nat_hour"], float("nan"), "nat_hour"),
        ("prices", ["nat_hour"], float("inf"), "nat_hour"),
        ("prices", ["ec2", "m7i.large", "hour"], -50, "ec2.m7i.large.hour"),
        ("prices", ["nat_hour"], None, "nat_hour"),
        ("prices", ["date"], dt.date(2099, 1, 1), "is in the future"),
        ("usage", ["environments", "staging", "nodes"], [], "nodes"),
        ("usage", ["environments", "staging", "node_disk_gb", "high"], -1, "node_disk_gb.high"),
        ("usage", ["environments", "staging", "node_disk_gb", "high"], 1, "is below base"),
        ("usage", ["environments", "staging", "surprise"], 1, "surprise"),
        ("budget", ["monthly_jpy", "staging"], 0, "monthly_jpy.staging"),
    ],
)
def test_a_figure_that_is_none_cannot_be_estimated_with(tmp_path, capsys, file, path, value, message):
    made = copy.deepcopy(TEXTS[file])
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(made))
    assert main([str(tmp_path), f"--{file}", str(tmp_path / "file.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_a_price_that_is_missing_cannot_be_estimated_with(tmp_path, capsys):
    made = {key: value for key, value in TEXTS["prices"].items() if key != "nat_hour"}
    (tmp_path / "prices.yaml").write_text(yaml.safe_dump(made))
    assert main([str(tmp_path), "--prices", str(tmp_path / "prices.yaml")]) == 2
    assert "nat_hour: Field required" in capsys.readouterr().err


@needs_terraform
def test_a_part_of_the_plans_is_within_any_budget_and_refused(folder, tmp_path, capsys):
    shutil.copy(next(folder.glob("*staging-data.json")), tmp_path)
    assert main([str(tmp_path)]) == 2
    assert "no plan of production/bootstrap" in capsys.readouterr().err


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
    found = estimate(plans, PRICES, USAGE)
    counted = {line.what for line in found.lines}
    for made in plans.values():
        for resource in resources(made["planned_values"]["root_module"]):
            if resource["type"] == "aws_s3_bucket":
                assert f"{resource['values']['bucket']}, stored for 7 years" in counted
    assert found.monthly("high") > found.monthly("base") > 10_000  # dollars


@needs_terraform
def test_a_dearer_plan_breaks_the_monthly_budget_and_says_by_how_much(folder, tmp_path, capsys):
    usage = copy.deepcopy(TEXTS["usage"])
    usage["environments"]["production"]["nodes"].append(
        {
            "pool": "training-gpu",
            "for": "40 GPU machines day and night",
            "instance": "g6.12xlarge",
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


def test_a_budget_is_judged_with_the_tolerance_of_the_prices():
    found = estimate({"p": plan(("aws_nat_gateway", {}))}, PRICES, USAGE)
    month = found.monthly("high") * BUDGET.jpy_per_usd

    def broken(limit):
        shares = {"staging": limit, "production": 1e9}
        return over(found, BUDGET.model_copy(update={"monthly_jpy": shares}), PRICES)

    assert broken(month * 1.06) == []
    assert "over the budget of staging" in broken(month * 1.04)[0]


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


@needs_terraform
def test_a_branch_is_judged_even_where_its_base_cannot_be_estimated(folder, tmp_path, capsys):
    shutil.copy(next(folder.glob("*staging-data.json")), tmp_path)
    assert main([str(folder), "--against", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "The change cannot be shown, since the base cannot be estimated: no plan of" in said
    assert "of ¥12,000,000 a month" in said


def test_a_folder_without_plans_or_with_something_else_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "holds no plan" in capsys.readouterr().err
    (tmp_path / "x.json").write_text("{}")
    assert main([str(tmp_path)]) == 2
    assert "is no plan of" in capsys.readouterr().err
