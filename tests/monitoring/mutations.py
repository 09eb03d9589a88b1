"""Mutations derived from Prometheus rules, and which of their unit tests must see them.

Each number that is compared with, window, wait (`for`), label, operand and aggregation of a rule is changed
by itself: what an attentive reader would try. All mutations of a rule are tested side by side, so that
hundreds take a minute.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

SET = r"(?:and|or|unless)(?:\s+on\s*\([^)]*\))?"
ARITHMETIC = r"[-+*/](?:\s+on\s*\([^)]*\)\s*group_left\s*\(\))?"
UNITS = {"s": 1, "m": 60, "h": 3600}


class Mutation(NamedTuple):
    """``name``: the rule and what was changed in it; ``rule``: as it is then."""

    name: str
    rule: dict[str, Any]


def mutations_of(rule: dict[str, Any]) -> Iterator[Mutation]:
    """Every one, each a rule that differs from ``rule`` in one place."""
    name, seen, named = _name(rule), {rule["expr"]}, Counter[str]()
    for what, expr in _expressions(rule["expr"]):
        if expr not in seen:
            seen.add(expr)
            named[what] += 1
            again = f" ({named[what]})" if named[what] > 1 else ""
            yield Mutation(f"{name}: {what}{again}", rule | {"expr": expr})
    if wait := rule.get("for"):
        yield Mutation(f"{name}: for {wait} is for 0s", rule | {"for": "0s"})
        yield Mutation(f"{name}: for {wait} is thrice that", rule | {"for": f"{3 * _seconds(wait)}s"})
    if severity := rule.get("labels", {}).get("severity"):
        other = "ticket" if severity == "page" else "page"
        yield Mutation(f"{name}: severity {other}", rule | {"labels": rule["labels"] | {"severity": other}})


def _expressions(expr: str) -> Iterator[tuple[str, str]]:
    yield from _thresholds(expr)
    yield from _windows(expr)
    yield from _matchers(expr)
    yield from _aggregations(expr)
    yield from _operands(expr)


def _replaced(expr: str, found: re.Match[str], by: str) -> str:
    return expr[: found.start()] + by + expr[found.end() :]


def _where(expr: str, found: re.Match[str]) -> str:
    """Text that tells the place from the others."""
    return " ".join(expr[max(0, found.start() - 40) : found.end()].split())


def _thresholds(expr: str) -> Iterator[tuple[str, str]]:
    for found in re.finditer(r"([<>=]=?)\s*(bool\s+)?(\d+(?:\.\d+)?)(?![\d.\"])", expr):
        sign, number = found[1], float(found[3])
        others = [1 - number] if sign == "==" else [number * 2, number / 2] if number else [4]
        for other in others:
            yield f"{_where(expr, found)} is {other:g}", _replaced(expr, found, f"{sign} {other:g}")


def _windows(expr: str) -> Iterator[tuple[str, str]]:
    for found in re.finditer(r"\[(\w+)\]", expr):
        for factor in (2, 0.5):
            text = f"[{int(_seconds(found[1]) * factor)}s]"
            yield f"{_where(expr, found)} is {text}", _replaced(expr, found, text)


def _seconds(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


def _matchers(expr: str) -> Iterator[tuple[str, str]]:
    for braces in re.finditer(r"\{([^}]*)\}", expr):
        matchers = re.findall(r'\w+\s*(?:=~|!~|!=|=)\s*"[^"]*"', braces[1])
        for n, matcher in enumerate(matchers):
            rest = ",".join(matchers[:n] + matchers[n + 1 :])
            yield f"{_where(expr, braces)} without {matcher}", _replaced(expr, braces, f"{{{rest}}}")
            head, _, values = matcher.partition('"')
            choices = values[:-1].split("|")
            for choice in choices if len(choices) > 1 else []:
                left = "|".join(other for other in choices if other != choice)
                text = ",".join([*matchers[:n], f'{head}"{left}"', *matchers[n + 1 :]])
                yield f"{_where(expr, braces)} without {choice}", _replaced(expr, braces, f"{{{text}}}")


def _aggregations(expr: str) -> Iterator[tuple[str, str]]:
    swap = {"sum": "max", "max": "min", "min": "max"}
    for found in re.finditer(r"\b(sum|max|min)\b(?=\s*(?:by\s*)?\()", expr):
        yield f"{_where(expr, found)} is {swap[found[1]]}", _replaced(expr, found, swap[found[1]])
    for found in re.finditer(r"\b(by|on)\s*\(([^)]+)\)", expr):
        labels = [label.strip() for label in found[2].split(",")]
        for label in labels if len(labels) > 1 else []:
            text = f"{found[1]} ({', '.join(other for other in labels if other != label)})"
            yield f"{_where(expr, found)} without {label}", _replaced(expr, found, text)


def _operands(expr: str) -> Iterator[tuple[str, str]]:
    """Without one operand of and, or, unless, and of arithmetic, at each depth of parentheses."""
    for start, end in _groups(expr):
        inside = expr[start:end]
        for operators in (SET, ARITHMETIC):
            cuts = [
                found
                for found in re.finditer(rf"(?<=\s){operators}(?=\s)", inside)
                if _depth(inside, found.start()) == 0
            ]
            if operators is ARITHMETIC and any(
                _depth(inside, found.start()) == 0 for found in re.finditer(rf"(?<=\s){SET}(?=\s)", inside)
            ):
                cuts = []
            edges = [0, *(cut.start() for cut in cuts), len(inside)]
            for n, cut in enumerate(cuts):
                text = " ".join(inside[edges[n + 1] : edges[n + 2]].split())
                shorter = inside[: cut.start()] + inside[edges[n + 2] :]
                yield f"without {text}", expr[:start] + shorter + expr[end:]
            if cuts and (operators is SET and not cuts[0][0].startswith("unless")):
                text = " ".join(inside[: cuts[0].start()].split())
                yield f"without {text}", expr[:start] + inside[cuts[0].end() :] + expr[end:]


def _groups(expr: str) -> Iterator[tuple[int, int]]:
    """The whole, and what stands between each pair of parentheses."""
    yield 0, len(expr)
    opened = []
    for at, character in enumerate(expr):
        if character == "(":
            opened.append(at + 1)
        elif character == ")":
            yield opened.pop(), at


def _depth(text: str, end: int) -> int:
    return text[:end].count("(") - text[:end].count(")")


class RuleTests:
    """The rules and their unit tests of a folder."""

    def __init__(self, folder: Path) -> None:
        content = yaml.safe_load((folder / "rules.yml").read_text(encoding="utf-8"))
        self.groups: list[dict[str, Any]] = content["groups"]
        self.rules = {_name(rule): rule for group in self.groups for rule in group["rules"]}
        self.files = [
            yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.test.yml"))
        ]
        for file in self.files:
            for test in file["tests"]:
                test["evaluation_interval"] = file["evaluation_interval"]

    def needs(self, name: str) -> set[str]:
        """A rule and the recorded series that it stands on."""
        expr = self.rules[name]["expr"]
        found = {other for other in self.rules if other != name and re.search(_whole(other), expr)}
        return {name}.union(*(self.needs(other) for other in found))

    def survivors(self, name: str, promtool: str, folder: Path) -> set[str]:
        """Mutations of a rule that no unit test sees.

        All stand in one file beside each other, each with what depends on it and tests of its own, so that
        promtool reads and computes the rest once. ``folder``: to write in.
        """
        left = dict(enumerate(mutations_of(self.rules[name])))
        touched = {rule for rule in self.rules if name in self.needs(rule)}
        groups = [cut for file in self.files for test in file["tests"] if (cut := _cut(test, touched))]
        groups.sort(key=_length)
        for number, test in enumerate(groups):
            while left:
                self._write(name, touched, left, test, folder)
                words = [promtool, "test", "rules", f"--run=^{re.escape(test['name'])}$", "all.test.yml"]
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
                said = done.stdout + done.stderr
                if done.returncode == 0:
                    break
                # a case that failed, a rule that could not be computed, or a mutation that is no rule at all
                pattern = r'(?:alertname: |expr: |rule: |", rule \d+, ")[^\n]*?_x(\d+)_'
                dead = {int(found) for found in re.findall(pattern, said)} & set(left)
                assert dead, f"{name}, {number}: {said[-2000:]}"
                left = {n: mutation for n, mutation in left.items() if n not in dead}
        return {mutation.name for mutation in left.values()}

    def _write(
        self, name: str, touched: set[str], left: dict[int, Mutation], test: dict[str, Any], folder: Path
    ) -> None:
        """The rules with each mutation under a name of its own, and the tests of each."""
        kept = set().union(*(self.needs(rule) for rule in touched)) - touched
        groups = []
        for group in self.groups:
            rules = [rule for rule in group["rules"] if _name(rule) in kept]
            for n, mutation in left.items():
                for rule in group["rules"]:
                    if _name(rule) in touched:
                        changed = mutation.rule if _name(rule) == name else rule
                        kind = "alert" if "alert" in rule else "record"
                        expr = _renamed(changed["expr"], touched, n)
                        rules.append(changed | {kind: f"{_name(rule)}_x{n}_", "expr": expr})
            if rules:
                groups.append(group | {"rules": rules})
        cases: dict[str, Any] = {"alert_rule_test": [], "promql_expr_test": []}
        for n in left:
            for case in test["alert_rule_test"]:
                cases["alert_rule_test"].append(case | {"alertname": f"{case['alertname']}_x{n}_"})
            for case in test["promql_expr_test"]:
                samples = [
                    sample | {"labels": _renamed(sample["labels"], touched, n)}
                    for sample in case["exp_samples"]
                ]
                changes = {"expr": _renamed(case["expr"], touched, n), "exp_samples": samples}
                cases["promql_expr_test"].append(case | changes)
        file = self.files[0] | {"fuzzy_compare": True, "evaluation_interval": test["evaluation_interval"]}
        test = {key: value for key, value in test.items() if key != "evaluation_interval"} | cases
        (folder / "rules.yml").write_text(json.dumps({"groups": groups}))  # which is YAML
        (folder / "all.test.yml").write_text(json.dumps(file | {"tests": [test]}))


def _name(rule: dict[str, Any]) -> str:
    return str(rule.get("alert") or rule["record"])


def _whole(record: str) -> str:
    return rf"(?<![\w:]){re.escape(record)}(?![\w:])"


def _length(test: dict[str, Any]) -> float:
    """Evaluations up to the last case."""
    cases = [*test["alert_rule_test"], *test["promql_expr_test"]]
    parts = [re.findall(r"(\d+)([hms])", case["eval_time"]) for case in cases]
    last = max(sum(int(number) * UNITS[unit] for number, unit in part) for part in parts)
    return last / _seconds(test["evaluation_interval"])


def _renamed(text: str, names: set[str], number: int) -> str:
    for name in names:
        text = re.sub(_whole(name), f"{name}_x{number}_", text)
    return text


def _cut(test: dict[str, Any], touched: set[str]) -> dict[str, Any] | None:
    """What of a group of tests speaks of the rules; None where nothing does."""
    alerts = [case for case in test.get("alert_rule_test", []) if case["alertname"] in touched]
    exprs = [
        case
        for case in test.get("promql_expr_test", [])
        if any(re.search(_whole(rule), case["expr"]) for rule in touched)
    ]
    return test | {"alert_rule_test": alerts, "promql_expr_test": exprs} if alerts or exprs else None
