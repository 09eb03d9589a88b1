# ruff: noqa: E501 (a figure and its formula stand on one line)
"""Hours and yen of a night, from what was asked and rates that were measured; each with its formula.

Rates come from ``bench/rates.json``, which `make bench-distributed` writes, prices from the file that
the cost gate of Terraform reads. Nothing here is measured or typed in.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sekisho.errors import CannotCheck
from sekisho.params import parse_yaml

RATES = Path("bench/rates.json")
DIGITS = 4  # that are shown: of seconds in hours and of millions of yen alike
COST = Path("terraform/cost")
NIGHTS = 21  # trading nights a month
HOURS = 6.0  # of a night
LIMIT_GB, LIMIT_RUNS = 1e6, 10_000  # beyond them nothing is looked for


@dataclass(frozen=True)
class Rates:
    """What was measured: GB (decimal, raw Parquet) and samples per second."""

    validate: float  # GB/s of one core
    features: float  # GB/s of one core
    assemble: float  # GB/s of one machine: hashing and copying what the store has
    samples: float  # per second of one rank on the device
    serial: float  # σ of Amdahl's law over ranks


@dataclass(frozen=True)
class Inputs:
    data_gb: float
    new_gb: float  # a night
    folds: int
    seeds: int
    samples: float  # of one run
    nodes: int
    cores: int  # of a node, for validate and features
    ranks: int  # nodes of one run
    interruptions: float  # per node and hour
    checkpoint_minutes: float
    restart_minutes: float
    usd_hour: float  # of a node, on demand
    spot_factor: float  # spot price over on-demand price
    jpy_per_usd: float


@dataclass(frozen=True)
class Line:
    """One figure, its unit and how it came about."""

    name: str
    value: float
    unit: str
    formula: str


def load_rates(device: str, path: Path = RATES) -> Rates:
    """Measured rates of one device.

    Raises:
        CannotCheck: the file or a rate is not there, or is no positive number; names it and what measures it.
    """
    remedy = "run `make bench-distributed`, which measures and writes it"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotCheck(f"{path}: no measured rates: {error}", remedy=remedy) from error

    def rate(*keys: str) -> float:
        value = content
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise CannotCheck(f"{path}: no rate {'.'.join(keys)}", remedy=remedy)
        return float(value)

    train = content.get("train") if isinstance(content, dict) else None
    speedups = train.get("speedup") if isinstance(train, dict) else None
    if not isinstance(speedups, dict) or not (
        most := max((int(n) for n in speedups if n.isdigit()), default=0)
    ):
        raise CannotCheck(f"{path}: no rate train.speedup", remedy=remedy)
    measured = content["train"].get("samples_per_second")
    if isinstance(measured, dict) and device not in measured:
        raise CannotCheck(
            f"--device {device}: {path} has no such rate under train.samples_per_second",
            remedy=f"one of {', '.join(measured)}, as `make bench-distributed` measured; "
            "write another machine's rate beside it",
        )
    speedup = min(rate("train", "speedup", str(most)), most)
    serial = min((most / speedup - 1) / (most - 1), 1.0) if most > 1 else 1.0
    return Rates(
        rate("data", "validate_gb_s"),
        rate("data", "features_gb_s"),
        rate("data", "assemble_gb_s"),
        rate("train", "samples_per_second", device),
        serial,
    )


def load_prices(instance: str, folder: Path = COST) -> tuple[float, float, float]:
    """USD an hour on demand, spot's share of it, JPY per USD, as the cost gate reads them.

    Raises:
        CannotCheck: a file, the instance or a figure is not there.
    """
    try:
        prices = parse_yaml((folder / "prices.yaml").read_bytes())
        usage = parse_yaml((folder / "usage.yaml").read_bytes())
        nodes = [node for env in usage["environments"].values() for node in env["nodes"]]
        jpy = float(parse_yaml((folder.parent / "budget.yaml").read_bytes())["jpy_per_usd"])
        hourly = {name: float(machine["hour"]) for name, machine in prices["ec2"].items()}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CannotCheck(f"{folder}: prices cannot be read: {error}", remedy="mend the file") from error
    if instance not in hourly:
        raise CannotCheck(
            f"--instance: {folder / 'prices.yaml'} has no {instance}", remedy=f"one of {', '.join(hourly)}"
        )
    spot = [n["price_factor"]["base"] for n in nodes if n["instance"] == instance]
    return hourly[instance], float(min(spot, default=1.0)), jpy


def speedup(ranks: int, serial: float) -> float:
    """Amdahl (1967), *Validity of the single processor approach*: 1 to ``1 / serial``."""
    return ranks / (1 + serial * (ranks - 1))


def stretched(hours: float, per_hour: float, interval: float, restart: float) -> float:
    """Expected hours of a run of ``hours`` that is interrupted ``per_hour`` times, all arguments in hours.

    Daly (2006), *A higher order estimate of the optimum checkpoint interval for restart dumps*, eq. 20 without
    the time of a dump: ``M exp(R/M) (exp(τ/M) - 1) T/τ`` with ``M = 1/per_hour``. It never ends where that
    overflows: infinity.
    """
    if per_hour * interval < 1e-12 or hours == 0:  # (exp(x) - 1) / x is 1, as far as floats tell
        return hours
    try:
        return math.exp(restart * per_hour) * math.expm1(interval * per_hour) * hours / (interval * per_hour)
    except OverflowError:
        return math.inf


def estimate(asked: Inputs, rates: Rates) -> list[Line]:
    """All figures of a night, in order; the critical path is the sum of its steps."""
    workers = asked.nodes * asked.cores
    validate = asked.new_gb / (rates.validate * workers) / 3600
    features = asked.new_gb / (rates.features * workers) / 3600
    assemble = 2 * (asked.data_gb + asked.new_gb) / rates.assemble / 3600
    runs, side = asked.folds * asked.seeds, max(asked.nodes // asked.ranks, 1)
    waves = math.ceil(runs / side)
    gain = speedup(asked.ranks, rates.serial)
    alone = asked.samples / (rates.samples * gain) / 3600
    rate = asked.interruptions * asked.ranks
    one = stretched(alone, rate, asked.checkpoint_minutes / 60, asked.restart_minutes / 60)
    train, lost = waves * one, waves * (one - alone) if math.isfinite(one) else math.inf
    path = validate + features + assemble + train
    machine = asked.nodes * (validate + features) + assemble + runs * asked.ranks * one
    usd = machine * asked.usd_hour * asked.spot_factor
    return [
        Line("validate", validate, "h", "new GB / (GB/s of a core x nodes x cores) / 3600"),
        Line("features", features, "h", "new GB / (GB/s of a core x nodes x cores) / 3600"),
        Line("assemble", assemble, "h", "2 x (data GB + new GB) / GB/s of one machine / 3600"),
        Line("one run", alone, "h", "samples / (samples/s of a rank x S) / 3600; S = n/(1 + s(n-1)), Amdahl 1967"),
        Line("train", train, "h", "ceil(folds x seeds / floor(nodes/ranks)) x one run with interruptions"),
        Line("lost to interruptions", lost, "h", "of train: T (M exp(R/M)(exp(t/M)-1)/t - 1), 1/M = rate x ranks; Daly 2006"),
        Line("critical path", path, "h", "validate + features + assemble + train"),
        Line("machine-hours", machine, "h", "nodes x (validate + features) + assemble + folds x seeds x ranks x one run"),
        Line("night, spot", usd * asked.jpy_per_usd, "JPY", "machine-hours x USD/h x spot factor x JPY/USD"),
        Line("month, spot", NIGHTS * usd * asked.jpy_per_usd, "JPY", f"{NIGHTS} nights"),
        Line("night, on demand", machine * asked.usd_hour * asked.jpy_per_usd, "JPY", "machine-hours x USD/h x JPY/USD"),
    ]  # fmt: skip


def shown(value: float) -> str:
    """A figure with `DIGITS` significant digits; all those before the point."""
    if abs(value) < 1e-9:  # what floats leave of 0
        return "0"
    return f"{value:,.{max(-_step(value), 0)}f}" if math.isfinite(value) else str(value)


def _step(value: float) -> int:
    """Power of ten of the last of `DIGITS` significant digits."""
    return math.floor(math.log10(abs(value))) - DIGITS + 1


def hours_of(asked: Inputs, rates: Rates) -> float:
    """Hours on the critical path."""
    return next(line.value for line in estimate(asked, rates) if line.name == "critical path")


def fits(asked: Inputs, rates: Rates, hours: float = HOURS) -> list[Line]:
    """The largest data size, and the most runs (seeds of all folds), that end within ``hours``; 0: none does."""
    low, high = 0.0, LIMIT_GB
    if hours_of(replace(asked, data_gb=0.0), rates) > hours:
        high = 0.0
    while high - low > max(low, 1.0) * 1e-6:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if hours_of(replace(asked, data_gb=middle), rates) <= hours else (low, middle)
        )
    if low > 0:  # down to what is shown, so that what is shown fits as well
        scale = 10.0 ** -_step(low)
        low = math.floor(low * scale) / scale
    seeds, over = 0, LIMIT_RUNS
    while over - seeds > 1:
        middle_seeds = (seeds + over) // 2
        done = hours_of(replace(asked, seeds=middle_seeds), rates) <= hours
        seeds, over = (middle_seeds, over) if done else (seeds, middle_seeds)
    within = f"largest whose critical path is at most {hours:g} h, all else as asked"
    most = LIMIT_RUNS - 1  # seeds
    return [
        Line("data that fits", low, "GB", f"{within}; looked for up to {LIMIT_GB:g} GB"),
        Line("runs that fit", float(seeds * asked.folds), "runs", f"folds x seeds, {within}; up to {most:,} seeds"),
    ]  # fmt: skip
