"""How often the gate lets luck pass, and how often skill: worlds of known truth through our own code.

Each world is a market of fresh prices and a number of trials, of which the best by net Sharpe ratio is
picked, as people do. Simulation, figures, selection and judgement are those of `sekisho backtest`, `trials`
and `gate`; only the trained agents are replaced, by rules whose signal knows a stated share of the next bar,
or nothing. Noise is tried with the modelled costs, which it loses, and free of costs, where luck has room.

The stated rate of false passes is 1 - gate.min_deflated_sharpe, of returns with thin tails: the deflated
Sharpe ratio holds it for any number of trials where returns are not autocorrelated, the block bootstrap's
lower bound where they are, and every other rule can only lower it. Where small gains are paid for by a rare
crash it does not hold, as no statistic of a sample without the crash could; that rate is measured too,
without a goal.
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.progress import track

from results import Figure, publish
from sekisho.backtest import metrics
from sekisho.backtest.evaluate import evaluate
from sekisho.backtest.gate import judge
from sekisho.backtest.names import SEED
from sekisho.backtest.run import accounts_of, regimes_of
from sekisho.backtest.selection import returns_csv, select
from sekisho.backtest.simulate import Account, simulate
from sekisho.backtest.splits import Fold
from sekisho.backtest.strategies import Context, Observation, Strategy, baselines
from sekisho.backtest.trials import Trials
from sekisho.data.panel import Panel
from sekisho.params import Params, load_params

Float = npt.NDArray[np.float64]
ASSETS, BARS, YEAR = 4, 2, 245.0  # assets, bars a session, sessions a year
TRAIN, TEST = 80, 180  # sessions; the test is as long as the sample's
NOISE_WORLDS, EDGE_WORLDS = 200, 40
TRIALS = (1, 5, 20)  # the noise worlds take turns
EDGES = (2.0, 3.0, 4.0, 6.0, 8.0, 10.0)  # Sharpe ratios a year before costs, were the limits never met
SEED_OF_ALL = 20_000
LOOKAHEAD = {"features": 1, "leaks": []}
SINGLE = (  # rules whose share of passes is shown on its own
    "deflated Sharpe ratio",
    "net Sharpe ratio, lower bound",
    "probability of backtest overfitting",
)
CRASH, GAIN = 1 / 400, 6e-4  # a bar's chance of a crash, and what is gained in all others, on average as much
SIZE = 0.15  # weight of one standard deviation of the signal


@dataclass(frozen=True)
class World:
    panel: Panel
    fold: Fold
    scores: Float  # (T, A) each bar's own returns in units of their volatility


def world(seed: int, crashes: bool = False) -> World:
    """A market factor and own moves, fat tails, volatility that clusters; no return can be foreseen.

    With ``crashes`` instead: each asset gains a little at nearly every bar and loses all of that in rare
    ones, a quarter of its price at once; its expected return is 0.
    """
    rng = np.random.default_rng((SEED_OF_ALL, seed))
    rows = (TRAIN + TEST) * BARS
    clustering = np.zeros(rows)
    for t in range(1, rows):
        clustering[t] = 0.97 * clustering[t - 1] + 0.1 * rng.standard_normal()
    own = rng.standard_t(5, (rows, ASSETS)) / math.sqrt(5 / 3)
    factor = rng.standard_normal((rows, 1))
    moves = np.clip(0.008 * np.exp(clustering)[:, None] * (0.8 * own + 0.6 * factor), -0.08, 0.08)
    if crashes:
        moves = GAIN + 0.0015 * rng.standard_normal((rows, ASSETS))
        moves -= GAIN / CRASH * (rng.random((rows, ASSETS)) < CRASH)
    close: Float = 3000.0 * np.cumprod(1.0 + moves, axis=0, dtype=np.float64)
    last = np.vstack([close[:1], close[:-1]])
    opening = last * (1.0 + 0.0005 * rng.standard_normal((rows, ASSETS)))
    first = dt.date(2024, 1, 4)
    weekdays = (first + dt.timedelta(days=n) for n in range(2 * (TRAIN + TEST)))
    sessions = [day for day in weekdays if day.weekday() < 5][: TRAIN + TEST]
    days = np.repeat(np.array(sessions, dtype="datetime64[D]"), BARS)
    minutes = np.tile(np.arange(1, BARS + 1) * 60, TRAIN + TEST).astype("timedelta64[m]")
    full = np.ones((rows, ASSETS))
    panel = Panel(
        symbols=tuple(f"W{n}" for n in range(ASSETS)),
        ts_close=days.astype("datetime64[us]") + minutes,
        session=days,
        open=opening,
        high=np.maximum(opening, close),
        low=np.minimum(opening, close),
        close=close,
        volume=5e9 / BARS / close,
        adv=5e9 * full,
        half_spread=1e-4 * full,
        borrow_rate=1e-6 * full,
        funding_rate=0.0 * full,
        adj_factor=full,
        tradable=full.astype(np.bool_),
    )
    window = (sessions[0], sessions[TRAIN - 2])
    return World(panel, Fold(0, window, window, (sessions[TRAIN], sessions[-1])), own)


def follower(here: World, edge: float, seed: int) -> Strategy:
    """Holds its signal: noise of some persistence, correlated with the next bar's own moves by the edge."""
    rng = np.random.default_rng((SEED_OF_ALL, 1, seed))
    rows = len(here.panel)
    known = edge / math.sqrt(ASSETS * BARS * YEAR)  # the correlation that gives this ratio
    noise, memory = rng.standard_normal((rows, ASSETS)), rng.uniform(0.0, 0.95)
    for t in range(1, rows):
        noise[t] = memory * noise[t - 1] + math.sqrt(1.0 - memory**2) * noise[t]
    signal = math.sqrt(1.0 - known**2) * noise
    signal[:-1] += known * here.scores[1:]
    weights = SIZE * signal

    def decide(observation: Observation, context: Context) -> Float:
        return np.asarray(weights[context.bar], dtype=np.float64)

    return decide


def holder(seed: int) -> Strategy:
    """Knows nothing: holds the same book, drawn once, for ever."""
    rng = np.random.default_rng((SEED_OF_ALL, 3, seed))
    weights = 0.3 * rng.permutation(np.arange(ASSETS) < ASSETS // 2)
    weights += rng.uniform(0.0, 0.05, ASSETS)

    def decide(observation: Observation, context: Context) -> Float:
        return np.asarray(weights, dtype=np.float64)

    return decide


def run(here: World, strategies: dict[str, Strategy], accounts: list[Account], params: Params) -> Any:
    features = np.zeros((len(here.panel), ASSETS, 1), dtype=np.float32)
    return simulate(here.panel, features, [here.fold], [strategies], accounts, params.market)


def picked(
    seed: int, trials: int, edge: float, params: Params, crashes: bool = False
) -> tuple[list[str], float]:
    """Rules that the best of ``trials`` fails, and its net Sharpe ratio.

    With an edge the first trial has it and the others have none; where the market ``crashes`` all hold.
    """
    here = world(seed, crashes)

    def trial(edge: float, number: int) -> Strategy:
        return holder(number) if crashes else follower(here, edge, number)

    tried = {f"t{n}": trial(edge if n == 0 else 0.0, 1000 * seed + n) for n in range(trials)}
    returns = run(here, tried, [Account(name) for name in tried], params).returns
    tables = returns.partition_by("strategy", as_dict=True, maintain_order=True)
    series = {str(key[0]): part for key, part in tables.items()}
    ratios = {
        name: metrics.sharpe(part["net_return"].to_numpy(), YEAR) or 0.0 for name, part in series.items()
    }
    best = max(ratios, key=lambda name: ratios[name])
    twin = trial(edge if best == "t0" else 0.0, 1000 * seed + 999)
    strategies = {"agent": tried[best], f"{SEED}2": twin, **baselines(params.market, params.backtest)}
    found = run(here, strategies, accounts_of(list(strategies), params.backtest), params)
    opening = {"candidate": "-", "train": best, "champion": "none"}
    regimes = regimes_of(here.panel, [here.fold], params.market.vol_window)
    figures = evaluate(found, regimes, [here.fold], (1, 2), opening, YEAR, params.backtest)
    others = {
        name: part.select("session", agent="net_return") for name, part in series.items() if name != best
    }
    history = Trials(best, frozenset(tried), {n: ratios[n] for n in others}, others, "full")
    own = pl.read_csv(returns_csv(found.returns), try_parse_dates=True)
    seeds = list(figures["agent"]["sharpe_by_seed"].values())
    selection = select(own, seeds, history, YEAR, params.backtest)
    rules = judge(figures, selection, LOOKAHEAD, params.gate)
    return [rule.rule for rule in rules if not rule.passed], figures["agent"]["sharpe"]


def statistics_alone(memory: float, params: Params, trials: int, worlds: int = 1000) -> tuple[float, float]:
    """Shares of worlds of plain return noise whose best of ``trials`` passes the deflated Sharpe ratio, and
    that and the interval's lower bound; ``memory`` is the noise's autocorrelation."""
    rng = np.random.default_rng((SEED_OF_ALL, 2, int(100 * memory)))
    deflated = both = 0
    for _ in range(worlds):
        noise = 0.01 * rng.standard_normal((TEST + 50, trials))
        for t in range(1, len(noise)):
            noise[t] += memory * noise[t - 1]
        returns = noise[50:]
        ratios = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
        net = returns[:, int(ratios.argmax())]
        variance = max(float(ratios.var(ddof=1)) if trials > 1 else 0.0, 1.0 / (TEST - 1))
        found = metrics.deflated_sharpe(net, trials, variance) or 0.0
        if found > params.gate.min_deflated_sharpe:
            deflated += 1
            low, _ = metrics.sharpe_interval(
                net,
                YEAR,
                samples=params.backtest.bootstrap_samples,
                block=params.backtest.bootstrap_block,
                confidence=params.backtest.confidence,
                seed=1,
            )
            both += low is not None and low > params.gate.min_sharpe_lower
    return deflated / worlds, both / worlds


def adapted(params: Params) -> Params:
    """The repository's parameters with fewer resamples and a volatility window that fits a world."""
    return params.model_copy(
        update={
            "backtest": params.backtest.model_copy(update={"bootstrap_samples": 500}),
            "market": params.market.model_copy(update={"vol_window": 10 * BARS}),
        }
    )


def free_of_costs(params: Params) -> Params:
    """The same market where trading and holding cost nothing."""
    free = {"commission": 0.0, "spread_multiple": 0.0, "impact_linear": 0.0, "impact_sqrt": 0.0}
    market = params.market.model_copy(update=free | {"tick_table": "none"})
    return params.model_copy(update={"market": market})


def noise_figures(worlds: int, words: str, params: Params, stated: float) -> Iterator[Figure]:
    """How often the best of some rules that know nothing passes, by the gate and by single rules."""
    outcomes = [
        (TRIALS[seed % len(TRIALS)], *picked(seed, TRIALS[seed % len(TRIALS)], 0.0, params))
        for seed in track(range(worlds), f"noise {words}")
    ]
    passes = sum(not failed for _, failed, _ in outcomes) / worlds
    yield Figure(f"noise {words}: passes the gate", passes, "share", goal=stated, at_most=True)
    for rule in SINGLE:
        alone = sum(rule not in failed for _, failed, _ in outcomes) / worlds
        yield Figure(f"noise {words}: passes {rule}", alone, "share")
    for trials in TRIALS:
        mean = float(np.mean([ratio for count, _, ratio in outcomes if count == trials]))
        yield Figure(f"noise {words}: net Sharpe ratio of the best of {trials}", mean, "a year")


def crash_figures(worlds: int, params: Params) -> Iterator[Figure]:
    """How often the best of some rules that know nothing passes where a rare crash pays for small gains."""
    failed = [
        picked(50_000 + seed, TRIALS[seed % len(TRIALS)], 0.0, params, crashes=True)[0]
        for seed in track(range(worlds), "crash")
    ]
    passes = sum(not rules for rules in failed) / worlds
    yield Figure("crashes, expected return 0: passes the gate", passes, "share")
    for rule in SINGLE:
        alone = sum(rule not in rules for rules in failed) / worlds
        yield Figure(f"crashes, expected return 0: passes {rule}", alone, "share")


def statistics_figures(params: Params, stated: float) -> Iterator[Figure]:
    for memory in (0.0, 0.2):
        for trials in (1, 10):
            deflated, both = statistics_alone(memory, params, trials)
            name = f"returns, autocorrelation {memory:g}, best of {trials}"
            yield Figure(f"{name}: deflated Sharpe ratio", deflated, "share")
            yield Figure(f"{name}: and lower bound", both, "share", goal=stated, at_most=True)


def power_figures(worlds: int, params: Params) -> Iterator[Figure]:
    for trials in (1, 20):
        for edge in track(EDGES, f"edge among {trials}"):
            first = 10_000 + 1000 * trials + int(100 * edge)
            found = [picked(first + n, trials, edge, params) for n in range(worlds)]
            net = float(np.mean([ratio for _, ratio in found]))
            share = sum(not failed for failed, _ in found) / worlds
            yield Figure(f"power: edge {edge:g} before costs, {net:.1f} net, of {trials}", share, "share")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--noise", type=int, default=NOISE_WORLDS, help="worlds without any edge")
    parser.add_argument("--edge", type=int, default=EDGE_WORLDS, help="worlds of each strength")
    options = parser.parse_args()
    params = adapted(load_params(Path("params.yaml")))
    stated = 1.0 - params.gate.min_deflated_sharpe
    figures = [
        *noise_figures(options.noise, "with costs", params, stated),
        *noise_figures(options.noise, "free of costs", free_of_costs(params), stated),
        *crash_figures(options.noise, params),
        *statistics_figures(params, stated),
        *power_figures(options.edge, params),
    ]
    return publish("gate", figures, compared(options.noise, options.edge, stated), ["arch", "numpy", "torch"])


def compared(noise: int, edge: int, stated: float) -> str:
    return (
        f"{noise} markets without any foreseeable return, {TEST} sessions each, the best of 1, 5 or 20 rules "
        f"picked; stated rate {stated:.0%} = 1 - gate.min_deflated_sharpe, of thin-tailed returns: as many "
        f"markets that gain a little and crash about once in {round(1 / CRASH):,} bars stand beside it. "
        f"{edge} markets for each strength: "
        "one rule's signal is correlated with the next bar's moves, the others know nothing, the best is "
        "picked. All through simulate, evaluate, select and judge with the repository's costs and the gate's "
        "limits. The champion's and the look-ahead's rules have nothing to judge here."
    )


if __name__ == "__main__":
    raise SystemExit(main())
