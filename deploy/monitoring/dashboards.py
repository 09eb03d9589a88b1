"""Grafana's dashboards as code: `python deploy/monitoring/dashboards.py` writes dashboards/*.json.

It also writes prometheusrule.yaml: rules.yml, which promtool tests, as the resource that the operator reads.

One for each reader: the desk (is the agent trading, and what does it earn), the model's owners (drift,
limits, data) and the platform (latency, log, check). ``--check`` writes nothing and fails on stale files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

OUT = Path(__file__).with_name("dashboards")
RULES, RESOURCE = (Path(__file__).with_name(name) for name in ("rules.yml", "prometheusrule.yaml"))
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
MODEL = 'environment=~"$environment",model=~"$model"'


def graph(title: str, unit: str, *queries: tuple[str, str], text: str = "") -> timeseries.Panel:
    """A line for each series of the queries."""
    panel = timeseries.Panel().title(title).unit(unit).span(12).height(8).datasource(SOURCE).description(text)
    return panel.targets([query(*one).ref_id(chr(ord("A") + n)) for n, one in enumerate(queries)])


def figure(title: str, unit: str, expression: str, legend: str = "{{environment}}/{{model}}") -> stat.Panel:
    """The last value in large letters."""
    panel = stat.Panel().title(title).unit(unit).span(6).height(5).datasource(SOURCE)
    panel = panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.targets([query(expression, legend).ref_id("A")])


def query(expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).datasource(SOURCE)


def board(uid: str, title: str, panels: Sequence[stat.Panel | timeseries.Panel]) -> dashboard.Dashboard:
    variables = []
    for name in ("environment", "model"):  # what has pods or verdicts
        one = dashboard.QueryVariable(name).label(name.capitalize()).datasource(SOURCE)
        source = f'{{__name__=~"sekisho_switch|sekisho_check_timestamp_seconds"}}, {name}'
        variables.append(one.include_all(True).multi(True).query(f"label_values({source})"))
    found = (
        dashboard.Dashboard(title)
        .uid(uid)
        .tags(["sekisho", "generated"])
        .refresh("1m")
        .time("now-7d", "now")
        .timezone("Asia/Tokyo")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(variables[0])
        .with_variable(variables[1])
    )
    for panel in panels:
        found = found.with_panel(panel)
    return found


def desk() -> dashboard.Dashboard:
    return board(
        "sekisho-desk",
        "Sekisho: desk",
        [
            figure("Market open", "bool_on_off", "market:open", "open"),
            figure(
                "Kill switch on",
                "bool_on_off",
                f'min by (environment, model) (sekisho_switch{{position="on",{MODEL}}})',
            ),
            figure(
                "Net return since the first session", "percentunit", f"sekisho_live_net_return{{{MODEL}}}"
            ),
            figure("Largest drawdown", "percentunit", f"sekisho_live_drawdown{{{MODEL}}}"),
            graph(
                "Live account over the backtest's band",
                "percentunit",
                (f"sekisho_live_net_return{{{MODEL}}}", "{{environment}}/{{model}} live"),
                (f"sekisho_live_band_low{{{MODEL}}}", "{{environment}}/{{model}} band"),
                text="Net of modelled costs; below the band a retraining is due.",
            ),
            graph(
                "Answers by verdict",
                "short",
                (f"sum by (verdict) (rate(sekisho_predictions_total{{{MODEL}}}[5m])) > 0", "{{verdict}}"),
                text="Anything but ok and clipped is the safe action.",
            ),
            graph(
                "Live minus replayed model",
                "percentunit",
                (f"sekisho_live_minus_replay{{{MODEL}}}", "{{environment}}/{{model}}"),
                text="What the guard, the safe action and faults of serving cost.",
            ),
            graph(
                "Releases in memory",
                "short",
                (f"sekisho_release_seq{{{MODEL}}}", "{{environment}}/{{model}} {{role}}"),
            ),
        ],
    )


def model() -> dashboard.Dashboard:
    return board(
        "sekisho-model",
        "Sekisho: model",
        [
            figure("Alarms", "short", f"sum by (environment, model) (sekisho_alarm{{{MODEL}}})"),
            figure("Cannot judge", "bool_yes_no", f'sekisho_verdict{{state="cannot-judge",{MODEL}}}'),
            figure(
                "Retraining proposed or due",
                "bool_yes_no",
                f'max by (environment, model) (sekisho_action{{action=~"propose|retrain",{MODEL}}})',
            ),
            figure("Since the last check", "s", f"time() - sekisho_check_timestamp_seconds{{{MODEL}}}"),
            graph(
                "E-detector over its limit",
                "short",
                (
                    f"sekisho_drift_level{{{MODEL}}} / sekisho_drift_level_limit{{{MODEL}}}",
                    "{{environment}}/{{model}}",
                ),
                text="Above 1 it alarms: once in monitoring.alarm_level sessions at most without any change.",
            ),
            graph(
                "CUSUM over its limit",
                "short",
                (
                    f"sekisho_drift_cusum{{{MODEL}}} / sekisho_drift_cusum_limit{{{MODEL}}}",
                    "{{environment}}/{{model}}",
                ),
                text="Its limit comes from the reference by a double block bootstrap.",
            ),
            graph(
                "Alarms by family",
                "short",
                (f"sekisho_alarm{{{MODEL}}} > 0", "{{environment}}/{{model}} {{family}}"),
            ),
            graph(
                "From anomaly to retrained",
                "s",
                (f"time() - sekisho_alarm_since_timestamp_seconds{{{MODEL}}}", "{{environment}}/{{model}}"),
                text="Warned at 20 hours, broken at 24.",
            ),
        ],
    )


def platform() -> dashboard.Dashboard:
    buckets = f"sum by (le, environment, model) (rate(sekisho_decision_seconds_bucket{{{MODEL}}}[5m]))"
    return board(
        "sekisho-platform",
        "Sekisho: platform",
        [
            figure(
                "Answers a second",
                "reqps",
                f"sum by (environment, model) (rate(sekisho_decision_seconds_count{{{MODEL}}}[5m]))",
            ),
            figure("Burn rate, 1 hour", "short", f"model:burn:1h{{{MODEL}}}"),
            figure(
                "Predictions lost in 24 hours",
                "short",
                f"sum by (environment, model) (increase(sekisho_log_lost_total{{{MODEL}}}[24h]))",
            ),
            figure(
                "Breaker open",
                "bool_yes_no",
                f"max by (environment, model) (sekisho_breaker_open{{{MODEL}}})",
            ),
            graph(
                "Latency",
                "s",
                (f"histogram_quantile(0.5, {buckets})", "{{environment}}/{{model}} p50"),
                (f"histogram_quantile(0.99, {buckets})", "{{environment}}/{{model}} p99"),
                (f"histogram_quantile(0.999, {buckets})", "{{environment}}/{{model}} p99.9"),
                text="The objective is 300 ms for 99.99 % of the answers in market hours.",
            ),
            graph(
                "Burn rates",
                "short",
                (f"model:burn:15m{{{MODEL}}}", "{{environment}}/{{model}} 15 min"),
                (f"model:burn:1h{{{MODEL}}}", "{{environment}}/{{model}} 1 h"),
                (f"model:burn:session{{{MODEL}}}", "{{environment}}/{{model}} session"),
                text="1 spends the month's budget of 6,680 open minutes in a month.",
            ),
            graph(
                "Prediction log",
                "short",
                (f"sekisho_log_queued{{{MODEL}}}", "{{environment}}/{{model}} queued"),
            ),
            graph(
                "Prediction log's lag",
                "s",
                (f"sekisho_log_lag_seconds{{{MODEL}}}", "{{environment}}/{{model}}"),
            ),
        ],
    )


BOARDS = {"desk": desk, "model": model, "platform": platform}


def render() -> dict[Path, str]:
    """Each file with what it should hold."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    boards = {OUT / f"{name}.json": encoder.encode(make().build()) + "\n" for name, make in BOARDS.items()}
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "sekisho"},
        "spec": yaml.safe_load(RULES.read_text(encoding="utf-8")),
    }
    head = "# Written by dashboards.py from rules.yml; do not edit.\n"
    return boards | {RESOURCE: head + yaml.safe_dump(resource, sort_keys=False, width=1000)}


def main() -> int:
    files = render()
    if "--check" in sys.argv[1:]:
        here = {path: path.read_text(encoding="utf-8") for path in (*OUT.glob("*.json"), RESOURCE)}
        if stale := sorted(path.name for path in {*files, *here} if files.get(path) != here.get(path)):
            print(f"{OUT}: stale: {', '.join(stale)}; run `python deploy/monitoring/dashboards.py`")
            return 1
        return 0
    OUT.mkdir(exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
