"""The whole room on a world of noise with random agents: backtest, gate, report, and broken inputs."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner

from sekisho.backtest.files import read_json, write_json
from sekisho.backtest.gate import judge, verdict
from sekisho.backtest.report import _parameters, write_report
from sekisho.backtest.run import regimes_of, run_backtest
from sekisho.backtest.selection import count_and_select
from sekisho.backtest.splits import walk_forward
from sekisho.backtest.words import RULES_JA, best_baseline, summary_english, summary_japanese
from sekisho.cli.backtest import gate as gate_command
from sekisho.errors import BacktestError, DataError, ParamsError, Refused, TrainingError
from sekisho.features import feature_names, write_finding
from sekisho.features.build import build_features
from sekisho.market import Agent, MarketData, export_onnx
from sekisho.market.data import delisting_bars
from sekisho.params import Params, load_params

from .conftest import PARAMS, make_panel, write_bars
from .test_champion import release

ASSETS = 4


def write_agents(params: Params, train: Path) -> None:
    """Agents whose weights are random: they trade much and know nothing."""
    count = len(feature_names(params.features))
    for fold in range(params.split.folds):
        for seed in params.train.seeds:
            generator = torch.manual_seed(100 * fold + seed)
            agent = Agent(count, ASSETS, 8, params.market)
            with torch.no_grad():
                agent.actor[-1].weight.normal_(0.0, 2.0, generator=generator)
                agent.trade_unit.fill_(0.2)
            sample = torch.randn(4, ASSETS, count + 1, generator=generator)
            folder = train / f"fold-{fold}/seed-{seed}"
            export_onnx(agent, folder / "model.onnx", sample)
            (folder / "curve.csv").write_text("samples,validation_sharpe\n1000,\n2000,0.1\n3000,-0.2\n")


def backtest(params: Params, root: Path, **options: Any) -> dict[str, Any]:
    return run_backtest(
        params,
        bars=root / "bars",
        features=root / "features",
        train=root / "train",
        out=root / "backtest",
        metrics_file=root / "metrics/backtest.json",
        returns_file=root / "metrics/returns.csv",
        repository=root,
        **options,
    )


def judge_and_report(params: Params, root: Path) -> str:
    files = root / "metrics/backtest.json", root / "metrics/returns.csv"
    trials = count_and_select(*files, params, root)
    write_json(trials, root / "metrics/trials.json")
    write_finding([], feature_names(params.features), 5, root / "metrics/lookahead.json")
    lookahead = read_json(root / "metrics/lookahead.json", "features")
    rules = judge(read_json(files[0], "backtest"), trials, lookahead, params.gate)
    write_json(verdict(rules), root / "metrics/gate.json")
    write_json({"rows": 2160, "quarantined": {}}, root / "metrics/validate.json")
    return write_report(
        params,
        backtest=root / "backtest",
        train=root / "train",
        metrics=root / "metrics",
        out=root / "report",
    )


@pytest.fixture(scope="module")
def noise(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judged and reported world of noise, with spreads that no agent can earn."""
    root = tmp_path_factory.mktemp("noise")
    panel = make_panel(assets=ASSETS, seed=3)
    write_bars(replace(panel, half_spread=panel.half_spread * 20.0), root / "bars")
    build_features(root / "bars", root / "features", params.features)
    write_agents(params, root / "train")
    backtest(params, root)
    judge_and_report(params, root)
    return root


@pytest.fixture
def copy(noise: Path, tmp_path: Path) -> Path:
    shutil.copytree(noise, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_gate_fails_a_random_agent_on_noise(noise: Path) -> None:
    gate = json.loads((noise / "metrics/gate.json").read_text())
    assert gate["passed"] is False
    failed = {rule["rule"] for rule in gate["rules"] if not rule["passed"]}
    assert {"net Sharpe ratio, lower bound", "deflated Sharpe ratio", "beats cash"} <= failed


def test_the_metrics_hold_the_contract(noise: Path) -> None:
    metrics = json.loads((noise / "metrics/backtest.json").read_text())
    assert metrics["window"]["sessions"] == 40
    assert set(metrics["baselines"]) == {"cash", "buy-and-hold", "momentum", "minimum-variance"}
    assert set(metrics["agent"]["sharpe_by_cost"]) == {"0", "1", "2"}
    assert set(metrics["agent"]["sharpe_by_seed"]) == {"1", "2"}
    assert metrics["agent"]["sharpe_by_seed"]["1"] == metrics["agent"]["sharpe"]
    assert metrics["agent"]["sharpe_by_seed"]["2"] != metrics["agent"]["sharpe"]
    assert set(metrics["agent"]["capacity"]["sharpe"]) == {"1", "10"}
    assert [row["symbol"] for row in metrics["attribution"]] == ["S0", "S1", "S2", "S3"]
    assert sum(row["sessions"] for row in metrics["regimes"]) == 40
    trials = json.loads((noise / "metrics/trials.json").read_text())
    assert 0.0 <= trials["pbo"] <= 1.0
    assert trials["train"] == metrics["opening"]["train"]
    assert metrics["baselines"]["cash"]["sharpe"] == 0.0
    assert [fold["sessions"] for fold in metrics["folds"]] == [20, 20]


def test_the_opening_of_the_test_window_is_recorded(noise: Path) -> None:
    opening = json.loads((noise / "metrics/backtest.json").read_text())["opening"]
    files = [noise / f"train/fold-{fold}/seed-1/model.onnx" for fold in (0, 1)]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert opening["candidate"] == hashlib.sha256("\n".join(digests).encode()).hexdigest()
    assert opening["window"]["sessions"] == 40
    assert opening["champion"] == "none"
    trials = json.loads((noise / "metrics/trials.json").read_text())
    assert (trials["trials"], trials["history"]) == (1, "none")


def test_the_tables_hold_the_contract(noise: Path) -> None:
    returns = pl.read_parquet(noise / "backtest/returns.parquet")
    columns = "strategy cost_multiple session net_return gross_return cost turnover gross_exposure"
    assert returns.columns == columns.split()
    names = ["agent", "agent-seed-2", "cash", "buy-and-hold", "momentum", "minimum-variance"]
    assert returns["strategy"].unique(maintain_order=True).to_list() == names
    rows = dict(returns.group_by("strategy").len().iter_rows())
    assert rows == {name: 40 if name == "agent-seed-2" else 120 for name in names}
    assets = pl.read_parquet(noise / "backtest/assets.parquet")
    assert assets.columns == ["strategy", "session", "symbol", "weight", "gross_return", "cost"]
    table = pl.read_csv(noise / "metrics/returns.csv", try_parse_dates=True)
    assert table.columns == ["session", *names]
    own = returns.filter((pl.col("strategy") == "agent") & (pl.col("cost_multiple") == 1.0))
    assert table["session"].equals(own["session"])
    assert (table["agent"] - own["net_return"]).abs().max() < 1e-8  # type: ignore[operator]


def test_a_regime_is_known_before_its_session(params: Params) -> None:
    panel = make_panel(assets=ASSETS, seed=3)
    sessions = [day.item() for day in np.unique(panel.session)]
    folds = walk_forward(sessions, params.split)
    found = regimes_of(panel, folds, params.market.vol_window)
    assert found["session"].to_list() == [
        d for d in sessions if any(f.test[0] <= d <= f.test[1] for f in folds)
    ]
    assert set(found["regime"]) <= {"calm", "normal", "turbulent"}
    day = found["session"][25]
    later = panel.session >= np.datetime64(day)
    wild = replace(panel, close=np.where(later[:, None], panel.close * 3.0, panel.close))
    same = found["session"] <= day
    assert regimes_of(wild, folds, params.market.vol_window).filter(same).equals(found.filter(same))


def test_the_release_in_production_is_compared_with_its_own_features(params: Params, copy: Path) -> None:
    """The champion was trained with other feature windows than the candidate's."""
    older = params.features.model_copy(update={"return_windows": (1, 2, 4)})
    train = copy / "older"
    write_agents(params.model_copy(update={"features": older}), train)
    release(copy, (train / "fold-0/seed-1/model.onnx").read_bytes(), older.model_dump(mode="json"))
    named = params.backtest.model_copy(update={"champion": "production"})
    metrics = backtest(params.model_copy(update={"backtest": named}), copy)
    assert metrics["opening"]["champion"] == "policy/3"
    over = metrics["over_champion"]
    assert over["sharpe"] == pytest.approx(
        metrics["agent"]["sharpe"] - metrics["baselines"]["champion"]["sharpe"], rel=1e-6
    )
    judge_and_report(params, copy)
    text = (copy / "report/report.md").read_text()
    assert "the model in production, policy/3" in text
    assert "現行モデル policy/3" in text


def test_a_symbol_is_delisted_when_whole_sessions_go_on_without_it() -> None:
    panel = make_panel(sessions=10, assets=4)  # of 6 bars
    tradable, volume = panel.tradable.copy(), panel.volume.copy()
    for asset, stop in enumerate([33, 41, 42, 60]):  # within session 5; within 6; at its end; never
        tradable[stop:, asset], volume[stop:, asset] = False, 0.0
    tradable[10:20, 3], volume[10:20, 3] = False, 0.0  # comes back
    found = delisting_bars(replace(panel, tradable=tradable, volume=volume), 4)
    assert np.argwhere(found).tolist() == [[33, 0]]
    found = delisting_bars(replace(panel, tradable=tradable, volume=volume), 3)
    assert np.argwhere(found).tolist() == [[33, 0], [41, 1], [42, 2]]
    tradable[:, 0], volume[:, 0] = False, 0.0  # never traded: no last bar
    assert np.argwhere(delisting_bars(replace(panel, tradable=tradable, volume=volume), 4)).tolist() == []


@pytest.mark.parametrize("longer", [1, 3])
def test_the_daily_volatility_knows_no_later_sessions_length(longer: int, params: Params) -> None:
    """Tokyo closes half an hour later since November 2024: trades before it must not cost more by that."""
    panel = make_panel(sessions=12)
    features = np.zeros((len(panel), len(panel.symbols), 1), dtype=np.float32)
    session = panel.session.copy()
    session[48:] = session[48] + np.arange(len(panel) - 48) // (6 + longer)  # from the ninth on
    other = replace(panel, session=session)
    before, after = (MarketData.from_panel(p, features, params.market).volatility for p in (panel, other))
    assert torch.equal(before[:48], after[:48])
    assert torch.equal(before[48 : 54 + longer], after[48 : 54 + longer])  # the ninth's is not known in it
    mean = (8 * 6 + 6 + longer) / 9
    factor = (mean / 6) ** 0.5
    torch.testing.assert_close(after[54 + longer], before[54 + longer] * factor, rtol=1e-12, atol=0.0)


def test_a_delisting_costs_its_haircut_and_the_report_counts_it(
    params: Params, noise: Path, tmp_path: Path
) -> None:
    write_bars(make_panel(assets=ASSETS, seed=3), tmp_path / "bars")
    sessions = sorted((tmp_path / "bars").glob("*.parquet"))
    for path in sessions[-10:]:
        pl.read_parquet(path).filter(pl.col("symbol") != "S1").write_parquet(path)
    build_features(tmp_path / "bars", tmp_path / "features", params.features)
    shutil.copytree(noise / "train", tmp_path / "train")
    found = {}
    for haircut in (0.0, 0.4):
        market = params.market.model_copy(update={"delisting_haircut": haircut})
        figures = backtest(params.model_copy(update={"market": market}), tmp_path)
        assert figures["delistings"] == [{"symbol": "S1", "session": sessions[-10].stem}]
        found[haircut] = pl.read_csv(tmp_path / "metrics/returns.csv")["buy-and-hold"]
    assert found[0.0][:-10].to_list() == found[0.4][:-10].to_list()
    assert found[0.0][-10] - found[0.4][-10] == pytest.approx(0.4 * 0.25, abs=0.01)
    judge_and_report(params, tmp_path)
    assert (
        f"| delisted in the test windows | 1: S1 ({sessions[-10].stem}) |"
        in (tmp_path / "report/report.md").read_text()
    )


def test_one_symbol_is_too_few(params: Params, tmp_path: Path) -> None:
    write_bars(make_panel(assets=1), tmp_path / "bars")
    with pytest.raises(BacktestError, match="one symbol, S0; the baselines need two"):
        backtest(params, tmp_path)


def test_a_history_that_is_too_short_says_how_long_it_must_be(params: Params, tmp_path: Path) -> None:
    write_bars(make_panel(sessions=50), tmp_path / "bars")
    build_features(tmp_path / "bars", tmp_path / "features", params.features)
    with pytest.raises(BacktestError, match="walk-forward needs 68 sessions, the bars hold 50"):
        backtest(params, tmp_path)


def test_a_hole_in_the_prices_is_named_by_its_time(params: Params, copy: Path) -> None:
    panel = make_panel(assets=ASSETS, seed=3)
    panel.open[400, 2] = np.nan
    shutil.rmtree(copy / "bars")
    write_bars(panel, copy / "bars")
    with pytest.raises(TrainingError, match=f"bar {panel.ts_close[400]}: a price or a feature is not finite"):
        backtest(params, copy)


def test_the_same_input_gives_the_same_bytes(params: Params, noise: Path, copy: Path) -> None:
    for folder in ("backtest", "metrics", "report"):
        shutil.rmtree(copy / folder)
    backtest(params, copy)
    judge_and_report(params, copy)
    for folder in ("backtest", "metrics", "report"):
        files = sorted(p.relative_to(noise) for p in (noise / folder).rglob("*") if p.is_file())
        assert files == sorted(p.relative_to(copy) for p in (copy / folder).rglob("*") if p.is_file())
        for file in files:
            assert (noise / file).read_bytes() == (copy / file).read_bytes(), file


def test_the_report_names_every_rule_and_each_failure(noise: Path) -> None:
    text = (noise / "report/report.md").read_text()
    for rule in json.loads((noise / "metrics/gate.json").read_text())["rules"]:
        name, reason = RULES_JA[rule["rule"]]
        assert f"| {'✅' if rule['passed'] else '❌'} | {rule['rule']}<br>{name} |" in text
        assert f"| {rule['reason']}<br>{reason}" in text
    assert text.startswith("# Backtest report: ❌ not passed")
    assert "**It does not pass the gate**" in text
    assert "**ゲートは不合格**" in text


def test_the_report_says_plainly_that_the_agent_does_not_earn_its_costs(noise: Path) -> None:
    text = (noise / "report/report.md").read_text()
    assert "The agent does not earn its costs" in text
    assert "コストを賄えていません" in text


def test_the_pictures_of_the_report_are_there(noise: Path) -> None:
    named = re.findall(r"\]\((plots/[a-z-]+\.png)\)", (noise / "report/report.md").read_text())
    assert len(named) == 11
    assert {noise / "report" / name for name in named} == set((noise / "report/plots").iterdir())
    for name in named:
        assert (noise / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_nothing_from_elsewhere(noise: Path) -> None:
    page = (noise / "report/report.html").read_text()
    assert page.count("<svg ") == 11
    assert not re.search(r"<script|<link|<iframe|@import|url\((?!#)", page)
    assert all(found.startswith(("#", "data:")) for found in re.findall(r'(?:src|href)="([^"]*)"', page))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)
    assert {first or second for first, second in references} <= set(ids)


@pytest.mark.parametrize("trainer", ["apg", "ppo", "td3"])
def test_the_report_lists_the_parameters_of_the_trainer_that_was_used(trainer: str, params: Params) -> None:
    chosen = params.model_copy(update={"train": params.train.model_copy(update={"trainer": trainer})})
    sections = {str(row[0]).split(".")[0] for row in _parameters(chosen).rows}
    assert sections & {"apg", "ppo", "td3"} == {trainer}
    assert {"market", "split", "train", "backtest", "gate"} <= sections


def test_the_report_names_no_place_and_no_time_of_its_making(noise: Path) -> None:
    for file in (noise / "report").rglob("*"):
        if file.is_file():
            assert str(noise).encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("backtest/returns.parquet", "backtest"),
        ("backtest/assets.parquet", "backtest"),
        ("backtest/band.parquet", "backtest"),
        ("metrics/backtest.json", "backtest"),
        ("metrics/trials.json", "trials"),
        ("metrics/gate.json", "gate"),
        ("metrics/validate.json", "validate"),
    ],
)
@pytest.mark.parametrize("harm", ["missing", "truncated", "empty"])
def test_a_broken_input_of_the_report_is_named(
    params: Params, copy: Path, file: str, stage: str, harm: str
) -> None:
    path = copy / file
    content = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes(content[: len(content) // 2] if harm == "truncated" else b"")
    before = (copy / "report/report.md").read_bytes()
    with pytest.raises(BacktestError, match=re.escape(file)) as caught:
        write_report(
            params,
            backtest=copy / "backtest",
            train=copy / "train",
            metrics=copy / "metrics",
            out=copy / "report",
        )
    assert f"dvc repro {stage}" in caught.value.remedy
    assert (copy / "report/report.md").read_bytes() == before


def test_a_missing_model_stops_the_backtest_and_leaves_the_last_result(params: Params, copy: Path) -> None:
    before = (copy / "metrics/backtest.json").read_bytes()
    (copy / "train/fold-1/seed-2/model.onnx").unlink()
    with pytest.raises(BacktestError, match=r"fold-1/seed-2/model\.onnx"):
        backtest(params, copy)
    assert (copy / "metrics/backtest.json").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_last_write_leaves_the_last_result(params: Params, copy: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in copy.rglob("*") if p.is_file()}

    before = content()
    (copy / "metrics/.backtest.json.new").symlink_to("/dev/full")
    with pytest.raises(DataError, match="no space left on the disk; nothing was written"):
        backtest(params, copy)
    assert content() == before
    assert not (copy / ".backtest.new").exists()


def test_gate_writes_its_verdict_and_require_refuses(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS, tmp_path / "params.yaml")
    options = ["--out", "gate.json"]
    for name, file in (("metrics", "backtest"), ("trials", "trials"), ("lookahead", "lookahead")):
        options += [f"--{name}", str(noise / f"metrics/{file}.json")]
    plain = CliRunner().invoke(gate_command, options)
    assert plain.exit_code == 0, plain.output
    assert "FAIL  net Sharpe ratio, lower bound" in plain.output
    assert json.loads((tmp_path / "gate.json").read_text())["passed"] is False
    leak = {"features": 10, "cuts": 5, "leaks": ["tomorrow: bar 3 changed"]}
    write_json(leak, tmp_path / "lookahead.json")
    leaky = CliRunner().invoke(gate_command, [*options, "--lookahead", "lookahead.json"])
    assert "FAIL  no look-ahead (features that leak)" in leaky.output
    strict = CliRunner().invoke(gate_command, [*options, "--require"])
    assert isinstance(strict.exception, Refused)
    assert strict.exception.exit_code == 1
    assert "deflated Sharpe ratio" in str(strict.exception)


def test_the_summary_tells_profit_luck_and_idleness_apart(noise: Path) -> None:
    metrics = json.loads((noise / "metrics/backtest.json").read_text()) | {"confidence": 0.95}
    gate = {"passed": True, "rules": [{"rule": "beats cash", "passed": True}]}

    def said(**figures: float) -> tuple[str, str]:
        changed = metrics | {"agent": metrics["agent"] | figures}
        return summary_english(changed, gate), summary_japanese(changed, gate)

    good = said(total_return=0.2, annual_return_gross=0.5, sharpe_low=0.4)
    assert "made 20.0% after all costs" in good[0]
    assert "**It passes the gate**" in good[0]
    assert "+20.0%" in good[1]
    assert "**ゲートは合格**" in good[1]
    lucky = said(total_return=0.2, annual_return_gross=0.5, sharpe_low=-0.1)
    assert "cannot be told from luck" in lucky[0]
    assert "偶然と区別できません" in lucky[1]
    eaten = said(total_return=-0.2, annual_return_gross=0.1)
    assert "what it gained, trading took away" in eaten[0]
    best = {"sharpe": 9.0, "total_return": 4.0}
    shown = metrics["baselines"] | {"champion": metrics["baselines"]["cash"] | best}
    assert best_baseline(metrics | {"baselines": shown}) == best_baseline(metrics) != "champion"
    idle = said(turnover=0.0)
    assert "did not trade" in idle[0]
    assert "一度も売買せず" in idle[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cost_multiples: [0.0, 1.0, 2.0]", "cost_multiples: [0.0, 1.0]", "must hold 1.0 and 2.0"),
        ("capital_multiples: [1.0, 3.0", "capital_multiples: [2.0, 3.0", "must begin at 1.0 and ascend"),
        ("capital_multiples: [1.0, 3.0", "capital_multiples: [1.0, 1.0", "must begin at 1.0 and ascend"),
        ("champion: production", "champion: ../x", "backtest.champion: String should match"),
    ],
)
def test_parameters_that_could_not_be_judged_are_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = PARAMS.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ParamsError, match=message):
        load_params(tmp_path / "params.yaml")
