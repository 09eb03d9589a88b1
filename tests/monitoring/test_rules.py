"""Alerts by their own tools: promtool runs their unit tests, which see every mutation; amtool routes them."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.monitoring.mutations import RuleTests, mutations_of

from sekisho.calendar import Calendar

REPO = Path(__file__).resolve().parents[2]
MONITORING = REPO / "deploy" / "monitoring"
TOOLS = {
    "promtool": "github.com/prometheus/prometheus/cmd/promtool@v0.316.0",
    "amtool": "github.com/prometheus/alertmanager/cmd/amtool@v0.35.0",
}
PATIENCE = 3600  # seconds: the first build on a slow machine
ROUTES = {  # what docs/en/reference/alerts.md promises
    "calendar-stale": "infra-page",
    "latency-burn-fast": "infra-page",
    "latency-burn-slow": "infra-page",
    "latency-burn-session": "infra",
    "server-silent": "infra-page",
    "breaker-open": "infra-page",
    "log-lost": "infra-page",
    "log-lag": "infra",
    "parity": "infra-page",
    "safe-answers": "desk-page",
    "switched-off": "desk-page",
    "halted": "desk-page",
    "performance": "desk",
    "cannot-judge": "data",
    "train-serve-skew": "data",
    "data-drift": "ml",
    "model-age": "ml",
    "check-stale": "ml-page",
    "verdict-unreadable": "ml-page",
    "retrain-slow": "ml",
    "retrain-late": "ml-page",
    "check-due": "relay",
    "retrain-due": "relay",
}


@pytest.fixture(scope="module")
def tool():  # type: ignore[no-untyped-def]
    """Path of a tool, built once into build/bin; skips where there is no Go."""

    def find(name: str) -> str:
        built = REPO / "build" / "bin" / name
        if found := shutil.which(name) or (str(built) if built.is_file() else None):
            return found
        if not shutil.which("go"):
            pytest.skip(f"{name} is built with go, which is not installed here (CI has it)")
        environment = os.environ | {"GOBIN": str(built.parent)}
        done = subprocess.run(
            ["go", "install", TOOLS[name]],
            env=environment,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"{name} cannot be built: {done.stderr.decode()[-300:]}")
        return str(built)

    return find


def rules() -> list[dict[str, Any]]:
    content = yaml.safe_load((MONITORING / "rules.yml").read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def run_promtool(promtool: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [promtool, "test", "rules", *sorted(path.name for path in folder.glob("*.test.yml"))]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_rules_pass_their_unit_tests_and_every_alert_has_one_that_fires(tool) -> None:
    promtool = tool("promtool")
    done = run_promtool(promtool, MONITORING)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [
        test
        for path in MONITORING.glob("*.test.yml")
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
    ]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fired == set(alerts())


SURVIVORS: dict[str, str] = {}  # mutations that no unit test sees, each with the reason why none is needed


@pytest.mark.slow
@pytest.mark.parametrize("rule", [rule.get("alert") or rule["record"] for rule in rules()])
def test_a_mutated_rule_fails_its_unit_tests(tool, rule: str, tmp_path: Path) -> None:
    tests = RuleTests(MONITORING)
    assert list(mutations_of(tests.rules[rule]))
    found = tests.survivors(rule, tool("promtool"), tmp_path)
    assert found == {name for name in SURVIVORS if name.startswith(f"{rule}: ")}


def test_the_kinds_of_mutation_are_made_of_a_rule() -> None:
    rule = {
        "alert": "a",
        "expr": 'sum by (x, y) (rate(n{v=~"p|q"}[10m])) > 5 and on () open == 1 unless on (x) z',
        "for": "2m",
        "labels": {"severity": "page"},
    }
    found = {str((m.rule["expr"], m.rule["for"], m.rule["labels"]["severity"])) for m in mutations_of(rule)}
    for before, after in (
        ("> 5", "> 10"),
        ("> 5", "> 2.5"),
        ("== 1", "== 0"),
        ("[10m]", "[1200s]"),
        ("[10m]", "[300s]"),
        ('"p|q"', '"q"'),
        ('"p|q"', '"p"'),
        ('v=~"p|q"', ""),
        ("sum", "max"),
        ("(x, y)", "(y)"),
        ("(x, y)", "(x)"),
        ("and on () open == 1 ", ""),
        ("unless on (x) z", ""),
    ):
        assert str((rule["expr"].replace(before, after), "2m", "page")) in found, (before, after)
    for wait, severity in (("0s", "page"), ("360s", "page"), ("2m", "ticket")):
        assert str((rule["expr"], wait, severity)) in found


@pytest.mark.slow
def test_each_alert_goes_where_the_table_says(tool) -> None:
    amtool, config = tool("amtool"), f"--config.file={MONITORING / 'alertmanager.yml'}"
    checked = subprocess.run(
        [amtool, "check-config", str(MONITORING / "alertmanager.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert set(ROUTES) == set(alerts())
    for name, receiver in ROUTES.items():
        labels = [f"{key}={value}" for key, value in alerts()[name]["labels"].items()]
        words = [amtool, "config", "routes", "test", config, f"--verify.receivers={receiver}"]
        done = subprocess.run(
            [*words, f"alertname={name}", "environment=production", "model=m", *labels],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        words = [amtool, "config", "routes", "test", config, "--verify.receivers=infra"]
        done = subprocess.run([*words, f"alertname={name}", "environment=staging", *labels], check=False)
        assert done.returncode == 0, f"{name} of staging calls somebody"


def inhibited(source: dict[str, str], target: dict[str, str]) -> bool:
    """Whether ``target`` is muted while ``source`` fires, by Alertmanager's documented semantics."""

    def matches(labels: dict[str, str], matchers: list[str]) -> bool:
        parts = [re.fullmatch(r'(\w+)(=~|=)"(.*)"', part) for text in matchers for part in text.split(", ")]
        assert all(parts)
        return all(
            labels.get(part[1]) == part[3]
            if part[2] == "="
            else re.fullmatch(part[3], labels.get(part[1], ""))
            for part in parts
            if part
        )

    config = yaml.safe_load((MONITORING / "alertmanager.yml").read_text(encoding="utf-8"))
    return any(
        matches(source, rule["source_matchers"])
        and matches(target, rule["target_matchers"])
        and all(source.get(label) == target.get(label) for label in rule.get("equal", []))
        for rule in config["inhibit_rules"]
    )


@pytest.mark.parametrize("source", ["cannot-judge", "train-serve-skew"])
def test_data_that_cannot_be_believed_mute_drift_and_nothing_else(source: str) -> None:
    here = {"environment": "production", "model": "m"}
    fires = here | {"alertname": source}
    drift = here | {"alertname": "retrain-due", "action": "propose"}
    assert inhibited(fires, here | {"alertname": "data-drift"})
    assert inhibited(fires, drift)
    assert not inhibited(fires, here | {"alertname": "retrain-due", "action": "retrain"})
    assert not inhibited(fires, drift | {"environment": "staging"})
    assert not inhibited(fires, drift | {"model": "other"})
    for name in set(alerts()) - {"data-drift", "retrain-due"}:
        assert not inhibited(fires, here | {"alertname": name}), name


def test_the_burn_rates_spend_shares_of_a_month_of_sessions() -> None:
    calendar = Calendar("XTKS", "1min")
    sessions = calendar.sessions(dt.date(2025, 1, 1), dt.date(2025, 12, 31))
    minutes = len(calendar.closes(sessions[-10])) * len(sessions) / 12
    limits = {name: float(re.search(r"> ([\d.]+) and", alerts()[name]["expr"])[1]) for name in BURN}  # type: ignore[index]
    for name, (share, window) in BURN.items():
        assert limits[name] == pytest.approx(share * minutes / window, rel=0.04), name


BURN = {  # share of the month's budget, in so many open minutes
    "latency-burn-fast": (0.02, 15),
    "latency-burn-slow": (0.05, 60),
    "latency-burn-session": (0.10, 330),
}


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("name", alerts())
def test_every_alert_has_its_runbook(name: str, language: str) -> None:
    text = (REPO / "docs" / language / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(re.findall(r"^\*\*[^*]+\*\*", text, flags=re.MULTILINE)) == 6


def test_no_runbook_speaks_of_an_alert_that_is_not_there() -> None:
    found = {path.stem for path in (REPO / "docs/en/runbooks").glob("*.md")}
    assert found == set(alerts())


def test_metrics_in_the_rules_are_exported() -> None:
    from sekisho.monitoring import exporter
    from sekisho.serving import metrics

    exported = "".join(Path(str(module.__file__)).read_text() for module in (exporter, metrics))
    names = {name for rule in rules() for name in re.findall(r"\b(?:sekisho|market)_[a-z_]+", rule["expr"])}
    known = {name for name in names if re.sub(r"_(bucket|count|total)$", "", name) in exported}
    assert names - known == set()


@pytest.mark.slow
def test_the_dashboards_ask_what_prometheus_understands(tool, tmp_path: Path) -> None:
    promtool = tool("promtool")
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in (MONITORING / "dashboards").glob("*")]
    queries = [
        target["expr"].replace("$model", ".*").replace("$environment", ".*")
        for board in boards
        for panel in board["panels"]
        for target in panel["targets"]
    ]
    assert len(queries) > 20
    record = [{"record": f"r:{number}", "expr": expr} for number, expr in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": record}]}))
    done = subprocess.run(
        [promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_are_those_of_the_code_and_a_stale_one_is_noticed(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MONITORING, tmp_path / "monitoring"))
    words = [sys.executable, str(folder / "dashboards.py"), "--check"]
    assert subprocess.run(words, check=False).returncode == 0
    stale = folder / "dashboards" / "desk.json"
    stale.write_text(stale.read_text(encoding="utf-8").replace("Kill switch on", "Switch"), encoding="utf-8")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "stale: desk.json" in done.stdout
