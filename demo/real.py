"""`make demo-real`: real daily prices through the same pipeline, to the honest report and the gate's verdict.

The prices are those that the installed packages `skfolio` and `arch` ship; they are read from there and not
copied into the repository. A failed gate is a result, not an error: the exit code stays 0.
"""

from __future__ import annotations

import argparse
import json
import sys

from steps import REPO, Scratch, console, merge_params, tell


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="less training, for CI")
    parser.add_argument(
        "--source", choices=["skfolio", "arch"], default="skfolio", help="which package's prices"
    )
    options = parser.parse_args()
    return tell(lambda: the_verdict(options.source, options.fast))


def the_verdict(source: str, fast: bool) -> None:
    s = Scratch(REPO / "build" / "demo-real")
    with s.step("Scratch copy of the repository"):
        work = s.folder / "work"
        s.run("git", "clone", "--quiet", REPO, work, cwd=s.folder)
        s.local_dvc(work)
        merge_params(work / "params.yaml", REPO / "demo" / "real.yaml")
        if fast:
            merge_params(work / "params.yaml", REPO / "demo" / "fast.yaml")
    with s.step(f"Real daily prices from the installed package {source}") as notes:
        s.run("dvc", "remove", "data.dvc", cwd=work)
        made = s.run("sekisho", "data", "real", "--source", source, "--out", "data/bars", cwd=work)
        s.run("dvc", "add", "--quiet", "data", cwd=work)
        notes.append(made.strip().splitlines()[-1])
    with s.step("dvc repro: validate, features, train, backtest, gate, report"):
        s.run("dvc", "repro", cwd=work)
    gate = json.loads((work / "metrics" / "gate.json").read_text())
    metrics = json.loads((work / "metrics" / "backtest.json").read_text())
    window = metrics["window"]
    console.print(f"\nNet of costs, {window['first']} to {window['last']} ({window['sessions']} sessions):")
    rows = {"agent": metrics["agent"], **metrics["baselines"]}
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["sharpe"]):
        console.print(f"  {name:<18} Sharpe {row['sharpe']:6.2f}   max drawdown {row['max_drawdown']:6.1%}")
    for rule in gate["rules"]:
        mark = "[green]pass[/green]" if rule["passed"] else "[red]FAIL[/red]"
        figure = "–" if rule["figure"] is None else f"{rule['figure']:.3f}"
        console.print(f"  {mark} {rule['rule']}: {figure} (limit {rule['limit']:.3f})")
    console.print(f"[bold]The gate {'passed' if gate['passed'] else 'refused'} this agent.[/bold]")
    console.print(f"report: {s.shown(work / 'build' / 'report' / 'report.html')}")


if __name__ == "__main__":
    sys.exit(main())
