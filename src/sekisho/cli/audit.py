"""The verb `audit`: trace a prediction or a release, read and check the log, write the audit page."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from sekisho.cli.release import ENVIRONMENTS, ROOT, complete_releases, release_folder, trust_option
from sekisho.cli.terminal import json_option, show
from sekisho.errors import CannotCheck

environment_option = click.option(
    "--environment",
    type=ENVIRONMENTS,
    help="Whose trust policy to verify under. [default: where the release was promoted last]",
)


def releases_here() -> Path:
    """The folder of releases; elsewhere than in the repository's root there is nothing to prove.

    Raises:
        CannotCheck: no such folder.
    """
    folder = ROOT / "releases"
    if not folder.is_dir():
        raise CannotCheck(
            f"{folder.resolve()}: no such folder", remedy="run this in the root of the repository"
        )
    return folder


@click.group()
def audit() -> None:
    """Trace a prediction or a release; check the audit log."""


@audit.command()
@click.argument("subject", metavar="PREDICTION_ID|MODEL/SEQ", shell_complete=complete_releases)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Folder of a server's prediction log, or of several.",
)
@trust_option
@environment_option
@json_option
def trace(
    subject: str, predictions: Path | None, trust: Path, environment: str | None, as_json: bool
) -> None:
    """Show everything that led to a served prediction or to a release, with every signature verified."""
    releases_here()
    from sekisho.release.trace import find_records, table, trace_prediction, trace_release
    from sekisho.serving.predictions import verify_chain

    if predictions:
        records = find_records(predictions, subject)
        for log in sorted({Path(record["file"]).parents[1] for record in records}):
            verify_chain(log)  # an edited log proves nothing
        found = trace_prediction(ROOT, records, trust=trust, environment=environment)
    elif "/" in subject:
        found = trace_release(ROOT, release_folder(subject), trust=trust, environment=environment)
    else:
        raise click.UsageError("a prediction needs --predictions DIR; a release is named MODEL/SEQ")
    show(found, "\n".join(f"{what:<18} {value}" for what, value in table(found)), as_json)


@audit.command()
@click.option("--last", type=click.IntRange(min=1), help="Only so many events from the end.")
@json_option
def log(last: int | None, as_json: bool) -> None:
    """Show the audit log, its chain checked."""
    from sekisho.release.audit import read_log

    events, _ = read_log(releases_here())
    chosen = events[-last:] if last else events
    if not chosen:
        click.echo("the audit log holds no event yet", err=True)
    lines = []
    for event in chosen:
        subject = f"{event.model}/{event.seq}" if event.model else "-"
        details = " ".join(f"{key}={value}" for key, value in event.details.items() if key != "bundles")
        when = f"{event.at:%Y-%m-%d %H:%M:%S}Z"
        lines.append(f"{event.line:>5} {when} {event.event:<8} {subject:<14} {event.actor} {details}")
    show([event.model_dump(mode="json") for event in chosen], "\n".join(lines), as_json)


@audit.command()
@click.option("--from", "known", metavar="HEAD", help="Sha256 of a head noted before: the log still has it.")
@json_option
def check(known: str | None, as_json: bool) -> None:
    """Prove the audit log unbroken and complete."""
    from sekisho.release.audit_check import check_log

    releases_here()
    head = check_log(ROOT, known)
    value = {"lines": head.lines, "head": head.sha256}
    show(value, f"audit log unbroken: {head.lines} lines, head sha256:{head.sha256}", as_json)


@audit.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="HTML file to write.")
@trust_option
@environment_option
@json_option
def page(out: Path, trust: Path, environment: str | None, as_json: bool) -> None:
    """Write a self-contained HTML page of all releases, facts, approvals and promotions.

    A log that does not hold is on the page, and ends the command as `audit check` would. Of one whose chain
    is broken none is written.
    """
    from sekisho.release.audit_page import write_page

    releases_here()
    broken = write_page(ROOT, trust, environment, out)
    show({"page": out, "unbroken": broken is None}, f"audit page: {out}", as_json)
    if broken:
        raise broken


@audit.command("export")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), required=True, help="First day, UTC.")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), required=True, help="Last day, UTC.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to make.")
@click.option(
    "--environment",
    type=ENVIRONMENTS,
    required=True,
    help="Whose trust policy the releases were signed under.",
)
@trust_option
@json_option
def export(
    first: dt.datetime, last: dt.datetime, out: Path, environment: str, trust: Path, as_json: bool
) -> None:
    """Write a self-contained pack of a period's releases that verifies offline with sigstore alone."""
    from sekisho.release.pack import export_pack

    releases_here()
    pack = export_pack(ROOT, trust, environment, first.date(), last.date(), out)
    show({"pack": pack}, f"audit pack: {pack}", as_json)
