"""``sekisho pr`` as people and workflows call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOT = "sekisho[bot]"


@pytest.fixture
def pr(world, tmp_path):
    """``pr(actor, *words)``: run the command at a folder with this repository's params.yaml."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())

    def _pr(actor: str, *words: str, expect: int = 0) -> str:
        environment = os.environ | {"SEKISHO_FORGE": f"local:{world.folder}", "SEKISHO_ACTOR": actor}
        program = [sys.executable, "-c", "from sekisho.cli import run; run()", "pr", *words]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == expect, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout.strip() if expect == 0 else done.stderr or done.stdout

    return _pr


@pytest.mark.slow
def test_the_whole_loop_by_the_command_line(world, pr, tmp_path):
    head = world.push("tuned")
    number = pr("engineer", "open", "--branch", "tune", "--title", "Tune $(touch pwned)")
    assert number == "1"
    assert "report" in pr(BOT, "report", number, "--from", str(world.clone))
    own = pr("engineer", "comment", number, "--body", f"/approve {head}")
    assert "four-eyes" in pr(BOT, "command", number, own, expect=1)
    assert "no approval" in pr("reviewer", "merge", number, expect=1)
    approving = pr("reviewer", "comment", number, "--body", f"/approve {head}")
    outcome = json.loads(pr(BOT, "command", number, approving, "--json"))
    assert (outcome["status"], outcome["command"]) == ("done", "approve")
    assert json.loads(pr("reader", "status", number, "--json"))["blockers"] == []
    merged = json.loads(pr("reviewer", "merge", number, "--json"))["merge_sha"]
    pr("reviewer", "approval", "--merge-commit", merged, "--out", "a.json")
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["pr"], record["head_sha"], record["merge_sha"]) == (1, head, merged)
    assert "tune" in pr("reader", "list", "--state", "merged")
    assert head in pr("reader", "show", number)
    assert not list(tmp_path.rglob("pwned"))


def test_a_github_event_is_read_as_data_and_a_refusal_is_an_answer(world, pr, tmp_path):
    world.push("tuned")
    number = world.act("engineer").open_pull_request("tune", "Tune", "")
    comment = world.act("reader").add_comment(number, "/hold `$(touch pwned)`")
    event = {"issue": {"number": number, "pull_request": {}}, "comment": {"id": comment}}
    (tmp_path / "event.json").write_text(json.dumps(event))
    assert "refused" in pr(BOT, "command", "--event", "event.json")
    del event["issue"]["pull_request"]
    (tmp_path / "event.json").write_text(json.dumps(event))
    assert "on an issue" in pr(BOT, "command", "--event", "event.json", expect=2)


def test_no_actor_and_no_such_number_are_told_with_a_remedy(pr):
    assert "SEKISHO_ACTOR" in pr("", "list", expect=2)
    assert "no pull request 7" in pr("engineer", "show", "7", expect=2)
