"""``sekisho backtest``, ``sekisho trials``, ``sekisho gate`` and ``sekisho report``."""

from __future__ import annotations

from pathlib import Path

import click

from sekisho.cli.terminal import json_option, show, steps
from sekisho.params import load_params

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
METRICS = Path("metrics/backtest.json")
RETURNS = Path("metrics/returns.csv")
TRIALS = Path("metrics/trials.json")
LOOKAHEAD = Path("metrics/lookahead.json")
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
@click.option("--returns", type=FILE, default=RETURNS, show_default=True, help="Session returns to write.")
@json_option
def backtest(
    bars: Path, features: Path, train: Path, out: Path, metrics: Path, returns: Path, as_json: bool
) -> None:
    """Run the trained agents, the baselines and the champion through the test windows."""
    from sekisho.backtest.run import run_backtest

    params = load_params()
    sessions = params.split.folds * params.split.test_sessions
    with steps("backtest", sessions) as step:
        figures = run_backtest(
            params,
            bars=bars,
            features=features,
            train=train,
            out=out,
            metrics_file=metrics,
            returns_file=returns,
            on_session=step,
        )
    agent, window = figures["agent"], figures["window"]
    line = (
        f"backtest: {window['sessions']} sessions {window['first']} to {window['last']}, "
        f"champion {figures['opening']['champion']}: net Sharpe ratio {_figure(agent['sharpe'])} "
        f"[{_figure(agent['sharpe_low'])}, {_figure(agent['sharpe_high'])}] → {metrics}"
    )
    show(figures, line, as_json)


@click.command("trials")
@click.option("--metrics", type=FILE, default=METRICS, show_default=True, help="The backtest's figures.")
@click.option("--returns", type=FILE, default=RETURNS, show_default=True, help="The backtest's returns.")
@click.option("--out", type=FILE, default=TRIALS, show_default=True, help="Metrics file to write.")
@json_option
def trials(metrics: Path, returns: Path, out: Path, as_json: bool) -> None:
    """Count the trials in git's history and what having picked one of them costs."""
    from sekisho.backtest.files import write_json
    from sekisho.backtest.selection import count_and_select

    found = count_and_select(metrics, returns, load_params())
    write_json(found, out)
    line = (
        f"trials: {found['trials']} so far, {found['with_returns']} with returns on these sessions: "
        f"deflated Sharpe ratio {_figure(found['deflated_sharpe'])}, "
        f"probability of overfitting {_figure(found['pbo'])} → {out}"
    )
    show(found, line, as_json)
    if found["history"] != "full":
        click.echo(f"trials: git history: {found['history']}; earlier trials may be missing", err=True)


@click.command("gate")
@click.option("--metrics", type=FILE, default=METRICS, show_default=True, help="The backtest's figures.")
@click.option("--trials", type=FILE, default=TRIALS, show_default=True, help="Figures of all trials.")
@click.option("--lookahead", type=FILE, default=LOOKAHEAD, show_default=True, help="Finding on look-ahead.")
@click.option("--out", type=FILE, default=GATE, show_default=True, help="Verdict to write.")
@click.option("--require", is_flag=True, help="Exit 1 when a rule fails.")
@json_option
def gate(metrics: Path, trials: Path, lookahead: Path, out: Path, require: bool, as_json: bool) -> None:
    """Judge the backtest: pass or fail per rule."""
    from sekisho.backtest.files import read_json, write_json
    from sekisho.backtest.gate import judge, verdict
    from sekisho.errors import Refused

    rules = judge(
        read_json(metrics, "backtest"),
        read_json(trials, "trials"),
        read_json(lookahead, "features"),
        load_params().gate,
    )
    result = verdict(rules)
    write_json(result, out)
    failing = [rule for rule in rules if not rule.passed]
    lines, width = [], max(len(rule.rule) for rule in rules)
    for rule in rules:
        mark = click.style("pass", fg="green") if rule.passed else click.style("FAIL", fg="red")
        lines.append(
            f"  {mark}  {rule.rule:<{width}}  {_figure(rule.figure):>9}  limit {_figure(rule.limit):>8}"
            + (f"  {rule.note}" if rule.note else "")
        )
    lines.append(f"gate: {f'failed {len(failing)} of' if failing else 'passed'} {len(rules)} rules → {out}")
    show(result, "\n".join(lines), as_json)
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
    help="Folder of backtest.json, trials.json, gate.json and validate.json.",
)
@click.option(
    "--out", type=FOLDER, default=Path("build/report"), show_default=True, help="Folder to publish."
)
@json_option
def report(backtest: Path, train: Path, metrics: Path, out: Path, as_json: bool) -> None:
    """Write the backtest report (Markdown, HTML, plots)."""
    from sekisho.backtest.report import write_report

    digest = write_report(load_params(), backtest=backtest, train=train, metrics=metrics, out=out)
    value = {"report": str(out / "report.md"), "digest": digest}
    show(value, f"report: {out / 'report.md'} sha256:{digest}, {out / 'report.html'}", as_json)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
