"""``sekisho drift``, ``sekisho retrain`` and ``sekisho kpi``."""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sekisho.cli.numbers import Number
from sekisho.cli.release import ENVIRONMENTS
from sekisho.cli.terminal import json_option, show
from sekisho.errors import SekishoError

if TYPE_CHECKING:
    from sekisho.monitoring.check import Decisions

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
PARAMS = click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)


def _seconds(context: click.Context, option: click.Parameter, days: float | None) -> float | None:
    from sekisho.monitoring.kpi import DAY

    return None if days is None else days * DAY


baseline_option = click.option(
    "--baseline",
    type=Number(min=0.0, min_open=True),
    callback=_seconds,
    help="Lead time before, in days: half of it is the goal.",
)


@click.group()
def drift() -> None:
    """Judge the prediction log of a release against its reference."""


@drift.command()
@click.option("--features", type=FOLDER, default=Path("build/features"), show_default=True)
@click.option("--bars", type=FOLDER, default=Path("build/bars"), show_default=True, help="Validated bars.")
@click.option("--out", type=FILE, default=Path("build/reference.json"), show_default=True)
@PARAMS
@json_option
def reference(features: Path, bars: Path, out: Path, params: Path, as_json: bool) -> None:
    """Write what is normal: statistics of the last fold's training window."""
    from sekisho.monitoring.reference import reference_of_last_fold
    from sekisho.params import load_params

    content = reference_of_last_fold(features, bars, load_params(params))
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.tmp")
    beside.write_bytes(content)
    beside.replace(out)
    about = json.loads(content)
    value = {"out": out} | {name: about[name] for name in ("sessions", "first_session", "last_session")}
    line = f"{out}: {about['sessions']} sessions, {about['first_session']} to {about['last_session']}"
    show(value, line, as_json)


@drift.command()
@click.option(
    "--predictions",
    required=True,
    metavar="FOLDER|s3://bucket/prefix",
    help="What `sekisho serve` wrote; of S3 only what `--kept` does not know is fetched.",
)
@click.option("--release", type=FOLDER, required=True, help="Release folder with its content.")
@click.option(
    "--out",
    type=FILE,
    required=True,
    help="Verdict (JSON); a page (.md, .html) and a plot are written beside it.",
)
@click.option("--bars", type=FOLDER, help="Live bars: the level of volatility is watched too.")
@click.option("--excluded", type=FILE, default=Path("monitoring/excluded.yaml"), show_default=True)
@click.option(
    "--acknowledged",
    type=FOLDER,
    default=Path("monitoring/acknowledged"),
    show_default=True,
    help="Dated files: alarms that people know of.",
)
@click.option("--environment", default="production", show_default=True, help="Whose log it is.")
@click.option("--switch", type=FILE, help="The server's kill switch: turned off at a loss over its limit.")
@click.option(
    "--kept",
    metavar="FOLDER|s3://bucket/prefix",
    help="What the next check need not read again. [default: .kept beside it]",
)
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Judge as on the evening of that day (YYYY-MM-DD). [default: now]",
)
@PARAMS
@json_option
def check(
    predictions: str,
    release: Path,
    out: Path,
    bars: Path | None,
    excluded: Path,
    acknowledged: Path,
    environment: str,
    switch: Path | None,
    kept: str | None,
    as_of: dt.datetime | None,
    params: Path,
    as_json: bool,
) -> None:
    """Judge data quality, drift and performance of a release. Exits 0 ok, 1 alarm, 2 cannot judge."""
    from sekisho.monitoring.check import check_predictions, not_judged
    from sekisho.monitoring.evidence import write_evidence
    from sekisho.monitoring.remote import open_log
    from sekisho.monitoring.status_page import write_status_page
    from sekisho.params import load_params

    now = dt.datetime.now(dt.UTC)
    moment = dt.datetime.combine(as_of, dt.time.max, dt.UTC) if as_of else now
    try:
        every = load_params(params)
        decisions, problems = _decisions(excluded, acknowledged, switch)
        with open_log(predictions, kept) as (folder, memory):
            verdict = check_predictions(
                folder,
                release,
                every.monitoring,
                bars=bars,
                data=every.data,
                decisions=decisions,
                as_of=moment,
                kept=memory,
                problems=problems,
            )
    except SekishoError as error:  # a check that failed is a verdict too: one that notifies
        verdict = not_judged(release, [error.message])
    verdict = replace(
        verdict,
        checked_at=now.isoformat(timespec="seconds"),
        as_of=moment.isoformat(timespec="seconds"),
        environment=environment,
    )
    if switch:
        from sekisho.monitoring.halt import FileSwitch, halt

        if turned := halt(verdict, FileSwitch(switch), now):
            click.echo(f"{switch}: {turned}", err=True)
    write_evidence(verdict, out)
    write_status_page(verdict, out.with_suffix(".html"))
    verdict.write(out)
    click.echo(verdict.to_json() if as_json else f"{verdict.sentence()}\nevidence: {out.with_suffix('.md')}")
    sys.exit(verdict.exit_code)


def _decisions(excluded: Path, acknowledged: Path, switch: Path | None) -> tuple[Decisions, list[str]]:
    """What people decided; a file that cannot be read decides nothing, and is a problem of the check."""
    from sekisho.monitoring.check import Decisions
    from sekisho.monitoring.decisions import load_acknowledgements, load_excluded
    from sekisho.serving.switch import Position, read_turn

    turned = read_turn(switch) if switch else None
    found, problems = Decisions(turned=turned if turned and turned.position is Position.ON else None), []
    try:
        found = replace(found, excluded=load_excluded(excluded))
    except SekishoError as error:
        problems.append(error.message)
    try:
        found = replace(found, acknowledgements=load_acknowledgements(acknowledged))
    except SekishoError as error:
        problems.append(error.message)
    return found, problems


@drift.command()
@click.option("--predictions", type=FOLDER, required=True, help="Folder written by `sekisho serve`.")
@click.option("--release", required=True, help="MODEL/SEQ of the pointer, or its folder.")
@click.option("--bars", type=FOLDER, required=True, help="Live bars, up to now.")
@click.option(
    "--switch",
    required=True,
    metavar="FILE|configmap:NAMESPACE/NAME",
    help="What the servers read.",
)
@click.option(
    "--kept", type=FOLDER, help="What the next call need not read again. [default: .kept beside it]"
)
@click.option("--at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), help="Judge as then. [default: now]")
@PARAMS
@json_option
def losses(
    predictions: Path,
    release: str,
    bars: Path,
    switch: str,
    kept: Path | None,
    at: dt.datetime | None,
    params: Path,
    as_json: bool,
) -> None:
    """Judge losses and the guard's verdicts, the running session included, and turn the kill switch.

    Exits 0 ok, 1 alarm, 2 cannot judge. After a loss: off; in a later session: previous; if that loses: off.
    """
    from sekisho.cli.release import release_folder
    from sekisho.monitoring.watch import watch_and_turn
    from sekisho.params import load_params

    every, now = load_params(params), at or dt.datetime.now(dt.UTC)
    verdict, turned = watch_and_turn(predictions, release_folder(release), every, bars, switch, now, kept)
    if turned:
        click.echo(f"{switch}: {turned}", err=True)
    click.echo(verdict.to_json() if as_json else verdict.sentence())
    sys.exit(verdict.exit_code)


@drift.command()
@click.option("--verdict", type=FILE, required=True, help="Verdict of `sekisho drift check`.")
@click.option("--to", "address", required=True, help="Folder or s3://bucket/prefix that the exporter reads.")
@json_option
def publish(verdict: Path, address: str, as_json: bool) -> None:
    """Put a verdict, and retraining's answer to it, where the exporter reads them."""
    from sekisho.monitoring.published import publish as put
    from sekisho.objects import Objects

    names = [f"{address}/{name}" for name in put(verdict, Objects(address))]
    show({"published": names}, "\n".join(names), as_json)


@drift.command()
@click.option("--verdicts", required=True, help="Folder or s3://bucket/prefix of published verdicts.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=9198, show_default=True)
@PARAMS
def exporter(verdicts: str, host: str, port: int, params: Path) -> None:
    """Serve the exchange's hours and the newest verdicts to Prometheus."""
    from sekisho.calendar import Calendar
    from sekisho.monitoring.exporter import REFRESH, serve_metrics
    from sekisho.monitoring.published import VerdictStore
    from sekisho.objects import Objects
    from sekisho.params import load_params

    data, store = load_params(params).data, VerdictStore(Objects(verdicts))
    with serve_metrics(Calendar(data.calendar, data.bar), store, host, port) as server:
        click.echo(f"http://{host}:{server.server_port}/metrics")
        store.follow(REFRESH)
        server.serve_forever()


@drift.command()
@click.option("--repository", required=True, help="owner/name on GitHub.")
@click.option("--token", type=FILE, required=True, help="File of a GitHub token that may start workflows.")
@click.option("--secret", type=FILE, required=True, help="File of what callers must bring.")
@click.option("--api", default="https://api.github.com", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=9199, show_default=True)
def relay(repository: str, token: Path, secret: Path, api: str, host: str, port: int) -> None:
    """Start the check's workflow when Alertmanager asks for it.

    Both files are read anew at each call: a token of the GitHub App lasts an hour.
    """
    from sekisho.monitoring.relay import read_secret, serve_relay

    for path in (token, secret):
        read_secret(path)
    with serve_relay(api, repository, token, secret, host, port) as server:
        click.echo(f"http://{host}:{server.server_port}/dispatch")
        server.serve_forever()


@click.command()
@click.option("--verdict", type=FILE, required=True, help="Verdict of `sekisho drift check`.")
@click.option("--bars", type=FOLDER, required=True, help="Bars of the live market, to train on as well.")
@click.option("--remote", default="retrain", show_default=True, help="DVC remote for the new data.")
@PARAMS
@json_option
def retrain(verdict: Path, bars: Path, remote: str, params: Path, as_json: bool) -> None:
    """Open or update the retrain pull request for an alarm.

    Run in a checkout; its branch and files are left alone. A hold (monitoring/hold.yaml on main) or a recent
    decision on the same cause keeps it from opening.
    """
    from sekisho.forge import open_forge
    from sekisho.monitoring.published import RETRAIN
    from sekisho.monitoring.retrain import open_retrain
    from sekisho.monitoring.verdict import read_verdict
    from sekisho.params import load_params

    every = load_params(params)
    judged, plot = read_verdict(verdict), verdict.with_suffix(".png")
    made = open_retrain(judged, plot, bars.absolute(), Path.cwd(), open_forge(every.forge), every, remote)
    answer = verdict.parent / RETRAIN  # published with the verdict
    answer.write_text(json.dumps(asdict(made)) + "\n", encoding="utf-8")
    line = f"pull request {made.number} {made.reason} on {made.branch}: {made.added} partitions added"
    show(asdict(made), f"no pull request: {made.reason}" if made.number is None else line, as_json)


@click.command()
@click.option("--verdicts", type=FOLDER, default=Path("build/verdicts"), show_default=True)
@click.option(
    "--environment",
    type=ENVIRONMENTS,
    default="production",
    show_default=True,
    help="Whose promotions count.",
)
@baseline_option
@json_option
def kpi(verdicts: Path, environment: str, baseline: float | None, as_json: bool) -> None:
    """Measure lead time, release and failure rates, times to restore and to retrain.

    From git, the audit log and verdicts; nothing is estimated.
    """
    from sekisho.monitoring.kpi import measure

    figures = measure(Path.cwd(), verdicts, environment=environment, baseline=baseline)
    rows = figures.rows()
    width = max(len(name) for name, _ in rows)
    show(figures.as_dict(), "\n".join(f"{name:<{width}}  {text}" for name, text in rows), as_json)
