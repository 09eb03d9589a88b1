"""A training window that does not fit into memory: cut into blocks of sessions, one of which is held.

Rows of a block are those of the whole window, to the bit: what reaches beyond a block (prices carried into
it, trailing volatility, delistings, regimes, units and scales) comes from one pass over it beforehand.
Which block an update trains on follows from its number and the seed alone; the one after is read meanwhile.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from sekisho.data.panel import PRICES, Panel, dense, partitions
from sekisho.errors import DataError, TrainingError
from sekisho.features import load_features
from sekisho.features.compute import lookback
from sekisho.market.data import History, MarketData, Units, units_of
from sekisho.market.env import TradingMarket
from sekisho.market.regimes import market_volatility, regime_edges
from sekisho.params import Params

CARRIED = (*PRICES, "adj_factor")
COLUMNS = ("symbol", "ts_close", "session", *CARRIED, "volume", "tradable")
PROBE = 64  # bars of the window's beginning that are kept, to compare the exported graph on

Window = tuple[dt.date, dt.date]  # first and last session, both included


class Block(NamedTuple):
    """Bars ``[start, stop)`` to be traded, with those before them that they depend on."""

    data: MarketData
    window: tuple[int, int]


@dataclass(frozen=True)
class _Span:
    """Sessions ``[first, last]`` of a block by number, and the one from which they must be read."""

    read_from: int
    first: int
    last: int


@dataclass(frozen=True)
class _Survey:
    """What is known of the bars before any is read as a panel."""

    history: History
    files: list[list[str]]  # partitions of each session
    listed: pl.DataFrame  # the first bar of each symbol


class Blocks:
    """The training window in blocks of at most ``train.resident_sessions``, evenly cut.

    Reads all of it once, block by block, for what is derived from the whole: ``units``, ``scales`` (mean and
    standard deviation of the features ``(F,)``), ``edges`` of the regimes. ``validation`` stays in memory.

    Args:
        train, validation: windows of a fold; bars after the later one are not looked at.
        updates: of the whole training, which must show each block once.

    Raises:
        TrainingError: a block is shorter than an episode, the updates are too few, the prices do not move, a
            price or a feature is not finite.
        DataError: bars or features are missing or stale.
    """

    def __init__(
        self,
        bars: Path,
        features: Path,
        params: Params,
        *,
        train: Window,
        validation: Window,
        updates: int,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.bars, self.features, self.params, self.device = bars, features, params, device
        self.seed, self.updates_each = seed, params.train.block_updates
        self._survey = _surveyed(bars, validation[1])
        self._spans = _cut(self._survey.history, train, params)
        self.count = len(self._spans)
        if 0 < updates < self.count * self.updates_each:
            raise TrainingError(
                f"{self.count} blocks of train.resident_sessions = {params.train.resident_sessions}, "
                f"{self.updates_each} updates on each, are not all seen in {updates} updates",
                remedy="raise samples or train.resident_sessions, or lower train.block_updates",
            )
        sessions = self._survey.history.sessions
        first, last = np.searchsorted(sessions, np.array(validation, "datetime64[D]")).tolist()
        self._spans.append(_span(self._survey.history, first, last, params))
        self._carried: list[pl.DataFrame] = []  # of each span, the prices that hold before it
        self._study()
        self._held = -1  # the block that the market holds
        self._ahead: tuple[int, Future[Block]] | None = None
        self._reader = ThreadPoolExecutor(1, "blocks")

    def place(self, update: int) -> int:
        """The block of ``update``, from 1: each once a pass, in an order of the seed's and the pass's own."""
        passed, position = divmod((update - 1) // self.updates_each, self.count)
        return self.order(passed)[position]

    def order(self, passed: int) -> list[int]:
        """The blocks in the order of the pass after ``passed`` others."""
        digest = hashlib.sha256(f"blocks {self.seed} {passed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4]))
        return torch.randperm(self.count, generator=generator).tolist()

    def market(self, environments: int, **options: Any) -> TradingMarket:
        """A market that holds the block of the first update; ``options`` are `TradingMarket`'s."""
        self._held = self.place(1)
        data, window = self.read(self._held)
        return TradingMarket(
            data, self.params.market, self.units, environments, window, edges=self.edges, **options
        )

    def turn(self, market: TradingMarket, update: int) -> bool:
        """Have ``market`` hold the block of ``update``; whether it held another, and must be reset."""
        index = self.place(update)
        changed = index != self._held
        if changed:
            market.hold(*self._taken(index))
            self._held = index
        self._read_ahead(update)
        return changed

    def read(self, index: int) -> Block:
        """
        Raises:
            TrainingError, DataError: as above, where files have changed meanwhile.
        """
        span = self._spans[index]
        return self._block(span, self._carried[index], self._table(span.read_from, span.last))

    def _taken(self, index: int) -> Block:
        ahead, self._ahead = self._ahead, None
        return ahead[1].result() if ahead and ahead[0] == index else self.read(index)

    def _read_ahead(self, update: int) -> None:
        """One block at most lies beside the one held: it is asked for when that one has taken its place."""
        if self._ahead is None and self.count > 1:
            while self.place(update) == self._held:
                update += self.updates_each
            index = self.place(update)
            self._ahead = index, self._reader.submit(self.read, index)

    def _study(self) -> None:
        """Read all spans in time order, keep what the whole says, and the last of them, the validation's."""
        moves, moments = _Moves(), _Moments()
        volatilities, carried = [], self._survey.listed
        for number, span in enumerate(self._spans):
            training = number < self.count
            until = self._spans[number + 1].read_from if training else 0
            table = self._table(span.read_from, max(span.last, until - 1))
            self._carried.append(carried)
            data, (start, stop) = block = self._block(span, carried, table)
            if not training:
                self.validation = block
                break
            moves.add(data.close[start - (number > 0) : stop])
            moments.add(data.features[start:stop].double())
            volatility = market_volatility(data.close.cpu().numpy(), self.params.market.vol_window)
            volatilities.append(volatility[start:stop])
            if number == 0:
                self.probe = data.features[start : min(start + PROBE, stop)].cpu().clone()
            border = self._survey.history.sessions[until].item()
            before = table.filter(pl.col("session") < border).select(carried.columns)
            carried = pl.concat([carried, before]).group_by("symbol", maintain_order=True).last()
        self.units: Units = units_of(moves.root_mean_square(), self.params.market)
        self.scales = moments.mean_and_std()
        self.edges: npt.NDArray[np.float64] | None = None
        if self.params.market.stratify:
            self.edges = regime_edges(
                np.concatenate(volatilities), self.params.market.vol_window, "the training window"
            )

    def _table(self, first: int, last: int) -> pl.DataFrame:
        """The bars of the sessions ``first`` to ``last``."""
        files = [self.bars / name for name in self._files(first, last)]
        sessions = self._survey.history.sessions[[first, last]].tolist()
        scan = pl.scan_parquet(files, glob=False).select(COLUMNS)
        return scan.filter(pl.col("session").is_between(*sessions)).sort("ts_close", "symbol").collect()

    def _block(self, span: _Span, carried: pl.DataFrame, table: pl.DataFrame) -> Block:
        """``table`` holds the bars of the span, and may hold later ones."""
        history = self._survey.history
        first, last = (history.sessions[number].item() for number in (span.first, span.last))
        panel = _continued(table.filter(pl.col("session") <= last), carried)
        files = [self.features / name for name in self._files(span.read_from, span.last)]
        if missing := [path.name for path in files if not path.is_file()]:
            raise DataError(
                f"{self.features}: {missing[0]} is missing",
                remedy="the features belong to other bars; run `dvc repro features`",
            )
        values = load_features(self.features, panel, files)
        data = MarketData.from_panel(panel, values, self.params.market, self.device, history)
        return Block(data, data.window(first, last))

    def _files(self, first: int, last: int) -> list[str]:
        return sorted({name for names in self._survey.files[first : last + 1] for name in names})


class _Moves:
    """The assets' root mean square returns over consecutive parts."""

    def __init__(self) -> None:
        self.squares: torch.Tensor | float = 0.0
        self.count = 0

    def add(self, close: torch.Tensor) -> None:
        """``close`` ``(T, A)``; the first row is the last one of the part before."""
        returns = close[1:] / close[:-1] - 1
        self.squares, self.count = self.squares + returns.square().sum(dim=0), self.count + len(returns)

    def root_mean_square(self) -> torch.Tensor:
        return (torch.as_tensor(self.squares) / self.count).sqrt()


class _Moments:
    """Mean and variance over parts, put together as Chan, Golub and LeVeque (1983) do."""

    def __init__(self) -> None:
        self.count = 0
        self.mean, self.squares = torch.zeros(()), torch.zeros(())

    def add(self, values: torch.Tensor) -> None:
        """``values`` ``(T, A, F)`` float64."""
        count = values.shape[0] * values.shape[1]
        variance, mean = torch.var_mean(values, dim=(0, 1), correction=0)
        share, apart = count / (self.count + count), mean - self.mean.to(mean)
        self.squares = self.squares.to(mean) + variance * count + apart.square() * (self.count * share)
        self.mean = self.mean.to(mean) + apart * share
        self.count += count

    def mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean, (self.squares / (self.count - 1)).sqrt()


def _surveyed(bars: Path, last: dt.date) -> _Survey:
    """Sessions, partitions and symbols of the bars up to session ``last``; of all bars, key columns are read.

    Raises:
        DataError: no bars there.
    """
    paths = partitions(bars)
    scan = pl.scan_parquet(paths, glob=False, include_file_paths="file").filter(pl.col("session") <= last)
    present = pl.col("tradable") | (pl.col("volume") > 0)
    by_session = scan.group_by("session").agg(
        bars=pl.col("ts_close").n_unique(), files=pl.col("file").unique()
    )
    by_symbol = scan.group_by("symbol").agg(
        ts_close=pl.col("ts_close").min(),
        session=pl.col("session").min(),
        last_bar=pl.col("ts_close").filter(present).max().dt.replace_time_zone(None),
        last_session=pl.col("session").filter(present).max(),
    )
    sessions = by_session.sort("session").collect(engine="streaming")
    symbols = by_symbol.sort("symbol").collect(engine="streaming")
    files = [[Path(name).name for name in names] for names in sessions["files"].to_list()]
    history = History(
        sessions=sessions["session"].to_numpy().astype("datetime64[D]"),
        bars=sessions["bars"].to_numpy().astype(np.int64),
        last_bar=symbols["last_bar"].to_numpy().astype("datetime64[us]"),
        last_session=symbols["last_session"].to_numpy().astype("datetime64[D]"),
    )
    of = dict(zip(sessions["session"], files, strict=True))
    first = sorted({bars / name for session in symbols["session"].unique() for name in of[session]})
    rows = pl.scan_parquet(first, glob=False).select("symbol", "ts_close", *CARRIED)
    listed = rows.join(symbols.lazy().select("symbol", "ts_close"), on=["symbol", "ts_close"], how="semi")
    return _Survey(history, files, listed.collect(engine="streaming").drop("ts_close").sort("symbol"))


def _cut(history: History, train: Window, params: Params) -> list[_Span]:
    """The sessions of the training window that have features, in blocks of equal numbers as far as can be."""
    warm = max(lookback(params.features) - 1, params.market.vol_window)  # bars
    ends = history.bars.cumsum()
    inside = (history.sessions >= np.datetime64(train[0])) & (history.sessions <= np.datetime64(train[1]))
    numbers = np.flatnonzero(inside & (ends > warm))
    resident = params.train.resident_sessions
    parts = np.array_split(numbers, math.ceil(len(numbers) / resident)) if len(numbers) else [numbers]
    needed = params.market.episode_bars + 1
    for part in parts:
        count = int(ends[part[-1]] - max(ends[part[0]] - history.bars[part[0]], warm)) if len(part) else 0
        if count < needed:
            raise TrainingError(
                f"train.resident_sessions = {resident}: a block of {len(part)} sessions has {count} bars "
                f"with features, an episode needs {needed}",
                remedy="raise train.resident_sessions, shorten market.episode_bars or bring a longer history",
            )
    return [_span(history, int(part[0]), int(part[-1]), params) for part in parts]


def _span(history: History, first: int, last: int, params: Params) -> _Span:
    """With the bars that volatility looks back over, and a whole session: its close is the limits' base."""
    starts = history.bars.cumsum() - history.bars
    earliest = int(np.searchsorted(starts, starts[first] - params.market.vol_window, side="right")) - 1
    return _Span(max(min(earliest, first - 1), 0), first, last)


def _continued(table: pl.DataFrame, carried: pl.DataFrame) -> Panel:
    """The panel of ``table`` and of all symbols in ``carried``, whose prices hold until their first bar.

    They come in as a bar before the first one in which nobody trades, and which is cut off again.
    """
    before = carried.with_columns(
        ts_close=pl.lit(table["ts_close"][0] - dt.timedelta(microseconds=1)).cast(table.schema["ts_close"]),
        session=pl.lit(table["session"][0] - dt.timedelta(days=1)),
        volume=pl.lit(0.0),
        tradable=pl.lit(False),
    )
    panel = dense(pl.concat([before.select(COLUMNS), table]))
    return panel.rows(1, len(panel))
