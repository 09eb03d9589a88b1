"""From an alarm to its pull request, on a real git origin, a local forge and real DVC remotes."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest
import yaml

from sekisho.backtest.splits import walk_forward
from sekisho.calendar import Calendar
from sekisho.data.contract import COLUMNS
from sekisho.data.store import write_partition
from sekisho.data.synthetic import synthetic_bars
from sekisho.errors import CannotCheck, DataError, Refused
from sekisho.forge.commands import handle
from sekisho.forge.local import LocalForge, create_local_forge
from sekisho.monitoring.retrain import Retrain, _use_of_sessions, open_retrain
from sekisho.monitoring.verdict import Alarm, Verdict
from sekisho.params import Params

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Place:
    """A clone with two sessions of data, its forge, and five more sessions of live bars."""

    repo: Path
    forge: LocalForge
    bars: Path
    days: list[dt.date]
    params: Params
    plot: Path

    def run(self, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run(words, cwd=cwd or self.repo, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return done.stdout.strip()

    def retrain(self, verdict: Verdict, bars: Path | None = None) -> Retrain:
        made = (verdict, self.plot, bars or self.bars, self.repo, self.forge, self.params, "storage")
        return open_retrain(*made)

    def alarm(self, model: str, day: int, family: str = "volatility", level: float = 400.0) -> Verdict:
        last = str(self.days[day])
        return Verdict(
            model=model,
            seq=1,
            manifest_digest="a" * 64,
            reference_digest="b" * 64,
            state="alarm",
            alarms=[Alarm(family, "return_1 of SYN1", level, 252.0, str(self.days[2]))],
            first_session=str(self.days[2]),
            last_session=last,
            sessions=day - 1,
            threshold=252.0,
            levels={last: level},
            top=[{"family": family, "symbol": "SYN1", "feature": "return_1", "evidence": 9e3, "cusum": 14.0}],
            answers={"ok": 1.0},
            rows=66,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Place:
    folder = tmp_path_factory.mktemp("retrain")
    for name, value in {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        **{
            f"GIT_{role}_{what}": "engineer" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        },
    }.items():
        os.environ[name] = value
    create_local_forge(folder / "forge", {"engineer": "write", "bot": "write"})
    repo, bars = folder / "repo", folder / "bars"
    forge = LocalForge(folder / "forge", params.forge.model_copy(update={"bot": "bot"}), actor="bot")
    days = sorted(set(write_bars(bars)))
    place = Place(repo, forge, bars, days, params, folder / "drift.png")
    place.plot.write_bytes(b"picture")
    place.run("git", "clone", "--quiet", str(folder / "forge" / "origin.git"), str(repo), cwd=folder)
    place.run("git", "switch", "--quiet", "-c", "main")
    (repo / ".dvc").mkdir()  # written by hand: each DVC command takes seconds
    remotes = "['remote \"sample\"']\n    url = ../samples\n['remote \"storage\"']\n    url = s3://nowhere\n"
    (repo / ".dvc" / "config").write_text(f"[core]\n    remote = sample\n    analytics = false\n{remotes}")
    (repo / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    use_storage(repo, folder / "storage")
    (repo / "data" / "bars").mkdir(parents=True)
    for day in days[:2]:
        shutil.copy(bars / f"{day}.parquet", repo / "data" / "bars")
    place.run("dvc", "add", "--quiet", "data")
    place.run("dvc", "push", "--quiet", "--remote", "storage", "data.dvc")
    place.run("git", "add", ".")
    place.run("git", "commit", "--quiet", "-m", "Data")
    place.run("git", "push", "--quiet", "origin", "main")
    return place


def use_storage(repo: Path, storage: Path) -> None:
    (repo / ".dvc" / "config.local").write_text(f"['remote \"storage\"']\n    url = {storage}\n")


def write_bars(folder: Path) -> list[dt.date]:
    folder.mkdir()
    frame = synthetic_bars(dt.date(2026, 7, 1), 7, 1)
    parts = frame.partition_by("session", as_dict=True)
    for (day,), part in parts.items():
        write_partition(part.select(list(COLUMNS)), folder / f"{day}.parquet")
    return [day for (day,) in parts]


@pytest.mark.slow
def test_one_cause_from_the_first_alarm_to_its_cooldown(place: Place, tmp_path: Path) -> None:
    before = place.run("git", "status", "--porcelain=v2", "--branch")

    # three alarms of one cause: one pull request, updated
    made = [place.retrain(place.alarm("policy", day)) for day in (3, 4, 4)]
    assert len({each.number for each in made}) == 1
    assert [(each.reason, each.added) for each in made] == [("opened", 2), ("updated", 1), ("updated", 0)]
    (pull,) = place.forge.list_pull_requests("all")
    assert (pull.author, pull.key) == ("bot", f"retrain:policy:{'b' * 12}:volatility")
    assert pull.body.count("- seen up to") == 2  # the third told nothing new
    for needed in (
        "400",
        "252",
        "return_1",
        "a" * 64,
        "b" * 64,
        "To decide",
        "drift.png",
        "rollback to",
        "no candidate can be trained yet",
    ):
        assert needed in pull.body
    assert place.run("git", "status", "--porcelain=v2", "--branch") == before
    assert len(place.run("git", "worktree", "list").splitlines()) == 1

    # the branch's data are where others can pull them, up to the verdict's last session
    clone = tmp_path / "clone"
    branch = ("--branch", pull.branch)
    place.run("git", "clone", "--quiet", *branch, str(place.forge.origin), str(clone), cwd=tmp_path)
    use_storage(clone, place.repo.parent / "storage")
    place.run("dvc", "pull", "--quiet", "--remote", "storage", "data.dvc", cwd=clone)
    found = sorted(path.stem for path in (clone / "data" / "bars").glob("*.parquet"))
    assert found == [str(day) for day in place.days[:5]]
    assert f"sha256:{'a' * 64}" in place.run("git", "log", "-1", "--format=%B", cwd=clone)

    # another cause joins the open request; once it is decided both cool down, and a third does not
    joined = place.retrain(place.alarm("policy", 4, family="mean"))
    assert (joined.number, joined.reason) == (pull.number, "updated")
    place.forge.merge(pull.number, place.forge.get_pull_request(pull.number).head_sha, "Merge")
    for family in ("volatility", "mean"):
        again = place.retrain(place.alarm("policy", 5, family=family))
        assert again.number is None
        assert f"cooling down: pull request {pull.number}" in again.reason
    # nor does the retrained model, whose reference is another, start the same cause over
    retrained = replace(place.alarm("policy", 5), reference_digest="c" * 64, seq=2)
    assert "cooling down" in place.retrain(retrained).reason
    other = place.retrain(place.alarm("policy", 5, family="correlation"))
    assert other.number not in (None, pull.number)

    # once that is decided too and the cooldown is over, the first cause opens a new request
    place.forge.merge(other.number, place.forge.get_pull_request(other.number).head_sha, "Merge")
    assert "cooling down" in place.retrain(place.alarm("policy", 6)).reason
    short = place.params.monitoring.model_copy(update={"cooldown_sessions": 2})
    later = replace(place, params=place.params.model_copy(update={"monitoring": short}))
    fresh = later.retrain(place.alarm("policy", 6))
    assert (fresh.reason, fresh.added) == ("opened", 1)
    assert fresh.number not in (pull.number, other.number)


@pytest.mark.slow
def test_a_cooldown_goes_by_the_bots_commits_and_not_by_what_people_may_edit(place: Place) -> None:
    engineer = LocalForge(place.forge.origin.parent, place.forge.params, actor="engineer")
    made = place.retrain(place.alarm("edited", 6))
    assert made.number is not None
    engineer.open_pull_request(made.branch, "Retrain", "nothing was seen")  # the text is another's now
    engineer.delete_branch(made.branch, engineer.get_pull_request(made.number).head_sha)
    assert "cooling down" in place.retrain(place.alarm("edited", 6)).reason

    # neither a person's text nor a person's commit silences a cause
    claim = f"- seen up to {place.days[6]}: volatility, statistic 400 on {place.days[2]}, now 400 of 252"
    branch, main = "retrain/claimed", place.forge.branch_head("main")
    assert main
    head = engineer.commit_files(branch, {"note": b"x"}, f"Retrain claimed\n\n{claim}", main, create=True)
    number = engineer.open_pull_request(branch, "Retrain claimed", claim)
    assert place.forge.messages(number, "bot") == []
    engineer.merge(number, head, "Merge")
    fresh = place.retrain(place.alarm("claimed", 6))
    assert (fresh.reason, fresh.number != number) == ("opened", True)


@pytest.mark.slow
def test_a_hold_on_main_is_respected_until_its_day(place: Place) -> None:
    hold = place.repo / "monitoring" / "hold.yaml"
    hold.parent.mkdir()
    place.run("git", "pull", "--quiet", "origin", "main")
    hold.write_text(yaml.safe_dump({"until": place.days[1], "reason": "exchange moves its close"}))
    place.run("git", "add", "monitoring")
    place.run("git", "commit", "--quiet", "-m", "Hold")
    place.run("git", "push", "--quiet", "origin", "main")
    held = place.retrain(place.alarm("held", 1))
    assert held.number is None
    assert "exchange moves its close" in held.reason
    with pytest.raises(DataError, match="no Parquet file"):  # past its day it goes on to the live bars
        place.retrain(place.alarm("held", 2), place.bars / "none")
    hold.write_text("until: soon\n")
    place.run("git", "commit", "--quiet", "-am", "Hold badly")
    place.run("git", "push", "--quiet", "origin", "main")
    try:
        with pytest.raises(CannotCheck, match=r"hold\.yaml"):
            place.retrain(place.alarm("held", 5))
    finally:
        place.run("git", "rm", "--quiet", "--force", "-r", "monitoring")
        place.run("git", "commit", "--quiet", "-m", "Release the hold")
        place.run("git", "push", "--quiet", "origin", "main")


def test_what_cannot_be_judged_opens_nothing(place: Place) -> None:
    verdict = replace(place.alarm("blind", 3), state="cannot-judge", alarms=[], problems=["broken"])
    with pytest.raises(CannotCheck, match="broken"):
        place.retrain(verdict)


def test_ok_opens_nothing(place: Place) -> None:
    assert place.retrain(replace(place.alarm("fine", 3), state="ok", alarms=[])).number is None


def test_a_fault_of_serving_is_not_mended_by_retraining(place: Place) -> None:
    with pytest.raises(Refused, match="parity"):
        place.retrain(place.alarm("served", 3, family="parity"))


@pytest.mark.slow
def test_live_bars_that_break_the_contract_open_nothing(place: Place, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    source = place.bars / f"{place.days[2]}.parquet"
    bad = pl.read_parquet(source).with_columns(close=-pl.col("close"))
    write_partition(bad, broken / source.name)
    with pytest.raises(DataError, match="break the contract"):
        place.retrain(place.alarm("broken", 3), broken)
    assert "retrain/broken" not in place.run("git", "ls-remote", "origin")


def test_a_hold_on_the_open_request_keeps_the_bot_from_pushing(place: Place) -> None:
    branch = "retrain/paused"
    place.run("git", "push", "--quiet", "origin", f"origin/main:refs/heads/{branch}")
    number = place.forge.open_pull_request(branch, "Retrain", "- seen up to 2026-07-03: x", "key")
    head = place.run("git", "ls-remote", "origin", branch)
    engineer = LocalForge(place.forge.origin.parent, place.forge.params, actor="engineer")
    engineer.add_comment(number, "/hold")
    handle(place.forge, number, place.forge.comments(number)[-1], Calendar("XTKS", "5min"))
    held = place.retrain(place.alarm("paused", 3))
    assert held.number is None
    assert f"pull request {number} is on hold" in held.reason
    assert place.run("git", "ls-remote", "origin", branch) == head


def test_the_body_says_which_new_sessions_the_candidate_trains_on(place: Place) -> None:
    sessions = Calendar("XTKS", "5min").sessions(dt.date(2024, 1, 1), dt.date(2026, 7, 31))
    split = place.params.split
    fold = walk_forward(sessions, split)[-1]
    told = f"trains up to **{fold.train[1]}**"
    late = replace(place.alarm("policy", 3), first_session=str(sessions[-5]), last_session=str(sessions[-1]))
    text = _use_of_sessions(late, sessions, split)
    assert told in text
    assert "Of the 5 sessions" in text
    assert "it trains on 0; 0 choose its checkpoint, and 5 are what it is judged on" in text
    trained = sessions.index(fold.train[1])
    early = replace(late, first_session=str(sessions[trained - 2]))
    counts = f"trains on 3; {split.validation_sessions} choose its checkpoint, and {split.test_sessions} are"
    assert counts in _use_of_sessions(early, sessions, split)
