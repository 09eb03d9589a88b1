"""Every denial and every condition of a trust or of a resource's policy is there for a row of the matrix,
which fails without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.terraform.iam import Statement
from tests.terraform.roles import (
    Rendered,
    Row,
    answer,
    assumed,
    becoming,
    listed,
    of_environment,
    rendered,
    rows,
)
from tests.terraform.tool import needs_terraform

pytestmark = needs_terraform
SURVIVORS = yaml.safe_load((Path(__file__).parent / "survivors.yaml").read_text())


def weaker(statement: Statement) -> Iterator[tuple[str, Statement | None]]:
    """What is left of a denial, or of a condition, with one part taken away: how that reads, and the
    statement.
    """
    if statement["Effect"] == "Deny":
        yield "all", None
        for part in ("Action", "Resource"):
            values = listed(statement.get(part, []))
            for value in values if len(values) > 1 else []:
                yield f"{part} {value}", {**statement, part: [v for v in values if v != value]}
    for operator, keys in (statement.get("Condition") or {}).items():
        for key in keys:
            left = {
                o: {k: v for k, v in ks.items() if (o, k) != (operator, key)}
                for o, ks in statement["Condition"].items()
            }
            yield f"Condition {operator} {key}", {**statement, "Condition": left}


def mutants(where: str, policy: list[Statement], only_denials: bool) -> Iterator[tuple[str, list[Statement]]]:
    for number, statement in enumerate(policy):
        if only_denials and statement["Effect"] != "Deny":
            continue
        for how, left in weaker(statement):
            whole = [*policy[:number], *([left] if left else []), *policy[number + 1 :]]
            yield f"{where} {statement.get('Sid', number)}: {how}", whole


def access_mutants(found: Rendered) -> Iterator[tuple[str, Rendered, Any]]:
    """A mutant's name, what is rendered then, and which rows can notice."""
    for carrier, policy in found.policies.items():
        if carrier != "key:ebs":
            for name, left in mutants(f"of {carrier}", policy, only_denials=False):
                yield (
                    name,
                    replace(found, policies=found.policies | {carrier: left}),
                    lambda row, c=carrier: row.carrier == c,
                )
    for name, role in found.roles.items():
        short = name.removeprefix(f"{found.name}-")
        for text, left in mutants(f"role {short}", role.statements, only_denials=True):
            roles = found.roles | {name: replace(role, statements=left)}
            yield text, replace(found, roles=roles), lambda row, n=name: row.role == n
    (boundary,) = {
        id(r.boundary): r.boundary for r in found.roles.values() if r.boundary is not None
    }.values()
    for text, left in mutants("boundary", boundary, only_denials=True):
        roles = {n: replace(r, boundary=None if r.boundary is None else left) for n, r in found.roles.items()}
        yield text, replace(found, roles=roles), lambda row, own=frozenset(roles): row.role in own


def noticed(found: Rendered, requests: list[Row]) -> bool:
    return any(answer(found, row).allowed != row.allowed for row in requests)


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_row_notices_when_a_denial_or_a_condition_is_taken_away(plans, environment):
    found, requests = rendered(of_environment(plans, environment)), rows(environment)
    made, left = set(), set()
    for name, mutant, may_notice in access_mutants(found):
        made.add(name)
        if not noticed(mutant, [row for row in requests if may_notice(row)]):
            left.add(name)
    assert len(made) > 150
    assert left == set(SURVIVORS["access"])


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_row_notices_when_a_condition_of_a_trust_is_taken_away(plans, environment):
    found = rendered(of_environment(plans, environment))
    asked, left = list(becoming(environment, found)), set()
    for name, role in found.roles.items():
        for text, trust in mutants(name.removeprefix(f"{found.name}-"), role.trust, only_denials=False):
            mutant = replace(found, roles=found.roles | {name: replace(role, trust=trust)})
            if all(assumed(mutant, one) == one.allowed for one in asked if one.role == name):
                left.add(text)
    assert left == set(SURVIVORS["trust"])


def test_every_survivor_says_why():
    assert all(len(reason) > 20 for group in SURVIVORS.values() for reason in group.values())
