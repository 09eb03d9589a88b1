"""A small evaluator of IAM policies: enough of AWS's rules to judge what ``terraform/`` renders.

Source: "Policy evaluation logic", "Cross-account policy evaluation logic" and "IAM JSON policy elements:
condition
operators" of the IAM User Guide; "Key policies" of the KMS Developer Guide. Identity policies, boundaries,
policies of
resources and keys, trust; no service or resource control policies, no session policies. What it does not
know it refuses.
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
    if operator.startswith(("ForAnyValue:", "ForAllValues:")):
        quantity, _, each = operator.partition(":")
        met = (holds(each, key, wanted, {key: value}) for value in listed(actual or []))
        return any(met) if quantity == "ForAnyValue" else all(met)
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


def account_of(arn: str) -> str:
    return arn.split(":")[4] if arn.startswith("arn:") else ""


def named(statement: Statement, principal: str) -> str | None:
    """How a resource's or a role's policy names a principal (ARN, service or OIDC provider).

    ``itself``; ``account`` where it names the principal's account, which leaves the rest to that account's
    own
    policies; None.
    """
    if "Principal" not in statement:
        raise Unknown(f"a resource's statement without Principal: {sorted(statement)}")
    if statement["Principal"] == "*":
        return "itself"
    texts = {text for group in statement["Principal"].values() for text in listed(group)}
    if texts & {"*", principal}:
        return "itself"
    account = account_of(principal)
    return "account" if account and texts & {account, f"arn:aws:iam::{account}:root"} else None


EVERYTHING: Statement = {"Sid": "Everything", "Effect": "Allow", "Action": "*", "Resource": "*"}


@dataclass(frozen=True)
class Role:
    """A role as rendered: all its policies' statements, the boundary's (None: no boundary), and whom it
    trusts.

    A service's ``arn`` is its name (``s3.amazonaws.com``): it has no policies, a resource's policy decides
    alone.
    """

    arn: str
    statements: list[Statement]
    boundary: list[Statement] | None
    trust: list[Statement]


@dataclass(frozen=True)
class Resource:
    """What is asked for: the policy it carries, the account it lies in, and whether that policy must
    allow (KMS).
    """

    account: str
    policy: tuple[Statement, ...] = ()
    must_allow: bool = False


def first(
    statements: Iterable[Statement],
    effect: str,
    action: str,
    resource: str,
    context: Context,
    conditions: bool = True,
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
    target: Resource | None = None,
    conditions: bool = True,
) -> Decision:
    """What IAM answers a role's request: a denial anywhere wins.

    Then, in the resource's own account, the role's policies or the resource's must allow, and the boundary
    too; from
    another account both must. A key's policy must allow in every case, be it by naming the key's account.
    """
    target = target or Resource(account_of(role.arn))
    guards = [s for s in target.policy if named(s, role.arn)]
    boundary = role.boundary if conditions else None  # moto ignores boundaries as it ignores conditions
    asked = (action, resource, context, conditions)
    for where, statements in (("role", role.statements), ("boundary", boundary or []), ("resource", guards)):
        if found := first(statements, "Deny", *asked):
            return Decision(False, where, found)
    own = first(role.statements, "Allow", *asked)
    direct = first((s for s in guards if named(s, role.arn) == "itself"), "Allow", *asked)
    if not role.arn.startswith("arn:"):
        return Decision(direct is not None, "resource", direct)
    if boundary is not None and first(boundary, "Allow", *asked) is None:
        return Decision(False, "boundary")
    if account_of(role.arn) != target.account or target.must_allow:
        opened = direct or first(guards, "Allow", *asked)
        if opened is None:
            return Decision(False, "resource")
        if own is None and (direct is None or account_of(role.arn) != target.account):
            return Decision(False, "role")
        return Decision(True, "resource", opened)
    if own is None and direct is None:
        return Decision(False, "role")
    return Decision(True, "role" if own else "resource", own or direct)


def assumable(role: Role, principal: str, action: str, context: Context) -> bool:
    """Whether a principal with these claims may take the role, its own policies allowing all it could be
    allowed.
    """
    trusted = [s for s in role.trust if named(s, principal) and applies(s, action, "", context)]
    effects = {s["Effect"] for s in trusted}
    return "Allow" in effects and "Deny" not in effects
