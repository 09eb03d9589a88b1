"""What a plan costs: dollars a month for every resource, and storage over seven years.

Quantities come from the plan (how many, how large, which lifecycle), what it cannot know from ``usage.yaml``,
prices from ``prices.yaml``. A resource type or an instance type not known raises :class:`CannotEstimate`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

HERE = Path(__file__).parent
Case = Literal["base", "high"]
CASES: tuple[Case, ...] = ("base", "high")
YEARS = 7
DAYS_PER_MONTH = 30
LONGEST_PRICE_AGE_DAYS = 366
ZONES = 3

# Types that cost nothing by themselves: what passes through them is counted elsewhere.
FREE = {
    "aws_budgets_budget", "aws_ce_anomaly_monitor", "aws_ce_anomaly_subscription",
    "aws_ce_cost_allocation_tag", "aws_cloudwatch_event_target", "aws_cloudwatch_log_subscription_filter",
    "aws_default_security_group", "aws_ebs_encryption_by_default", "aws_ec2_tag", "aws_efs_access_point",
    "aws_efs_mount_target", "aws_eks_access_entry",
    "aws_eks_access_policy_association", "aws_eks_addon", "aws_eks_pod_identity_association",
    "aws_iam_openid_connect_provider", "aws_iam_policy", "aws_iam_role", "aws_iam_role_policy",
    "aws_iam_role_policy_attachment", "aws_internet_gateway", "aws_kms_alias", "aws_launch_template",
    "aws_route", "aws_route_table", "aws_route_table_association",
    "aws_s3_bucket_lifecycle_configuration", "aws_s3_bucket_object_lock_configuration",
    "aws_s3_bucket_ownership_controls", "aws_s3_bucket_policy", "aws_s3_bucket_public_access_block",
    "aws_s3_bucket_server_side_encryption_configuration", "aws_s3_bucket_versioning",
    "aws_security_group", "aws_sns_topic", "aws_sns_topic_policy", "aws_sns_topic_subscription",
    "aws_sqs_queue_policy", "aws_ssm_parameter", "aws_subnet", "aws_vpc",
    "aws_vpc_security_group_ingress_rule",
}  # fmt: skip


class CannotEstimate(ValueError):
    """The plan, the prices or the usage lack something that the estimate needs."""


@dataclass(frozen=True)
class Line:
    """One cost: dollars a month by case, and whether it is storage that grows."""

    environment: str
    what: str
    kind: str
    usd: dict[Case, float]


@dataclass
class Estimate:
    """Lines of the running platform; by case, the dollars that storage costs in each of seven years."""

    lines: list[Line] = field(default_factory=list)
    storage: dict[Case, list[float]] = field(default_factory=lambda: {case: [0.0] * YEARS for case in CASES})

    def monthly(self, case: Case, environment: str | None = None) -> float:
        """Dollars a month, storage as in the seventh year."""
        return sum(line.usd[case] for line in self.lines if environment in (None, line.environment))


def load(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CannotEstimate(f"{path}: cannot be read: {error}") from error
    return found


def resources(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every managed resource of a plan's module, children included."""
    yield from (r for r in module.get("resources", []) if r["mode"] == "managed")
    for child in module.get("child_modules", []):
        yield from resources(child)


def environment_of(plan: dict[str, Any], name: str) -> str:
    """The ``Environment`` tag that the plan's resources carry."""
    found = {
        str(tags["Environment"])
        for r in resources(plan["planned_values"]["root_module"])
        if (tags := r["values"].get("tags_all")) and "Environment" in tags
    }
    if len(found) != 1:
        raise CannotEstimate(
            f"{name}: its resources must carry one tag Environment, not {sorted(found) or 'none'}"
        )
    return found.pop()


@dataclass(frozen=True)
class Book:
    """Prices and one environment's usage."""

    prices: dict[str, Any]
    usage: dict[str, Any]

    def ec2(self, instance: str) -> float:
        if instance not in self.prices["ec2_hour"]:
            raise CannotEstimate(
                f"prices.yaml: ec2_hour has no {instance}: add its list price, with the date"
            )
        return float(self.prices["ec2_hour"][instance])

    def each(self, amount: Callable[[Case], float]) -> dict[Case, float]:
        return {case: amount(case) for case in CASES}


def priced(resource: dict[str, Any], book: Book) -> dict[Case, float] | None:
    """Dollars a month of one resource; None for a free one. CannotEstimate for an unknown type."""
    p, u, v = book.prices, book.usage, resource["values"]
    hours = p["hours_per_month"]
    fixed: dict[str, Callable[[], float]] = {
        "aws_eks_cluster": lambda: hours * p["eks_cluster_hour"],
        "aws_nat_gateway": lambda: hours * p["nat_hour"],
        "aws_eip": lambda: hours * p["public_ipv4_hour"],
        "aws_kms_key": lambda: p["kms_key_month"],
        "aws_cloudwatch_metric_alarm": lambda: p["alarm_month"],
        "aws_cloudwatch_event_rule": lambda: 0.0,
        "aws_vpc_endpoint": lambda: (
            ZONES * hours * p["endpoint_zone_hour"] if v.get("vpc_endpoint_type") == "Interface" else 0.0
        ),
        "aws_eks_node_group": lambda: node_group(v, book),
    }
    used: dict[str, Callable[[Case], float]] = {
        "aws_flow_log": lambda case: u["traffic_gb"]["flow_logs"][case] * p["flow_logs_to_s3_gb"],
        "aws_cloudwatch_log_group": lambda case: logs(v, book, case),
        "aws_kinesis_firehose_delivery_stream": lambda case: u["logs_gb"][case] * p["firehose_gb"],
        "aws_prometheus_workspace": lambda case: (
            u["prometheus_million_samples"][case] * p["prometheus_million_samples"]
        ),
        "aws_sqs_queue": lambda case: u["requests_million"][case] * (p["sqs_million"] + p["events_million"]),
        "aws_s3_bucket": lambda case: requests(v, book, case),
        "aws_s3_bucket_inventory": lambda case: p["s3_inventory_million"] * 100,
        "aws_s3_bucket_replication_configuration": lambda case: (
            u["objects"]["audit"]["gb"][case] * p["between_regions_gb"]
        ),
    }
    kind = resource["type"]
    if kind in FREE:
        return None
    if kind in fixed:
        amount = fixed[kind]()
        return book.each(lambda case: amount)
    if kind in used:
        return book.each(used[kind])
    raise CannotEstimate(
        f"{resource['address']}: no price is known for {kind}: add it to terraform/cost/model.py, "
        "to FREE if it costs nothing by itself"
    )


def node_group(values: dict[str, Any], book: Book) -> float:
    """Nodes that are always there, at the dearest type that may be chosen."""
    count = values["scaling_config"][0]["desired_size"]
    hour = max(book.ec2(instance) for instance in values["instance_types"])
    return float(count * (book.prices["hours_per_month"] * hour + 50 * book.prices["gp3_gb_month"]))


def logs(values: dict[str, Any], book: Book, case: Case) -> float:
    """What comes in, and what is kept for the group's retention."""
    months = values["retention_in_days"] / DAYS_PER_MONTH
    gb = book.usage["logs_gb"][case]
    return float(gb * (book.prices["logs_ingest_gb"] + months * book.prices["logs_keep_gb_month"]))


def class_of(values: dict[str, Any], book: Book) -> dict[str, Any]:
    """Usage of the bucket's class, by its tag DataClass."""
    name = (values.get("tags") or {}).get("DataClass")
    if name not in book.usage["objects"]:
        raise CannotEstimate(
            f"usage.yaml: objects has no class {name!r}, which bucket {values['bucket']} is tagged with"
        )
    found: dict[str, Any] = book.usage["objects"][name]
    return found


def requests(values: dict[str, Any], book: Book, case: Case) -> float:
    """Writing and reading objects; their later transitions are counted with the storage."""
    used = class_of(values, book)
    puts = used["thousands"][case] * book.prices["s3_1k_puts"]["STANDARD"]
    return float(puts + used["reads"][case] * book.prices["s3_1k_gets"])


@dataclass(frozen=True)
class Ageing:
    """A bucket's lifecycle: the class from each age on, in days, and the age of deletion (None: kept)."""

    steps: list[tuple[int, str]]
    expires: int | None

    @classmethod
    def read(cls, values: dict[str, Any] | None) -> Ageing:
        steps, expires = [(0, "STANDARD")], None
        for rule in (values or {}).get("rule", []):
            if rule["status"] == "Enabled":
                steps += [(t["days"], t["storage_class"]) for t in rule.get("transition") or []]
                expires = next((e["days"] for e in rule.get("expiration") or [] if e.get("days")), expires)
        return cls(sorted(steps), expires)

    def at(self, days: int) -> str | None:
        if self.expires is not None and days >= self.expires:
            return None
        return [name for age, name in self.steps if age <= days][-1]


def growth(ageing: Ageing, gb: float, thousands: float, prices: dict[str, Any]) -> list[float]:
    """Dollars of storage in each of 84 months when every month adds as much: each month's data ages alone."""
    by_age = []
    for months in range(YEARS * 12):
        name, before = (
            ageing.at(months * DAYS_PER_MONTH),
            ageing.at((months - 1) * DAYS_PER_MONTH) if months else None,
        )
        cost = gb * prices["s3_gb_month"][name] if name else 0.0
        if name and months and name != before:
            cost += thousands * prices["s3_1k_puts"][name]
        by_age.append(cost)
    return [sum(by_age[: month + 1]) for month in range(YEARS * 12)]


def usage_lines(environment: str, book: Book) -> Iterator[Line]:
    """What no resource of the plan stands for: Karpenter's nodes and traffic."""
    p, u = book.prices, book.usage
    for pool in u["nodes"]:
        price, hours, factor = book.ec2(pool["instance"]), pool["hours"], pool["price_factor"]
        usd: dict[Case, float] = {case: hours[case] * factor[case] * price for case in CASES}
        yield Line(environment, f"{pool['for']} ({pool['instance']})", "nodes", usd)
    prices = {
        "nat": p["nat_gb"],
        "endpoints": p["endpoint_gb"],
        "between_zones": p["between_zones_gb"],
        "internet": p["internet_out_gb"],
    }
    for way, price in prices.items():
        usd = {case: u["traffic_gb"][way][case] * price for case in CASES}
        yield Line(environment, f"traffic: {way.replace('_', ' ')}", "network", usd)
    usd = {case: u["node_disk_gb"][case] * p["gp3_gb_month"] for case in CASES}
    yield Line(environment, "disks of nodes", "nodes", usd)
    usd = {case: u["kms_10k_requests"][case] * p["kms_10k_requests"] for case in CASES}
    yield Line(environment, "KMS requests", "keys", usd)


KINDS = {
    "aws_eks_cluster": "cluster",
    "aws_eks_node_group": "nodes",
    "aws_nat_gateway": "network",
    "aws_eip": "network",
    "aws_vpc_endpoint": "network",
    "aws_flow_log": "network",
    "aws_kms_key": "keys",
}


def estimate(
    plans: dict[str, dict[str, Any]], prices: dict[str, Any], usage: dict[str, Any], today: dt.date
) -> Estimate:
    """Estimate plans (name to Terraform's plan JSON) of any number of environments.

    Raises :class:`CannotEstimate` for an unknown type, old prices, an environment without usage.
    """
    if (age := (today - prices["date"]).days) > LONGEST_PRICE_AGE_DAYS:
        raise CannotEstimate(f"prices.yaml is {age} days old: check the prices and set date")
    total = Estimate()
    for name, plan in plans.items():
        environment = environment_of(plan, name)
        if environment not in usage["environments"]:
            raise CannotEstimate(
                f"usage.yaml: environments has no {environment}, which {name} is tagged with"
            )
        book = Book(prices, usage["environments"][environment])
        found = list(resources(plan["planned_values"]["root_module"]))
        lifecycles = {
            r["values"]["bucket"]: r["values"]
            for r in found
            if r["type"] == "aws_s3_bucket_lifecycle_configuration"
        }
        for resource in found:
            usd = priced(resource, book)
            kind = resource["type"]
            if usd is not None:
                total.lines.append(
                    Line(
                        environment,
                        resource["address"],
                        KINDS.get(kind, "storage" if "_s3_" in kind else "logs and metrics"),
                        usd,
                    )
                )
            if kind == "aws_s3_bucket":
                add_storage(total, environment, resource["values"], lifecycles, book)
        if any(r["type"] == "aws_eks_cluster" for r in found):
            total.lines += usage_lines(environment, book)
    return total


def add_storage(
    total: Estimate, environment: str, values: dict[str, Any], lifecycles: dict[str, Any], book: Book
) -> None:
    """A bucket's growth: into the years, and as one line with the last month's cost."""
    used, ageing = class_of(values, book), Ageing.read(lifecycles.get(values["bucket"]))
    last: dict[Case, float] = {}
    for case in CASES:
        months = growth(ageing, used["gb"][case], used["thousands"][case], book.prices)
        for year in range(YEARS):
            total.storage[case][year] += sum(months[year * 12 : (year + 1) * 12])
        last[case] = months[-1]
    total.lines.append(Line(environment, f"{values['bucket']}, stored for {YEARS} years", "storage", last))
