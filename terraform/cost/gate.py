"""Refuses a platform that could cost more than its budget, and shows what a pull request changes.

    PYTHONPATH=. python terraform/cost/gate.py build/terraform/plans [--against PLANS-OF-MAIN] [--out FILE]

Exit codes: 0 within the budgets, 1 over one, 2 could not be estimated.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

from terraform.cost import inputs
from terraform.cost.inputs import Budget, CannotEstimate, Prices, Usage
from terraform.cost.model import CASES, Case, Estimate, estimate


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Every plan in a folder, by file name. CannotEstimate for none, or for a file that is no plan."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.name] = json.loads(path.read_text(encoding="utf-8"))
            found[path.name]["planned_values"]["root_module"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CannotEstimate(f"{path} is no plan of `terraform show -json`: {error}") from error
    if not found:
        raise CannotEstimate(f"{folder} holds no plan: `python terraform/offline.py` makes them")
    return found


def over(found: Estimate, budget: Budget, prices: Prices) -> list[str]:
    """Each budget, the platform's and its environments', that the high case breaks with the tolerance."""
    rate = budget.jpy_per_usd * (1 + prices.tolerance)
    limits = {None: budget.month} | budget.monthly_jpy
    broken = []
    for environment, limit in limits.items():
        # written so that a figure that is no number breaks the budget
        if not (month := found.monthly("high", environment) * rate) <= limit:
            of = f" of {environment}" if environment else ""
            broken.append(f"¥{month:,.0f} a month at worst, over the budget{of} of ¥{limit:,.0f}")
    for year, usd in enumerate(found.storage["high"], start=1):
        if not (cost := usd * rate) <= budget.storage_year:
            broken.append(
                f"storage ¥{cost:,.0f} in year {year} at worst, over ¥{budget.storage_year:,.0f} a year"
            )
    return broken


def table(found: Estimate, budget: Budget, prices: Prices) -> str:
    """The estimate as Markdown: by environment and kind, then storage by year; shares with the tolerance."""
    rate = budget.jpy_per_usd * (1 + prices.tolerance)
    rows = ["| environment | what | base $/month | high $/month |", "| --- | --- | ---: | ---: |"]
    groups = sorted({(line.environment, line.kind) for line in found.lines})
    for environment, kind in groups:
        sums = [
            sum(x.usd[case] for x in found.lines if (x.environment, x.kind) == (environment, kind))
            for case in CASES
        ]
        rows.append(f"| {environment} | {kind} | {sums[0]:,.0f} | {sums[1]:,.0f} |")
    totals = {case: found.monthly(case) for case in CASES}
    rows.append(f"| both | **total** | **{totals['base']:,.0f}** | **{totals['high']:,.0f}** |")
    shares = " | ".join(f"{totals[case] * rate / budget.month:.0%}" for case in CASES)
    rows.append(f"| | of ¥{budget.month:,.0f} a month | {shares} |")
    rows += ["", f"| storage in year | base $ | high $ | high, of ¥{budget.storage_year:,.0f} |"]
    rows.append("| ---: | ---: | ---: | ---: |")
    for year, (base, high) in enumerate(zip(*(found.storage[case] for case in CASES), strict=True), start=1):
        rows.append(f"| {year} | {base:,.0f} | {high:,.0f} | {high * rate / budget.storage_year:.0%} |")
    rows += [
        "",
        f"Prices: {prices.basis} ({prices.date}); ¥{budget.jpy_per_usd:g}/$; "
        f"shares with {prices.tolerance:.0%} more.",
    ]
    return "\n".join(rows) + "\n"


def changes(old: Estimate, new: Estimate) -> str:
    """Lines that a pull request adds, removes or changes by a dollar a month or more, as Markdown."""
    before = {(x.environment, x.what): x.usd for x in old.lines}
    after = {(x.environment, x.what): x.usd for x in new.lines}
    nothing: dict[Case, float] = {"base": 0.0, "high": 0.0}
    rows = []
    for key in sorted(before.keys() | after.keys()):
        moved = [after.get(key, nothing)[case] - before.get(key, nothing)[case] for case in CASES]
        if max(map(abs, moved)) >= 1:
            rows.append(f"| {key[0]} | {key[1]} | {moved[0]:+,.0f} | {moved[1]:+,.0f} |")
    if not rows:
        return "No change in cost.\n"
    sums = [new.monthly(case) - old.monthly(case) for case in CASES]
    head = ["| environment | change | base $/month | high $/month |", "| --- | --- | ---: | ---: |"]
    return (
        "\n".join([*head, *rows, f"| both | **total** | **{sums[0]:+,.0f}** | **{sums[1]:+,.0f}** |"]) + "\n"
    )


def compared(folder: Path, found: Estimate, prices: Prices, usage: dict[str, Usage], budget: Budget) -> str:
    """What changes against the base branch's plans; its words where that branch cannot be estimated now."""
    try:
        before = estimate(read(folder), prices, usage)
        inputs.require_whole(before.stacks, set(budget.monthly_jpy))
    except (
        CannotEstimate
    ) as error:  # its plans are from before this model: the branch itself is judged all the same
        return f"The change cannot be shown, since the base cannot be estimated: {error}\n"
    return changes(before, found)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plans", type=Path, help="folder of plans as JSON")
    parser.add_argument(
        "--against", type=Path, help="folder of the base branch's plans, to show what changes"
    )
    parser.add_argument("--usage", type=Path, default=inputs.HERE / "usage.yaml")
    parser.add_argument("--prices", type=Path, default=inputs.HERE / "prices.yaml")
    parser.add_argument("--budget", type=Path, default=inputs.HERE.parent / "budget.yaml")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args(words)
    try:
        prices, usage, budget = (
            inputs.prices(options.prices),
            inputs.usage(options.usage),
            inputs.budget(options.budget),
        )
        warning = prices.judge_age(dt.datetime.now(dt.UTC).date())
        found = estimate(read(options.plans), prices, usage)
        inputs.require_whole(found.stacks, set(budget.monthly_jpy))
        text = table(found, budget, prices)
        if warning:
            text = f"**{warning}**\n\n{text}"
        if options.against:
            text = compared(options.against, found, prices, usage, budget) + "\n" + text
    except CannotEstimate as error:
        print(f"Cannot estimate: {error}", file=sys.stderr)
        return 2
    except (KeyError, TypeError, IndexError) as error:  # a plan of another shape than this was written for
        print(f"Cannot estimate: a plan lacks {error}", file=sys.stderr)
        return 2
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    broken = over(found, budget, prices)
    for reason in broken:
        print(f"Over budget: {reason}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
