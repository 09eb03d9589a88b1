"""The champion is found by deployment's own line, is the released one, and sees its own features."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sekisho.backtest.champion import find_champion, with_own_features
from sekisho.backtest.strategies import Context, History
from sekisho.errors import BacktestError
from sekisho.features import feature_names
from sekisho.params import FeatureParams

from .conftest import make_panel

FEATURES: dict[str, Any] = {
    "return_windows": [1, 2],
    "vol_window": 12,
    "short_vol_window": 3,
    "volume_window": 12,
    "clip": 3.0,
}
SYMBOLS = ["S0", "S1", "S2", "S3"]


def release(
    repository: Path, model: bytes, features: dict[str, Any] = FEATURES, environment: str = "production"
) -> Path:
    """policy/3 as the release room lays it out, deployed to ``environment``; returns its folder."""
    folder = repository / "releases/policy/3"
    (folder / "content").mkdir(parents=True)
    names = feature_names(FeatureParams.model_validate(features))
    files = {
        "model.onnx": model,
        "observation.json": json.dumps({"features": names, "symbols": SYMBOLS}).encode(),
        "params.yaml": json.dumps({"features": features, "market": {}}).encode(),
    }
    for name, content in files.items():
        (folder / "content" / name).write_bytes(content)
    entries = [{"path": n, "size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()]
    manifest = json.dumps({"files": entries}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    pointer = repository / f"deploy/policy/{environment}/release.env"
    pointer.parent.mkdir(parents=True)
    pointer.write_text(f"RELEASE=policy/3@sha256:{hashlib.sha256(manifest).hexdigest()}\n")
    return folder


def test_the_champion_is_what_the_environment_points_at(tmp_path: Path) -> None:
    folder = release(tmp_path, b"model", environment="local")
    found = find_champion(tmp_path, "local")
    assert found is not None
    assert (found.release, found.model) == ("policy/3", folder / "content/model.onnx")
    assert found.symbols == tuple(SYMBOLS)


def test_nobody_is_the_champion_where_nothing_is_deployed(tmp_path: Path) -> None:
    pointer = tmp_path / "deploy/policy/production/release.env"
    pointer.parent.mkdir(parents=True)
    pointer.write_text("RELEASE=none\n")
    assert find_champion(tmp_path, "production") is None
    assert find_champion(tmp_path, "none") is None


def test_a_misspelt_environment_is_an_error_and_not_no_champion(tmp_path: Path) -> None:
    with pytest.raises(BacktestError, match=r"prodution/release\.env: no such file"):
        find_champion(tmp_path, "prodution")


@pytest.mark.parametrize("line", ["", "RELEASE=policy/3\n", "RELEASE=../x/1@sha256:" + "0" * 64 + "\n"])
def test_a_broken_pointer_is_an_error(tmp_path: Path, line: str) -> None:
    release(tmp_path, b"model")
    (tmp_path / "deploy/policy/production/release.env").write_text(line)
    with pytest.raises(BacktestError, match="not one line"):
        find_champion(tmp_path, "production")


@pytest.mark.parametrize("name", ["content/model.onnx", "content/params.yaml", "content/observation.json"])
def test_missing_content_says_how_to_get_it(tmp_path: Path, name: str) -> None:
    (release(tmp_path, b"model") / name).unlink()
    with pytest.raises(BacktestError, match="is not here") as caught:
        find_champion(tmp_path, "production")
    assert caught.value.remedy == "run `dvc pull releases/policy/3/content.dvc`"


@pytest.mark.parametrize("name", ["content/model.onnx", "content/params.yaml", "manifest.json"])
def test_another_file_than_the_released_one_is_refused(tmp_path: Path, name: str) -> None:
    path = release(tmp_path, b"model") / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BacktestError, match="the release says"):
        find_champion(tmp_path, "production")


def test_parameters_of_another_version_are_said_to_be(tmp_path: Path) -> None:
    folder = release(tmp_path, b"model")
    params = json.dumps({"features": FEATURES | {"horizon": 3}}).encode()
    (folder / "content/params.yaml").write_bytes(params)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][2]["sha256"] = hashlib.sha256(params).hexdigest()
    content = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(content)
    pointer = tmp_path / "deploy/policy/production/release.env"
    pointer.write_text(f"RELEASE=policy/3@sha256:{hashlib.sha256(content).hexdigest()}\n")
    with pytest.raises(BacktestError, match="policy/3 cannot trade here"):
        find_champion(tmp_path, "production")


def test_the_champion_sees_its_own_features_and_its_own_weights(tmp_path: Path) -> None:
    release(tmp_path, b"model")
    champion = find_champion(tmp_path, "production")
    assert champion is not None
    own = np.random.default_rng(1).standard_normal((30, 4, 8)).astype(np.float32)
    seen = []

    def agent(observation: np.ndarray, context: Context) -> np.ndarray:
        seen.append(observation)
        return observation[:, -1].astype(np.float64)

    strategy = with_own_features(champion, agent, own, champion.names, SYMBOLS)
    candidates = np.full((4, 3), 0.25, dtype=np.float32)
    strategy(candidates, Context(History(make_panel(sessions=5)), 17, 10))
    assert (seen[0][:, :-1] == own[17]).all()
    assert (seen[0][:, -1] == 0.25).all()
    with pytest.raises(BacktestError, match="it observes the symbols S0, S1") as caught:
        with_own_features(champion, agent, own, champion.names, ["S0", "S1"])
    assert "backtest.champion" in caught.value.remedy
    with pytest.raises(BacktestError, match="it observes the features"):
        with_own_features(champion, agent, own, ("momentum",), SYMBOLS)
