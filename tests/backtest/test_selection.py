"""What picking one of many trials costs: deflation, overfitting over the trials, a recount before signing."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sekisho.backtest.files import write_json
from sekisho.backtest.names import BASELINES
from sekisho.backtest.recheck import recheck
from sekisho.backtest.selection import count_and_select, returns_csv, select
from sekisho.backtest.trials import Trials
from sekisho.errors import BacktestError, Refused
from sekisho.params import Params

from .conftest import sessions_from
from .test_gate import GOOD
from .test_trials import commit, repository

__all__ = ["repository"]
SESSIONS = sessions_from(180)
YEAR = 245.0


def digest(number: int) -> str:
    return f"{number:032x}.dir"


def returns(edge: float, seed: int, sessions: int = 180) -> pl.DataFrame:
    """metrics/returns.csv: the agent's have the Sharpe ratio ``edge`` a year, the baselines none."""
    rng = np.random.default_rng(seed)
    columns = {"agent": edge / np.sqrt(YEAR) * 0.01 + 0.01 * rng.standard_normal(sessions)}
    columns |= {name: 0.01 * rng.standard_normal(sessions) for name in BASELINES}
    columns["cash"] = np.zeros(sessions)
    return pl.DataFrame({"session": SESSIONS[:sessions]} | columns)


def trials(
    count: int, sharpes: list[float] | None = None, tables: list[pl.DataFrame] | None = None
) -> Trials:
    digests = [digest(n) for n in range(count)]
    known = dict(zip(digests[1:], sharpes or [], strict=False))
    return Trials(
        digests[0], frozenset(digests), known, dict(zip(digests[1:], tables or [], strict=False)), "full"
    )


def chosen(own: pl.DataFrame, all_trials: Trials, params: Params) -> dict[str, object]:
    return select(own, [1.0, 1.1], all_trials, YEAR, params.backtest)


def test_an_edge_that_convinces_alone_does_not_as_the_best_of_many(params: Params) -> None:
    own = returns(3.0, 3)
    alone, picked = (chosen(own, trials(count), params)["deflated_sharpe"] for count in (1, 1000))
    assert alone > 0.95 > picked  # type: ignore[operator]


def test_scattered_trials_deflate_more_than_sampling_alone(params: Params) -> None:
    own = returns(1.0, 1)
    wide = chosen(own, trials(5, [-6.0, 5.0, -4.0, 7.0]), params)
    alone = chosen(own, trials(5), params)
    assert (wide["variance_from"], alone["variance_from"]) == ("trials", "sampling")
    assert wide["expected_max_sharpe"] > 2 * alone["expected_max_sharpe"]  # type: ignore[operator]


def test_copies_of_one_trial_do_not_hide_that_one_was_picked(params: Params) -> None:
    found = chosen(returns(1.0, 1), trials(5, [1.0] * 4), params)
    assert found["variance_from"] == "sampling"
    assert found["expected_max_sharpe"] > 0.5  # type: ignore[operator]


def test_one_trial_expects_nothing_from_luck(params: Params) -> None:
    assert chosen(returns(1.0, 1), trials(1), params)["expected_max_sharpe"] == 0.0


def test_overfitting_is_measured_over_the_trials_on_the_same_sessions(params: Params) -> None:
    own = returns(1.5, 1)
    elsewhere = returns(9.0, 5).with_columns(pl.col("session").dt.offset_by("1y"))
    noise = [returns(0.0, seed) for seed in range(10, 30)]
    found = chosen(own, trials(22, tables=[*noise, elsewhere]), params)
    assert found["with_returns"] + found["better_left_out"] == 21  # type: ignore[operator]
    assert 0.2 < found["pbo"] < 0.9  # type: ignore[operator]
    assert found["spa_cash"] > 0.05  # type: ignore[operator]
    skilled = chosen(returns(8.0, 7), trials(22, tables=noise), params)
    assert (skilled["with_returns"], skilled["better_left_out"]) == (21, 0)
    assert skilled["pbo"] < 0.05  # type: ignore[operator]
    assert skilled["spa_cash"] < 0.05  # type: ignore[operator]
    assert skilled["spa_baseline"] < 0.05  # type: ignore[operator]


def test_a_better_earlier_trial_lends_the_candidate_no_figure(params: Params) -> None:
    """Who is judged is the candidate: what beat it on these sessions was not what was picked."""
    noise = [returns(0.0, seed) for seed in range(10, 30)]
    own = max(noise, key=lambda table: table["agent"].mean() / table["agent"].std())  # type: ignore[operator]
    others = [table for table in noise if table is not own]
    alone = chosen(own, trials(21, tables=others), params)
    beside = chosen(own, trials(21, tables=[*others, returns(8.0, 7)]), params)
    assert alone["pbo"] > 0.2  # type: ignore[operator]
    assert alone["spa_cash"] > 0.05  # type: ignore[operator]
    assert beside == alone | {"better_left_out": 1}


def test_equally_good_trials_do_not_look_overfitted_beside_the_baselines(params: Params) -> None:
    own = returns(6.0, 1)
    twin = own.with_columns(pl.col("agent") + 1e-5 * np.random.default_rng(1).standard_normal(180))
    found = chosen(own, trials(2, tables=[twin]), params)
    assert found["pbo"] < 0.1  # type: ignore[operator]
    assert found["pbo_without_baselines"] is not None


def test_too_few_sessions_have_no_figure_of_overfitting(params: Params) -> None:
    assert chosen(returns(1.0, 1, sessions=12), trials(1), params)["pbo"] is None


def test_the_table_of_returns_comes_back_as_it_was_written() -> None:
    long = pl.concat(
        pl.DataFrame(
            {
                "strategy": name,
                "cost_multiple": multiple,
                "session": SESSIONS[:3],
                "net_return": [0.1 * multiple, 0.123456789012, -0.5],
            }
        )
        for name in ("agent", "cash")
        for multiple in (1.0, 2.0)
    )
    table = pl.read_csv(io.BytesIO(returns_csv(long)), try_parse_dates=True)
    assert table.columns == ["session", "agent", "cash"]
    assert table["session"].to_list() == SESSIONS[:3]
    assert table["agent"].to_list() == [0.1, 0.12345679, -0.5]


def lay_out(folder: Path, params: Params, edge: float, train: str) -> None:
    """The metrics of one good backtest, as the pipeline leaves them."""
    (folder / "metrics").mkdir(exist_ok=True)
    backtest = GOOD["backtest"] | {
        "window": {"sessions": 180},
        "opening": {"train": train, "candidate": "c"},
        "sessions_per_year": YEAR,
        "over_champion": None,
    }
    write_json(backtest, folder / "metrics/backtest.json")
    write_json(GOOD["lookahead"], folder / "metrics/lookahead.json")
    returns(edge, 3).write_csv(folder / "metrics/returns.csv")
    bind(folder)


def bind(folder: Path) -> None:
    """The figures name these returns, as if the backtest had written both."""
    path = folder / "metrics/backtest.json"
    digest = hashlib.sha256((folder / "metrics/returns.csv").read_bytes()).hexdigest()
    write_json(json.loads(path.read_text()) | {"returns_sha256": digest}, path)


def test_a_recount_before_signing_sees_trials_that_came_later(
    params: Params, repository: Path, tmp_path: Path
) -> None:
    """The same metrics files, as the run cache would bring them back; only the history has grown."""
    lay_out(repository, params, 3.0, digest(0))
    count, rules = recheck(repository, params)
    assert count == 1
    assert [rule.rule for rule in rules if not rule.passed] == []
    (repository / ".gitignore").write_text("metrics\n")
    for number in range(1, 60):
        commit(repository, digest(number))
    count, rules = recheck(repository, params)
    assert count == 60
    assert [rule.rule for rule in rules if not rule.passed] == ["deflated Sharpe ratio"]


def test_returns_of_another_backtest_are_refused(params: Params, tmp_path: Path) -> None:
    lay_out(tmp_path, params, 3.0, digest(0))
    files = tmp_path / "metrics/backtest.json", tmp_path / "metrics/returns.csv"
    assert count_and_select(*files, params, tmp_path)["history"] == "none"
    returns(2.9, 3).write_csv(files[1])  # as many sessions, all columns
    with pytest.raises(Refused, match=r"returns-digest: expected .*returns\.csv of sha256 "):
        count_and_select(*files, params, tmp_path)
    with pytest.raises(Refused, match="returns-digest"):
        recheck(tmp_path, params)
    returns(1.0, 1, sessions=100).write_csv(files[1])
    bind(tmp_path)
    with pytest.raises(BacktestError, match=r"returns\.csv: not of the backtest"):
        count_and_select(*files, params, tmp_path)
    files[1].write_bytes(b"")
    bind(tmp_path)
    with pytest.raises(BacktestError, match=r"returns\.csv: unreadable"):
        count_and_select(*files, params, tmp_path)
    files[0].write_text(json.dumps({"window": {"sessions": 180}}))
    returns(1.0, 1).write_csv(files[1])
    bind(tmp_path)
    with pytest.raises(BacktestError, match=r"backtest\.json: 'opening' is missing"):
        count_and_select(*files, params, tmp_path)


@pytest.mark.parametrize("cell", ["oops", "NaN", ""])
def test_own_returns_that_are_no_numbers_are_named(params: Params, tmp_path: Path, cell: str) -> None:
    lay_out(tmp_path, params, 3.0, digest(0))
    path = tmp_path / "metrics/returns.csv"
    own = pl.read_csv(path, infer_schema=False).with_row_index()
    own = own.with_columns(agent=pl.when(pl.col("index") == 4).then(pl.lit(cell)).otherwise("agent"))
    own.drop("index").write_csv(path)
    bind(tmp_path)
    with pytest.raises(BacktestError, match=r"returns\.csv: row 5, agent: .* is no finite number"):
        count_and_select(tmp_path / "metrics/backtest.json", path, params, tmp_path)


def test_a_history_that_cannot_be_read_is_no_recount(params: Params, repository: Path) -> None:
    lay_out(repository, params, 3.0, digest(0))
    head = commit(repository, digest(1))
    (repository / ".git/objects" / head[:2] / head[2:]).unlink()
    with pytest.raises(BacktestError, match="git rev-list"):
        recheck(repository, params)
    assert subprocess.run(["git", "-C", str(repository), "log"], capture_output=True).returncode != 0
