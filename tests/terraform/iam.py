"""A small evaluator of IAM policies: enough of AWS's rules to judge what ``terraform/`` renders.

Source: "Policy evaluation logic" and "IAM JSON policy elements: condition operators" of the IAM User Guide.
One account; no service or resource control policies, no session policies. What it does not know it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

Statement = Mapping[str, Any]
Context = Mapping[str, str | list[str]]


class Unknown(ValueError):
    """An element of a policy that this evaluator does not know."""


@dataclass(frozen=True)
class Decision:
    """``allowed``, the statement that decided (None: nothing allowed it), and where that stands."""

    allowed: bool
    where: str
    statement: Statement | None = None


@cache
def pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def listed(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def compare(operator: str, wanted: list[str], actual: str) -> bool:
    """One positive comparison of a value with any of the wanted ones."""
    if operator == "StringEquals":
        return actual in wanted
    if operator in ("StringLike", "ArnLike", "ArnEquals"):  # ArnEquals and ArnLike behave the same
        return any(pattern(text).fullmatch(actual) for text in wanted)
    if operator == "Bool":
        return actual.lower() in [text.lower() for text in wanted]
    raise Unknown(f"condition operator {operator}")


NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
}


def holds(operator: str, key: str, wanted: list[str], context: Context) -> bool:
    """Whether a condition is met. A missing key meets only negated operators, ``Null`` and ``IfExists``."""
    actual = context.get(key)
    if operator == "Null":
        return (actual is None) == (wanted == ["true"])
    if operator.startswith("ForAnyValue:"):
        return any(
            compare(operator.removeprefix("ForAnyValue:"), wanted, value) for value in listed(actual or [])
        )
    if operator.startswith("ForAllValues:"):  # met by a missing key too
        return all(
            compare(operator.removeprefix("ForAllValues:"), wanted, value) for value in listed(actual or [])
        )
    if operator.endswith("IfExists"):
        return actual is None or holds(operator.removesuffix("IfExists"), key, wanted, context)
    if operator in NEGATED:
        return actual is None or not compare(NEGATED[operator], wanted, str(actual))
    return actual is not None and compare(operator, wanted, str(actual))


def applies(
    statement: Statement, action: str, resource: str, context: Context, conditions: bool = True
) -> bool:
    """Whether a statement speaks of this request. ``conditions=False`` takes every condition as met."""
    known = {"Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
    if extra := set(statement) - known:
        raise Unknown(f"element {sorted(extra)}")
    for element, value, fold in (("Action", action, str.lower), ("Resource", resource, str)):
        if element in statement:
            if not any(pattern(fold(text)).fullmatch(fold(value)) for text in listed(statement[element])):
                return False
        elif f"Not{element}" in statement and any(
            pattern(fold(text)).fullmatch(fold(value)) for text in listed(statement[f"Not{element}"])
        ):
            return False
    return not conditions or all(
        holds(operator, key, listed(wanted), context)
        for operator, keys in (statement.get("Condition") or {}).items()
        for key, wanted in keys.items()
    )


def names(statement: Statement, principal: str) -> bool:
    """Whether a resource's or a role's policy names this principal: ARN, service or OIDC provider."""
    if statement["Principal"] == "*":
        return True
    return any(
        text in ("*", principal) for texts in statement["Principal"].values() for text in listed(texts)
    )


@dataclass(frozen=True)
class Role:
    """A role as rendered: its own statements, the boundary's (None: no boundary), and whom it trusts."""

    arn: str
    statements: list[Statement]
    boundary: list[Statement] | None
    trust: list[Statement]


def first(
    statements: Iterable[Statement],
    effect: str,
    action: str,
    resource: str,
    context: Context,
    conditions: bool,
) -> Statement | None:
    return next(
        (
            s
            for s in statements
            if s["Effect"] == effect and applies(s, action, resource, context, conditions)
        ),
        None,
    )


def decide(
    role: Role,
    action: str,
    resource: str,
    context: Context,
    resource_policy: Iterable[Statement] = (),
    conditions: bool = True,
) -> Decision:
    """What IAM answers a role's request: a denial anywhere wins, then role and boundary must both allow."""
    guards = [s for s in resource_policy if names(s, role.arn)]
    boundary = role.boundary if conditions else None  # moto ignores boundaries as it ignores conditions
    for where, statements in (("role", role.statements), ("boundary", boundary or []), ("resource", guards)):
        if found := first(statements, "Deny", action, resource, context, conditions):
            return Decision(False, where, found)
    allowed = first(role.statements, "Allow", action, resource, context, conditions)
    if allowed is None:
        return Decision(False, "role")
    if boundary is not None and first(boundary, "Allow", action, resource, context, conditions) is None:
        return Decision(False, "boundary")
    return Decision(True, "role", allowed)


def assumable(role: Role, principal: str, action: str, context: Context) -> bool:
    """Whether a principal with these claims may take the role."""
    return any(
        s["Effect"] == "Allow" and names(s, principal) and applies(s, action, "", context) for s in role.trust
    )
