"""A feature that knows the future is caught by the check and fails the gate, each on its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sekisho.backtest.gate import judge
from sekisho.cli.features import check_lookahead, features
from sekisho.data.panel import Panel
from sekisho.errors import Refused
from sekisho.features import compute_features
from sekisho.params import FeatureParams, load_params

from .conftest import PARAMS, make_panel, write_bars
from .test_gate import GOOD

RULE = "no look-ahead (features that leak)"


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    write_bars(make_panel(sessions=40), tmp_path / "bars")
    return tmp_path / "bars"


def build_and_judge(bars: Path) -> list[str]:
    """Run the stage as the pipeline does; returns the rules that fail with its finding."""
    finding = bars.parent / "metrics/lookahead.json"
    options = ["--bars", bars, "--out", bars.parent / "features", "--lookahead", finding]
    result = CliRunner().invoke(features, [str(option) for option in options], catch_exceptions=False)
    assert result.exit_code == 0, result.output  # the pipeline goes on, to a report that says so
    found = GOOD | {"lookahead": json.loads(finding.read_text())}
    return [rule.rule for rule in judge(*found.values(), load_params(PARAMS).gate) if not rule.passed]


def check(bars: Path) -> None:
    CliRunner().invoke(check_lookahead, ["--bars", str(bars)], catch_exceptions=False)


def test_our_own_features_pass_both(bars: Path) -> None:
    assert build_and_judge(bars) == []
    check(bars)


def tomorrow(panel: Panel, params: FeatureParams) -> np.ndarray:
    """The first feature is the next bar's."""
    honest = compute_features(panel, params)
    honest[:-1, :, 0] = honest[1:, :, 0]
    return honest


def normalised(panel: Panel, params: FeatureParams) -> np.ndarray:
    """The first feature is divided by its largest value of the whole sample."""
    honest = compute_features(panel, params)
    honest[:, :, 0] /= np.nanmax(np.abs(honest[:, :, 0]), initial=1e-9)
    return honest


@pytest.mark.parametrize("leaky", [tomorrow, normalised])
def test_a_planted_leak_is_refused_by_the_check_and_by_the_gate(
    bars: Path, leaky: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekisho.features.compute.compute_features", leaky)
    with pytest.raises(Refused, match="return_3") as refused:
        check(bars)
    assert refused.value.exit_code == 1
    assert build_and_judge(bars) == [RULE]
    finding = json.loads((bars.parent / "metrics/lookahead.json").read_text())
    assert finding["features"] == 10
    assert [leak.split(":")[0] for leak in finding["leaks"]] == ["return_3"]
