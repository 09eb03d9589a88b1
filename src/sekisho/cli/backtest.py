"""``sekisho backtest``, ``sekisho gate`` and ``sekisho report``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sekisho.params import load_params

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
METRICS = Path("metrics/backtest.json")
GATE = Path("metrics/gate.json")


@click.command("backtest")
@click.option("--bars", type=FOLDER, default=Path("build/bars"), show_default=True, help="Validated bars.")
@click.option(
    "--features", type=FOLDER, default=Path("build/features"), show_default=True, help="Training table."
)
@click.option("--train", type=FOLDER, default=Path("build/train"), show_default=True, help="Trained agents.")
@click.option(
    "--out", type=FOLDER, default=Path("build/backtest"), show_default=True, help="Folder to publish."
)
@click.option("--metrics", type=FILE, default=METRICS, show_default=True, help="Metrics file to write.")
@click.option("--champion", type=FILE, help="Model in production, to be beaten (ONNX).")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics for programs.")
def backtest(
    bars: Path, features: Path, train: Path, out: Path, metrics: Path, champion: Path | None, as_json: bool
) -> None:
    """Run the trained agents through their test windows."""
    from sekisho.backtest.run import run_backtest

    params = load_params()
    sessions = params.split.folds * params.split.test_sessions
    with click.progressbar(length=sessions, label="backtest", hidden=as_json) as bar:
        figures = run_backtest(
            params,
            bars=bars,
            features=features,
            train=train,
            out=out,
            metrics_file=metrics,
            champion=champion,
            on_session=lambda: bar.update(1),
        )
    if as_json:
        click.echo(json.dumps(figures))
        return
    agent, window = figures["agent"], figures["window"]
    click.echo(
        f"backtest: {window['sessions']} sessions {window['first']} to {window['last']}, "
        f"trial {figures['trials']}: "
        f"net Sharpe ratio {_figure(agent['sharpe'])} "
        f"[{_figure(agent['sharpe_low'])}, {_figure(agent['sharpe_high'])}] → {metrics}"
    )
    if figures["opening"]["history"] != "full":
        kind = figures["opening"]["history"]
        click.echo(f"backtest: git history: {kind}; earlier trials may be missing from the count", err=True)


@click.command("gate")
@click.option("--metrics", type=FILE, default=METRICS, show_default=True, help="What is judged.")
@click.option("--out", type=FILE, default=GATE, show_default=True, help="Verdict to write.")
@click.option("--require", is_flag=True, help="Exit 1 when a rule fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict for programs.")
def gate(metrics: Path, out: Path, require: bool, as_json: bool) -> None:
    """Judge the backtest: pass or fail per rule."""
    from sekisho.backtest.files import read_json, write_json
    from sekisho.backtest.gate import judge, verdict
    from sekisho.errors import Refused

    rules = judge(read_json(metrics, "backtest"), load_params().gate)
    result = verdict(rules)
    write_json(result, out)
    if as_json:
        click.echo(json.dumps(result))
    else:
        width = max(len(rule.rule) for rule in rules)
        for rule in rules:
            mark = click.style("pass", fg="green") if rule.passed else click.style("FAIL", fg="red")
            click.echo(
                f"  {mark}  {rule.rule:<{width}}  {_figure(rule.figure):>9}  limit {_figure(rule.limit):>8}"
            )
        failed = sum(not rule.passed for rule in rules)
        click.echo(f"gate: {'passed' if not failed else f'failed {failed} of'} {len(rules)} rules → {out}")
    failing = [rule for rule in rules if not rule.passed]
    if require and failing:
        raise Refused(
            "gate",
            expected="no failed rule",
            found="; ".join(f"{r.rule} {_figure(r.figure)}, limit {_figure(r.limit)}" for r in failing),
            remedy="read build/report/report.md; better features or data help, other seeds and limits do not",
        )


@click.command("report")
@click.option(
    "--backtest", type=FOLDER, default=Path("build/backtest"), show_default=True, help="Returns and weights."
)
@click.option(
    "--train",
    type=FOLDER,
    default=Path("build/train"),
    show_default=True,
    help="Trained agents (learning curves).",
)
@click.option(
    "--metrics",
    type=FOLDER,
    default=Path("metrics"),
    show_default=True,
    help="Folder of backtest.json, gate.json and validate.json.",
)
@click.option(
    "--out", type=FOLDER, default=Path("build/report"), show_default=True, help="Folder to publish."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def report(backtest: Path, train: Path, metrics: Path, out: Path, as_json: bool) -> None:
    """Write the backtest report (Markdown, HTML, plots)."""
    from sekisho.backtest.report import write_report

    digest = write_report(load_params(), backtest=backtest, train=train, metrics=metrics, out=out)
    if as_json:
        click.echo(json.dumps({"report": str(out / "report.md"), "digest": digest}))
    else:
        click.echo(f"report: {out / 'report.md'} sha256:{digest}, {out / 'report.html'}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
