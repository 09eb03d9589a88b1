"""A demo that is disturbed: it says so, ends what it started, and shows what a command said as it stands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "demo"
STORY = """
import sys
from pathlib import Path
from steps import Scratch, tell
def story():
    scratch = Scratch(Path(sys.argv[1]))
    with scratch.step("sleeps [bold]"):
        for command in sys.argv[2:]:
            scratch.run("sh", "-c", command, cwd=scratch.folder)
sys.exit(tell(story))
"""


def start(folder: Path, *commands: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", STORY, str(folder), *commands]
    return subprocess.Popen(
        words, cwd=DEMO, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(DEMO)},
    )  # fmt: skip


def child_of(folder: Path) -> int:
    """Process id that the story's command wrote down."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        path = folder / "child"
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError("the command did not start")


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().split()[2] != "Z"


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


SLEEP = "sleep 300 & echo $! > child; wait"  # the sleeper is a grandchild, as a trainer is


def test_sigterm_ends_all_that_was_started_and_says_what_to_do(tmp_path: Path) -> None:
    demo = start(tmp_path / "demo", SLEEP)
    sleeper = child_of(tmp_path / "demo")
    demo.send_signal(signal.SIGTERM)
    said, _ = demo.communicate(timeout=60)
    assert "interrupted; run it again" in said
    assert demo.returncode == 130
    assert ends(sleeper)


def test_a_second_demo_in_the_same_place_leaves_the_first_alone(tmp_path: Path) -> None:
    first = start(tmp_path / "demo", SLEEP)
    sleeper = child_of(tmp_path / "demo")
    said, errors = start(tmp_path / "demo", "true").communicate(timeout=60)
    assert "another one is running" in said
    assert not errors
    assert alive(sleeper)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)


def run_loop(checkout: Path) -> subprocess.CompletedProcess[str]:
    shutil.copytree(DEMO, checkout / "demo")
    words = [sys.executable, str(checkout / "demo" / "loop.py"), "--fast"]
    return subprocess.run(words, text=True, capture_output=True, check=False)


def test_an_unpacked_archive_is_refused_with_a_remedy(tmp_path: Path) -> None:
    demo = run_loop(tmp_path)
    assert demo.returncode == 2
    assert "remedy: git clone" in demo.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
def test_a_checkout_of_another_user_is_read_as_in_a_container(tmp_path: Path) -> None:
    checkout = tmp_path / "check out"
    subprocess.run(["git", "init", "--quiet", str(checkout)], check=True)
    for place in (checkout, checkout / ".git"):
        os.chown(place, 12345, 12345)
    demo = run_loop(checkout)
    assert "dubious ownership" not in demo.stdout
    assert "unknown revision" in demo.stdout  # it was cloned: there is no commit in it yet


def test_a_shallow_clone_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@local.invalid", *words], check=True)

    whole, checkout = tmp_path / "whole", tmp_path / "checkout"
    git("init", "--quiet", str(whole))
    for message in ("first", "second"):
        git("-C", str(whole), "commit", "--quiet", "--allow-empty", "-m", message)
    git("clone", "--quiet", "--depth", "1", whole.as_uri(), str(checkout))
    demo = run_loop(checkout)
    assert demo.returncode == 2
    assert "remedy: git fetch --unshallow" in demo.stdout


def test_a_failed_command_is_shown_as_it_stands(tmp_path: Path) -> None:
    demo = start(tmp_path / "demo", "echo 'no [/such] [red]tag'; exit 1")
    said, errors = demo.communicate(timeout=60)
    assert "no [/such] [red]tag" in said
    assert not errors
    assert demo.returncode == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file in the way")
    said, errors = start(tmp_path / "demo", "true").communicate(timeout=60)
    assert str(tmp_path / "demo") in said
    assert "remedy" in said
    assert not errors


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    fill = "ln -sf /dev/full logs/01.log"  # where the next command's output would go
    said, errors = start(tmp_path / "demo", fill, "true").communicate(timeout=60)
    assert f"No space left on device: '{os.path.relpath(tmp_path / 'demo', DEMO.parent)}'" in said
    assert not errors
