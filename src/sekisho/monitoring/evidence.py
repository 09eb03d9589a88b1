"""The verdict for people: a plot of the statistic against its threshold, and a Markdown page beside the
JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sekisho.monitoring.alarms import alarms
from sekisho.monitoring.verdict import DRIFT, Verdict
from sekisho.monitoring.words import ACTIONS, NAMES_JA
from sekisho.page.blocks import Both, to_markdown
from sekisho.page.canvas import BLUE, ORANGE, RED, Plot, figure, ink, legend, png
from sekisho.release.audit import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_FLOOR = 1e-3  # of the logarithmic axis, in units of the limit
SHOWN_CEILING = 1e4
LONGEST_NAME = 60  # characters of a series in the chart


def write_evidence(verdict: Verdict, out: Path) -> list[Path]:
    """Write ``<out>.png`` (where sessions were judged) and ``<out>.md`` beside the verdict ``out``; returns
    them.
    """
    written = []
    out.parent.mkdir(parents=True, exist_ok=True)
    plot = out.with_suffix(".png")
    if verdict.levels:
        png(plot_of(verdict), plot)
        written.append(plot)
    page = out.with_suffix(".md")
    text = markdown(verdict, plot.name if verdict.levels else None)
    write_atomically(page, f"{text}\n".encode())
    return [*written, page]


def markdown(verdict: Verdict, plot: str | None) -> str:
    """The verdict as Markdown; ``plot`` is the link to its picture."""
    return "\n".join(_lines(verdict, plot))


def _lines(verdict: Verdict, plot: str | None) -> Iterator[str]:
    yield f"# {verdict.model}/{verdict.seq}: {verdict.state}"
    yield f"\n{verdict.sentence()}\n"
    yield f"Action: **{verdict.action}** ({ACTIONS[verdict.action]}).\n"
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
    yield from figure_table(verdict)
    yield from (f"| left out {day} | {reason} |" for day, reason in verdict.excluded.items())
    for known in verdict.acknowledged:
        about = f"{known['family']} of {known['series']}"
        yield f"| acknowledged: {about} | {known['reason']} ({known['file']}) |"
    yield from distance_table(verdict)
    yield from (f"\nNot watched: {series}." for series in verdict.unwatched)


def figures(verdict: Verdict) -> Iterator[tuple[str, Both]]:
    """Name and value of everything that stands beside an alarm."""
    first, last = verdict.first_session, verdict.last_session
    yield (
        "sessions judged",
        _plain(f"{verdict.sessions}: {first} to {last}", f"{verdict.sessions}: {first}〜{last}"),
    )
    yield "predictions", _plain(str(verdict.rows))
    yield "guard", _plain(", ".join(f"{name} {share:.2%}" for name, share in verdict.answers.items()))
    if verdict.latency:
        times = (f"{name} {1e3 * x:.3g} ms" for name, x in verdict.latency.items())
        yield "latency", _plain(", ".join(times))
    if verdict.false_alarms:
        rate = verdict.false_alarms
        low, high = f"{rate['low']:.3f}", f"{rate['high']:.3f}"
        yield (
            "false alarms a month, measured on the reference",
            _plain(
                f"{rate['a_month']:.3f} (95 %: {low} to {high})",
                f"{rate['a_month']:.3f}(95 %: {low}〜{high})",
            ),
        )
    largest = f"{verdict.parity_difference:.2g}"
    yield "replay parity", _plain(f"largest difference {largest}", f"最大の差 {largest}")
    if skew := verdict.skew:
        share = skew["differ"] / max(skew["compared"], 1)
        yield (
            "features served against recomputed",
            _plain(
                f"{skew['differ']} of {skew['compared']} compared requests differ ({share:.3%}); "
                f"{skew['answered']} were answered",
                f"比較した {skew['compared']} 件のうち {skew['differ']} 件が相違({share:.3%})。"
                f"応答は {skew['answered']} 件",
            ),
        )
    if account := verdict.performance:
        net, band = f"{account['net_return']:+.2%}", f"{account['band_low']:+.2%}"
        sessions, drawdown = account["sessions"], f"{account['drawdown']:.2%}"
        yield (
            "live account, net",
            _plain(
                f"{net} in {sessions} sessions; the backtest's band begins at {band}; "
                f"largest drawdown {drawdown}",
                f"{sessions} 立会日で {net}。バックテストの範囲の下端は {band}、"
                f"最大ドローダウンは {drawdown}",
            ),
        )
        yield "live minus replayed model", _plain(f"{account['live_minus_replay']:+.4%}")
        cusum, limit = f"{account['cusum']:.3g}", f"{account['cusum_limit']:.3g}"
        yield "CUSUM of shortfalls", _plain(f"{cusum} of {limit}", f"{cusum}(基準 {limit})")
    yield "manifest", _plain(f"sha256:{verdict.manifest_digest}")
    yield "reference", _plain(f"sha256:{verdict.reference_digest}")


def figure_table(verdict: Verdict) -> Iterator[str]:
    """Rows of the figures in Markdown; digests as code."""
    for name, value in figures(verdict):
        yield f"| {name} | {f'`{value.en}`' if value.en.startswith('sha256:') else value.en} |"


def _plain(english: str, japanese: str | None = None) -> Both:
    return Both(english, english if japanese is None else japanese, plain=True)


def distance_table(verdict: Verdict) -> Iterator[str]:
    """Distances of the recent values as a Markdown table."""
    if verdict.distances:
        yield "\nThe last sessions' values against the reference's; no alarm depends on this table:\n"
        yield "| symbol | feature | KS | PSI | Wasserstein / σ |\n| --- | --- | --- | --- | --- |"
        for row in verdict.distances:
            yield (
                f"| {row['symbol']} | {row['feature']} | {row['ks']:.3f} | {row['psi']:.3f} "
                f"| {row['wasserstein']:.3f} |"
            )


def alarm_table(verdict: Verdict) -> Iterator[str]:
    """Alarms as a Markdown table; nothing where there are none."""
    if verdict.alarms:
        yield to_markdown([alarms(verdict)]).rstrip()


def series_table(verdict: Verdict) -> Iterator[str]:
    """The series with the most evidence as a Markdown table."""
    if not any(alarm.family in DRIFT for alarm in verdict.alarms):
        return
    yield "| family | symbol | feature | evidence | CUSUM |\n| --- | --- | --- | --- | --- |"
    for row in verdict.top:
        place = f"| {row['family']} | {row['symbol']} | {row['feature']} |"
        yield f"{place} {row['evidence']:.3g} | {row['cusum']:.1f} |"


def plot_of(verdict: Verdict) -> Plot:
    """Both drift statistics, each over its limit, and the live account over its band where there is one."""
    below = Both("", "")
    if verdict.performance:
        below = Both(
            " Below: the live account; under its dashed line it earns less than the backtest's band.",
            "下: 実運用の口座。破線より下は、バックテストの範囲を下回っています。",
        )
    caption = Both(
        "Drift statistics after each session, over their limits; above the dashed line is an alarm."
        f"{below.en}",
        f"各立会日の後のドリフト統計量を基準で割ったもの。破線より上はアラームです。{below.ja}",
    )
    return Plot("statistics", caption, lambda: _draw(verdict), _written)


def _written(english: str) -> str | None:
    """Japanese of what stands in the chart."""
    for name in ("e-detector", "CUSUM of drift"):
        if english.startswith(f"{name} (limit "):
            return english.replace("limit", "基準").replace("CUSUM of drift", "ドリフトの CUSUM")
    return NAMES_JA.get(english)


def _draw(verdict: Verdict) -> Figure:
    account = verdict.performance
    drawn, panels = figure(6.0 if account else 3.4, rows=2 if account else 1)
    days = list(verdict.levels)
    for name, values, limit, colour in (
        ("e-detector", verdict.levels, verdict.threshold, BLUE),
        ("CUSUM of drift", verdict.cusum, verdict.cusum_threshold, ORANGE),
    ):
        shown = [min(max(x / limit, SHOWN_FLOOR), SHOWN_CEILING) for x in values.values()]
        label = f"{name} (limit {limit:.4g})"
        panels[0].semilogy(range(len(days)), shown, color=colour, marker=".", label=label)
    panels[0].axhline(1.0, color=RED, linestyle="--", label="alarm")
    for alarm in verdict.alarms:
        if alarm.family in DRIFT:
            at = days.index(alarm.session)
            panels[0].axvline(at, color=RED, linewidth=0.8)
            named = panels[0].annotate(
                f" {alarm.series[:LONGEST_NAME]} ",
                (at, 0.02),
                xycoords=("data", "axes fraction"),
                ha="right" if at > len(days) / 2 else "left",
                fontsize=8,
                color=ink(),
                parse_math=False,
            )
            named.set_in_layout(False)  # a name takes no room from the axes
    panels[0].set_ylim(SHOWN_FLOOR, SHOWN_CEILING * 2)
    panels[0].set_ylabel("statistic / limit (log)")
    _name_days(panels[0], days)
    if account:
        days = list(account["equity"])
        panels[1].plot(
            range(len(days)), list(account["equity"].values()), color=BLUE, marker=".", label="live, net"
        )
        low = list(account["band"].values())
        label = "lower end of the backtest's band"
        panels[1].plot(range(len(days)), low, color=RED, linestyle="--", label=label)
        panels[1].set_ylabel("equity (start 1)")
        _name_days(panels[1], days)
    return drawn


def _name_days(axes: Axes, days: list[str]) -> None:
    step = max(1, -(-len(days) // 8))
    axes.set_xticks(range(0, len(days), step), days[::step], rotation=20, ha="right", fontsize=8)
    legend(axes, 3)
