"""Agent and baselines: no look-ahead, textbook weights, clear errors on broken models and degenerate data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.covariance import LedoitWolf

from sekisho.backtest.strategies import (
    Agent,
    Context,
    History,
    baselines,
    equal_weights,
    min_variance_weights,
    momentum_weights,
    shrunk_covariance,
)
from sekisho.errors import BacktestError
from sekisho.params import MarketParams, Params

from .conftest import BARS, make_panel

START = 40 * BARS - 1  # the last bar of the fortieth session


def context(bar: int = START, **kind: float) -> Context:
    return Context(History(make_panel(**kind)), bar, START)


def model(path: Path, output: str = "target_weights", operator: str = "Identity") -> Path:
    """A model that answers with the last observation column (or its logarithm)."""
    nodes = [
        helper.make_node("Gather", ["observation", "last"], ["weights"], axis=2),
        helper.make_node(operator, ["weights"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "agent",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["N", 4, 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor("last", TensorProto.INT64, [], [2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_the_agent_runs_the_model_file(tmp_path: Path) -> None:
    observation = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert Agent(model(tmp_path / "model.onnx"))(observation, context()).tolist() == [2.0, 5.0, 8.0, 11.0]


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BacktestError, match=r"absent\.onnx: no such model"):
        Agent(tmp_path / "absent.onnx")


def test_a_truncated_model_is_named(tmp_path: Path) -> None:
    path = model(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BacktestError, match=r"model\.onnx: not a readable ONNX model"):
        Agent(path)


def test_a_model_of_another_contract_is_named(tmp_path: Path) -> None:
    with pytest.raises(BacktestError, match="outputs \\['action'\\]"):
        Agent(model(tmp_path / "model.onnx", output="action"))


def test_a_model_for_other_symbols_is_named(tmp_path: Path) -> None:
    agent = Agent(model(tmp_path / "model.onnx"))
    with pytest.raises(BacktestError, match=r"cannot take an observation of shape \(5, 3\)"):
        agent(np.zeros((5, 3), dtype=np.float32), context())


def test_weights_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    agent = Agent(model(tmp_path / "model.onnx", operator="Log"))
    with pytest.raises(BacktestError, match="weights are not finite"):
        agent(-np.ones((4, 3), dtype=np.float32), context())


@pytest.mark.parametrize("name", ["cash", "buy-and-hold", "momentum", "minimum-variance"])
def test_no_baseline_reads_a_later_bar(name: str, params: Params) -> None:
    panel = make_panel()
    bar = START + 5 * BARS
    later = {
        field: np.vstack([getattr(panel, field)[: bar + 1], getattr(panel, field)[bar + 1 :] * 3.0])
        for field in ("open", "high", "low", "close", "adv")
    }
    observation = np.full((4, 3), 0.1, dtype=np.float32)
    for step in (START, bar - 1, bar):
        plain = baselines(params.market, params.backtest)[name](
            observation, Context(History(panel), step, START)
        )
        changed = baselines(params.market, params.backtest)[name](
            observation, Context(History(replace(panel, **later)), step, START)
        )
        assert (plain == changed).all()


def test_a_rebalanced_baseline_moves_then_holds_then_moves_again(params: Params) -> None:
    strategy = baselines(params.market, params.backtest)["momentum"]
    history = History(make_panel())
    held = np.full((4, 3), 0.123, dtype=np.float32)
    settle = int(np.ceil(2 * params.market.max_gross / params.market.max_turnover))
    moves = [
        bool((strategy(held, Context(history, bar, START)) != held[:, -1]).any())
        for bar in range(START, START + 6 * BARS)
    ]
    due = params.backtest.rebalance_sessions * BARS
    expected = [step % due < settle for step in range(6 * BARS)]
    assert moves == expected


def test_buy_and_hold_never_trades_again(params: Params) -> None:
    strategy = baselines(params.market, params.backtest)["buy-and-hold"]
    history, held = History(make_panel()), np.full((4, 3), 0.2, dtype=np.float32)
    for bar in range(START + 4, START + 20 * BARS):
        assert (strategy(held, Context(history, bar, START)) == held[:, -1]).all()


def test_equal_weights_skip_what_cannot_be_traded_and_keep_the_limits(limits: MarketParams) -> None:
    panel = make_panel()
    tradable = panel.tradable.copy()
    tradable[START, 0] = False
    found = equal_weights(Context(History(replace(panel, tradable=tradable)), START, START), limits)
    assert found.tolist() == [0.0, 0.3, 0.3, 0.3]  # a third each would break the asset limit


def test_momentum_follows_the_sign_of_the_trailing_return(limits: MarketParams) -> None:
    here = context()
    closes = here.history.panel.close[here.history.ends[:40]]
    weights = momentum_weights(here, limits, 10)
    assert (np.sign(weights) == np.sign(closes[-1] - closes[-11])).all()
    assert np.abs(weights).sum() <= limits.max_gross + 1e-12
    assert np.abs(weights).max() <= limits.max_asset


def test_too_little_history_is_an_error(params: Params) -> None:
    early = Context(History(make_panel()), 5 * BARS - 1, 5 * BARS - 1)
    with pytest.raises(BacktestError, match="5 sessions before the test window, 11 are needed"):
        baselines(params.market, params.backtest)["momentum"](np.zeros((4, 3), dtype=np.float32), early)


@pytest.mark.parametrize("rows", [12, 60, 500])
def test_the_shrunk_covariance_equals_an_independent_implementation(rows: int) -> None:
    rng = np.random.default_rng(rows)
    returns = rng.standard_normal((rows, 5)) @ rng.standard_normal((5, 5))
    assert shrunk_covariance(returns) == pytest.approx(LedoitWolf().fit(returns).covariance_, rel=1e-9)


def test_minimum_variance_weights_of_independent_assets_are_inverse_variances(limits: MarketParams) -> None:
    variance = np.array([1.0, 2.0, 4.0, 4.0]) * 1e-4
    loose = limits.model_copy(update={"max_asset": 1.0})
    found = min_variance_weights(np.diag(variance), loose)
    assert found == pytest.approx((1 / variance) / (1 / variance).sum(), abs=1e-5)


def test_minimum_variance_weights_keep_the_limits(limits: MarketParams) -> None:
    found = min_variance_weights(np.diag([1e-6, 1e-4, 1e-4, 1e-4]), limits)
    assert found[0] == pytest.approx(limits.max_asset)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()


@pytest.mark.parametrize(
    ("covariance", "reason"),
    [
        (np.ones((3, 3)) * 1e-4, "degenerate"),
        (np.zeros((3, 3)), "no variance"),
        (np.full((3, 3), np.nan), "not finite"),
    ],
)
def test_a_degenerate_covariance_is_an_error(
    covariance: np.ndarray, reason: str, limits: MarketParams
) -> None:
    with pytest.raises(BacktestError, match=reason):
        min_variance_weights(covariance, limits)


def test_a_halted_symbol_gets_no_minimum_variance_weight(params: Params) -> None:
    panel = make_panel()
    panel.close[-200:, 1] = panel.close[-200, 1]
    panel.tradable[-200:, 1] = False
    context = Context(History(panel), len(panel) - 1, len(panel) - 1)
    weights = baselines(params.market, params.backtest)["minimum-variance"](
        np.zeros((4, 3), np.float32), context
    )
    assert weights[1] == 0.0
    assert (weights[[0, 2, 3]] > 0.0).all()


def test_two_identical_assets_share_the_minimum_variance_weight(params: Params) -> None:
    """Their sample covariance is singular; shrinkage makes it regular and the weights equal."""
    panel = make_panel()
    panel.close[:, 1] = panel.close[:, 0]
    loose = params.market.model_copy(update={"max_asset": 1.0})
    weights = baselines(loose, params.backtest)["minimum-variance"](
        np.zeros((4, 3), dtype=np.float32), Context(History(panel), START, START)
    )
    assert weights[0] == pytest.approx(weights[1], abs=1e-6)
    assert weights.sum() == pytest.approx(1.0)


def test_one_asset_that_stands_still_gets_what_the_limit_allows(params: Params) -> None:
    panel = make_panel()
    panel.close[:, 3] = 1000.0
    weights = baselines(params.market, params.backtest)["minimum-variance"](
        np.zeros((4, 3), dtype=np.float32), Context(History(panel), START, START)
    )
    assert weights[3] == pytest.approx(params.market.max_asset)


def test_constant_prices_are_an_error_of_the_baseline(params: Params) -> None:
    panel = make_panel()
    flat = replace(panel, close=np.full_like(panel.close, 100.0))
    with pytest.raises(BacktestError, match="no variance"):
        baselines(params.market, params.backtest)["minimum-variance"](
            np.zeros((4, 3), dtype=np.float32), Context(History(flat), START, START)
        )
