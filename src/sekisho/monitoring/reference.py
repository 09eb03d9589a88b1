"""The reference: what was normal in the training window, made once per candidate and shipped inside its
release.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.backtest.splits import walk_forward
from sekisho.calendar import Calendar
from sekisho.data.panel import Panel, load_panel, partitions
from sekisho.errors import CannotCheck, DataError
from sekisho.features import load_features
from sekisho.monitoring.calibration import Calibration, calibrate
from sekisho.monitoring.detector import Baseline, fit_baseline, forecast_errors
from sekisho.monitoring.histogram import histograms, quantiles, share_below
from sekisho.monitoring.profile import FAMILIES, Profile, Scaler, profile_session
from sekisho.params import MonitoringParams, Params

Array = npt.NDArray[np.float64]
BAR_RETURN = (
    "bar_return"  # watched beside the features when bars are at hand: features hide the volatility's level
)
DIGITS = 9  # significant digits kept in the file
IQR_OF_NORMAL = 1.349
SHARES = np.arange(1, 100) / 100  # of the quantiles that the distances are measured at


@dataclass(frozen=True)
class Reference:
    """Scaling and normal behaviour of every series: ``features`` are the model's, then ``bar_return``.

    ``low``/``high`` ``(A, F)``: range of the raw values in the window; ``edges`` and ``shares``
    ``(A, F, len(SHARES))``: quantiles, and the share of the values up to each; ``calibration``: alarm limits
    and the false-alarm rate under them; ``params``: with the bets that the baseline was fitted for;
    ``digest``: sha256 of the file.
    """

    symbols: tuple[str, ...]
    features: tuple[str, ...]
    first_session: dt.date
    last_session: dt.date
    sessions: int
    scaler: Scaler
    low: Array
    high: Array
    edges: Array
    shares: Array
    baseline: Baseline
    calibration: Calibration
    params: MonitoringParams
    digest: str


def build_reference(
    features: Path, bars: Path, window: tuple[dt.date, dt.date], calendar: Calendar, params: MonitoringParams
) -> bytes:
    """The reference of the training window as JSON: same inputs, same bytes.

    Args:
        features: folder of feature partitions (``build/features``).
        bars: folder of validated bars (``build/bars``), for the bar returns.
        window: first and last session, both included; sessions inside the features' warm-up are left out.
        calendar: of the exchange, to count missing sessions.
        params: monitoring.

    Raises:
        DataError: features that do not belong to the bars, or too few sessions for a reference.
    """
    panel = load_panel(bars, *window)
    names = (*feature_columns(features), BAR_RETURN)
    values = np.concatenate([load_features(features, panel), bar_returns(panel)[..., None]], axis=2)
    sessions = whole_sessions(panel, values)
    if len(sessions) < params.min_reference_sessions:
        raise DataError(
            f"the training window holds {len(sessions)} sessions after the warm-up, "
            f"a reference needs {params.min_reference_sessions}",
            remedy="bring a longer history, or lower monitoring.min_reference_sessions in params.yaml",
        )
    used = np.concatenate([rows for _, rows in sessions])
    scaler = fit_scaler(used, params.feature_clip)
    profiles = [profile_session(session, rows, scaler) for session, rows in sessions]
    statistics = np.stack([profile.statistics() for profile in profiles])
    gaps = session_gaps([p.session for p in profiles], calendar)
    baseline = fit_baseline(statistics, gaps, params)
    known = np.where(np.isfinite(statistics), statistics, 0.0)
    calibration = calibrate(forecast_errors(known, gaps, baseline), baseline.watched, params)
    content = _content(panel.symbols, names, profiles, scaler, baseline, params)
    content |= _distribution(used) | {"calibration": {k: _round(v) for k, v in asdict(calibration).items()}}
    return _to_json(content)


def reference_of_last_fold(features: Path, bars: Path, params: Params) -> bytes:
    """`build_reference` of the candidate's own training window: the last walk-forward fold's.

    Raises:
        DataError, BacktestError: no bars or features, or a history too short for the folds.
    """
    sessions = pl.scan_parquet(partitions(bars)).select(pl.col("session").unique().sort()).collect()
    window = walk_forward(sessions["session"].to_list(), params.split)[-1].train
    calendar = Calendar(params.data.calendar, params.data.bar)
    return build_reference(features, bars, window, calendar, params.monitoring)


def feature_columns(folder: Path) -> tuple[str, ...]:
    """Names of the feature columns in a features folder."""
    first = min(folder.glob("*.parquet"), default=None)
    if first is None:
        raise DataError(f"{folder}: no features there", remedy="run `dvc repro features`")
    return tuple(c for c in pl.read_parquet_schema(first) if c not in ("symbol", "ts_close", "session"))


def bar_returns(panel: Panel) -> npt.NDArray[np.float32]:
    """Log return from each bar's open to its close, ``(T, A)``: free of nights, lunch breaks and missing
    bars.
    """
    return np.log(panel.close / panel.open).astype(np.float32)


def whole_sessions(
    panel: Panel, values: npt.NDArray[np.float32]
) -> list[tuple[dt.date, npt.NDArray[np.float32]]]:
    """Sessions of ``panel`` with their rows ``(N, A, F)``, without sessions that a warm-up cuts short."""
    starts = np.flatnonzero(np.diff(panel.session, prepend=panel.session[:1] - 1).astype(np.int64))
    parts = zip(starts, [*starts[1:], len(panel)], strict=True)
    return [
        (panel.session[a].item(), values[a:b]) for a, b in parts if not np.isnan(values[a:b]).any()
    ]  # a NaN can only come from the warm-up


def session_gaps(sessions: Sequence[dt.date], calendar: Calendar) -> npt.NDArray[np.int64]:
    """How many exchange sessions lie between each session and the one before it (1: none is missing);
    first: 1.
    """
    days = {day: i for i, day in enumerate(calendar.sessions(sessions[0], sessions[-1]))}
    try:
        places = np.array([days[session] for session in sessions])
    except KeyError as error:
        raise CannotCheck(
            f"{error.args[0]} is no session of {calendar.name}",
            remedy="check the clock of what wrote the log",
        ) from error
    return np.diff(places, prepend=places[:1] - 1)


def fit_scaler(values: npt.NDArray[np.float32], clip: float) -> Scaler:
    """Median and robust standard deviation; the plain one where most values are equal, 1 where all are."""
    quartile = np.quantile(values.astype(np.float64), [0.25, 0.5, 0.75], axis=0)
    robust = (quartile[2] - quartile[0]) / IQR_OF_NORMAL
    plain = values.std(axis=0, dtype=np.float64)
    scale = np.where(robust > 0, robust, np.where(plain > 0, plain, 1.0))
    return Scaler(_rounded(quartile[1]), _rounded(scale), clip)


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _rounded(values: Array) -> Array:
    return np.array([_round(x) for x in values.ravel()]).reshape(values.shape)


def _distribution(used: npt.NDArray[np.float32]) -> dict[str, Any]:
    found = histograms(used)
    edges = quantiles(found, SHARES)
    shape = (*used.shape[1:], len(SHARES))
    return {"edges": edges.reshape(shape), "shares": share_below(found, edges).reshape(shape)}


def _content(
    symbols: Sequence[str],
    names: Sequence[str],
    profiles: Sequence[Profile],
    scaler: Scaler,
    baseline: Baseline,
    params: MonitoringParams,
) -> dict[str, Any]:
    return {
        "version": 2,
        "symbols": list(symbols),
        "features": list(names),
        "families": list(FAMILIES),
        "first_session": str(profiles[0].session),
        "last_session": str(profiles[-1].session),
        "sessions": len(profiles),
        "rows": sum(profile.rows for profile in profiles),
        "feature_clip": scaler.clip,
        "strengths": list(params.strengths),
        "inflation": params.inflation,
        "clip": params.clip,
        "cusum_slack": params.cusum_slack,
        "median": scaler.median,
        "scale": scaler.scale,
        "low": np.min([profile.low for profile in profiles], axis=0),
        "high": np.max([profile.high for profile in profiles], axis=0),
        "watched": baseline.watched.astype(int).tolist(),
        "mean": np.where(baseline.watched, baseline.mean, 0.0),
        "phi": baseline.phi,
        "state_variance": baseline.state,
        "noise_variance": baseline.noise,
        "cost": baseline.cost,
    }


def _to_json(content: dict[str, Any]) -> bytes:
    plain = {k: _rounded(v).tolist() if isinstance(v, np.ndarray) else v for k, v in content.items()}
    return (json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()


def load_reference(path: Path, params: MonitoringParams) -> Reference:
    """Read a reference; strengths, inflation, clip and slack stay those it was made with.

    Raises:
        CannotCheck: missing, or not a reference.
    """
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
        array = {
            key: np.array(content[key], dtype=np.float64)
            for key in ("median", "scale", "low", "high", "edges", "shares", "watched", "mean", "phi", "cost")
        }
        state, noise = (np.array(content[f"{k}_variance"], dtype=np.float64) for k in ("state", "noise"))
        reference = Reference(
            symbols=tuple(content["symbols"]),
            features=tuple(content["features"]),
            first_session=dt.date.fromisoformat(content["first_session"]),
            last_session=dt.date.fromisoformat(content["last_session"]),
            sessions=int(content["sessions"]),
            scaler=Scaler(array["median"], array["scale"], float(content["feature_clip"])),
            low=array["low"],
            high=array["high"],
            edges=array["edges"],
            shares=array["shares"],
            calibration=Calibration(**content["calibration"]),
            baseline=Baseline(
                array["mean"], array["phi"], state, noise, array["cost"], array["watched"].astype(np.bool_)
            ),
            params=params.model_copy(
                update={
                    "strengths": tuple(content["strengths"]),
                    "inflation": float(content["inflation"]),
                    "clip": float(content["clip"]),
                    "cusum_slack": float(content["cusum_slack"]),
                }
            ),
            digest=hashlib.sha256(raw).hexdigest(),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(
            f"{path}: not a reference: {error!r}", remedy="pull or export the release again"
        ) from error
    return reference
