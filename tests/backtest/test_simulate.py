"""The simulation: equal to a ledger written by hand, costs in order, fresh capital in each window."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from sekisho.backtest.simulate import simulate
from sekisho.backtest.splits import Fold, walk_forward
from sekisho.backtest.strategies import Context, Strategy, baselines, cash
from sekisho.data.panel import Panel
from sekisho.errors import BacktestError
from sekisho.params import MarketParams, Params

from .conftest import BARS, make_panel, sessions_from

SESSIONS = 90


@pytest.fixture
def folds(params: Params) -> list[Fold]:
    return walk_forward(sessions_from(SESSIONS), params.split)


def features(panel: Panel) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((len(panel), len(panel.symbols), 2)).astype(np.float32)


def run(
    panel: Panel, folds: list[Fold], strategies: dict[str, Strategy], limits: MarketParams
) -> pl.DataFrame:
    return simulate(panel, features(panel), folds, [strategies] * len(folds), (0.0, 1.0, 2.0), limits).returns


def rows(returns: pl.DataFrame, strategy: str, multiple: float) -> pl.DataFrame:
    return returns.filter((pl.col("strategy") == strategy) & (pl.col("cost_multiple") == multiple))


def ledger(
    panel: Panel, fold: Fold, limits: MarketParams, multiple: float
) -> list[tuple[float, float, float]]:
    """Buy and hold by hand, one asset at a time; returns (net return, cost, turnover) of each session."""
    first = next(i for i, day in enumerate(panel.session) if day == np.datetime64(fold.test[0]))
    assets = len(panel.symbols)
    money, units = limits.capital, [0.0] * assets
    wanted = min(limits.max_gross / assets, limits.max_asset)
    sessions: list[tuple[float, float, float]] = []
    for t in range(first - 1, len(panel) - 1):
        if panel.session[t + 1] > np.datetime64(fold.test[1]):
            break
        before = money + sum(units[a] * panel.close[t, a] for a in range(assets))
        orders = [0.0] * assets
        if t < first - 1 + math.ceil(2 * limits.max_gross / limits.max_turnover):
            moves = [wanted - units[a] * panel.close[t, a] / before for a in range(assets)]
            share = min(1.0, limits.max_turnover / sum(abs(m) for m in moves))
            orders = [m * share * before / panel.close[t, a] for a, m in enumerate(moves)]
        cost = traded = 0.0
        for a in range(assets):
            value = orders[a] * panel.open[t + 1, a]
            squares = [
                (panel.close[i, a] / panel.close[i - 1, a] - 1) ** 2
                for i in range(t - limits.vol_window + 1, t + 1)
            ]
            daily = math.sqrt(sum(squares) / limits.vol_window) * math.sqrt(BARS)
            participation = abs(value) / panel.adv[t + 1, a]
            rate = (
                limits.commission
                + limits.spread_multiple * panel.half_spread[t + 1, a]
                + limits.impact_linear * participation
                + limits.impact_sqrt * daily * math.sqrt(participation)
            )
            cost += multiple * abs(value) * rate
            traded += abs(value)
            money -= value
            units[a] += orders[a]
        money -= cost
        after = money + sum(units[a] * panel.close[t + 1, a] for a in range(assets))
        figures = (after / before - 1.0, cost / before, traded / before)
        if panel.session[t + 1] != panel.session[t]:
            sessions.append(figures)
        else:
            net, costs, turnover = sessions[-1]
            sessions[-1] = ((1 + net) * (1 + figures[0]) - 1, costs + figures[1], turnover + figures[2])
    return sessions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_buy_and_hold_equals_a_hand_written_ledger(params: Params, folds: list[Fold], seed: int) -> None:
    # below full investment, so that drifting weights never meet a limit
    limits = params.market.model_copy(
        update={"max_gross": 0.9, "max_net": 1.0, "max_asset": 0.6, "impact_linear": 0.01}
    )
    loose = limits.model_copy(update={"max_gross": 1.0})
    panel = make_panel(seed=seed)
    strategy = baselines(limits, params.backtest)["buy-and-hold"]
    returns = run(panel, folds, {"buy-and-hold": strategy}, loose)
    for multiple in (0.0, 1.0, 2.0):
        expected = [row for fold in folds for row in ledger(panel, fold, limits, multiple)]
        found = rows(returns, "buy-and-hold", multiple).select("net_return", "cost", "turnover").to_numpy()
        assert found.shape == (40, 3)
        assert np.abs(found - np.array(expected)).max() < 1e-6


def test_the_sessions_are_those_of_the_test_windows(params: Params, folds: list[Fold]) -> None:
    returns = run(make_panel(), folds, {"cash": cash}, params.market)
    expected = [d for d in sessions_from(SESSIONS) if any(f.test[0] <= d <= f.test[1] for f in folds)]
    assert rows(returns, "cash", 1.0)["session"].to_list() == expected
    assert (rows(returns, "cash", 1.0).select("net_return", "cost", "turnover").to_numpy() == 0.0).all()


def test_each_window_opens_with_no_positions_at_the_close_before_it(
    params: Params, folds: list[Fold]
) -> None:
    seen: list[tuple[int, bool]] = []

    def spy(observation: np.ndarray, context: Context) -> np.ndarray:
        seen.append((context.bar, bool((observation[:, -1] == 0.0).all())))
        return np.array([0.3, -0.3, 0.2, 0.1])

    panel = make_panel()
    simulate(panel, features(panel), folds, [{"spy": spy}] * 2, (1.0,), params.market)
    starts = [int(np.argmax(panel.session == np.datetime64(f.test[0]))) - 1 for f in folds]
    assert [bar for bar, empty in seen if empty] == starts
    assert len(seen) == 40 * BARS
    assert max(bar for bar, _ in seen) == len(panel) - 2  # the last close decides nothing


def test_the_strategies_see_the_features_of_their_own_bar(params: Params, folds: list[Fold]) -> None:
    panel = make_panel()
    table = features(panel)

    def check(observation: np.ndarray, context: Context) -> np.ndarray:
        assert (observation[:, :-1] == table[context.bar]).all()
        return np.zeros(4)

    simulate(panel, table, folds, [{"check": check}] * 2, (1.0,), params.market)


def test_returns_fall_as_costs_rise_and_gross_less_cost_is_net(params: Params, folds: list[Fold]) -> None:
    def churn(observation: np.ndarray, context: Context) -> np.ndarray:
        return np.full(4, 0.2 if context.bar % 2 else -0.2)

    returns = run(make_panel(), folds, {"churn": churn}, params.market)
    free, single, double = (rows(returns, "churn", m) for m in (0.0, 1.0, 2.0))
    assert (free["net_return"] > single["net_return"]).all()
    assert (single["net_return"] > double["net_return"]).all()
    assert (free["cost"] == 0.0).all()
    gap = single["gross_return"] - single["cost"] - single["net_return"]
    assert float(gap.abs().max()) < 1e-4  # only the compounding inside a session lies between
    assert (single["turnover"] > 1.0).all()


def test_mean_weights_are_reported_once_for_each_session_and_symbol(
    params: Params, folds: list[Fold]
) -> None:
    def steady(observation: np.ndarray, context: Context) -> np.ndarray:
        return np.array([0.1, -0.1, 0.05, 0.0])

    panel = make_panel()
    table = simulate(
        panel, features(panel), folds, [{"steady": steady}] * 2, (0.0, 1.0), params.market
    ).weights
    assert table.columns == ["strategy", "session", "symbol", "weight"]
    assert len(table) == 40 * 4
    mean = table.group_by("symbol").agg(pl.col("weight").mean()).sort("symbol")["weight"].to_numpy()
    assert mean == pytest.approx([0.1, -0.1, 0.05, 0.0], abs=2e-3)


def test_a_ruined_account_is_closed_and_its_loss_stays(params: Params, folds: list[Fold]) -> None:
    panel = make_panel(drift=-0.05)
    limits = params.market.model_copy(update={"max_asset": 1.0, "max_gross": 1.0})

    def stubborn(observation: np.ndarray, context: Context) -> np.ndarray:
        return np.full(4, 0.25)

    net = rows(run(panel, folds, {"stubborn": stubborn}, limits), "stubborn", 1.0)["net_return"].to_numpy()
    first = net[:20]
    assert np.prod(1 + first) < 0.1
    assert (first[-3:] == 0.0).all()
    assert net[20] < -0.05  # the second window begins anew


def test_a_window_at_the_very_first_bar_is_an_error(params: Params) -> None:
    days = sessions_from(SESSIONS)
    fold = Fold(0, (days[0], days[1]), (days[0], days[1]), (days[0], days[5]))
    with pytest.raises(BacktestError, match="or none before it"):
        run(make_panel(), [fold], {"cash": cash}, params.market)


def test_the_same_input_gives_the_same_figures(params: Params, folds: list[Fold]) -> None:
    chosen = baselines(params.market, params.backtest)
    assert run(make_panel(), folds, chosen, params.market).equals(
        run(make_panel(), folds, baselines(params.market, params.backtest), params.market)
    )
