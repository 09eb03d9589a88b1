"""A local forge with a repository whose pipeline was really reproduced by DVC, and the people of the loop."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sekisho.calendar import Calendar
from sekisho.dvc_files import files_under, folder_digest
from sekisho.forge.local import LocalForge, create_local_forge
from sekisho.forge.propose import Proposal, propose
from sekisho.params import ForgeParams, load_params

ROOT = Path(__file__).parents[2]
BOT = "sekisho[bot]"
MEMBERS = {
    "engineer": "write", "reviewer": "write", "reader": "read", "admin": "admin", BOT: "write",
    "trader": "write", "second-trader": "write",
}  # fmt: skip
TOKYO = Calendar("XTKS", "5min")
PIPELINE = """\
stages:
  gate:
    cmd: "true"
    deps: [src]
    params: [gate]
    outs: [build/report]
    metrics: [metrics/gate.json: {cache: false}]
"""


@pytest.fixture
def params() -> ForgeParams:
    own = {
        "bot": BOT,
        "report_limit": 65000,
        "timeout": 1.0,
        "retries": 3,
        "backoff": 0.0,
        "longest_wait": 5.0,
    }
    return load_params(ROOT / "params.yaml").forge.model_copy(update=own)


class World:
    """An engineer's clone of the local forge's origin."""

    def __init__(self, folder: Path, params: ForgeParams) -> None:
        self.folder, self.params, self.clone = folder / "forge", params, folder / "clone"
        create_local_forge(self.folder, MEMBERS)
        write(self.folder / "teams.yaml", "trading-desk: [trader, Second-Trader, reader]\n")
        self.git("clone", "--quiet", str(self.folder / "origin.git"), str(self.clone), cwd=folder)
        self.reproduce("main", passed=True, limit=0.1)
        self.git("push", "--quiet", "origin", "HEAD:main")

    def git(self, *words: str, cwd: Path | None = None) -> str:
        identity = ["-c", "user.name=engineer", "-c", "user.email=engineer@example.invalid"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=cwd or self.clone, check=True, capture_output=True
        )
        return done.stdout.decode().strip()

    def reproduce(self, report: str, *, passed: bool, limit: float) -> str:
        """Write what ``dvc repro`` would leave, and commit it; the commit's id."""
        rules = [{"rule": "max_drawdown", "figure": 0.2, "limit": limit, "passed": passed, "reason": ""}]
        write(self.clone / "params.yaml", f"gate:\n  max_drawdown: {limit}\n")
        write(self.clone / "dvc.yaml", PIPELINE)
        write(self.clone / "src/code.py", "x = 1\n")
        write(self.clone / ".gitignore", "/build/\n")
        write(self.clone / "metrics/gate.json", json.dumps({"passed": passed, "rules": rules}))
        write(self.clone / "build/report/report.md", f"# {report}\n\n![equity](plots/equity.png)\n")
        write(self.clone / "build/report/plots/equity.png", "not really a picture")
        gate = (self.clone / "metrics/gate.json").read_bytes()
        lock = {
            "cmd": "true",
            "deps": [{"path": "src", "md5": folder_digest(files_under(self.clone / "src"))}],
            "params": {"params.yaml": {"gate": {"max_drawdown": limit}}},
            "outs": [
                {"path": "build/report", "md5": folder_digest(files_under(self.clone / "build/report"))},
                {"path": "metrics/gate.json", "md5": folder_digest_of_file(gate)},
            ],
        }
        write(self.clone / "dvc.lock", json.dumps({"schema": "2.0", "stages": {"gate": lock}}))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", f"Run the pipeline: {report}")
        return self.git("rev-parse", "HEAD")

    def push(self, report: str, branch: str = "tune", *, passed: bool = True, limit: float = 0.15) -> str:
        head = self.reproduce(report, passed=passed, limit=limit)
        self.git("push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
        return head

    def act(self, actor: str) -> LocalForge:
        return LocalForge(self.folder, self.params, actor)

    @property
    def at(self) -> str:
        """The commit that the clone is at."""
        return self.git("rev-parse", "HEAD")

    @property
    def report(self) -> Path:
        return self.clone / "build/report"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def folder_digest_of_file(content: bytes) -> str:
    import hashlib

    return hashlib.md5(content).hexdigest()


@pytest.fixture
def world(tmp_path: Path, params: ForgeParams) -> World:
    return World(tmp_path, params)


def head(world: World, number: int) -> str:
    """The pull request's head now."""
    return world.act(BOT).get_pull_request(number).head_sha


@pytest.fixture
def pull(world: World) -> int:
    """An open pull request of the engineer with its report posted."""
    from sekisho.forge.report import publish_report

    world.push("tuned")
    number = world.act("engineer").open_pull_request("tune", "Tune the drawdown limit", "because")
    publish_report(world.act(BOT), number, world.clone, world.at)
    return number


@pytest.fixture
def say(world: World) -> Callable[..., object]:
    """``say(actor, number, text)``: the person comments, the bot judges."""
    from sekisho.forge.commands import Outcome, handle

    def _say(actor: str, number: int, text: str, now: dt.datetime | None = None) -> Outcome:
        comment_id = world.act(actor).add_comment(number, text)
        bot = world.act(BOT)
        comment = next(c for c in bot.comments(number) if c.id == comment_id)
        return handle(bot, number, comment, TOKYO, now)

    return _say


@pytest.fixture
def release(world: World) -> int:
    """A merged pull request by which the bot recorded release policy/3."""
    bot = world.act(BOT)
    (world.clone / "releases/policy/3").mkdir(parents=True)
    (world.clone / "releases/policy/3/manifest.json").write_text("{}")
    proposal = Proposal("release/policy/3", "Release policy/3", "", None, exclusive=False)
    number = propose(bot, world.clone, ["releases"], proposal)
    assert propose(bot, world.clone, ["releases"], proposal) == number
    assert bot.read_folder(bot.get_pull_request(number).head_sha, "releases") == {
        "policy/3/manifest.json": b"{}"
    }
    bot.merge(number, bot.get_pull_request(number).head_sha, "Merge")
    return number
