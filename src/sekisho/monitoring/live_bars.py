"""Bar returns of the live market, session by session: they show the level of volatility, which features
hide.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from sekisho.calendar import Calendar
from sekisho.data.panel import partitions
from sekisho.data.validate import BarEnds, judge, read_partition
from sekisho.errors import CannotCheck
from sekisho.monitoring.profile import Profile, Scaler, profile_session
from sekisho.params import DataParams


def profile_bar_returns(
    bars: Path, sessions: Sequence[dt.date], symbols: Sequence[str], scaler: Scaler, params: DataParams
) -> list[Profile]:
    """Profiles of log(close / open), ``A`` × 1 series, of the given sessions; bars that break the contract
    are left out, up to the share that the contract allows.

    Raises:
        CannotCheck: a session or a symbol has no bars; too many rows of a partition break the contract.
        DataError: a partition that cannot be read or lacks a column.
    """
    ends = BarEnds(Calendar(params.calendar, params.bar))
    wanted = set(sessions)
    tables = []
    for path in partitions(bars):
        if _day(path) in (None, *wanted):
            frame = read_partition(path)
            judged = judge(frame, str(path), ends, params)
            if len(judged.bad) > params.max_quarantine_share * len(frame):  # bars left out look like calm
                raise CannotCheck(
                    f"{path}: {len(judged.bad)} of {len(frame)} rows break the contract",
                    remedy=f"see `sekisho data check {path.parent}`",
                )
            tables.append(
                judged.kept.filter(pl.col("session").is_in(wanted) & pl.col("symbol").is_in(symbols))
            )
    returns = (
        pl.concat(tables)
        .with_columns(value=(pl.col("close") / pl.col("open")).log())
        .pivot("symbol", index=("session", "ts_close"), values="value")
        .sort("ts_close")
        if tables
        else pl.DataFrame(schema={"session": pl.Date})
    )
    missing = [s for s in symbols if s not in returns.columns]
    days = set(returns["session"].unique())
    if lacking := missing or [str(day) for day in sessions if day not in days]:
        raise CannotCheck(
            f"{bars}: no bars of {lacking[0]}", remedy="bring the live market's bars up to date"
        )
    profiles = []
    for day in sessions:
        rows = returns.filter(pl.col("session") == day).select(symbols).fill_null(0.0)  # missing bar: no move
        profiles.append(profile_session(day, rows.to_numpy().astype(np.float32)[..., None], scaler))
    return profiles


def _day(path: Path) -> dt.date | None:
    """The session a partition is named by, None where its name is no date (it may hold any session)."""
    try:
        return dt.date.fromisoformat(path.stem)
    except ValueError:
        return None
