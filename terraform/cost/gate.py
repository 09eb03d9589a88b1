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

from terraform.cost.model import CASES, HERE, CannotEstimate, Case, Estimate, estimate, load


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


def yen(usd: float, usage: dict[str, Any]) -> float:
    return float(usd * usage["budget"]["jpy_per_usd"])


def over(found: Estimate, usage: dict[str, Any]) -> list[str]:
    """Each budget that the high case breaks, with the figure."""
    budget = usage["budget"]
    month = yen(found.monthly("high"), usage)
    broken = []
    if month > budget["monthly_jpy"]:
        broken.append(f"¥{month:,.0f} a month at worst, over the budget of ¥{budget['monthly_jpy']:,}")
    for year, usd in enumerate(found.storage["high"], start=1):
        if (cost := yen(usd, usage)) > budget["storage_yearly_jpy"]:
            broken.append(
                f"storage ¥{cost:,.0f} in year {year} at worst, over ¥{budget['storage_yearly_jpy']:,} a year"
            )
    return broken


def table(found: Estimate, usage: dict[str, Any]) -> str:
    """The estimate as Markdown: by environment and kind, then storage by year."""
    budget = usage["budget"]
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
    shares = " | ".join(f"{yen(totals[case], usage) / budget['monthly_jpy']:.0%}" for case in CASES)
    rows.append(f"| | of ¥{budget['monthly_jpy']:,} a month | {shares} |")
    rows += [
        "",
        "| storage in year | base $ | high $ | high, of ¥24 M |".replace(
            "¥24 M", f"¥{budget['storage_yearly_jpy']:,}"
        ),
    ]
    rows.append("| ---: | ---: | ---: | ---: |")
    for year, (base, high) in enumerate(zip(*(found.storage[case] for case in CASES), strict=True), start=1):
        rows.append(
            f"| {year} | {base:,.0f} | {high:,.0f} | {yen(high, usage) / budget['storage_yearly_jpy']:.0%} |"
        )
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


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plans", type=Path, help="folder of plans as JSON")
    parser.add_argument(
        "--against", type=Path, help="folder of the base branch's plans, to show what changes"
    )
    parser.add_argument("--usage", type=Path, default=HERE / "usage.yaml")
    parser.add_argument("--prices", type=Path, default=HERE / "prices.yaml")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args(words)
    today = dt.datetime.now(dt.UTC).date()
    try:
        prices, usage = load(options.prices), load(options.usage)
        found = estimate(read(options.plans), prices, usage, today)
        text = table(found, usage)
        if options.against:
            text = changes(estimate(read(options.against), prices, usage, today), found) + "\n" + text
    except CannotEstimate as error:
        print(f"Cannot estimate: {error}", file=sys.stderr)
        return 2
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    broken = over(found, usage)
    for reason in broken:
        print(f"Over budget: {reason}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
