"""The verb ``pages``: what people read, in one folder that opens without a server."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from sekisho.cli.audit import releases_here
from sekisho.cli.monitoring import baseline_option
from sekisho.cli.release import ENVIRONMENTS, ROOT, trust_option
from sekisho.cli.terminal import json_option, show

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option(
    "--out", type=FOLDER, default=Path("build/pages"), show_default=True, help="Folder of the pages."
)
@click.option(
    "--environment",
    type=ENVIRONMENTS,
    default="production",
    show_default=True,
    help="Whose champion, promotions and trust policy.",
)
@click.option("--verdicts", type=FOLDER, default=Path("build/verdicts"), show_default=True)
@click.option(
    "--report",
    type=FILE,
    default=Path("build/report/report.html"),
    show_default=True,
    help="Backtest report to lay beside them.",
)
@baseline_option
@trust_option
@json_option
def pages(
    out: Path,
    environment: str,
    verdicts: Path,
    report: Path,
    baseline: float | None,
    trust: Path,
    as_json: bool,
) -> None:
    """Write the pages on model, KPIs and cost, and audit; they open without a server.

    They show, and judge nothing: an audit log that does not hold is told of, `audit check` ends with 1 on it.
    Of a log whose chain is broken no page is left: the command ends with 1.
    """
    releases_here()
    given = click.get_current_context().get_parameter_source
    for name, path in {"verdicts": verdicts, "report": report}.items():
        if given(name) is ParameterSource.COMMANDLINE and not path.exists():
            raise click.BadParameter(f"{path} is not there", param_hint=f"--{name}")
    from sekisho.monitoring.pages import Sources, write_pages

    broken = write_pages(Sources(ROOT, trust, environment, verdicts, report, baseline), out)
    value = {"first": out / "model.html", "unbroken": broken is None}
    show(value, f"pages: {out / 'model.html'} leads to the others", as_json)
    if broken:
        click.echo(f"the audit log does not hold, see {out / 'audit.html'}: {broken}", err=True)
