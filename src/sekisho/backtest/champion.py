"""The model in production: found by the one line that deployment reads, seen with its own features."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from sekisho.backtest.strategies import Context, Float, Observation, Strategy
from sekisho.errors import BacktestError
from sekisho.params import FeatureParams, parse_yaml
from sekisho.pointer import NO_RELEASE, parse_pointer, pointer_path

NOBODY = "none"  # the environment of a backtest that compares with no champion


@dataclass(frozen=True)
class Champion:
    """A released model and what it observes."""

    release: str  # <model>/<seq>
    model: Path
    features: FeatureParams
    names: tuple[str, ...]  # of its features
    symbols: tuple[str, ...]


def find_champion(repository: Path, environment: str) -> Champion | None:
    """The release that ``deploy/policy/<environment>/release.env`` points at; None where it points at none.

    Its files must be those that its manifest lists, and the manifest the one that the line names.

    Raises:
        BacktestError: the line is not one, or the release is missing here, or its files are others.
    """
    if environment == NOBODY:
        return None
    path = pointer_path(repository, environment)
    try:
        line = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BacktestError(
            f"{path}: no such file", remedy="backtest.champion in params.yaml must name a deployment"
        ) from error
    if line == NO_RELEASE:
        return None
    pointer = parse_pointer(line)
    if pointer is None:
        raise BacktestError(
            f"{path}: not one line RELEASE=<model>/<seq>@sha256:<digest>", remedy="restore it from git"
        )
    folder = repository / "releases" / pointer.release
    manifest = _read(folder / "manifest.json", pointer.digest, f"restore {folder} from git")
    listed = {entry["path"]: entry["sha256"] for entry in json.loads(manifest)["files"]}
    content, remedy = folder / "content", f"run `dvc pull {folder.relative_to(repository)}/content.dvc`"
    seen = json.loads(_read(content / "observation.json", listed["observation.json"], remedy))
    params = parse_yaml(_read(content / "params.yaml", listed["params.yaml"], remedy))
    _read(content / "model.onnx", listed["model.onnx"], remedy)
    try:
        features = FeatureParams.model_validate(params["features"])
    except ValidationError as error:
        raise _unlike(
            pointer.release, f"its parameters under features are another version's: {error}"
        ) from error
    return Champion(
        pointer.release, content / "model.onnx", features, tuple(seen["features"]), tuple(seen["symbols"])
    )


def with_own_features(
    champion: Champion, agent: Strategy, features: npt.NDArray[np.float32], names: Any, symbols: Any
) -> Strategy:
    """``agent`` that sees the champion's own features ``(T, A, F)`` of the panel instead of the candidate's.

    Args:
        names: of these features; symbols: of the panel.

    Raises:
        BacktestError: they are not those the champion was released with.
    """
    for kind, here, there in (("features", names, champion.names), ("symbols", symbols, champion.symbols)):
        if tuple(here) != there:
            raise _unlike(champion.release, f"it observes the {kind} {', '.join(there)}")

    def decide(observation: Observation, context: Context) -> Float:
        return agent(np.concatenate((features[context.bar], observation[:, -1:]), axis=1), context)

    return decide


def _read(path: Path, sha256: str, remedy: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BacktestError(f"{path}: the champion's file is not here", remedy=remedy) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BacktestError(f"{path}: sha256 {found}, the release says {sha256}", remedy=remedy)
    return content


def _unlike(release: str, reason: str) -> BacktestError:
    return BacktestError(
        f"champion {release} cannot trade here: {reason}",
        remedy="keep what the champion needs until it is replaced, or set backtest.champion to none and have "
        "that change reviewed: the candidate is then compared with the baselines only",
    )
