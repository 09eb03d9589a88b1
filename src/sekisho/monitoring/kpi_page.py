"""The page on the loop itself: its figures against their goals, and cost beside what the money brings.

Times come from `kpi.measure`, costs from `cost.read_cost`; what is not recorded is said to be not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sekisho.errors import CannotCheck
from sekisho.monitoring.cost import Cost
from sekisho.monitoring.kpi import DAY, SHARE, WITHIN, Kpi, spell
from sekisho.monitoring.words import minute, named
from sekisho.page.blocks import Block, Both, Cell, Heading, Plain, State, Table, Text, Tile, Tiles
from sekisho.page.canvas import BLUE, GREEN, ORANGE, PINK, RED, SKY, Plot, figure, legend, picture
from sekisho.page.html import Page, to_html
from sekisho.release.audit import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = Both("KPIs and cost", "KPI とコスト")
JAPANESE = ("不明", "日", "時間", "分")
MONTH = 28 * DAY  # of promotions, below which no rate a month is named
HOUR, MILLION = 3600.0, 1e6
UNITS = {"days": DAY, "hours": HOUR, "minutes": 60.0}
KINDS = {
    "cluster": "クラスタ",
    "keys": "鍵",
    "logs and metrics": "ログと指標",
    "network": "ネットワーク",
    "nodes": "ノード",
    "storage": "ストレージ",
}
BASES_JA = {  # what terraform/cost/prices.yaml calls its prices
    "mid-2025 list prices, within about 5 % of the list, not checked since": (
        "2025 年半ばの定価(定価表との差は約 5 % 以内、その後は未確認)"
    ),
}
IN_CHARTS = {
    "to the retrain branch": "再学習ブランチまで",
    "to its merge": "マージまで",
    "to the promotion": "昇格まで",
    "goal": "目標",
    "days": "日",
    "hours": "時間",
    "minutes": "分",
    "hours since the anomaly": "異常からの時間(時間)",
    "as expected": "想定",
    "at worst": "最悪",
    "budget": "予算",
    "million yen a month": "百万円/月",
    "million yen in the year": "百万円/年",
    "year": "年",
}


def write_kpi_page(
    kpi: Kpi, cost: Cost | CannotCheck, environment: str, out: Path, menu: Sequence[Page]
) -> None:
    """Write the page, whole or not at all; ``cost`` is the reason where there is no estimate."""
    blocks = [Heading(TITLE, 1), *_loop(kpi, environment), *_cost(kpi, cost)]
    write_atomically(out, to_html(TITLE, blocks, menu, out.name).encode())


def _spelled(seconds: float | None) -> Both:
    return Both(spell(seconds), spell(seconds, JAPANESE))


def _against(seconds: float | None, goal: float | None) -> State:
    if seconds is None or goal is None:
        return ""
    return "good" if seconds <= goal else "bad"


def _loop(kpi: Kpi, environment: str) -> Iterator[Block]:
    yield Text(
        Both(
            f"Environment {environment}; from git, the audit log and the verdicts. "
            "What is not recorded is not known.",
            f"{environment} について、git、監査ログ、判定から測ったものです。"
            "記録のないものは「不明」とします。",
        )
    )
    yield Tiles(list(_tiles(kpi)))
    if kpi.lead_times:
        yield Heading(Both("Lead time of each change", "変更ごとのリードタイム"))
        yield picture(_lead_times(kpi))
    yield Heading(Both("From anomaly to retrained", "異常から再学習まで"))
    yield from _responses(kpi)
    if kpi.failures:
        yield Heading(Both("Changes that failed", "失敗した変更"))
        rows: list[list[Cell]] = [[Plain(name), _spelled(seconds)] for name, seconds in kpi.failures.items()]
        yield Table([Both("release", "リリース"), Both("time to restore", "復旧までの時間")], rows)


def _tiles(kpi: Kpi) -> Iterator[Tile]:
    goal = kpi.baseline * SHARE if kpi.baseline else None
    if goal is None:
        note = Both(
            "no baseline given, so no goal: state the lead time before with --baseline DAYS",
            "導入前の値が未指定のため目標なし(--baseline 日数 で指定)",
        )
    else:
        before = _spelled(kpi.baseline)
        note = Both(
            f"goal: {SHARE:.0%} of the {before.en} before, {spell(goal)}",
            f"目標: 導入前 {before.ja} の {SHARE:.0%}、{spell(goal, JAPANESE)}",
        )
    lead = Both(
        "lead time, first commit to promotion (median)", "リードタイム(最初のコミットから昇格、中央値)"
    )
    yield Tile(lead, _spelled(kpi.lead_time), note, _against(kpi.lead_time, goal))
    every = kpi.span / (kpi.promotions - 1) if kpi.span and kpi.promotions > 1 else None
    yield Tile(
        Both("deployment frequency", "デプロイ頻度"),
        Both(f"every {spell(every)}", f"{spell(every, JAPANESE)}ごと") if every else _spelled(None),
        Both(
            f"promotions: {kpi.promotions}, of changes: {kpi.changes}",
            f"昇格 {kpi.promotions} 回、うち変更 {kpi.changes} 件",
        ),
    )
    rate = kpi.failure_rate
    yield Tile(
        Both("changes that failed", "変更の失敗率"),
        _spelled(None) if rate is None else f"{rate:.0%}",
        Both(f"{len(kpi.failures)} of {kpi.changes}", f"{kpi.changes} 件中 {len(kpi.failures)} 件"),
        "" if rate is None else "good" if rate == 0 else "warn",
    )
    yield Tile(
        Both("time to restore (median)", "復旧までの時間(中央値)"),
        _spelled(kpi.restored),
        "" if kpi.failures else Both("nothing has failed", "失敗した変更はありません"),
    )
    known = [one["to_promotion"] for one in kpi.responses if one["to_promotion"] is not None]
    slowest = max(known, default=None)
    waiting = len(kpi.responses) - len(known)
    yield Tile(
        Both("anomaly → retrained and promoted (slowest)", "異常 → 再学習・昇格(最長)"),
        _spelled(slowest),
        Both(
            f"goal: {spell(WITHIN)}; anomalies: {len(kpi.responses)}, not promoted yet: {waiting}",
            f"目標: {spell(WITHIN, JAPANESE)}。異常 {len(kpi.responses)} 件、うち未昇格 {waiting} 件",
        ),
        "warn" if waiting and _against(slowest, WITHIN) == "good" else _against(slowest, WITHIN),
    )


def _lead_times(kpi: Kpi) -> Plot:
    caption = Both(
        "From the first commit on the merged branch to the first promotion, by release.",
        "マージしたブランチの最初のコミットから最初の昇格まで。リリース別。",
    )
    return Plot("lead-times", caption, partial(_draw_lead_times, kpi), IN_CHARTS.get)


def _draw_lead_times(kpi: Kpi) -> Figure:
    longest = max([*kpi.lead_times.values(), (kpi.baseline or 0.0) * SHARE])
    unit = next((name for name, size in UNITS.items() if longest >= 2 * size), "minutes")
    drawn, (axes,) = figure(1.2 + 0.34 * len(kpi.lead_times))
    names = list(kpi.lead_times)
    axes.barh(names, [kpi.lead_times[name] / UNITS[unit] for name in names], height=0.5, color=BLUE)
    if kpi.baseline:
        axes.axvline(kpi.baseline * SHARE / UNITS[unit], color=RED, linestyle="--", label="goal")
        legend(axes)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    return drawn


def _responses(kpi: Kpi) -> Iterator[Block]:
    if not kpi.responses:
        yield Text(
            Both(
                "No verdict here shows an anomaly that a retraining answers.",
                "再学習で応じるべき異常を示す判定はここにありません。",
            )
        )
        return
    if any(one["to_branch"] is not None for one in kpi.responses):
        yield picture(_response_chart(kpi))
    rows: list[list[Cell]] = [
        [
            Plain(one["release"]),
            Plain(minute(one["at"])),
            named(one["family"]),
            *(_spelled(one[key]) for key in ("to_branch", "to_merge", "to_promotion")),
        ]
        for one in kpi.responses
    ]
    header = [
        Both("release", "リリース"),
        Both("anomaly at", "異常の時刻"),
        Both("alarm", "アラーム"),
        Both("to the retrain branch", "再学習ブランチまで"),
        Both("to its merge", "マージまで"),
        Both("to the promotion", "昇格まで"),
    ]
    yield Table(header, rows, left=frozenset({0, 1, 2}))


def _response_chart(kpi: Kpi) -> Plot:
    caption = Both(
        f"How far each answer has come, in hours since the anomaly; the goal is {spell(WITHIN)}.",
        f"各異常への対応がどこまで進んだか(異常からの時間)。目標は {spell(WITHIN, JAPANESE)}。",
    )
    return Plot("responses", caption, partial(_draw_responses, kpi), IN_CHARTS.get)


def _draw_responses(kpi: Kpi) -> Figure:
    drawn, (axes,) = figure(1.5 + 0.34 * len(kpi.responses))
    names = [f"{one['release']}, {str(one['at'])[:10]}" for one in kpi.responses]
    parts = (("to_branch", BLUE), ("to_merge", SKY), ("to_promotion", GREEN))
    reached = [0.0] * len(names)
    for (key, colour), label in zip(
        parts, ("to the retrain branch", "to its merge", "to the promotion"), strict=True
    ):
        ends = [
            one[key] / HOUR if one[key] is not None else at
            for one, at in zip(kpi.responses, reached, strict=True)
        ]
        widths = [max(end - at, 0.0) for end, at in zip(ends, reached, strict=True)]
        axes.barh(range(len(names)), widths, left=reached, height=0.5, color=colour, label=label)
        reached = [max(end, at) for end, at in zip(ends, reached, strict=True)]
    axes.axvline(WITHIN / HOUR, color=RED, linestyle="--", label="goal")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max(WITHIN / HOUR, *reached) * 1.05)
    axes.set_xlabel("hours since the anomaly")
    axes.grid(axis="y", visible=False)
    legend(axes, 4)
    return drawn


def _yen(value: float) -> Both:
    return Both(f"¥{value / MILLION:,.2f} M", f"{value / 1e4:,.0f} 万円")


def _cost(kpi: Kpi, cost: Cost | CannotCheck) -> Iterator[Block]:
    yield Heading(Both("Cost and value", "コストと効果"))
    if isinstance(cost, CannotCheck):
        missing = Both("There is no estimate of the cost here.", "ここにはコストの見積もりがありません。")
        yield Text((missing, Plain(f"{cost.message} {cost.remedy}")))
        return
    prices = cost.estimate.prices
    yield Text(
        Both(
            "An estimate from Terraform's plans, not a bill: "
            f"{prices.basis} ({prices.date}), ¥{cost.budget.jpy_per_usd:g} a dollar, "
            f"{prices.tolerance:.0%} added. "
            "No account has been billed for it, so no actual cost is shown.",
            "Terraform の計画からの見積もりであり、請求額ではありません。"
            f"価格: {BASES_JA.get(prices.basis, prices.basis)}({prices.date})、"
            f"1 ドル {cost.budget.jpy_per_usd:g} 円、"
            f"{prices.tolerance:.0%} を上乗せ。"
            "実際の請求はまだないため、実績は示しません。",
        )
    )
    yield Tiles(list(_cost_tiles(kpi, cost)))
    yield picture(Plot("cost-month", _month_caption(cost), partial(_draw_month, cost), _kind))
    yield picture(Plot("cost-storage", _storage_caption(cost), partial(_draw_storage, cost), IN_CHARTS.get))
    yield _cost_table(cost)


def _cost_tiles(kpi: Kpi, cost: Cost) -> Iterator[Tile]:
    worst, budget = cost.month("high"), cost.month_budget
    yield Tile(
        Both("a month, at worst", "月額(最悪の場合)"),
        _yen(worst),
        Both(
            f"{worst / budget:.0%} of the budget of {_yen(budget).en}",
            f"予算 {_yen(budget).ja}の {worst / budget:.0%}",
        ),
        "good" if worst <= budget else "bad",
    )
    expected = cost.month("base")
    yield Tile(
        Both("a month, as expected", "月額(想定)"),
        _yen(expected),
        Both(f"{expected / budget:.0%} of the budget", f"予算の {expected / budget:.0%}"),
        "good" if expected <= budget else "bad",
    )
    dearest, storage = max(cost.storage("high"), default=0.0), cost.storage_budget
    yield Tile(
        Both("storage in its dearest year, at worst", "ストレージ(最も高い年、最悪の場合)"),
        _yen(dearest),
        Both(
            f"{dearest / storage:.0%} of the budget of {_yen(storage).en} a year",
            f"年間予算 {_yen(storage).ja}の {dearest / storage:.0%}",
        ),
        "good" if dearest <= storage else "bad",
    )
    changes = kpi.changes * MONTH / kpi.span if kpi.span and kpi.span >= MONTH else None
    yield Tile(
        Both("cost of a change, as expected", "変更 1 件あたりのコスト(想定)"),
        _yen(expected / changes) if changes else _spelled(None),
        Both(
            "the month's estimate over the changes promoted in 28 days",
            "月額の見積もり ÷ 28 日間に昇格した変更の数",
        )
        if changes
        else Both("known after four weeks of promotions", "昇格の記録が 4 週間分たまると分かります"),
    )


def _month_caption(cost: Cost) -> Both:
    return Both(
        "Estimated cost a month by environment and kind, against the budgets of "
        f"{_yen(cost.month_budget).en} in all.",
        f"環境別・種類別の月額見積もりと予算(合計 {_yen(cost.month_budget).ja})。",
    )


def _storage_caption(cost: Cost) -> Both:
    return Both(
        "Estimated cost of storage in each year, as data pile up, against "
        f"{_yen(cost.storage_budget).en} a year.",
        f"データが積み上がる各年のストレージの見積もりと予算(年間 {_yen(cost.storage_budget).ja})。",
    )


def _kind(english: str) -> str | None:
    environment, _, case = english.rpartition(", ")
    if environment:
        return f"{environment}、{IN_CHARTS[case]}"
    return KINDS.get(english) or IN_CHARTS.get(english)


def _draw_month(cost: Cost) -> Figure:
    """One bar an environment and case, its kinds side by side; the environment's budget as a mark."""
    drawn, (axes,) = figure(1.3 + 0.75 * len(cost.budget.monthly_jpy))
    colours = dict(
        zip(
            sorted({line.kind for line in cost.estimate.monthly}),
            (BLUE, ORANGE, GREEN, RED, SKY, PINK),
            strict=False,
        )
    )
    labels: list[str] = []
    for place, (environment, budget) in enumerate(cost.budget.monthly_jpy.items()):
        for row, case in enumerate(("base", "high")):
            at, left = 2 * place + 0.8 * row, 0.0
            for line in (one for one in cost.estimate.monthly if one.environment == environment):
                width = getattr(line, case) * cost.rate / MILLION
                label = line.kind if line.kind not in labels else None
                labels.append(line.kind)
                axes.barh(at, width, left=left, height=0.6, color=colours[line.kind], label=label)
                left += width
        axes.plot(
            [budget / MILLION] * 2,
            [2 * place - 0.4, 2 * place + 1.2],
            color=RED,
            linestyle="--",
            label=None if place else "budget",
        )
    ends = [(2 * place + 0.8 * row) for place in range(len(cost.budget.monthly_jpy)) for row in (0, 1)]
    axes.set_yticks(
        ends,
        [f"{name}, {case}" for name in cost.budget.monthly_jpy for case in ("as expected", "at worst")],
        fontsize=9,
    )
    axes.invert_yaxis()
    axes.set_xlabel("million yen a month")
    axes.grid(axis="y", visible=False)
    legend(axes, 4)
    return drawn


def _draw_storage(cost: Cost) -> Figure:
    drawn, (axes,) = figure(3.2)
    years = range(1, len(cost.estimate.storage) + 1)
    for place, (case, label, colour) in enumerate(
        (("base", "as expected", BLUE), ("high", "at worst", ORANGE))
    ):
        axes.bar(
            [year + (place - 0.5) * 0.36 for year in years],
            [yen / MILLION for yen in cost.storage(case)],
            0.34,
            color=colour,
            label=label,
        )
    axes.axhline(cost.storage_budget / MILLION, color=RED, linestyle="--", label="budget")
    axes.set_xticks(list(years))
    axes.set_xlabel("year")
    axes.set_ylabel("million yen in the year")
    axes.grid(axis="x", visible=False)
    legend(axes, 3)
    return drawn


def _cost_table(cost: Cost) -> Table:
    rows: list[list[Cell]] = []
    for environment, budget in cost.budget.monthly_jpy.items():
        own: list[Any] = [line for line in cost.estimate.monthly if line.environment == environment]
        rows += [
            [
                Plain(environment),
                Both(line.kind, KINDS.get(line.kind, line.kind)),
                *(_yen(getattr(line, case) * cost.rate) for case in ("base", "high")),
                "",
            ]
            for line in own
        ]
        sums = [cost.rate * sum(getattr(line, case) for line in own) for case in ("base", "high")]
        rows.append([Plain(environment), Both("**all**", "**合計**"), *map(_yen, sums), _yen(budget)])
    header = [
        Both("environment", "環境"),
        Both("what", "種類"),
        Both("a month, as expected", "月額(想定)"),
        Both("a month, at worst", "月額(最悪)"),
        Both("budget", "予算"),
    ]
    return Table(
        header, rows, left=frozenset({0, 1}), folded=Both("The estimate in figures", "見積もりの内訳")
    )
