"""A release that contradicts itself is not served; bar ends find their session."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sekisho.errors import CannotCheck, Refused
from sekisho.params import ServingParams
from sekisho.serving.core import Policy


def test_golden_vectors_that_this_machine_does_not_reproduce_are_refused(
    lab: ModuleType, tmp_path: Path, params: ServingParams
) -> None:
    release = lab.write_release(tmp_path)
    path = release.folder / "content" / "golden.json"
    golden = json.loads(path.read_text())
    golden["target_weights"][2][1] += 1e-4
    path.write_text(json.dumps(golden))
    with pytest.raises(Refused, match="golden-vectors"):
        Policy(release, params)


def test_golden_weights_that_are_not_numbers_are_refused(
    lab: ModuleType, tmp_path: Path, params: ServingParams
) -> None:
    release = lab.write_release(tmp_path)
    path = release.folder / "content" / "golden.json"
    golden = json.loads(path.read_text())
    golden["target_weights"][0][0] = None
    path.write_text(json.dumps(golden))
    with pytest.raises(Refused, match="golden-vectors"):
        Policy(release, params)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"symbols": ["1301", "6501"]}, "range-shape"),
        ({"features": ["return_1"]}, "range-shape"),
        ({"symbols": ["1301"], "ranges": {"low": [[0, 0]], "high": [[1, 1]]}}, "model-input"),
    ],
)
def test_a_description_that_is_not_the_models_is_refused(
    lab: ModuleType, tmp_path: Path, params: ServingParams, changes: dict[str, object], rule: str
) -> None:
    with pytest.raises(Refused, match=rule):
        Policy(lab.write_release(tmp_path, **changes), params)


@pytest.mark.parametrize("name", ["model.onnx", "observation.json", "golden.json"])
def test_a_damaged_file_cannot_be_checked(
    lab: ModuleType, tmp_path: Path, params: ServingParams, name: str
) -> None:
    release = lab.write_release(tmp_path)
    path = release.folder / "content" / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CannotCheck, match=name):
        Policy(release, params)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_gross": 1.0},
        {"max_gross": "much"},
        3,
        {"max_gross": 1, "max_net": 1, "max_asset": 0, "max_turnover": 1},
    ],
)
def test_limits_that_cannot_be_read_stop_the_load(
    lab: ModuleType, tmp_path: Path, params: ServingParams, limits: object
) -> None:
    with pytest.raises(CannotCheck, match=r"observation\.json"):
        Policy(lab.write_release(tmp_path, limits=limits), params)


@pytest.mark.parametrize(
    ("ts_close", "session"),
    [
        ("2025-06-03T00:05:00+00:00", "2025-06-03"),  # the first bar in Tokyo
        ("2025-06-03T06:30:00+00:00", "2025-06-03"),  # the last
        ("2025-06-03T09:05:00+09:00", "2025-06-03"),  # the same as the first, told in Tokyo's time
        ("2025-06-06T06:31:00+00:00", "2025-06-09"),  # after the end on a Friday
        ("2025-06-08T03:00:00+00:00", "2025-06-09"),  # a Sunday
    ],
)
def test_a_bar_end_belongs_to_the_session_that_has_not_ended_before_it(
    policy: Policy, ts_close: str, session: str
) -> None:
    assert str(policy.session_of(dt.datetime.fromisoformat(ts_close))) == session


def test_batches_and_single_rows_agree(policy: Policy, lab: ModuleType) -> None:
    rows = lab.observations(256)
    single = np.concatenate([policy.run(row[None])[0] for row in rows])
    np.testing.assert_array_equal(policy.run(rows)[0], single)
