"""What the platform may cost and would cost: the budgets, and the estimate that Terraform's plans gave.

``terraform/cost/estimate.json`` is written by `make terraform-docs` and checked by the tests of Terraform;
nothing here is typed in, and nothing is a bill.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml.error import YAMLError

from sekisho.errors import CannotCheck
from sekisho.params import parse_yaml

BUDGET, ESTIMATE = Path("terraform/budget.yaml"), Path("terraform/cost/estimate.json")


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Amount(Strict):
    """Dollars, as expected and at worst."""

    base: float
    high: float


class Line(Amount):
    """Dollars a month of one kind of thing in one environment."""

    environment: str
    kind: str


class Prices(Strict):
    basis: str
    date: dt.date
    tolerance: float  # share by which a bill may exceed the list prices


class Estimate(Strict):
    prices: Prices
    monthly: list[Line]
    storage: list[Amount]  # of the first year, the second, …


class Budget(Strict):
    jpy_per_usd: float
    monthly_jpy: dict[str, float]  # by environment
    storage_yearly_jpy: dict[str, float]


@dataclass(frozen=True)
class Cost:
    """Yen; estimates with the tolerance added, as the cost gate judges them."""

    budget: Budget
    estimate: Estimate

    @property
    def rate(self) -> float:
        """Yen for an estimated dollar."""
        return self.budget.jpy_per_usd * (1 + self.estimate.prices.tolerance)

    @property
    def month_budget(self) -> float:
        return sum(self.budget.monthly_jpy.values())

    @property
    def storage_budget(self) -> float:
        """A year."""
        return sum(self.budget.storage_yearly_jpy.values())

    def month(self, case: str) -> float:
        """Yen a month, storage as in the last year."""
        return self.rate * sum(float(getattr(line, case)) for line in self.estimate.monthly)

    def storage(self, case: str) -> list[float]:
        """Yen in each year."""
        return [self.rate * float(getattr(year, case)) for year in self.estimate.storage]


def read_cost(repo: Path) -> Cost:
    """The budgets and the estimate of a checkout.

    Raises:
        CannotCheck: a file is missing or not what it must be.
    """
    try:
        budget = Budget.model_validate(parse_yaml((repo / BUDGET).read_bytes()))
        estimate = Estimate.model_validate(json.loads((repo / ESTIMATE).read_bytes()))
    except (OSError, ValueError, ValidationError, YAMLError) as error:
        raise CannotCheck(
            f"{BUDGET}, {ESTIMATE}: {error}", remedy="run `make terraform-docs`, or restore them from git"
        ) from error
    return Cost(budget, estimate)
