"""A replay sends what training saw, and its account is the market's."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

from sekisho.data.contract import COLUMNS
from sekisho.data.panel import load_panel
from sekisho.data.synthetic import synthetic_bars
from sekisho.errors import CannotCheck, DataError, Refused
from sekisho.features import compute_features, feature_names, lookback
from sekisho.params import load_params
from sekisho.serving.predictions import read_predictions, verify_chain
from sekisho.serving.replay import replay

ROOT = Path(__file__).parents[2]
FIRST = dt.date(2025, 1, 6)


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("validated"), [*COLUMNS, "session"])


def write(folder: Path, columns: list[str]) -> Path:
    """Five sessions of the synthetic market."""
    for (session,), part in synthetic_bars(FIRST, 5, seed=3).partition_by("session", as_dict=True).items():
        part.select(columns).write_parquet(folder / f"{session}.parquet")
    return folder


@pytest.fixture(scope="module")
def release(lab: ModuleType, validated: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A release for the synthetic market's symbols and this code's features."""
    names = feature_names(load_params(ROOT / "params.yaml").features)
    symbols = load_panel(validated).symbols
    shape = (len(symbols), len(names))
    ranges = {"low": np.full(shape, -9.0).tolist(), "high": np.full(shape, 9.0).tolist()}
    before = lab.SYMBOLS, lab.FEATURES
    lab.SYMBOLS, lab.FEATURES = symbols, names
    try:
        made = lab.write_release(tmp_path_factory.mktemp("releases"), 3, ranges=ranges)
    finally:
        lab.SYMBOLS, lab.FEATURES = before
    shutil.copy(ROOT / "params.yaml", made.folder / "content")
    return made


def test_features_of_the_last_bars_alone_are_the_training_tables_bits(validated: Path) -> None:
    params = load_params(ROOT / "params.yaml").features
    panel, window = load_panel(validated), lookback(params)
    whole = compute_features(panel, params)
    assert np.isfinite(whole[window - 1 :]).all()
    for bar in range(window - 1, len(panel), 7):
        alone = compute_features(panel.rows(bar + 1 - window, bar + 1), params)
        assert alone[-1].tobytes() == whole[bar].tobytes()


def test_a_replay_logs_every_bar_under_its_name_and_keeps_the_account(
    start: Callable[..., Any], release: Any, validated: Path, tmp_path: Path
) -> None:
    server = start(release.folder).wait_ready()
    lines: list[str] = []
    done = replay(validated, release.folder, server.url, last=dt.date(2025, 1, 9), progress=lines.append)
    raw = write(tmp_path, list(COLUMNS))
    later = replay(raw, release.folder, server.url, first=dt.date(2025, 1, 10))
    assert server.stop()[0] == 0
    log = read_predictions(server.predictions)
    panel = load_panel(validated)
    sessions, counts = np.unique(panel.session, return_counts=True)
    ready = lookback(load_params(ROOT / "params.yaml").features) - 1
    names = [f"{s}-{i}" for s, n in zip(sessions, counts, strict=True) for i in range(n)][ready:]
    assert log["prediction_id"].to_list() == names
    assert (done.predictions + later.predictions, later.first_session) == (len(names), dt.date(2025, 1, 10))
    assert set(log["verdict"]) <= {"ok", "clipped"}  # the tiny model knows no turnover limit
    assert sum(done.verdicts.values()) == done.predictions
    assert len(lines) == done.sessions - 1
    assert [str(s) for s in log["session"].unique().sort()] == [str(s) for s in sessions[1:]]
    assert (log["at"] == log["ts_close"]).all()
    features = compute_features(panel, load_params(ROOT / "params.yaml").features)
    sent = np.array(log["observation"].to_list(), dtype=np.float32).reshape(len(log), len(panel.symbols), -1)
    assert sent[:, :, :-1].tobytes() == features[ready:].tobytes()
    assert verify_chain(server.predictions).predictions == len(names)
    assert done.cost > 0
    assert done.net_return == pytest.approx(_ledger(panel, log[: done.predictions], ready), abs=1e-6)


def _ledger(panel: Any, log: pl.DataFrame, start: int) -> float:
    """The market's own run of the logged weights."""
    import torch

    from sekisho.market import MarketData, TradingMarket, Units

    params = load_params(ROOT / "params.yaml")
    data = MarketData.from_panel(panel, compute_features(panel, params.features), params.market)
    units = Units(trade=torch.ones(len(panel.symbols)), risk=1.0)
    market = TradingMarket(
        data, params.market, units, 1, (start, start + len(log)), mode="weights", sequential=True
    )
    market.reset()
    for weights in log["target_weights"].to_list()[:-1]:
        info = market.step(np.array([weights], dtype=np.float32))[4]
    return float(info["equity"]) / params.market.capital - 1


def test_a_replay_refuses_other_symbols_and_missing_content(
    release: Any, validated: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(release.folder, tmp_path / "policy" / "3")
    path = other / "content" / "observation.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "symbols": about["symbols"][::-1]}))
    with pytest.raises(Refused, match="observation"):
        replay(validated, other, "http://127.0.0.1:9")
    (other / "content" / "params.yaml").unlink()
    with pytest.raises(CannotCheck, match="dvc pull"):
        replay(validated, other, "http://127.0.0.1:9")
    with pytest.raises(DataError, match="warm"):
        replay(validated, release.folder, "http://127.0.0.1:9", last=FIRST)
    with pytest.raises(CannotCheck, match="sekisho serve"):
        replay(validated, release.folder, "http://127.0.0.1:9")
