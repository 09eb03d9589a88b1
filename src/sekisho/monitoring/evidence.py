"""The verdict for people: a plot of the statistic against its threshold, and a Markdown page beside the
JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sekisho.monitoring.verdict import DRIFT, Verdict

SHOWN_FLOOR = 1e-2  # of the logarithmic axis
SHOWN_CEILING = 1e6

RUNBOOKS = {
    "mean": "data-drift",
    "volatility": "data-drift",
    "correlation": "data-drift",
    "parity": "parity",
    "safe-answers": "safe-answers",
}


def write_evidence(verdict: Verdict, out: Path) -> list[Path]:
    """Write ``<out>.png`` (where sessions were judged) and ``<out>.md`` beside the verdict ``out``; returns
    them.
    """
    written = []
    out.parent.mkdir(parents=True, exist_ok=True)
    plot = out.with_suffix(".png")
    if verdict.levels:
        _plot(verdict, plot)
        written.append(plot)
    page = out.with_suffix(".md")
    beside = page.with_name(f".{page.name}.tmp")
    beside.write_text(markdown(verdict, plot.name if verdict.levels else None) + "\n", encoding="utf-8")
    beside.replace(page)
    return [*written, page]


def markdown(verdict: Verdict, plot: str | None) -> str:
    """The verdict as Markdown; ``plot`` is the link to its picture."""
    return "\n".join(_lines(verdict, plot))


def _lines(verdict: Verdict, plot: str | None) -> Iterator[str]:
    yield f"# {verdict.model}/{verdict.seq}: {verdict.state}"
    yield f"\n{verdict.sentence()}\n"
    if verdict.problems:
        yield "Drift was not judged. This is not a finding of no drift.\n"
        yield from (f"- {problem}" for problem in verdict.problems)
        if verdict.alarms:
            yield "\nWhat the serving side shows all the same:\n"
            yield from alarm_table(verdict)
        yield "\nRunbook: docs/en/runbooks/cannot-judge.md"
        return
    yield from alarm_table(verdict)
    if plot:
        yield f"\n![Drift statistic against its threshold]({plot})\n"
    yield from series_table(verdict)
    yield "\n| figure | value |\n| --- | --- |"
    yield f"| sessions judged | {verdict.sessions}: {verdict.first_session} to {verdict.last_session} |"
    yield f"| predictions | {verdict.rows} |"
    answers = ", ".join(f"{name} {share:.2%}" for name, share in verdict.answers.items())
    yield f"| guard's verdicts | {answers} |"
    yield f"| largest difference to the replayed model | {verdict.parity_difference:.2g} |"
    yield f"| manifest | `{verdict.manifest_digest}` |"
    yield f"| reference | `{verdict.reference_digest}` |"
    yield from (f"| left out {day} | {reason} |" for day, reason in verdict.excluded.items())
    yield from (f"\nNot watched: {series}." for series in verdict.unwatched)


def alarm_table(verdict: Verdict) -> Iterator[str]:
    """Alarms as a Markdown table; nothing where there are none."""
    if not verdict.alarms:
        return
    yield "| alarm | series | statistic | threshold | session | runbook |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for alarm in verdict.alarms:
        yield (
            f"| {alarm.family} | {alarm.series} | {alarm.statistic:.3g} | {alarm.threshold:g} "
            f"| {alarm.session} | docs/en/runbooks/{RUNBOOKS[alarm.family]}.md |"
        )


def series_table(verdict: Verdict) -> Iterator[str]:
    """The series with the most evidence as a Markdown table."""
    if not any(alarm.family in DRIFT for alarm in verdict.alarms):
        return
    yield "| family | symbol | feature | evidence |\n| --- | --- | --- | --- |"
    for row in verdict.top:
        yield f"| {row['family']} | {row['symbol']} | {row['feature']} | {row['evidence']:.3g} |"


def _plot(verdict: Verdict, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    days = list(verdict.levels)
    levels = [min(max(level, SHOWN_FLOOR), SHOWN_CEILING) for level in verdict.levels.values()]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.semilogy(range(len(days)), levels, marker=".", color="#1f4e79", label="drift statistic")
    axes.axhline(verdict.threshold, color="#b03030", linestyle="--", label=f"alarm at {verdict.threshold:g}")
    for alarm in verdict.alarms:
        if alarm.family in DRIFT:
            axes.axvline(days.index(alarm.session), color="#b03030", linewidth=0.8)
            axes.set_title(f"{alarm.family} of {alarm.series}, {alarm.session}", fontsize=10)
    step = max(1, len(days) // 8)
    axes.set_xticks(range(0, len(days), step), days[::step], rotation=20, ha="right", fontsize=8)
    axes.set_ylim(SHOWN_FLOOR, SHOWN_CEILING * 2)
    axes.set_ylabel("evidence (log)")
    axes.legend(loc="upper left", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
