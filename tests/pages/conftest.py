"""All pages, made from a real record: signed releases, a revocation, verdicts, a challenger, a report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.backtest.conftest import make_panel, params, write_bars
from tests.backtest.test_run import ASSETS, backtest, judge_and_report, write_agents
from tests.release.conftest import candidate_repo, signed_repo, storied_repo
from tests.release.workshop import Workshop, git

from sekisho.features.build import build_features
from sekisho.monitoring.pages import Sources, write_pages
from sekisho.monitoring.verdict import Alarm, Verdict
from sekisho.params import Params
from sekisho.release.manifest import read_manifest
from sekisho.release.revoke import revoke

__all__ = ["candidate_repo", "params", "signed_repo", "storied_repo"]  # fixtures, for pytest to find

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script> **bold** ✅ [x](javascript:alert(1))"
DAYS = [f"2026-07-{day:02d}" for day in (1, 2, 3, 6, 7, 8, 9, 10, 13, 14)]


def verdict_of(release: Path, count: int, *alarms: Alarm) -> Verdict:
    """The verdict after so many sessions."""
    manifest, digest = read_manifest(release)
    days = DAYS[:count]
    equity = {day: 1.0 + 0.004 * place for place, day in enumerate(days)}
    return Verdict(
        manifest.model,
        manifest.seq,
        digest,
        "b" * 64,
        "alarm" if alarms else "ok",
        alarms=list(alarms),
        first_session=days[0],
        last_session=days[-1],
        sessions=count,
        threshold=252.0,
        levels={day: 2.0 * 1.9**place for place, day in enumerate(days)},
        cusum_threshold=11.5,
        cusum={day: 1.2 * place for place, day in enumerate(days)},
        false_alarms={"a_month": 0.05, "low": 0.04, "high": 0.06},
        answers={"ok": 1.0},
        latency={"p50": 0.0001, "p99": 0.0004},
        rows=800,
        performance={
            "sessions": count,
            "net_return": 0.004 * (count - 1),
            "live_minus_replay": -0.0001,
            "band_low": -0.02,
            "cusum": 0.8,
            "cusum_limit": 3.2,
            "drawdown": 0.012,
            "worst_session": -0.009,
            "equity": equity,
            "band": {day: 0.98 for day in days},
        },
        checked_at=f"{days[-1]}T07:30:00+00:00",
        as_of=f"{days[-1]}T07:30:00+00:00",
        environment="production",
    )


def add_challenger(repo: Path) -> None:
    """A branch of the remote with results of its own, whose author writes what nobody should believe."""
    git(repo, "switch", "-qc", "retrain/policy")
    path = repo / "metrics/backtest.json"
    figures = json.loads(path.read_text())
    figures["agent"]["sharpe"] = 1.4
    path.write_text(json.dumps(figures))
    git(repo, "commit", "-qam", HOSTILE)
    git(repo, "update-ref", "refs/remotes/origin/retrain/policy", "HEAD")
    git(repo, "switch", "-q", "-")
    git(repo, "branch", "-qD", "retrain/policy")


@pytest.fixture(scope="session")
def record(storied_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """policy/1 and /2 promoted, /3 a rollback to the first and champion, /2 revoked; two verdicts of /3."""
    shop = Workshop(shutil.copytree(storied_repo, tmp_path_factory.mktemp("record") / "repo"))
    revoke(shop.desk, shop.repo / "releases/policy/2", HOSTILE, "local")
    for name in ("terraform/budget.yaml", "terraform/cost/estimate.json"):
        (shop.repo / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, shop.repo / name)
    shop.commit("revoked")
    add_challenger(shop.repo)
    verdicts = shop.repo.parent / "verdicts"
    drift = Alarm("mean", f"return_3 of {HOSTILE} $x$", 300.0, 252.0, DAYS[-1], "e-detector")
    champion = shop.repo / "releases/policy/3"
    for count, alarms in ((5, ()), (10, (drift,))):
        verdict_of(champion, count, *alarms).write(verdicts / str(count) / "verdict.json")
    return Sources(shop.repo, shop.trust, "local", verdicts, None, 30 * 86400.0)


@pytest.fixture(scope="session")
def report(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on random agents in a small market."""
    root = tmp_path_factory.mktemp("report")
    panel = make_panel(assets=ASSETS, seed=3)
    write_bars(panel, root / "bars")
    build_features(root / "bars", root / "features", params.features)
    write_agents(params, root / "train")
    backtest(params, root)
    judge_and_report(params, root)
    return root / "report/report.html"


@pytest.fixture(scope="session")
def site(record: Sources, report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five pages."""
    folder = tmp_path_factory.mktemp("site")
    assert write_pages(replace(record, report=report), folder) is None
    return folder
