"""`sekisho doctor` where settings are broken as newcomers' are: what is missing, and its remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from sekisho.cli import doctor
from sekisho.cli.doctor import Finding, examine

ROOT = Path(__file__).parents[1]
HERE = Path(sys.executable).parent


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone of what the doctor looks at, with this environment active."""
    folder = tmp_path / "clone"
    for name in (".dvc/config", "params.yaml", "requirements/dev.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "samples").mkdir()
    git(folder, "init", "--quiet")
    monkeypatch.setenv("PATH", f"{HERE}{os.pathsep}{os.environ['PATH']}")
    return folder


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def named(folder: Path, name: str) -> Finding:
    (found,) = [finding for finding in examine(folder) if finding.name == name]
    return found


def test_a_fresh_clone_lacks_nothing_that_is_needed(clone: Path) -> None:
    assert [finding for finding in examine(clone) if finding.state == "missing"] == []
    assert named(clone, "sample data").remedy == "dvc pull data.dvc"


def test_every_finding_that_is_not_ok_comes_with_its_remedy(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(clone))
    found = [finding for finding in examine(clone / ".dvc") if finding.state != "ok"]
    assert {"git", "make", "path", "checkout", "history", "remote"} <= {finding.name for finding in found}
    assert [finding for finding in found if not finding.remedy] == []


def test_a_checkout_that_cannot_be_written(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (clone, os.W_OK))
    found = named(clone, "checkout")
    assert (found.state, "cannot be written" in found.detail) == ("missing", True)


def test_another_environment_on_the_path(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = named(clone, "path")
    assert (found.state, "activate" in found.remedy) == ("missing", True)


def test_another_python(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    found = named(clone, "python")
    assert (found.state, "PYTHON=python3.12" in found.remedy) == ("missing", True)


def test_a_package_that_is_not_there_or_another_than_the_locks(clone: Path) -> None:
    lock = clone / "requirements/dev.txt"
    lock.write_text(lock.read_text().replace("\ndvc==", "\ndvc==99."))
    found = named(clone, "dvc")
    assert (found.state, found.remedy) == ("missing", "make setup")
    assert "the lock has 99." in found.detail
    assert doctor._distribution(clone, "no-such-package").detail == "not installed"


def test_no_name_for_commits(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    found = named(clone, "git identity")
    assert (found.state, "user.email" in found.remedy) == ("optional", True)
    git(clone, "config", "user.name", "somebody")
    assert named(clone, "git identity").state == "optional"
    git(clone, "config", "user.email", "somebody@example.com")
    assert named(clone, "git identity").state == "ok"


def test_a_full_disk_under_dvcs_cache(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = clone.parent / "elsewhere"
    cache.mkdir()
    (clone / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n")
    usage = namedtuple("usage", "total used free")
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage(10**12, 10**12, 10**9))
    found = named(clone, "disk")
    assert asked == [cache]
    assert (found.state, "dvc cache dir" in found.remedy) == ("missing", True)
    assert "1.0 GB free" in found.detail


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[core]\n    remote = mine\n", "mine has no url"),
        ("['remote \"sample\"']\n    url = ../gone\n", "gone is not there"),
    ],
)
def test_a_remote_that_is_not_there(clone: Path, settings: str, said: str) -> None:
    (clone / ".dvc/config.local").write_text(settings)
    found = named(clone, "remote")
    assert (found.state, said in found.detail) == ("missing", True)
    assert ".dvc/config" in found.remedy


def test_a_remote_elsewhere_asks_for_a_role(clone: Path) -> None:
    (clone / ".dvc/config.local").write_text("[core]\n    remote = storage\n")
    assert named(clone, "remote") == Finding(
        "remote", "ok", "storage, s3://sekisho-dvc/storage (needs your role)"
    )


def test_an_archive_and_a_shallow_clone_are_no_history(clone: Path) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for message in ("one", "two"):
        git(clone, *identity, "commit", "--quiet", "--allow-empty", "-m", message)
    assert named(clone, "history").state == "ok"
    git(clone.parent, "clone", "--quiet", "--depth", "1", f"file://{clone}", "shallow")
    assert named(clone.parent / "shallow", "history").remedy == "git fetch --unshallow"
    shutil.rmtree(clone / ".git")
    assert "not a git repository" in named(clone, "history").detail
