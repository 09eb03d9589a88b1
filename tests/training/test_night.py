"""What a workflow's steps are told: `sekisho dvc`, with real DVC, and `sekisho session`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sekisho.cli.night import session
from sekisho.errors import CannotCheck

SEKISHO = [sys.executable, "-c", "from sekisho.cli import run; run()"]
NOWHERE = "http://127.0.0.1:9"  # the port of `discard`, on which nobody answers


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def ended(repo: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run([*SEKISHO, "dvc", *words], cwd=repo, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def stage(repo: Path, command: str) -> None:
    (repo / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"one": {"cmd": command}}}))


def configure(repo: Path, core: str) -> None:
    (repo / ".dvc/config").write_text(f"[core]\n    no_scm = True\n    {core}\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("true", 0),
        ("exit 1", 1),  # refused
        ("exit 2", 2),  # bad data
        ("exit 75", 75),  # the store does not answer
        ("kill -9 $$", 75),
        ("echo failed to run: x, exited with 2 >&2; exit 3", 75),
    ],
)
def test_a_stage_that_ends_is_not_hidden_by_dvc(command: str, code: int, repo: Path) -> None:
    stage(repo, command)
    found, said = ended(repo, "repro", "--pull", "one")
    assert found == code, said
    assert ("failed to reproduce 'one'" in said) is (code != 0)  # DVC's own words are still there


def test_a_remote_that_does_not_answer_may_answer_later(repo: Path) -> None:
    (repo / "file").write_text("content")
    assert ended(repo, "add", "file")[0] == 0
    configure(repo, f"remote = r\n['remote \"r\"']\n    url = {NOWHERE}")
    assert ended(repo, "push", "file.dvc")[0] == 75


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", ["push"]),  # no remote
        ("remote = r", ["push"]),  # one that is not described
        ("remotte = r", ["status"]),
        ("", ["psuh"]),
    ],
)
def test_bad_configuration_will_not_mend_itself(config: str, words: list[str], repo: Path) -> None:
    (repo / "file").write_text("content")
    assert ended(repo, "add", "file")[0] == 0
    configure(repo, config)
    code, said = ended(repo, *words)
    assert code == 2, said


def test_no_repository_is_no_reason_to_try_again(tmp_path: Path) -> None:
    assert ended(tmp_path, "status")[0] == 2


@pytest.mark.parametrize("day", ["1900-01-01", "2099-01-05"])
def test_a_day_that_the_calendar_does_not_know_is_no_holiday(
    day: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is wrong would skip its nights and call them well."""
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(CannotCheck, match=f"{day}: the calendar XTKS does not reach there"):
        CliRunner().invoke(session, ["--day", day], catch_exceptions=False)


@pytest.mark.parametrize(("day", "trades"), [("2026-11-26", "true"), ("2026-11-03", "false")])
def test_a_day_of_the_calendar_is_a_session_or_not(
    day: str, trades: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert CliRunner().invoke(session, ["--day", day], catch_exceptions=False).output == f"{trades}\n"
