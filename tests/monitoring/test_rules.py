"""Alerts by their own tools: promtool runs their unit tests, and sees every mutation; amtool routes them."""

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

from sekisho.calendar import Calendar

REPO = Path(__file__).resolve().parents[2]
MONITORING = REPO / "deploy" / "monitoring"
TOOLS = {
    "promtool": "github.com/prometheus/prometheus/cmd/promtool@v0.316.0",
    "amtool": "github.com/prometheus/alertmanager/cmd/amtool@v0.35.0",
}
PATIENCE = 3600  # seconds: the first build on a slow machine
ROUTES = {  # what the table in docs/en/monitoring.md promises
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
    checked = subprocess.run(
        [promtool, "check", "config", str(MONITORING / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = run_promtool(promtool, MONITORING)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [
        test
        for path in MONITORING.glob("*.test.yml")
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
    ]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == set(alerts())


MUTATIONS = {
    "the market's hours are not asked of answers": (" * on () group_left () market:open_for_1m", ""),
    "the minute before the bell counts": ("group_left () market:open_for_1m", "group_left () market:open"),
    "the fast burn pages outside the session": (
        "model:burn:15m > 8.9 and model:burn:2m > 8.9 and on () market:open == 1",
        "model:burn:15m > 8.9 and model:burn:2m > 8.9",
    ),
    "the fast burn's threshold is doubled": ("> 8.9", "> 17.8"),
    "the slow burn's threshold is doubled": ("> 5.6", "> 11.2"),
    "the session's burn threshold is doubled": ("model:burn:session > 2.0", "model:burn:session > 4.0"),
    "the session's burn looks at an hour only": ("model:burn:session > 2.0 and", ""),
    "what the model failed to give is not counted": (
        'verdict=~"deadline|model-failed',
        'verdict=~"model-failed',
    ),
    "slow is a second, not 300 ms": ('le="0.3"', 'le="1.0"'),
    "silence outside the session pages": ("(min_over_time(market:open[15m]) == 1)", "vector(1)"),
    "silence pages at the opening bell": ("min_over_time(market:open[15m])", "market:open"),
    "safe answers' threshold is doubled": ("> 0.05", "> 0.10"),
    "the switch outside the session pages": (
        'sekisho_switch{position="on"}) == 0 and on () market:open == 1',
        'sekisho_switch{position="on"}) == 0',
    ),
    "the cooldown is forgotten": ("unless on (model) max by (model) (sekisho_retrain_cooldown) == 1", ""),
    "an answered alarm asks again": ("unless on (model) max by (model) (sekisho_retrain_answered) == 1", ""),
    "the dead man's switch waits two days": ("> 26 * 3600", "> 52 * 3600"),
    "the dead man's switch counts weekends": (
        "and (max by (model) (sekisho_check_timestamp_seconds) < on () group_left () "
        "max(market_last_close_timestamp_seconds))",
        "",
    ),
    "the warning comes after the breach": ("> 20 * 3600", "> 40 * 3600"),
    "the breach waits two days": ("> 24 * 3600", "> 48 * 3600"),
    "the lag's threshold is doubled": ("> 60", "> 120"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_rule_fails_its_unit_tests(tool, mutation: str, tmp_path: Path) -> None:
    promtool = tool("promtool")
    before, after = MUTATIONS[mutation]
    text = (MONITORING / "rules.yml").read_text(encoding="utf-8")
    assert before in text
    (tmp_path / "rules.yml").write_text(text.replace(before, after), encoding="utf-8")
    for path in MONITORING.glob("*.test.yml"):
        shutil.copy(path, tmp_path)
    valid = subprocess.run([promtool, "check", "rules", "rules.yml"], cwd=tmp_path, check=False)
    assert valid.returncode == 0  # wrong, but a rule
    assert run_promtool(promtool, tmp_path).returncode == 1


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
            [*words, f"alertname={name}", "model=m", *labels], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


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
        target["expr"].replace("$model", ".*")
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
