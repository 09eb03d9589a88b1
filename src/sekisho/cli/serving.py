"""``sekisho serve`` and ``sekisho replay``."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path

import click

from sekisho.cli.release import environment_option, json_option, release_folder, trust_option
from sekisho.params import load_params

DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--release", required=True, help="A folder releases/MODEL/SEQ, or MODEL/SEQ.")
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
) -> None:
    """Serve a verified, promoted release over Open Inference Protocol v2 until SIGTERM."""
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
    )
    beside = (port + 1, port + 2) if port else (0, 0)
    run(setup, Listen(host, port, grpc_port or beside[0], metrics_port or beside[1]))


@click.command()
@click.option(
    "--bars",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Raw or validated bars.",
)
@click.option("--release", required=True, help="The release being served: a folder, or MODEL/SEQ.")
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
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done), default=str))
        return
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in done.verdicts.items())
    click.echo(
        f"replayed {done.first_session} to {done.last_session}: {done.predictions:,} predictions in "
        f"{done.sessions} sessions ({verdicts}); p50 {done.p50_ms:.1f} ms, p99 {done.p99_ms:.1f} ms; "
        f"net {done.net_return:+.2%}, costs {done.cost:.2%}, turnover {done.turnover:.2f} a session"
    )
