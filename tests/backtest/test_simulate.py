"""The simulation: equal to a ledger written by hand, costs in order, fresh capital in each window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.backtest.simulate import Account, simulate
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
    accounts = [Account(name, multiple) for name in strategies for multiple in (0.0, 1.0, 2.0)]
    return simulate(panel, features(panel), folds, [strategies] * len(folds), accounts, limits).returns


def rows(returns: pl.DataFrame, strategy: str, multiple: float) -> pl.DataFrame:
    return returns.filter((pl.col("strategy") == strategy) & (pl.col("cost_multiple") == multiple))


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
    simulate(panel, features(panel), folds, [{"spy": spy}] * 2, [Account("spy")], params.market)
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

    simulate(panel, table, folds, [{"check": check}] * 2, [Account("check")], params.market)


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
    accounts = [Account("steady", 0.0), Account("steady"), Account("steady", 1.0, 10.0)]
    table = simulate(panel, features(panel), folds, [{"steady": steady}] * 2, accounts, params.market).assets
    assert table.columns == ["strategy", "session", "symbol", "weight", "gross_return", "cost"]
    assert len(table) == 40 * 4
    mean = table.group_by("symbol").agg(pl.col("weight").mean()).sort("symbol")["weight"].to_numpy()
    assert mean == pytest.approx([0.1, -0.1, 0.05, 0.0], abs=2e-3)


def test_a_ruined_account_is_closed_and_its_loss_stays(params: Params, folds: list[Fold]) -> None:
    panel = make_panel(drift=-0.05)
    free = {"price_limits": "none", "tick_table": "none", "lot_size": 0, "max_participation": 0.0}
    limits = params.market.model_copy(update={"max_asset": 1.0, "max_gross": 1.0} | free)

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


def churn(observation: np.ndarray, context: Context) -> np.ndarray:
    rng = np.random.default_rng((7, context.bar))
    return 0.3 * rng.standard_normal(len(observation))


def test_the_assets_parts_add_up_to_the_account(params: Params, folds: list[Fold]) -> None:
    found = simulate(
        make_panel(), features(make_panel()), folds, [{"churn": churn}] * 2, [Account("churn")], params.market
    )
    parts = found.assets.group_by("session").agg(pl.col("gross_return", "cost").sum()).sort("session")
    assert (parts["cost"] > 0).all()
    assert (found.assets["cost"] > -1e-15).all()
    np.testing.assert_allclose(parts["cost"], found.returns["cost"], rtol=0, atol=1e-12)
    # session returns compound over the bars, the parts are sums
    np.testing.assert_allclose(parts["gross_return"], found.returns["gross_return"], rtol=0, atol=1e-4)


def test_more_capital_pays_more_impact_and_nothing_else(params: Params, folds: list[Fold]) -> None:
    accounts = [Account("churn"), Account("churn", 1.0, 100.0)]

    def capacity(limits: MarketParams) -> tuple[pl.DataFrame, pl.DataFrame]:
        panel = make_panel()
        found = simulate(panel, features(panel), folds, [{"churn": churn}] * 2, accounts, limits)
        assert len(found.returns) == 40  # the modelled capital's only
        parts = found.capacity.partition_by("capital_multiple", maintain_order=True)
        return parts[0], parts[1]

    # any amount fills: whole lots and the bar's volume would tell the accounts apart as well
    limits = params.market.model_copy(update={"max_participation": 0.0, "lot_size": 0})
    small, large = capacity(limits)
    assert (large["cost"] > 2.0 * small["cost"]).all()
    free = limits.model_copy(update={"impact_sqrt": 0.0, "impact_linear": 0.0})
    small, large = capacity(free)
    np.testing.assert_allclose(small["net_return"], large["net_return"], rtol=0, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(52 * BARS, SESSIONS * BARS - 2))
def test_another_future_changes_no_past_decision_or_fill(seed: int, cut: int, params: Params) -> None:
    """Features are computed anew from the changed bars, so that the whole path is under test."""
    from sekisho.features import compute_features

    panel, other = make_panel(seed=seed), make_panel(seed=seed + 1, drift=0.01)
    fields = ("open", "high", "low", "close", "volume", "adv", "half_spread", "borrow_rate")
    spliced = {n: np.concatenate([getattr(panel, n)[:cut], getattr(other, n)[cut:]]) for n in fields}
    folds = walk_forward(sessions_from(SESSIONS), params.split)

    def follow(observation: np.ndarray, context: Context) -> np.ndarray:
        return 0.1 * np.nan_to_num(observation[:, 0]) + 0.5 * observation[:, -1]

    def decided(market: Panel) -> list[tuple[int, tuple[float, ...]]]:
        seen: list[tuple[int, tuple[float, ...]]] = []

        def spy(observation: np.ndarray, context: Context) -> np.ndarray:
            seen.append((context.bar, tuple(observation.ravel().tolist())))
            return follow(observation, context)

        strategies = baselines(params.market, params.backtest) | {"spy": spy}
        accounts = [Account(name) for name in strategies]
        table = compute_features(market, params.features)
        found = simulate(market, table, folds, [strategies] * 2, accounts, params.market).returns
        day = panel.session[cut].item()
        past.append(found.filter(pl.col("session") < day))
        return [(bar, values) for bar, values in seen if bar < cut]

    past: list[pl.DataFrame] = []
    assert decided(panel) == decided(replace(panel, **spliced))
    assert past[0].equals(past[1])
