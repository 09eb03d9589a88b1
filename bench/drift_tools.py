"""One tool over the same files, as a process of its own: prints what it cost and found as one JSON line.

Runs under the interpreter that has the tool: ours, or that of build/bench/drift-peers. Importing is left out
of the cost, reading the files is not. The peers' reports home are switched off by whoever starts this.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

COLUMNS = [f"f{n:02d}" for n in range(40)]
MIB = 1024.0


def sekisho(reference: str, *current: str) -> Callable[[], Any]:
    """Histograms of all files, added up; then KS, PSI and Wasserstein of each column."""
    from sekisho.monitoring.histogram import Histograms, histograms_of_file, ks, psi, wasserstein

    def run() -> Any:
        with ThreadPoolExecutor(2) as pool:
            first, *rest = pool.map(
                lambda path: histograms_of_file(Path(path), COLUMNS), (reference, *current)
            )
        found = reduce(Histograms.merge, rest)
        return [distance(first, found).tolist() for distance in (ks, psi, wasserstein)]

    return run


def evidently(reference: str, current: str) -> Callable[[], Any]:
    """The data drift preset as it comes: for so many rows Wasserstein over the deviation, drift above 0.1."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    def run() -> Any:
        tables = [pd.read_parquet(path) for path in (current, reference)]
        found = Report([DataDriftPreset()]).run(*tables).dict()
        return found["metrics"][0]["value"]

    return run


def nannyml(reference: str, current: str) -> Callable[[], Any]:
    """The univariate drift calculator as it comes: Jensen-Shannon, ten chunks."""
    import nannyml as nml
    import pandas as pd

    def run() -> Any:
        calculator = nml.UnivariateDriftCalculator(column_names=COLUMNS)
        calculator.fit(pd.read_parquet(reference))
        found = calculator.calculate(pd.read_parquet(current)).to_df()
        return int(found.filter(like="alert").to_numpy().sum()) if len(found) else 0

    return run


def evidently_by_session(reference: str, current: str) -> Callable[[], Any]:
    """The preset on every session of ``current`` (column ``session``): how many columns it calls drifted."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    def run() -> Any:
        first, rest = pd.read_parquet(reference), pd.read_parquet(current)
        report = Report([DataDriftPreset()])
        return [
            report.run(day.drop(columns="session").reset_index(drop=True), first).dict()["metrics"][0][
                "value"
            ]
            for _, day in rest.groupby("session")
        ]

    return run


TOOLS = {tool.__name__: tool for tool in (sekisho, evidently, nannyml, evidently_by_session)}


def main() -> int:
    tool, *files = sys.argv[1:]
    run = TOOLS[tool](*files)
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    cost = {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB**2,
    }
    print("\n" + json.dumps(cost | {"result": result}, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
