"""The README's commands: each is run by a test, and the first of them here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
RUN_BY = {  # command -> what runs it
    "make demo": "test_the_demo_runs_on_a_fresh_clone",
    "make test": "this run",
    "make setup": "the environment of this run",
    ". .venv/bin/activate": "the environment of this run",
    "dvc pull data.dvc": "tests/e2e/test_pipeline_on_a_clone.py",
    "dvc repro": "tests/e2e/test_pipeline_on_a_clone.py",
    "dvc metrics diff main": "tests/e2e/test_pipeline_on_a_clone.py",
}


@pytest.mark.parametrize("name", ["README.md", "README.ja.md"])
def test_every_command_is_run_by_a_test(name: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    shown = [line.split("  ")[0].strip() for block in blocks for line in block.splitlines()]
    assert shown == list(RUN_BY)
    for place in RUN_BY.values():
        assert not place.startswith("tests/") or (REPO / place).exists()


def test_its_pictures_load_nothing_from_a_network() -> None:
    for name in ("loop.svg", "loop.ja.svg", "demo.svg"):
        text = (REPO / "docs" / name).read_text(encoding="utf-8")
        assert not re.search(r"url\(.?http|@import|href=.http|@font-face", text), name


@pytest.mark.slow
def test_the_demo_runs_on_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPO), str(clone)], check=True)
    (clone / ".venv").symlink_to(Path(sys.executable).parent.parent)
    words = ["make", "--old-file", ".venv/.ready", "demo", "FAST=1", f"PICTURE={tmp_path / 'demo.svg'}"]
    env = os.environ | {"PYTHONPATH": str(clone / "src")}
    done = subprocess.run(words, cwd=clone, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    for page in re.findall(r"build/demo/\S+", done.stdout.split("Look at:")[1]):
        assert (clone / page).exists(), page
    assert "<svg" in (tmp_path / "demo.svg").read_text(encoding="utf-8")
