"""Judge a result again when it is about to be signed: by then more trials may be known."""

from __future__ import annotations

from pathlib import Path

from sekisho.backtest.files import read_json
from sekisho.backtest.gate import Rule, judge
from sekisho.backtest.selection import count_and_select
from sekisho.params import Params


def recheck(repository: Path, params: Params) -> tuple[int, list[Rule]]:
    """The number of trials now, and the gate's rules with it, from the files under ``repository``/metrics.

    Needs neither the trained agents nor the bars. A result that passed among few trials and does not among
    those known now has a failed rule in the answer.

    Raises:
        BacktestError: a metrics file is missing or broken, or the history cannot be read.
    """
    folder = repository / "metrics"
    backtest, returns = folder / "backtest.json", folder / "returns.csv"
    trials = count_and_select(backtest, returns, params, repository)
    lookahead = read_json(folder / "lookahead.json", "features")
    return trials["trials"], judge(read_json(backtest, "backtest"), trials, lookahead, params.gate)
