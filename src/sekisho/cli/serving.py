"""``sekisho serve`` and ``sekisho replay``."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import click

from sekisho.cli.numbers import Number
from sekisho.cli.release import ROOT, complete_releases, environment_option, release_folder, trust_option
from sekisho.cli.terminal import json_option, show
from sekisho.errors import CannotCheck
from sekisho.params import load_params

DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option(
    "--release",
    required=True,
    shell_complete=complete_releases,
    help="A folder releases/MODEL/SEQ, or MODEL/SEQ.",
)
@environment_option
@click.option(
    "--predictions",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of this server's prediction log and high-water mark.",
)
@trust_option
@click.option("--expect", metavar="POINTER", help="Refuse any release but MODEL/SEQ@sha256:DIGEST.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=8080, show_default=True, help="HTTP port.")
@click.option("--grpc-port", type=int, help="[default: port + 1]")
@click.option("--metrics-port", type=int, help="[default: port + 2]")
@click.option("--replay-clock", is_flag=True, help="Honour the caller's logical clock: for replays only.")
@click.option(
    "--switch",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of the kill switch (see `sekisho switch`); without one there is none.",
)
@click.option("--follow", is_flag=True, help="Swap releases as the environment's pointer here changes.")
def serve(
    release: str,
    environment: str,
    predictions: Path,
    trust: Path,
    expect: str | None,
    host: str,
    port: int,
    grpc_port: int | None,
    metrics_port: int | None,
    replay_clock: bool,
    switch: Path | None,
    follow: bool,
) -> None:
    """Serve a verified, promoted release over Open Inference Protocol v2 until SIGTERM."""
    from sekisho.pointer import read_pointer
    from sekisho.release.verify import verify_release
    from sekisho.serving.runtime import ServingSetup
    from sekisho.serving.server import Listen
    from sekisho.serving.server import serve as run

    setup = ServingSetup(
        release=release_folder(release),
        trust=trust,
        environment=environment,
        predictions=predictions,
        params=load_params().serving,
        verify=verify_release,
        expect=expect,
        replay_clock=replay_clock,
        switch=switch,
        follow=(lambda: read_pointer(ROOT, environment)) if follow else None,
    )
    beside = (port + 1, port + 2) if port else (0, 0)
    run(setup, Listen(host, port, grpc_port or beside[0], metrics_port or beside[1]))


@click.command()
@click.argument("position", type=click.Choice(["on", "off", "previous"]))
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file that `sekisho serve --switch` watches.",
)
@click.option("--reason", required=True, help="Why; it stays in the file.")
@json_option
def switch(position: str, file: Path, reason: str, as_json: bool) -> None:
    """Turn the kill switch: off answers with the safe action, previous lets the last release decide."""
    from sekisho.serving.switch import Position, write_switch

    try:
        write_switch(file, Position(position), reason)
    except OSError as error:
        raise CannotCheck(f"{file}: {error}", remedy="turn it on the machine that serves") from error
    value = {"file": file, "position": position, "reason": reason}
    show(value, f"{file}: {position}; servers see it within `serving.switch_interval`", as_json)


@click.command()
@click.option("--url", required=True, help="The policy servers' Service.")
@click.option("--model", required=True, help="Name of the model.")
@click.option("--expect", required=True, metavar="POINTER", help="MODEL/SEQ@sha256:DIGEST.")
@click.option(
    "--timeout",
    type=Number(0, 86_400),
    default=240.0,
    show_default=True,
    help="Seconds to wait for it.",
)
@json_option
def served(url: str, model: str, expect: str, timeout: float, as_json: bool) -> None:
    """Check that every replica behind URL serves the release POINTER. Exits 1 while another one does."""
    from sekisho.serving.client import PolicyClient

    with PolicyClient(url, model, deadline=5.0) as client:
        client.require_release(expect, timeout=timeout)
    show({"url": url, "serves": expect}, f"{url} serves {expect}", as_json)


@click.command()
@click.option("--write", is_flag=True, help="Write the windows of the next 14 months.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("deploy/argocd/windows.yaml"),
    show_default=True,
    help="The patch that gives the Argo CD project its windows.",
)
@click.option("--as-of", type=DAY, help="Day to count from [default: today].")
@json_option
def freeze(write: bool, file: Path, as_of: dt.datetime | None, as_json: bool) -> None:
    """Check that production is not deployed to in market hours, for 12 months ahead; exits 1 where it is."""
    from sekisho.serving.windows import check_windows, write_windows

    params, day = load_params(), as_of.date() if as_of else dt.datetime.now(dt.UTC).date()
    calendar = params.data.calendar
    written = write_windows(file, calendar, day, params.serving) if write else None
    last = check_windows(file, calendar, day, params.serving)
    text = f"{file}: every session of {calendar} from {day} to {last} is denied"
    value = {"file": file, "calendar": calendar, "first": day, "last": last, "written": written}
    show(value, text if written is None else f"{file}: {written} windows\n{text}", as_json)


@click.command()
@click.option(
    "--bars",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Raw or validated bars.",
)
@click.option(
    "--release",
    required=True,
    shell_complete=complete_releases,
    help="The release being served: a folder, or MODEL/SEQ.",
)
@click.option("--url", required=True, help="The policy server, started with --replay-clock.")
@click.option("--first", type=DAY, help="First session to send; earlier ones warm the features up.")
@click.option("--last", type=DAY, help="Last session to send.")
@json_option
def replay(
    bars: Path,
    release: str,
    url: str,
    first: dt.datetime | None,
    last: dt.datetime | None,
    as_json: bool,
) -> None:
    """Send a market's bars through a policy server, and follow the account that its weights make."""
    from sekisho.serving.replay import replay as run

    done = run(
        bars,
        release_folder(release),
        url,
        first=first.date() if first else None,
        last=last.date() if last else None,
        progress=lambda line: click.echo(line, err=True),
    )
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in done.verdicts.items())
    line = (
        f"replayed {done.first_session} to {done.last_session}: {done.predictions:,} predictions in "
        f"{done.sessions} sessions ({verdicts}); p50 {done.p50_ms:.1f} ms, p99 {done.p99_ms:.1f} ms; "
        f"net {done.net_return:+.2%}, costs {done.cost:.2%}, turnover {done.turnover:.2f} a session"
    )
    show(dataclasses.asdict(done), line, as_json)
