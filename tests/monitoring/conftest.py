"""A small true world: the sample's market, its features, a reference, a release with a model, and its log."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper

from sekisho.backtest.simulate import Account, simulate
from sekisho.backtest.splits import Fold, walk_forward
from sekisho.backtest.strategies import Context, Observation
from sekisho.calendar import Calendar
from sekisho.data.contract import COLUMNS
from sekisho.data.panel import Panel, load_panel
from sekisho.data.store import write_partition
from sekisho.data.synthetic import SAMPLE_SEED, Change, sample_sessions, synthetic_bars
from sekisho.features import compute_features, feature_names
from sekisho.monitoring.predictions import ANSWERED
from sekisho.monitoring.reference import BAR_RETURN, reference_of_last_fold
from sekisho.params import Params, load_params
from sekisho.release.manifest import CreatedFrom, Manifest, canonical, list_files
from sekisho.serving.core import Decision
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import Entry, PredictionLog

LIVE = 80  # sessions after the sample
CHANGE_AFTER = 20  # of them
BACKTEST = 180  # sessions before them
BEFORE = 5  # sessions before the live ones that the live bars hold too: what features rest on
SIZE = 0.02  # weight of one unit of the first feature
REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Market:
    """Live sessions of one market: times and features by session."""

    panel: Panel
    features: npt.NDArray[np.float32]
    sessions: list[dt.date]

    def of(self, session: dt.date) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.float32]]:
        rows = self.panel.session == np.datetime64(session)
        return self.panel.ts_close[rows], self.features[rows]


@dataclass(frozen=True)
class World:
    params: Params
    release: Path
    digest: str
    calm: Market
    changed: Market
    bars: dict[str, Path]  # raw partitions of the live sessions: calm, changed
    training: Path  # ``bars`` and ``features`` of the sample

    def log(self, folder: Path, market: Market, sessions: Sequence[dt.date], seq: int = 1) -> Path:
        """Write the predictions the release makes in ``sessions``."""
        log = PredictionLog(folder, capacity=10**6, batch=1024, interval=60.0)
        for session in sessions:
            self.add(log, market, session, seq=seq)
        log.close()
        return folder

    def add(
        self,
        log: PredictionLog,
        market: Market,
        session: dt.date,
        *,
        rows: Sequence[int] | None = None,
        seq: int = 1,
        digest: str | None = None,
        name: str | None = None,
        later: dt.timedelta = dt.timedelta(),
        verdict: Reason = Reason.OK,
        see: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] = lambda features: features,
    ) -> None:
        """Log one session's predictions, or ``rows`` of it, ``later`` than their bars' ends; ``see`` changes
        what the release saw of the features ``(A, F)``; ``name`` begins the requests' ids.
        """
        times, features = market.of(session)
        for number in range(len(times)) if rows is None else rows:
            moment = times[number].item().replace(tzinfo=dt.UTC)
            row = see(features[number].copy())
            observation = np.concatenate([row, np.zeros((len(row), 1), np.float32)], axis=1)[None]
            answer = observation[:, :, 0] * np.float32(SIZE)
            log.append(
                Entry(
                    request_id=f"{name or session}-{number}",
                    at=moment + later,
                    session=session,
                    ts_close=moment,
                    model="policy",
                    seq=seq,
                    digest=digest or (self.digest if seq == 1 else "e" * 64),
                    observation=observation,
                    decision=Decision(answer if verdict in ANSWERED else answer * 0, (verdict,)),
                    latency_us=500,
                )
            )


def make_model(path: Path, assets: int, features: int) -> None:
    """target = SIZE × the first feature: a model whose answers a test can write down."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["observation", "first"], ["x"], axis=2),
            helper.make_node("Mul", ["x", "size"], ["target_weights"]),
        ],
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["N", assets, features + 1])],
        [helper.make_tensor_value_info("target_weights", TensorProto.FLOAT, ["N", assets])],
        [
            helper.make_tensor("first", TensorProto.INT64, [], [0]),
            helper.make_tensor("size", TensorProto.FLOAT, [], [SIZE]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def backtest_of(market: Market, sessions: Sequence[dt.date], params: Params) -> pl.DataFrame:
    """What the model earned in ``sessions``, as metrics/returns.csv has it."""

    def decide(observation: Observation, context: Context) -> npt.NDArray[np.float64]:
        return (observation[:, 0] * np.float32(SIZE)).astype(np.float64)

    window = (sessions[0], sessions[-1])
    fold = Fold(0, window, window, window)
    done = simulate(
        market.panel, market.features, [fold], [{"agent": decide}], [Account("agent")], params.market
    )
    return done.returns.select("session", agent="net_return")


def make_release(
    folder: Path, reference: bytes, symbols: Sequence[str], names: Sequence[str], returns: pl.DataFrame
) -> str:
    """A release folder with what the check reads; returns its manifest digest."""
    content = folder / "content"
    content.mkdir(parents=True)
    (content / "reference.json").write_bytes(reference)
    about = {"symbols": list(symbols), "features": list(names), "calendar": "XTKS", "bar": "5min"}
    shutil.copy(REPO / "params.yaml", content)
    returns.write_csv(content / "returns.csv")
    (content / "observation.json").write_bytes(canonical(about))
    make_model(content / "model.onnx", len(symbols), len(names))
    created = {name: "0" * 40 for name in CreatedFrom.model_fields}
    created |= {"dvc_lock_sha256": "0" * 64}
    manifest = Manifest(
        version=1,
        model="policy",
        seq=1,
        previous=None,
        created_from=CreatedFrom(**created),
        rollback=None,
        files=list_files(content),
    )
    raw = canonical(manifest.model_dump(mode="json"))
    (folder / "manifest.json").write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


@pytest.fixture(scope="session")
def params() -> Params:
    return load_params(REPO / "params.yaml")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, params: Params) -> World:
    folder = tmp_path_factory.mktemp("world")
    past = sample_sessions()
    live = Calendar("XTKS", "5min").next_sessions(past[-1], LIVE)
    total = len(past) + LIVE
    change = Change(live[CHANGE_AFTER], volatility=2.0, correlation=0.8)
    markets, bars = {}, {}
    for name, what in (("calm", None), ("changed", change)):
        frame = synthetic_bars(past[0], total, SAMPLE_SEED, change=what)
        whole = folder / f"whole-{name}"
        whole.mkdir()
        frame.write_parquet(whole / "all.parquet")
        panel = load_panel(whole)
        features = compute_features(panel, params.features)
        markets[name] = Market(panel, features, live)
        bars[name] = folder / f"bars-{name}"
        bars[name].mkdir()
        held = frame.filter(pl.col("session") > past[-1 - BEFORE])
        for (day,), part in held.partition_by(["session"], as_dict=True).items():
            write_partition(part.select(list(COLUMNS)), bars[name] / f"{day}.parquet")
        if what is None:
            training = folder / "training"
            write_training(training, frame, panel, features, past[-1], params)
    window = walk_forward(past, params.split)[-1].train
    reference = reference_of_last_fold(training / "features", training / "bars", params)
    assert str(window[1]).encode() in reference
    names = feature_names(params.features)
    assert BAR_RETURN not in names
    release = folder / "releases" / "policy" / "1"
    returns = backtest_of(markets["calm"], past[-BACKTEST:], params)
    digest = make_release(release, reference, markets["calm"].panel.symbols, names, returns)
    return World(params, release, digest, markets["calm"], markets["changed"], bars, training)


def write_training(
    folder: Path,
    frame: pl.DataFrame,
    panel: Panel,
    features: npt.NDArray[np.float32],
    last: dt.date,
    params: Params,
) -> None:
    """``bars`` and ``features`` as the pipeline leaves them, of the sessions up to ``last``."""
    (folder / "bars").mkdir(parents=True)
    (folder / "features").mkdir()
    frame.filter(pl.col("session") <= last).write_parquet(folder / "bars" / "all.parquet")
    names, count = feature_names(params.features), len(panel.symbols)
    table = pl.DataFrame(
        {
            "symbol": np.tile(np.array(panel.symbols), len(panel)),
            "ts_close": np.repeat(panel.ts_close, count),
            "session": np.repeat(panel.session, count),
        }
        | {name: features[:, :, i].ravel() for i, name in enumerate(names)}
    ).with_columns(pl.col("ts_close").dt.replace_time_zone("UTC"), pl.col(names).fill_nan(None))
    table.filter(pl.col("session") <= last).write_parquet(folder / "features" / "all.parquet")


@pytest.fixture(scope="session")
def training(world: World) -> Path:
    return world.training


@pytest.fixture(scope="session")
def short_log(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of five calm sessions; copy before changing."""
    return world.log(tmp_path_factory.mktemp("short") / "predictions", world.calm, world.calm.sessions[:5])


@pytest.fixture
def predictions(short_log: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(short_log, tmp_path / "predictions"))


@pytest.fixture
def rewrite() -> Callable[[Path, pl.DataFrame], None]:
    """Replace the rows of a batch and keep its chain's metadata."""

    def write(path: Path, frame: pl.DataFrame) -> None:
        links = {k: v for k, v in pl.read_parquet_metadata(path).items() if k.startswith("sekisho.")}
        frame.write_parquet(path, metadata=links)

    return write
