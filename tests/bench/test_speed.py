from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "build/bench/peers/.ready"
FIELDS = {"name", "value", "unit", "peer", "peer_value", "ratio", "goal", "holds"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    """Modules of bench/ by name."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the small run writes."""
    if not PEERS.exists():
        pytest.skip("the peers are not installed: `make bench-speed` does it")
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++, which is not installed")
    folder = tmp_path_factory.mktemp("bench")
    words = [sys.executable, str(ROOT / "bench/speed.py"), "--quick"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "build/bench/speed-quick.json").read_text())


@pytest.mark.slow
def test_every_figure_is_measured_and_says_what_it_is_compared_with(quick):
    rows = {row["name"]: row for row in quick["figures"]}
    assert {"ppo_10_assets", "ppo_1_asset", "market_10_assets", "market_1_asset"} <= set(rows)
    assert {"one_account_10_assets", "one_account_1_asset"} <= set(rows)
    for row in rows.values():
        assert set(row) >= FIELDS
        assert row["value"] >= 0
        if row["peer"]:
            assert row["ratio"] == pytest.approx(row["value"] / row["peer_value"])
    assert {"torch", "stable-baselines3", "finrl", "gym-trading-env"} <= set(quick["versions"])


@pytest.mark.slow
def test_the_shares_of_a_training_are_all_of_it(quick):
    shares = {row["name"]: row["value"] for row in quick["figures"] if row["name"].startswith("ppo_share_")}
    assert {"ppo_share_acting", "ppo_share_market", "ppo_share_update"} <= set(shares)
    assert sum(shares.values()) == pytest.approx(100)


def spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_cpu_shares_find_where_the_time_goes(bench):
    def long() -> None:
        spin(0.6)

    def short() -> None:
        spin(0.2)

    def run() -> None:
        long()
        short()

    codes = {long.__code__: "long", short.__code__: "short"}
    shares = bench("timing").cpu_shares(run, lambda frame: codes.get(frame.f_code))
    assert shares["long"] == pytest.approx(0.75, abs=0.15)
    assert shares["short"] == pytest.approx(0.25, abs=0.15)


def test_contestants_take_turns_and_the_warm_up_does_not_count(bench):
    order = []

    def contestant(name: str):
        def run() -> int:
            order.append(name)
            spin(0.3 if len(order) <= 2 else 0.02)
            return 10

        return run

    rates = bench("timing").take_turns({name: contestant(name) for name in "ab"}, rounds=3)
    assert order == ["a", "b"] * 4
    assert all(rate.per_cpu_second > 10 / 0.1 for rate in rates.values())


def test_a_trainer_whose_phases_cannot_be_told_apart_is_refused(bench, tmp_path):
    script = tmp_path / "odd_trainer.py"
    script.write_text("def learn(task, options, seed, run):\n    pass\n")
    spec = importlib.util.spec_from_file_location("odd_trainer", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ValueError, match=r"learn has no line of .*acting.*market"):
        bench("speed").phases_of(module)


def test_the_gpu_part_gives_shares_of_its_bounds(bench, monkeypatch):
    gpu, speed = bench("gpu"), bench("speed")
    for name, value in (("COPIED", 2**20), ("MATRIX", 64), ("REPEATS", 1)):
        monkeypatch.setattr(gpu, name, value)
    sizes = speed.replace(speed.QUICK, accounts=16)
    params = speed.load_params(ROOT / "params.yaml")
    figures = {f.name: f for f in speed.gpu_figures(sizes, speed.load_trainer("ppo"), params, device="cpu")}
    assert set(figures) == {
        "gpu_market_10_assets", "gpu_market_10_assets_bound", "gpu_ppo_10_assets", "gpu_ppo_10_assets_bound"
    }  # fmt: skip
    assert all(figure.value > 0 for figure in figures.values())
