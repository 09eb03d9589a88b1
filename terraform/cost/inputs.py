"""What the estimate is made of, checked before anything is added up: prices, usage, budgets, which plans.

A figure that is missing, not finite, negative, or below its own base case raises :class:`CannotEstimate`: a
gate that took it would pass.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

HERE = Path(__file__).parent
CLASSES = {"dvc", "releases", "predictions", "audit", "logs", "state"}
STACKS = {"bootstrap", "data", "platform"}
WARN_AGE_DAYS, REFUSE_AGE_DAYS = 366, 731


class CannotEstimate(ValueError):
    """The plan, the prices or the usage lack something that the estimate needs."""


Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(Checked):
    """An amount in a month, as expected and at worst."""

    base: Amount
    high: Amount

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.high < self.base:
            raise ValueError(f"high ({self.high:g}) is below base ({self.base:g})")
        return self


class Instance(Checked):
    """An instance type: dollars an hour on demand, and what NodePools' limits count."""

    hour: Price
    vcpu: Annotated[int, Field(gt=0)]
    gpus: Annotated[int, Field(ge=0)] = 0


class Prices(Checked):
    """``prices.yaml``: dollars."""

    date: dt.date
    basis: str
    tolerance: Annotated[float, Field(ge=0, lt=1)]
    hours_per_month: Price
    ec2: dict[str, Instance]
    gp3_gb_month: Price
    eks_cluster_hour: Price
    eks_extended_support_hour: Price
    nat_hour: Price
    nat_gb: Price
    public_ipv4_hour: Price
    endpoint_zone_hour: Price
    endpoint_gb: Price
    load_balancer_hour: Price
    load_balancer_unit_hour: Price
    between_zones_gb: Price
    internet_out_gb: Price
    between_regions_gb: Price
    kms_key_month: Price
    kms_10k_requests: Price
    alarm_month: Price
    logs_ingest_gb: Price
    logs_keep_gb_month: Price
    firehose_gb: Price
    flow_logs_to_s3_gb: Price
    prometheus_million_samples: Price
    prometheus_gb_month: Price
    prometheus_billion_queried: Price
    sqs_million: Price
    events_million: Price
    efs_gb_month: Price
    efs_written_gb: Price
    s3_gb_month: dict[str, Price]
    s3_1k_puts: dict[str, Price]
    s3_1k_gets: Price
    s3_retrieval_gb: dict[str, Price]
    s3_inventory_million: Price
    s3_replication_metric_month: Price

    def judge_age(self, today: dt.date) -> str | None:
        """A warning for prices older than a year; CannotEstimate for older than two, or for the future's."""
        age = (today - self.date).days
        if age < 0:
            raise CannotEstimate(f"prices.yaml: date {self.date} is in the future")
        if age >= REFUSE_AGE_DAYS:
            raise CannotEstimate(
                f"prices.yaml: the prices are {age} days old, {REFUSE_AGE_DAYS} are too many: "
                "check them and set date"
            )
        if age >= WARN_AGE_DAYS:
            left = REFUSE_AGE_DAYS - age
            return (
                f"Prices are the list of {self.date}, {age} days old and not checked since; "
                f"refused in {left} days."
            )
        return None


class Nodes(Checked):
    """Hours of one NodePool's nodes in a month."""

    pool: str
    purpose: Annotated[str, Field(alias="for")]
    instance: str
    hours: Range
    price_factor: Range


class Traffic(Checked):
    nat: Range
    endpoints: Range
    between_zones: Range
    internet: Range
    flow_logs: Range


class Objects(Checked):
    """A class of bucket in a month: GB and thousands of objects written, thousands read, GB read cold."""

    gb: Range
    thousands: Range
    reads: Range
    cold_gb: Range


class Usage(Checked):
    """One environment in ``usage.yaml``."""

    nodes: Annotated[list[Nodes], Field(min_length=1)]
    node_disk_gb: Range
    files_gb: Range
    files_written_gb: Range
    load_balancers: Range
    traffic_gb: Traffic
    logs_gb: Range
    prometheus_million_samples: Range
    prometheus_stored_gb: Range
    prometheus_billion_queried: Range
    kms_10k_requests: Range
    requests_million: Range
    objects: dict[str, Objects]

    @model_validator(mode="after")
    def whole(self) -> Self:
        if set(self.objects) != CLASSES:
            raise ValueError(f"objects must be of the classes {sorted(CLASSES)}")
        return self


class Usages(Checked):
    environments: Annotated[dict[str, Usage], Field(min_length=1)]


class Budget(Checked):
    """``budget.yaml``: yen, by environment; its sums are the platform's."""

    jpy_per_usd: Annotated[float, Field(ge=80, le=250)]
    monthly_jpy: dict[str, Price]
    storage_yearly_jpy: dict[str, Price]

    @property
    def month(self) -> float:
        return sum(self.monthly_jpy.values())

    @property
    def storage_year(self) -> float:
        return sum(self.storage_yearly_jpy.values())


M = TypeVar("M", bound=BaseModel)


def load(model: type[M], path: Path) -> M:
    """A YAML file as a checked model; CannotEstimate names the file and the field."""
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise CannotEstimate(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CannotEstimate(f"{path}: {where}: {first['msg']}{more}") from error


def prices(path: Path = HERE / "prices.yaml") -> Prices:
    return load(Prices, path)


def usage(path: Path = HERE / "usage.yaml") -> dict[str, Usage]:
    return load(Usages, path).environments


def budget(path: Path = HERE.parent / "budget.yaml") -> Budget:
    return load(Budget, path)


def require_whole(stacks: dict[str, set[str]], environments: set[str]) -> None:
    """CannotEstimate unless each environment has the plan of every stack: a part is within any budget."""
    missing = [
        f"{env}/{stack}" for env in sorted(environments) for stack in sorted(STACKS - stacks.get(env, set()))
    ]
    if missing:
        raise CannotEstimate(
            f"no plan of {', '.join(missing)}: `python terraform/offline.py` makes all of them"
        )


def tags_of(resources: list[dict[str, Any]], name: str) -> tuple[str, str]:
    """The tags ``Environment`` and ``Stack`` that a plan's resources carry."""
    found = {
        (str(tags["Environment"]), str(tags.get("Stack", "")))
        for r in resources
        if (tags := r["values"].get("tags_all")) and "Environment" in tags
    }
    if len(found) != 1:
        raise CannotEstimate(
            f"{name}: its resources must carry one tag Environment, not {sorted(found) or 'none'}"
        )
    return found.pop()
