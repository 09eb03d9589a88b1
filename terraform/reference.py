"""Writes the generated parts of the pages on Terraform: modules' variables and outputs, roles, cost.

    PYTHONPATH=. python terraform/reference.py [--check]

The parts stand between ``<!-- generated: NAME -->`` and ``<!-- end -->`` in docs/en/terraform.md and
docs/ja/terraform.md. ``--check`` writes nothing and exits 1 where a page is stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import yaml
from terraform.cost import inputs
from terraform.cost.gate import table
from terraform.cost.inputs import CannotEstimate
from terraform.cost.model import estimate
from terraform.offline import TERRAFORM, missing, plans

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


def cost() -> str:
    """The gate's table, without the age of the prices, which is another every day."""
    prices = inputs.prices()
    return table(estimate(plans(), prices, inputs.usage()), inputs.budget(), prices).strip()


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
        parts = {"modules": modules(), "roles": roles(), "cost": cost()}
    except (RuntimeError, CannotEstimate) as error:
        print(error, file=sys.stderr)
        return 2
    stale = [
        page
        for page in PAGES
        if filled(page.read_text(encoding="utf-8"), parts) != page.read_text(encoding="utf-8")
    ]
    for page in stale:
        if check:
            print(f"{page.name} ({page.parent.name}) is stale: make terraform-docs", file=sys.stderr)
        else:
            page.write_text(filled(page.read_text(encoding="utf-8"), parts), encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
