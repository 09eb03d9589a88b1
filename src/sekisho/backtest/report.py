"""The backtest report: ``report.md`` with its plots for the pull request, ``report.html`` for people."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from sekisho.backtest.canvas import Series
from sekisho.backtest.files import read_json
from sekisho.backtest.labels import translated
from sekisho.backtest.plots import plots
from sekisho.backtest.words import NOTES_JA, RULES_JA, number, percent, summary_english, summary_japanese
from sekisho.data.store import replaced
from sekisho.errors import BacktestError
from sekisho.page.blocks import Both, Cell, Heading, Paper, Picture, Table, Text, Words, to_markdown
from sekisho.page.canvas import Plot, picture, png
from sekisho.page.html import to_html
from sekisho.params import Params

TITLE = Both("Backtest report", "バックテストレポート")
BEFORE, AFTER = ("data", "features", "market", "split", "train"), ("backtest", "gate")


def write_report(params: Params, *, backtest: Path, train: Path, metrics: Path, out: Path) -> str:
    """Write ``report.md``, ``report.html`` and ``plots/*.png`` to ``out``; returns report.md's sha256 (hex).

    Raises:
        BacktestError: an input is missing or broken; names the file.
    """
    figures = read_json(metrics / "backtest.json", "backtest")
    trials = read_json(metrics / "trials.json", "trials")
    gate = read_json(metrics / "gate.json", "gate")
    data = read_json(metrics / "validate.json", "validate")
    try:
        series = _series(params, figures, backtest, train)
        drawn = {plot.name: plot for plot in plots(series)}
        pictures = {name: picture(plot) for name, plot in drawn.items()}
        blocks = list(
            _blocks(
                params, figures | {"confidence": params.backtest.confidence}, trials, gate, data, pictures
            )
        )
    except (KeyError, TypeError) as error:
        raise BacktestError(
            f"{metrics}: {error} is missing in backtest.json, trials.json or gate.json, the report needs it",
            remedy="the files come from another version: run `dvc repro report`",
        ) from error
    return _publish(out, [translated(block) for block in blocks], list(drawn.values()))


def _publish(out: Path, blocks: list[Paper], drawn: list[Plot]) -> str:
    with replaced(out) as (fresh,):
        (fresh / "plots").mkdir()
        for plot in drawn:
            png(plot, fresh / "plots" / f"{plot.name}.png")
        text = to_markdown(blocks).encode()
        (fresh / "report.md").write_bytes(text)
        (fresh / "report.html").write_text(to_html(TITLE, blocks), encoding="utf-8")
    return hashlib.sha256(text).hexdigest()


def _series(params: Params, figures: dict[str, Any], backtest: Path, train: Path) -> Series:
    curves = {}
    for path in sorted(train.glob("fold-*/seed-*/curve.csv")):
        curve = _read(path).select("samples", "validation_sharpe").drop_nulls()
        curves[f"{path.parent.parent.name}/{path.parent.name}"] = curve
    return Series(
        returns=_read(backtest / "returns.parquet"),
        assets=_read(backtest / "assets.parquet"),
        band=_read(backtest / "band.parquet"),
        curves=curves,
        starts=[dt.date.fromisoformat(fold["first"]) for fold in figures["folds"]],
        figures=figures,
        confidence=params.backtest.confidence,
    )


def _read(path: Path) -> pl.DataFrame:
    stage = "train" if path.suffix == ".csv" else "backtest"
    try:
        if path.suffix == ".csv":
            return pl.read_csv(path, infer_schema_length=None, glob=False)
        return pl.read_parquet(path, glob=False)
    except FileNotFoundError as error:
        raise BacktestError(f"{path}: no such file", remedy=f"run `dvc repro {stage}`") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BacktestError(
            f"{path}: unreadable: {error}", remedy=f"run `dvc repro {stage}` again"
        ) from error


def _blocks(
    params: Params,
    figures: dict[str, Any],
    trials: dict[str, Any],
    gate: dict[str, Any],
    data: dict[str, Any],
    pictures: dict[str, Picture],
) -> Iterator[Paper]:
    yield Heading(f"Backtest report: {'✅ passed' if gate['passed'] else '❌ not passed'}", 1)
    yield Text(Both(summary_english(figures, gate), summary_japanese(figures, gate)))
    yield Heading("Gate")
    yield _gate(gate)
    yield Heading("Results after costs")
    yield _results(figures)
    yield pictures["equity"]
    yield pictures["drawdown"]
    yield pictures["rolling-sharpe"]
    yield Heading("Luck and selection")
    yield from _selection(figures, trials)
    yield Heading("Cost sensitivity")
    yield _costs(figures)
    yield pictures["costs"]
    yield Heading("Capacity")
    yield _capacity(figures, params)
    yield pictures["capacity"]
    yield Heading("Regimes")
    yield _regimes(figures)
    yield pictures["regimes"]
    yield Heading("Attribution")
    yield from _attribution(figures)
    yield pictures["attribution"]
    yield Heading("Test windows")
    yield _windows(figures)
    yield Heading("Seeds")
    yield Table(
        ["seed", "net Sharpe ratio"],
        [[seed, number(ratio)] for seed, ratio in figures["agent"]["sharpe_by_seed"].items()],
    )
    yield pictures["seeds"]
    yield Heading("How it traded")
    yield pictures["trading"]
    yield pictures["weights"]
    if "learning" in pictures:
        yield Heading("Learning")
        yield pictures["learning"]
    yield Heading("Record")
    yield _record(figures, data)
    yield _parameters(params)


def _gate(gate: dict[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for rule in gate["rules"]:
        name, reason = RULES_JA[rule["rule"]]
        why: list[Words] = [Both(rule["reason"], reason)]
        if rule["note"]:
            why.append(Both(rule["note"], NOTES_JA[rule["note"]]))
        rows.append(
            [
                "✅" if rule["passed"] else "❌",
                Both(rule["rule"], name),
                number(rule["figure"], 3),
                number(rule["limit"], 3),
                tuple(why),
            ]
        )
    heads = [Both("rule", "項目"), Both("figure", "値"), Both("limit", "基準"), Both("why", "理由")]
    return Table(["", *heads], rows, left=frozenset({0, 1, 4}), twofold=True)


def _results(figures: dict[str, Any]) -> Table:
    rows = []
    for name, found in {"agent": figures["agent"], **figures["baselines"]}.items():
        rows.append(
            [
                f"**{name}**" if name == "agent" else name,
                number(found["sharpe"]),
                f"{number(found['sharpe_low'])} to {number(found['sharpe_high'])}",
                percent(found["annual_return"]),
                percent(found["annual_volatility"]),
                percent(found["max_drawdown"]),
                number(found["turnover"]),
                percent(found["annual_cost"]),
                number(found["gross_exposure"]),
            ]
        )
    share = percent(figures["confidence"], 0)
    return Table(
        [
            "strategy",
            "Sharpe ratio",
            f"{share} interval",
            "return a year",
            "volatility a year",
            "max drawdown",
            "turnover a session",
            "costs a year",
            "gross exposure",
        ],
        rows,
    )


def _selection(figures: dict[str, Any], trials: dict[str, Any]) -> Iterator[Paper]:
    agent = figures["agent"]
    needed = agent["min_track_record_sessions"]
    share = percent(figures["confidence"], 0)
    yield Table(
        ["figure", "value", "meaning"],
        [
            ["trials", str(trials["trials"]), "agents trained so far, this one included, by git history"],
            [
                "expected best of so many without skill",
                number(trials["expected_max_sharpe"]),
                f"Sharpe ratio a year; variance between trials from {trials['variance_from']}",
            ],
            [
                "probabilistic Sharpe ratio",
                number(agent["probabilistic_sharpe"], 3),
                "chance that the true ratio is above zero, were this the only trial",
            ],
            ["deflated Sharpe ratio", number(trials["deflated_sharpe"], 3), "the same, given all trials"],
            [
                "minimum track record",
                f"{needed:,} sessions" if needed is not None else "–",
                f"needed to be {share} sure that the ratio is above zero",
            ],
            [
                "probability of backtest overfitting",
                number(trials["pbo"]),
                f"over the {trials['with_returns']} with returns on these sessions and the baselines, which "
                f"could have been picked as well, without the {trials['better_left_out']} trials that were "
                "better; 0.5 is a coin's",
            ],
            [
                "the same among the trials alone",
                number(trials["pbo_without_baselines"]),
                "about 0.5 where all are noise, and also where all are equally good",
            ],
            [
                "superior predictive ability over cash",
                number(trials["spa_cash"], 3),
                "p-value: no trial is better than cash (Hansen 2005)",
            ],
            [
                f"the same over {trials['best_baseline']}",
                number(trials["spa_baseline"], 3),
                "p-value: no trial is better than the best baseline at equal risk",
            ],
        ],
        left=frozenset({0, 2}),
    )
    if trials["history"] != "full":
        lacking = {
            "none": "There is no git history here, so only this trial is counted.",
            "shallow": "This clone lacks commits or branches: trials in them are not counted.",
        }
        yield Text(f"⚠️ {lacking[trials['history']]} The deflated Sharpe ratio may flatter the agent.")


def _capacity(figures: dict[str, Any], params: Params) -> Table:
    found = figures["agent"]["capacity"]
    return Table(
        ["capital", "multiple", "net Sharpe ratio", "net return a year"],
        [
            [
                f"{params.market.capital * float(multiple):,.0f}",
                f"{multiple} ×",
                number(ratio),
                percent(found["annual_return"][multiple]),
            ]
            for multiple, ratio in found["sharpe"].items()
        ],
    )


def _regimes(figures: dict[str, Any]) -> Table:
    return Table(
        ["volatility before", "market", "sessions", "Sharpe ratio", "return", "buy-and-hold return"],
        [
            [
                row["volatility"],
                row["market"],
                str(row["sessions"]),
                number(row["sharpe"]),
                percent(row["total_return"]),
                percent(row["buy_and_hold_return"]),
            ]
            for row in figures["regimes"]
        ],
        left=frozenset({0, 1}),
    )


def _attribution(figures: dict[str, Any]) -> Iterator[Paper]:
    rows = sorted(figures["attribution"], key=lambda row: -float(row["net_return"]))
    total = sum(row["net_return"] for row in rows)
    if total > 0 and rows[0]["net_return"] > 0.5 * total:
        yield Text(f"⚠️ More than half of the profit comes from one symbol, {rows[0]['symbol']}.")
    yield Table(
        ["symbol", "before costs", "costs", "after costs", "mean |weight|"],
        [
            [
                row["symbol"],
                percent(row["gross_return"]),
                percent(row["cost"]),
                percent(row["net_return"]),
                number(row["mean_weight"]),
            ]
            for row in rows
        ],
        folded=f"Sums over the test windows by symbol ({len(rows)})" if len(rows) > 20 else "",
    )


def _costs(figures: dict[str, Any]) -> Table:
    multiples = list(figures["agent"]["sharpe_by_cost"])
    rows = []
    for name, found in {"agent": figures["agent"], **figures["baselines"]}.items():
        cells = [
            f"{number(found['sharpe_by_cost'][m])} ({percent(found['annual_return_by_cost'][m])})"
            for m in multiples
        ]
        rows.append([f"**{name}**" if name == "agent" else name, *cells])
    return Table(["Sharpe ratio (return a year)", *(f"{m} × costs" for m in multiples)], rows)


def _windows(figures: dict[str, Any]) -> Table:
    return Table(
        [
            "window",
            "trained until",
            "tested",
            "sessions",
            "Sharpe ratio",
            "return",
            "max drawdown",
            "buy-and-hold return",
        ],
        [
            [
                str(fold["fold"] + 1),
                fold["train_last"],
                f"{fold['first']} to {fold['last']}",
                str(fold["sessions"]),
                number(fold["sharpe"]),
                percent(fold["total_return"]),
                percent(fold["max_drawdown"]),
                percent(fold["buy_and_hold_return"]),
            ]
            for fold in figures["folds"]
        ],
        left=frozenset({0, 1, 2}),
    )


def _record(figures: dict[str, Any], data: dict[str, Any]) -> Table:
    opening = figures["opening"]
    rows = [
        ["candidate (sha256 of its models)", f"`{opening['candidate']}`"],
        ["training result", f"`{opening['train']}`"],
        ["champion", _plain(opening["champion"])],
        ["test sessions opened", f"{opening['window']['first']} to {opening['window']['last']}"],
    ]
    gone = [f"{found['symbol']} ({found['session']})" for found in figures["delistings"]]
    rows.append(["delisted in the test windows", f"{len(gone)}{': ' if gone else ''}{', '.join(gone)}"])
    rows += [[f"data: {key.replace('_', ' ')}", _plain(value)] for key, value in data.items()]
    return Table(["what", "value"], rows, left=frozenset({0, 1}))


def _parameters(params: Params) -> Table:
    rows = []
    for section in (*BEFORE, params.train.trainer, *AFTER):  # that shape the result
        for key, value in getattr(params, section).model_dump().items():
            rows.append([f"{section}.{key}", _plain(value)])
    return Table(
        ["parameter", "value"], rows, left=frozenset({0, 1}), folded=f"Parameters of this run ({len(rows)})"
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return str(value)
