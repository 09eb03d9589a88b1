"""Replay: a market's bars through a policy server, bar by bar, with the account that its weights make."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.data.panel import Panel, load_panel, partitions
from sekisho.data.validate import validate_bars
from sekisho.errors import CannotCheck, DataError, Refused
from sekisho.features import compute_features, feature_names
from sekisho.params import Params, load_params
from sekisho.serving.client import PolicyClient


@dataclass(frozen=True)
class ReplaySummary:
    """What a replay did; money as fractions of the starting equity."""

    first_session: dt.date
    last_session: dt.date
    sessions: int
    predictions: int
    verdicts: dict[str, int]
    p50_ms: float  # of one answer, as the caller sees it
    p99_ms: float
    net_return: float
    cost: float  # sum of each step's cost over the equity before it
    turnover: float  # a session


def replay(
    bars: Path,
    release: Path,
    url: str,
    *,
    first: dt.date | None = None,
    last: dt.date | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> ReplaySummary:
    """Send every bar of the sessions ``first`` to ``last`` to the policy server at ``url``.

    ``bars`` are raw or validated; sessions before ``first`` only warm the features up. Request ids are
    ``<session>-<bar in the session>``; the logical clock stands at the bar's end. The account starts in cash
    and follows the market's ledger: what is decided at a close trades at the next open, with costs.

    Raises:
        DataError: bars that break the contract, or no bar with features in these sessions.
        Refused: the bars' symbols are not the release's, or its features are not this code's.
        CannotCheck: the release's files are not here, or the server is not ready.
    """
    params = _release_params(release)
    panel = _load(bars, last, params)
    _require_same(release, panel, params)
    features = compute_features(panel, params.features)
    start, stop = _window(panel, features, first)
    market = _market(panel, features, params, start, stop)
    verdicts: Counter[str] = Counter()
    seconds, costs, turnover = [], 0.0, 0.0
    with PolicyClient(
        url, release.parent.name, deadline=5.0
    ) as client:  # patient: nothing trades on a replay
        client.require_ready()
        observation, _ = market.reset(options={"start": start})
        for bar, moment, request_id in _bars(panel, start, stop):
            answer = client.decide(observation.numpy(), moment, now=moment, request_id=request_id)
            seconds.append(answer.seconds)
            verdicts.update(answer.verdicts)
            if bar + 1 == stop:
                break  # the last bar's decision would trade in a bar that is not there
            observation, _, ruined, _, info = market.step(answer.target_weights)
            costs, turnover = costs + float(info["cost"]), turnover + float(info["turnover"])
            if panel.session[bar + 1] != panel.session[bar]:
                equity = float(info["equity"]) / params.market.capital - 1
                progress(f"{panel.session[bar]}: {dict(verdicts)}, net {equity:+.2%}")
            if bool(ruined):
                raise DataError(
                    f"{panel.ts_close[bar]}: the account is ruined", remedy="look at the agent's weights"
                )
    sessions = np.unique(panel.session[start:stop])
    equity = float((market.cash + (market.positions * market.data.close[market.bar]).sum(dim=1))[0])
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return ReplaySummary(
        first_session=sessions[0].item(),
        last_session=sessions[-1].item(),
        sessions=len(sessions),
        predictions=len(seconds),
        verdicts=dict(sorted(verdicts.items())),
        p50_ms=float(p50),
        p99_ms=float(p99),
        net_return=equity / params.market.capital - 1,
        cost=costs,
        turnover=turnover / len(sessions),
    )


def _load(bars: Path, last: dt.date | None, params: Params) -> Panel:
    """Raw bars are judged first, as the pipeline judges them."""
    if "session" in pl.read_parquet_schema(partitions(bars)[0]):
        return load_panel(bars, last=last)
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder)
        validate_bars(bars, beside / "bars", beside / "bad", params.data, beside / "counts.json")
        return load_panel(beside / "bars", last=last)


def _release_params(release: Path) -> Params:
    path = release / "content" / "params.yaml"
    if not path.exists():
        raise CannotCheck(f"{path}: no such file", remedy=f"run `dvc pull {release}/content.dvc`")
    return load_params(path)


def _require_same(release: Path, panel: Panel, params: Params) -> None:
    about = json.loads((release / "content" / "observation.json").read_text(encoding="utf-8"))
    wanted = (tuple(about["symbols"]), tuple(about["features"]))
    found = (panel.symbols, feature_names(params.features))
    if wanted != found:
        raise Refused(
            "observation",
            expected=f"symbols and features {wanted}",
            found=found,
            remedy="replay the bars of the release's own symbols, with the code it was made by",
        )


def _window(panel: Panel, features: npt.NDArray[np.float32], first: dt.date | None) -> tuple[int, int]:
    """Bars ``[start, stop)`` to send: with features, from session ``first`` on."""
    ready = np.isfinite(features).all(axis=(1, 2))
    if first:
        ready &= panel.session >= np.datetime64(first)
    if int(ready.sum()) < 2:
        raise DataError(
            f"{int(ready.sum())} bars with features from {first or 'the start'} on",
            remedy="bring earlier sessions to warm the features up",
        )
    return int(np.argmax(ready)), len(panel)


def _market(panel: Panel, features: npt.NDArray[np.float32], params: Params, start: int, stop: int):  # type: ignore[no-untyped-def]
    """One account in the training market's own ledger; needs the train extra, like every simulation."""
    import torch

    from sekisho.market import MarketData, TradingMarket, Units

    data = MarketData.from_panel(panel, features, params.market)
    units = Units(trade=torch.ones(len(panel.symbols)), risk=1.0)  # rewards are not read here
    return TradingMarket(data, params.market, units, 1, (start, stop), mode="weights", sequential=True)


def _bars(panel: Panel, start: int, stop: int) -> Iterator[tuple[int, dt.datetime, str]]:
    """Index, end and request id of each bar."""
    for bar in range(start, stop):
        session = panel.session[bar]
        inside = bar - int(np.searchsorted(panel.session, session))
        yield bar, panel.ts_close[bar].item().replace(tzinfo=dt.UTC), f"{session}-{inside}"
