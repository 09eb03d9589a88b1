"""The generated pages on what is judged: gate rules, fields of the metrics, errors and exit codes."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.words import Words

from sekisho import errors
from sekisho.backtest.gate import Rule, judge
from sekisho.backtest.words import RULES_JA
from sekisho.params import load_params

ROOT = Path(__file__).parents[1]
FILES = ("backtest", "trials", "gate", "validate", "lookahead")
KEYED_BY_NAME = {
    "sharpe_by_cost",
    "annual_return_by_cost",
    "sharpe_by_seed",
    "sharpe",
    "annual_return",
    "sharpes",
}
LIKE_THE_AGENT = "baselines"  # said once, in the page's first paragraph


def metrics(name: str) -> dict[str, Any]:
    """A metrics file of the last run, which git holds."""
    found: dict[str, Any] = json.loads((ROOT / f"metrics/{name}.json").read_text(encoding="utf-8"))
    return found


def gate_page(words: Words) -> str:
    """Every rule with its limit, where it comes from and why it is there; judged on the committed metrics."""
    params = load_params(ROOT / "params.yaml").gate
    rules = judge(metrics("backtest"), metrics("trials"), metrics("lookahead"), params)
    heads = " | ".join(words(head) for head in ("rule", "limit", "why"))
    parts = [words["Gate rules"], "", words.intro("gate"), "", f"| {heads} |", "| --- | --- | --- |"]
    for rule in rules:
        name, why = (rule.rule, rule.reason) if words.language == "en" else RULES_JA[rule.rule]
        parts.append(f"| {name} | {_limit(rule, words)} | {why} |")
    return "\n".join(parts)


def _limit(rule: Rule, words: Words) -> str:
    """The limit by the name of its parameter, where it has one: its value is any experiment's to change, and
    which side of it passes."""
    if rule.rule.startswith("beats "):
        return "> " + words("that strategy's own Sharpe ratio")
    named = {
        "net Sharpe ratio, lower bound": "min_sharpe_lower",
        "maximum drawdown": "max_drawdown",
        "turnover a session": "max_turnover",
        "capacity, multiple of the capital": "min_capacity",
        "deflated Sharpe ratio": "min_deflated_sharpe",
        "probability of backtest overfitting": "max_pbo",
    }
    key = "min_sharpe_over_champion" if rule.rule.startswith("not worse") else named.get(rule.rule)
    at_most = rule.rule.startswith("no look-ahead") or (key or "").startswith("max_")
    at_least = rule.rule.startswith("trials counted") or key == "min_capacity"
    side = "≤" if at_most else "≥" if at_least else ">"
    return f"{side} `gate.{key}`" if key else f"{side} {rule.limit:g}"


def fields(value: Any, path: str = "") -> Iterator[str]:
    """Paths of what a metrics file holds; what is keyed by a name (a seed, a strategy) counts once."""
    if isinstance(value, dict) and value:
        last = path.rsplit(".", 1)[-1]
        if last in KEYED_BY_NAME:
            yield from fields(next(iter(value.values())), f"{path}.*")
        else:
            for key, inner in value.items():
                if key == LIKE_THE_AGENT:
                    continue
                yield from fields(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from fields(value[0], f"{path}[]")
    else:
        yield path


def report_page(words: Words) -> str:
    """Every figure of the metrics files, which the report shows."""
    parts = [words["Figures of the report"], "", words.intro("report")]
    for name in FILES:
        heads = " | ".join(words(head) for head in ("field", "meaning and unit"))
        parts += ["", f"## metrics/{name}.json", "", f"| {heads} |", "| --- | --- |"]
        for field in fields(metrics(name)):
            parts.append(f"| `{field}` | {words.meaning(f'{name}:{field}')} |")
    return "\n".join(parts)


def metrics_page(words: Words) -> str:
    """What Prometheus scrapes: the policy server's metrics by their own help, the exporter's as we say."""
    parts = [
        words["Metrics of Prometheus"],
        "",
        words.intro("metrics"),
        "",
        f"## {words('Policy server')}",
        "",
    ]
    heads = " | ".join(words(head) for head in ("metric", "meaning", "labels"))
    parts += [f"| {heads} |", "| --- | --- | --- |"]
    for name, says, labels in server_metrics():
        parts.append(f"| `{name}` | {words(says)} | {' '.join(f'`{label}`' for label in labels)} |")
    heads = " | ".join(words(head) for head in ("metric", "meaning"))
    parts += ["", f"## {words('Exporter of verdicts and hours')}", "", f"| {heads} |", "| --- | --- |"]
    parts += [f"| `{name}` | {words.metric(name)} |" for name in words.metrics]
    return "\n".join(parts)


def server_metrics() -> list[tuple[str, str, list[str]]]:
    """Name, help and labels of each family that src/sekisho/serving/metrics.py makes."""
    tree = ast.parse((ROOT / "src/sekisho/serving/metrics.py").read_text(encoding="utf-8"))
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    found = []
    for call in calls:
        if ast.unparse(call.func).endswith("MetricFamily"):
            name, says = (ast.literal_eval(argument) for argument in call.args)
            labels = [ast.literal_eval(word.value) for word in call.keywords if word.arg == "labels"]
            found.append((name, says, labels[0] if labels else []))
    return sorted(found)


def errors_page(words: Words) -> str:
    """Exit codes, error classes, and every rule that refuses by name."""
    parts = [words["Errors and exit codes"], "", words.intro("errors"), ""]
    heads = " | ".join(words(head) for head in ("class", "exit code", "meaning"))
    parts += [f"## {words('Classes')}", "", f"| {heads} |", "| --- | --- | --- |"]
    for name, one in vars(errors).items():
        if inspect.isclass(one) and issubclass(one, errors.SekishoError) and one is not errors.SekishoError:
            says = words(" ".join((one.__doc__ or "").split("\n\n")[0].split()))
            parts.append(f"| `{name}` | {one.exit_code} | {says} |")
    heads = " | ".join(words(head) for head in ("rule", "what it makes sure of", "checked in"))
    parts += ["", f"## {words('Rules that refuse')}", "", words.intro("refusals"), ""]
    parts += [f"| {heads} |", "| --- | --- | --- |"]
    for rule, modules in refusals(words.refusals).items():
        where = " ".join(f"`{module}`" for module in sorted(modules))
        parts.append(f"| `{rule}` | {words.refusal(rule)} | {where} |")
    return "\n".join(parts)


def refusals(known: set[str]) -> dict[str, set[str]]:
    """Rule -> modules under src/sekisho that refuse by it.

    Where a call writes the rule's name out, also a call of a helper that hands it on, that is read from the
    code. A rule of the ``known`` whose name comes out of a table is in each module that holds the name.
    """
    found: dict[str, set[str]] = {}
    texts: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src/sekisho").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module, refusing = path.relative_to(ROOT / "src/sekisho").as_posix(), _refusing(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                texts.setdefault(str(node.value), set()).add(module)
            elif isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name):
                rule = node.args[0]
                if node.func.id in refusing and isinstance(rule, ast.Constant):
                    found.setdefault(str(rule.value), set()).add(module)
    found |= {rule: texts[rule] for rule in known - set(found) if rule in texts}
    return dict(sorted(found.items()))


def _refusing(tree: ast.Module) -> set[str]:
    """Functions that refuse by the rule in their first argument: those of ``errors``, and their helpers."""
    names = {"Refused", "require_same"}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.args.args:
            first = function.args.args[0].arg
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args]
            if any(
                isinstance(call.func, ast.Name)
                and call.func.id in names
                and isinstance(call.args[0], ast.Name)
                and call.args[0].id == first
                for call in calls
            ):
                names.add(function.name)
    return names
