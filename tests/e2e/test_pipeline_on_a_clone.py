"""The README's DVC commands on fresh clones, with everything real and a small amount of training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SMALL = ["train.seeds=[1]", "split.folds=1", "ppo.samples=16384", "ppo.environments=256"]

pytestmark = pytest.mark.slow


def run(clone: Path, *words: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {
        f"GIT_{role}_{what}": "engineer@local.invalid"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        words,
        cwd=clone,
        env=os.environ | names | {"PATH": path, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def experiment(folder: Path) -> Path:
    """A fresh clone, with no cache to share, in which a small experiment ran."""
    run(REPO, "git", "clone", "--quiet", str(REPO), str(folder))
    run(folder, "dvc", "pull", "--quiet", "data.dvc")
    state = json.loads(run(folder, "dvc", "status", "--json"))
    stale = [str(change) for stage in state.values() for change in stage if "changed deps" in str(change)]
    assert not [line for line in stale if "'modified'" in line], "dvc.lock is stale: run dvc repro, commit"
    settings = [word for setting in SMALL for word in ("-S", setting)]
    run(folder, "dvc", "exp", "run", *settings)
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return experiment(tmp_path_factory.mktemp("first") / "clone")


def test_an_experiment_ends_in_a_report_and_a_verdict(clone: Path) -> None:
    gate = json.loads((clone / "metrics/gate.json").read_text())
    assert gate["passed"] == all(rule["passed"] for rule in gate["rules"])
    report = (clone / "build/report/report.md").read_text()
    assert all(rule["rule"] in report for rule in gate["rules"])
    assert "exp" in run(clone, "git", "for-each-ref", "refs/exps")


def test_a_second_repro_counts_the_trials_and_changes_nothing(clone: Path) -> None:
    before = run(clone, "git", "diff", "HEAD")
    log = run(clone, "dvc", "repro")
    assert [line for line in log.splitlines() if line.startswith("Running")] == ["Running stage 'trials':"]
    assert run(clone, "git", "diff", "HEAD") == before


def test_metrics_and_plots_can_be_compared_with_main(clone: Path) -> None:
    changed = json.loads(run(clone, "dvc", "metrics", "diff", "--json", "HEAD"))
    assert "agent.sharpe" in changed["metrics/backtest.json"]
    assert (clone / "dvc_plots/index.html").exists() or "index.html" in run(clone, "dvc", "plots", "show")


def test_the_same_seed_gives_the_same_agent_metrics_and_lock_in_another_clone(
    clone: Path, tmp_path: Path
) -> None:
    other = experiment(tmp_path / "clone")
    for name in ("metrics/train.json", "metrics/backtest.json", "metrics/gate.json", "dvc.lock"):
        assert (other / name).read_bytes() == (clone / name).read_bytes(), name
