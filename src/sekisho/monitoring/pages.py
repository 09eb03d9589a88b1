"""The set of pages in one folder: model, KPIs and cost, audit, the report and the last verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sekisho.errors import CannotCheck, Refused, SekishoError
from sekisho.monitoring import kpi_page, model_page, status_page
from sekisho.monitoring.cost import Cost, read_cost
from sekisho.monitoring.kpi import measure
from sekisho.monitoring.verdict import Verdict, read_verdicts
from sekisho.page.blocks import Both
from sekisho.page.html import Page, with_menu
from sekisho.release import audit_page
from sekisho.release.audit import write_atomically
from sekisho.release.trace import trace_releases

MODEL = Page(model_page.TITLE, "model.html")
KPI = Page(kpi_page.TITLE, "kpi.html")
AUDIT = Page(audit_page.TITLE, "audit.html")
VERDICT = Page(status_page.TITLE, "verdict.html")
REPORT = Page(Both("Last backtest here", "直近のバックテスト"), "report.html")  # may be no release's


@dataclass(frozen=True)
class Sources:
    """``report``: the HTML report to lay beside, None for none; ``baseline``: lead time before, seconds."""

    repo: Path
    trust: Path
    environment: str
    verdicts: Path
    report: Path | None
    baseline: float | None


def write_pages(sources: Sources, out: Path) -> SekishoError | None:
    """Write the pages to ``out``; returns why the audit log does not hold, None if it does.

    Pages of what is not there, a report or a verdict, are neither written nor linked; those of an earlier
    call are taken away.

    Raises:
        CannotCheck: not a git checkout, or a file of the record cannot be read.
        Refused: the audit log's chain is broken: no page could be believed, and those of an earlier call,
            which may say that it holds, are taken away.
    """
    try:
        return _write(sources, out)
    except Refused:
        for page in (MODEL, KPI, AUDIT, VERDICT, REPORT):
            (out / page.file).unlink(missing_ok=True)
        raise


def _write(sources: Sources, out: Path) -> SekishoError | None:
    repo, environment = sources.repo, sources.environment
    verdicts = (
        [verdict for _, verdict in read_verdicts(sources.verdicts)] if sources.verdicts.is_dir() else []
    )
    kpi = measure(repo, sources.verdicts, environment=environment, baseline=sources.baseline)
    traces = trace_releases(repo, sources.trust, environment)
    seen = model_page.look(repo, sources.trust, environment, traces, verdicts)
    report = sources.report if sources.report and sources.report.is_file() else None
    last = seen.verdicts[-1] if seen.verdicts else None
    menu = [MODEL, KPI, AUDIT, *([VERDICT] if last else []), *([REPORT] if report else [])]
    out.mkdir(parents=True, exist_ok=True)
    _lay(report, out / REPORT.file, menu)
    _show(last, out / VERDICT.file, menu)
    model_page.write_model_page(seen, out / MODEL.file, menu)
    kpi_page.write_kpi_page(kpi, _cost(repo), environment, out / KPI.file, menu)
    return audit_page.write_traced(repo, traces, out / AUDIT.file, menu)


def _lay(report: Path | None, place: Path, menu: list[Page]) -> None:
    if report is None:
        place.unlink(missing_ok=True)
    else:
        page = with_menu(report.read_text(encoding="utf-8"), menu, place.name)
        write_atomically(place, page.encode())


def _show(verdict: Verdict | None, place: Path, menu: list[Page]) -> None:
    if verdict is None:
        place.unlink(missing_ok=True)
    else:
        status_page.write_status_page(verdict, place, menu)


def _cost(repo: Path) -> Cost | CannotCheck:
    try:
        return read_cost(repo)
    except CannotCheck as error:
        return error
