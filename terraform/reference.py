"""Writes the generated parts of the pages on Terraform, modules' variables and outputs, roles, cost; and the
estimate for the page on cost and value, terraform/cost/estimate.json.

    PYTHONPATH=. python terraform/reference.py [--check]

The parts stand between ``<!-- generated: NAME -->`` and ``<!-- end -->`` in docs/en/terraform.md and
docs/ja/terraform.md. ``--check`` writes nothing and exits 1 where a page is stale.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import yaml
from terraform.cost import inputs
from terraform.cost.gate import table
from terraform.cost.inputs import CannotEstimate
from terraform.cost.model import CASES, YEARS, Estimate, estimate
from terraform.offline import TERRAFORM, missing, plans

ESTIMATE = TERRAFORM / "cost/estimate.json"
PAGES = [TERRAFORM.parent / f"docs/{language}/terraform.md" for language in ("en", "ja")]


def blocks(path: Path, kind: str) -> list[tuple[str, str]]:
    """Name and body of each ``variable`` or ``output`` block of a formatted file."""
    return re.findall(rf'(?ms)^{kind} "(\w+)" \{{\n(.*?)^\}}', path.read_text(encoding="utf-8"))


def attribute(body: str, name: str) -> str:
    found = re.search(rf"(?ms)^  {name}\s+= (.*?)(?=^  \w|\Z)", body)
    return " ".join(found.group(1).split()).strip('"').replace("|", "\\|") if found else ""


def modules() -> str:
    """A table of variables and a line of outputs for every module and stack."""
    parts = []
    for folder in sorted(p.parent for p in TERRAFORM.glob("*/*/variables.tf")):
        parts += [f"### {folder.relative_to(TERRAFORM).as_posix()}", ""]
        parts += ["| variable | type | default | meaning |", "| --- | --- | --- | --- |"]
        for name, body in blocks(folder / "variables.tf", "variable"):
            default = attribute(body, "default")
            cells = [
                f"`{name}`",
                f"`{attribute(body, 'type')}`",
                f"`{default}`" if default else "",
                attribute(body, "description"),
            ]
            parts.append(f"| {' | '.join(cells)} |")
        outputs = [
            f"`{name}`: {attribute(body, 'description')}"
            for name, body in blocks(folder / "outputs.tf", "output")
        ]
        parts += ["", "Outputs: " + " ".join(outputs), ""]
    return "\n".join(parts).strip()


def roles() -> str:
    """The table of roles."""
    found = yaml.safe_load((TERRAFORM / "roles.yaml").read_text(encoding="utf-8"))
    rows = ["| role | who | reads | writes | also |", "| --- | --- | --- | --- | --- |"]
    for name, row in found.items():
        who = [f"`{subject}`" for subject in row.get("github", [])]
        if pod := row.get("pod"):
            who.append(f"pod `{pod['namespace']}/{pod['service_account']}`")
        if row.get("human"):
            who.append("`auditor_arn`")
        cells = [
            "<br>".join(
                f"`{g['class']}/{g['prefix']}`" for g in row.get("grants", []) if g["access"] == access
            )
            for access in ("read", "write")
        ]
        restored = [
            f"restore `{g['class']}/{g['prefix']}`" for g in row.get("grants", []) if g["access"] == "restore"
        ]
        also = ", ".join([*row.get("allows", []), *restored])
        rows.append(f"| {name} | {'<br>'.join(who)} | {cells[0]} | {cells[1]} | {also} |")
    return "\n".join(rows)


def cost(found: Estimate) -> str:
    """The gate's table, without the age of the prices, which is another every day."""
    return table(found, inputs.budget(), inputs.prices()).strip()


def for_pages(found: Estimate) -> str:
    """The estimate as `sekisho.monitoring.cost` reads it: dollars a month by kind, and storage by year."""
    prices = inputs.prices()
    groups = sorted({(line.environment, line.kind) for line in found.lines})
    content = {
        "prices": {"basis": prices.basis, "date": str(prices.date), "tolerance": prices.tolerance},
        "monthly": [
            {"environment": environment, "kind": kind}
            | {
                case: round(
                    sum(x.usd[case] for x in found.lines if (x.environment, x.kind) == (environment, kind)), 2
                )
                for case in CASES
            }
            for environment, kind in groups
        ],
        "storage": [{case: round(found.storage[case][year], 2) for case in CASES} for year in range(YEARS)],
    }
    return json.dumps(content, indent=1) + "\n"


def filled(text: str, parts: dict[str, str]) -> str:
    """A page with its generated parts made anew."""
    for name, part in parts.items():
        mark = f"<!-- generated: {name} -->"
        if mark not in text:
            raise ValueError(f"a page lacks {mark}")
        head, _, rest = text.partition(mark)
        _, end, tail = rest.partition("<!-- end -->")
        text = f"{head}{mark}\n{part}\n{end}{tail}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    if reason := missing():
        print(f"Cannot plan, and so not estimate: {reason}", file=sys.stderr)
        return 2
    try:
        found = estimate(plans(), inputs.prices(), inputs.usage())
        parts = {"modules": modules(), "roles": roles(), "cost": cost(found)}
        written = {page: filled(page.read_text(encoding="utf-8"), parts) for page in PAGES}
        written[ESTIMATE] = for_pages(found)
    except (RuntimeError, CannotEstimate) as error:
        print(error, file=sys.stderr)
        return 2
    stale = [
        path for path in written if not path.exists() or path.read_text(encoding="utf-8") != written[path]
    ]
    for path in stale:
        if check:
            print(f"{path.relative_to(TERRAFORM.parent)} is stale: make terraform-docs", file=sys.stderr)
        else:
            path.write_text(written[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
