"""What a plan costs: dollars a month for every resource, and storage over seven years.

Quantities come from the plan (how many, how large, which lifecycle), what it cannot know from ``usage.yaml``,
prices from ``prices.yaml``. What is not known, or counted in a way not known, raises :class:`CannotEstimate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from terraform.cost.inputs import CannotEstimate, Objects, Prices, Range, Usage, tags_of

Case = Literal["base", "high"]
CASES: tuple[Case, ...] = ("base", "high")
YEARS = 7
DAYS_PER_MONTH = 30

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
    "aws_sqs_queue_policy", "aws_subnet", "aws_vpc",
    "aws_vpc_security_group_ingress_rule",
}  # fmt: skip


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
    stacks: dict[str, set[str]] = field(default_factory=dict)  # planned, by environment
    storage: dict[Case, list[float]] = field(default_factory=lambda: {case: [0.0] * YEARS for case in CASES})

    def monthly(self, case: Case, environment: str | None = None) -> float:
        """Dollars a month, storage as in the seventh year."""
        return sum(line.usd[case] for line in self.lines if environment in (None, line.environment))


def resources(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every managed resource of a plan's module, children included."""
    yield from (r for r in module.get("resources", []) if r["mode"] == "managed")
    for child in module.get("child_modules", []):
        yield from resources(child)


@dataclass(frozen=True)
class Book:
    """Prices, one environment's usage, and what one resource of the plan must know of the others."""

    prices: Prices
    usage: Usage
    zones: int = 0
    disk_gb: float = 0

    @classmethod
    def of(cls, prices: Prices, usage: Usage, found: list[dict[str, Any]]) -> Book:
        subnets = [r["values"] for r in found if r["type"] == "aws_subnet"]
        disks = [
            sum(d["ebs"][0]["volume_size"] for d in r["values"]["block_device_mappings"])
            for r in found
            if r["type"] == "aws_launch_template"
        ]
        return cls(prices, usage, len({s["availability_zone"] for s in subnets}), max(disks, default=0))

    def ec2(self, instance: str) -> float:
        if instance not in self.prices.ec2:
            raise CannotEstimate(f"prices.yaml: ec2 has no {instance}: add its list price, with the date")
        return self.prices.ec2[instance].hour

    def of_class(self, prices: dict[str, float], storage: str) -> float:
        """A price by storage class. CannotEstimate for a class that is not priced."""
        if storage not in prices:
            raise CannotEstimate(f"prices.yaml: no price of the storage class {storage}")
        return prices[storage]


def at(case: Case, amount: Range) -> float:
    return amount.high if case == "high" else amount.base


def each(amount: Callable[[Case], float]) -> dict[Case, float]:
    return {case: amount(case) for case in CASES}


def priced(resource: dict[str, Any], book: Book) -> dict[Case, float] | None:
    """Dollars a month of one resource; None for a free one. CannotEstimate for an unknown type."""
    p, u, v, where = book.prices, book.usage, resource["values"], resource["address"]
    hours = p.hours_per_month
    fixed: dict[str, Callable[[], float]] = {
        "aws_eks_cluster": lambda: (
            hours * (p.eks_cluster_hour if supported(v) else p.eks_extended_support_hour)
        ),
        "aws_nat_gateway": lambda: hours * p.nat_hour,
        "aws_eip": lambda: hours * p.public_ipv4_hour,
        "aws_kms_key": lambda: p.kms_key_month,
        "aws_cloudwatch_metric_alarm": lambda: p.alarm_month,
        "aws_cloudwatch_event_rule": lambda: 0.0,
        "aws_vpc_endpoint": lambda: endpoint(v, where, book),
        "aws_ssm_parameter": lambda: parameter(v, where),
    }
    used: dict[str, Callable[[Case], float]] = {
        "aws_eks_node_group": lambda case: node_group(v, book, case),
        "aws_flow_log": lambda case: at(case, u.traffic_gb.flow_logs) * p.flow_logs_to_s3_gb,
        "aws_cloudwatch_log_group": lambda case: logs(v, where, book, case),
        "aws_kinesis_firehose_delivery_stream": lambda case: at(case, u.logs_gb) * p.firehose_gb,
        "aws_prometheus_workspace": lambda case: (
            at(case, u.prometheus_million_samples) * p.prometheus_million_samples
            + at(case, u.prometheus_stored_gb) * p.prometheus_gb_month
            + at(case, u.prometheus_billion_queried) * p.prometheus_billion_queried
        ),
        "aws_sqs_queue": lambda case: at(case, u.requests_million) * (p.sqs_million + p.events_million),
        "aws_efs_file_system": lambda case: (
            at(case, u.files_gb) * p.efs_gb_month + at(case, u.files_written_gb) * p.efs_written_gb
        ),
        "aws_s3_bucket": lambda case: requests(v, book, case),
        "aws_s3_bucket_inventory": lambda case: p.s3_inventory_million * 100,
        "aws_s3_bucket_replication_configuration": lambda case: (
            at(case, u.objects["audit"].gb) * p.between_regions_gb + p.s3_replication_metric_month
        ),
    }
    kind = resource["type"]
    if kind in FREE:
        return None
    if kind in fixed:
        amount = fixed[kind]()
        return each(lambda case: amount)
    if kind in used:
        return each(used[kind])
    raise CannotEstimate(
        f"{where}: no price is known for {kind}: add it to terraform/cost/model.py, "
        "to FREE if it costs nothing by itself"
    )


def supported(values: dict[str, Any]) -> bool:
    """Whether the cluster leaves a version before extended support begins to be charged."""
    return any(policy["support_type"] == "STANDARD" for policy in values.get("upgrade_policy") or [])


def endpoint(values: dict[str, Any], where: str, book: Book) -> float:
    kind = values.get("vpc_endpoint_type") or "Gateway"
    if kind == "Gateway":
        return 0.0
    if kind != "Interface" or not book.zones:
        raise CannotEstimate(f"{where}: a {kind} endpoint over {book.zones} zones is not priced here")
    return book.zones * book.prices.hours_per_month * book.prices.endpoint_zone_hour


def parameter(values: dict[str, Any], where: str) -> float:
    if values.get("tier") != "Standard":
        raise CannotEstimate(f"{where}: only parameters of the tier Standard are free")
    return 0.0


def node_group(values: dict[str, Any], book: Book, case: Case) -> float:
    """Nodes that are always there, at worst as many as may be, at the dearest type that may be chosen."""
    scaling = values["scaling_config"][0]
    count = scaling["max_size"] if case == "high" else scaling["desired_size"]
    hour = max(book.ec2(instance) for instance in values["instance_types"])
    return float(count * (book.prices.hours_per_month * hour + book.disk_gb * book.prices.gp3_gb_month))


def logs(values: dict[str, Any], where: str, book: Book, case: Case) -> float:
    """What comes in, and what is kept for the group's retention."""
    if not values.get("retention_in_days"):
        raise CannotEstimate(f"{where}: without retention_in_days it grows for ever, and so does its cost")
    months = values["retention_in_days"] / DAYS_PER_MONTH
    gb = at(case, book.usage.logs_gb)
    return float(gb * (book.prices.logs_ingest_gb + months * book.prices.logs_keep_gb_month))


def class_of(values: dict[str, Any], book: Book) -> Objects:
    """Usage of the bucket's class, by its tag DataClass."""
    name = (values.get("tags") or {}).get("DataClass")
    if name not in book.usage.objects:
        raise CannotEstimate(
            f"usage.yaml: objects has no class {name!r}, which bucket {values['bucket']} is tagged with"
        )
    return book.usage.objects[name]


def requests(values: dict[str, Any], book: Book, case: Case) -> float:
    """Writing and reading objects; their later transitions are counted with the storage."""
    used = class_of(values, book)
    puts = at(case, used.thousands) * book.of_class(book.prices.s3_1k_puts, "STANDARD")
    return float(puts + at(case, used.reads) * book.prices.s3_1k_gets)


@dataclass(frozen=True)
class Ageing:
    """A bucket's lifecycle: the class from each age on, in days, and the age of deletion (None: kept)."""

    steps: list[tuple[int, str]]
    expires: int | None

    @classmethod
    def read(cls, values: dict[str, Any] | None) -> Ageing:
        steps, expires = [(0, "STANDARD")], None
        for rule in (values or {}).get("rule", []):
            if any(part for chosen in rule.get("filter") or [] for part in chosen.values()):
                raise CannotEstimate(
                    f"lifecycle rule {rule.get('id')}: a rule for a part of a bucket is not counted"
                )
            if rule["status"] == "Enabled":
                steps += [(t["days"], t["storage_class"]) for t in rule.get("transition") or []]
                expires = next((e["days"] for e in rule.get("expiration") or [] if e.get("days")), expires)
        return cls(sorted(steps, key=lambda step: step[0]), expires)  # stable: on day 0 the rule wins

    def at(self, days: int) -> str | None:
        if self.expires is not None and days >= self.expires:
            return None
        return [name for age, name in self.steps if age <= days][-1]


def growth(ageing: Ageing, gb: float, thousands: float, book: Book) -> list[float]:
    """Dollars of storage in each of 84 months when every month adds as much: each month's data ages alone."""
    by_age = []
    for months in range(YEARS * 12):
        name, before = (
            ageing.at(months * DAYS_PER_MONTH),
            ageing.at((months - 1) * DAYS_PER_MONTH) if months else None,
        )
        cost = gb * book.of_class(book.prices.s3_gb_month, name) if name else 0.0
        if name and months and name != before:
            cost += thousands * book.of_class(book.prices.s3_1k_puts, name)
        by_age.append(cost)
    return [sum(by_age[: month + 1]) for month in range(YEARS * 12)]


def usage_lines(environment: str, book: Book) -> Iterator[Line]:
    """What no resource of the plan stands for: Karpenter's nodes and traffic."""
    p, u = book.prices, book.usage

    def line(what: str, kind: str, amount: Range, price: float) -> Line:
        return Line(environment, what, kind, each(lambda case: at(case, amount) * price))

    for pool in u.nodes:
        price, hours, factor = book.ec2(pool.instance), pool.hours, pool.price_factor
        usd: dict[Case, float] = {case: at(case, hours) * at(case, factor) * price for case in CASES}
        yield Line(environment, f"{pool.purpose} ({pool.instance})", "nodes", usd)
    for way, price in {
        "nat": p.nat_gb,
        "endpoints": p.endpoint_gb,
        "between_zones": p.between_zones_gb,
        "internet": p.internet_out_gb,
    }.items():
        yield line(f"traffic: {way.replace('_', ' ')}", "network", getattr(u.traffic_gb, way), price)
    balancer = p.hours_per_month * (p.load_balancer_hour + p.load_balancer_unit_hour)
    yield line("load balancers", "network", u.load_balancers, balancer)
    yield line("disks of nodes", "nodes", u.node_disk_gb, p.gp3_gb_month)
    yield line("KMS requests", "keys", u.kms_10k_requests, p.kms_10k_requests)


KINDS = {
    "aws_eks_cluster": "cluster",
    "aws_eks_node_group": "nodes",
    "aws_efs_file_system": "storage",
    "aws_nat_gateway": "network",
    "aws_eip": "network",
    "aws_vpc_endpoint": "network",
    "aws_flow_log": "network",
    "aws_kms_key": "keys",
}


def estimate(plans: dict[str, dict[str, Any]], prices: Prices, usage: dict[str, Usage]) -> Estimate:
    """Estimate plans (name to Terraform's plan JSON) of any number of environments.

    Raises :class:`CannotEstimate` for an unknown type or an environment without usage.
    """
    total = Estimate()
    for name, plan in plans.items():
        found = list(resources(plan["planned_values"]["root_module"]))
        environment, stack = tags_of(found, name)
        if environment not in usage:
            raise CannotEstimate(
                f"usage.yaml: environments has no {environment}, which {name} is tagged with"
            )
        total.stacks.setdefault(environment, set()).add(stack)
        book = Book.of(prices, usage[environment], found)
        lifecycles = {
            r["values"]["bucket"]: r["values"]
            for r in found
            if r["type"] == "aws_s3_bucket_lifecycle_configuration"
        }
        for resource in found:
            usd, kind = priced(resource, book), resource["type"]
            if usd is not None:
                of = KINDS.get(kind, "storage" if "_s3_" in kind else "logs and metrics")
                total.lines.append(Line(environment, resource["address"], of, usd))
            if kind == "aws_s3_bucket":
                add_storage(total, environment, resource["values"], lifecycles, book)
        if any(r["type"] == "aws_eks_cluster" for r in found):
            total.lines += usage_lines(environment, book)
    return total


def add_storage(
    total: Estimate, environment: str, values: dict[str, Any], lifecycles: dict[str, Any], book: Book
) -> None:
    """A bucket's growth and what reading its aged part costs: into the years, and as a month's lines."""
    used, ageing = class_of(values, book), Ageing.read(lifecycles.get(values["bucket"]))
    cold = [step for _, step in ageing.steps if step != "STANDARD"]
    dearest = max((book.of_class(book.prices.s3_retrieval_gb, step) for step in cold), default=0.0)
    stored: dict[Case, float] = {}
    retrieved: dict[Case, float] = {}
    for case in CASES:
        months = growth(ageing, at(case, used.gb), at(case, used.thousands), book)
        stored[case], retrieved[case] = months[-1], at(case, used.cold_gb) * dearest
        for year in range(YEARS):
            total.storage[case][year] += sum(months[year * 12 : (year + 1) * 12]) + 12 * retrieved[case]
    total.lines.append(Line(environment, f"{values['bucket']}, stored for {YEARS} years", "storage", stored))
    if dearest:
        total.lines.append(Line(environment, f"{values['bucket']}, read when cold", "storage", retrieved))
