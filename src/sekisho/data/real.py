"""Real daily prices that installed packages ship, brought to the bar contract; none are kept here.

Calendar XNYS, one bar a day. What the sources do not know is assumed, the same for all symbols and years, and
said here, because every figure computed from these bars rests on it:

- ``skfolio``: 20 large US shares, 1990–2022, adjusted close only (a file inside the package). Open, high and
  low are set to the close. A decision taken at close t therefore trades at the close of t+1, a full day
  later: slower than a trader could be, but it looks at nothing too early. The list holds shares that still
  existed at the end: **survivorship bias** flatters buying and holding.
- ``arch``: S&P 500 and NASDAQ Composite, 1999–2018, open to close (`arch.data`). Indices cannot be traded;
  costs are those of a liquid fund on them.

Code licences of packages do not settle rights in prices: load them, do not redistribute them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from sekisho.calendar import Calendar
from sekisho.data.contract import COLUMNS
from sekisho.data.store import replaced, write_partition
from sekisho.data.validate import BarEnds
from sekisho.errors import CannotCheck

Source = Literal["skfolio", "arch"]
CALENDAR, BAR = "XNYS", "1d"
SESSIONS_A_YEAR = 252


@dataclass(frozen=True)
class Assumptions:
    """What a source does not tell."""

    adv: float  # dollars a day
    half_spread: float  # fraction
    borrow_a_year: float  # fraction of the shorted value


ASSUMED: dict[Source, Assumptions] = {
    "skfolio": Assumptions(adv=1e9, half_spread=2.0e-4, borrow_a_year=0.005),
    "arch": Assumptions(adv=1e10, half_spread=0.5e-4, borrow_a_year=0.005),
}


def real_bars(source: Source) -> pl.DataFrame:
    """Daily bars of a source (contract: DESIGN.md, *Bars*), sorted by symbol and time, not yet judged.

    Raises:
        CannotCheck: the package is not installed.
    """
    try:
        prices = _skfolio() if source == "skfolio" else _arch()
    except ImportError as error:
        raise CannotCheck(f"package {source} is not installed", remedy="run `make setup`") from error
    assumed = ASSUMED[source]
    ends = BarEnds(Calendar(CALENDAR, BAR)).last_of(prices["day"])
    midnight = (
        pl.col("day").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    )  # no session: left to the contract
    bars = prices.join(ends, left_on="day", right_on="session", how="left").with_columns(
        ts_close=pl.coalesce("end", midnight),
        available_at=pl.coalesce("end", midnight),
        adj_factor=pl.lit(1.0),
        adv=pl.lit(assumed.adv),
        half_spread=pl.lit(assumed.half_spread),
        borrow_rate=pl.lit(assumed.borrow_a_year / SESSIONS_A_YEAR),
        funding_rate=pl.lit(0.0),
        tradable=pl.lit(True),
    )
    return bars.select(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items()).sort("symbol", "ts_close")


def write_real(out: Path, source: Source) -> tuple[int, int]:
    """Write `real_bars` to ``out``, one Parquet file a year; returns the numbers of files and rows."""
    bars = real_bars(source).with_columns(label=pl.col("ts_close").dt.to_string("%Y"))
    years = bars.partition_by("label", as_dict=True, include_key=False)
    with replaced(out) as (folder,):
        for (label,), part in years.items():
            write_partition(part, folder / f"{label}.parquet")
    return len(years), len(bars)


def _skfolio() -> pl.DataFrame:
    """``symbol, day``, prices and volume; there is none, so that of the assumed traded value stands in."""
    from skfolio.datasets import load_sp500_dataset  # reads the package's own file, not the network

    wide = load_sp500_dataset()
    table = pl.from_pandas(wide.reset_index(names="day")).with_columns(pl.col("day").cast(pl.Date))
    close = pl.col("close")
    bars: pl.DataFrame = (
        table.unpivot(index="day", variable_name="symbol", value_name="close")
        .drop_nulls("close")
        .with_columns(open=close, high=close, low=close, volume=(ASSUMED["skfolio"].adv / close).round())
    )
    return bars


def _arch() -> pl.DataFrame:
    import arch.data.nasdaq
    import arch.data.sp500

    tables = []
    for symbol, module in (("SP500", arch.data.sp500), ("NASDAQ", arch.data.nasdaq)):
        table = pl.from_pandas(module.load().reset_index(names="day")).with_columns(
            pl.col("day").cast(pl.Date), symbol=pl.lit(symbol)
        )
        names = {name.capitalize(): name for name in ("open", "high", "low", "close", "volume")}
        tables.append(table.rename(names).select("symbol", "day", *names.values()))
    bars: pl.DataFrame = pl.concat(tables, how="vertical_relaxed")
    return bars
