"""The benchmark of learning can fail; and where there is nothing to learn, trainers end idle."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    monkeypatch.chdir(ROOT)
    return importlib.import_module("learning")


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "samples"), [("apg", 300_000), ("ppo", 1_000_000)])
def test_without_a_signal_a_trainer_ends_at_about_no_turnover(
    trainer: str, samples: int, learning: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In % of what the optimum trades with a signal; the same training with one comes near it."""
    loud = replace(learning.MARKETS["one_asset"], noise=1.0)
    for name, market in (("loud", loud), ("quiet", replace(loud, signal=False))):
        monkeypatch.setitem(learning.MARKETS, name, market)
    taught, idle = (
        learning.attempt(learning.Trial(trainer, name, 31), samples=samples) for name in ("loud", "quiet")
    )
    assert taught.turnover > 70.0
    assert idle.turnover < 3.0


def test_a_run_that_diverges_is_counted_and_misses_the_goal(learning: ModuleType) -> None:
    trial = learning.Trial("apg", "one_asset", 31)
    broken = learning.attempt(trial, samples=100_000, critic_learning_rate=1e9)
    assert broken.diverged
    good = replace(broken, diverged=False, share=99.9)
    figures = {figure.name: figure for figure in learning.figures_of([good, broken])}
    assert figures["apg_one_asset"].holds is False
    assert (figures["apg_one_asset_diverged"].value, figures["apg_one_asset_diverged"].holds) == (1, False)
    assert "apg_one_asset_diverged" not in {figure.name for figure in learning.figures_of([good])}
