"""Results lie in a folder of their own and get into production by their digest only; with DVC itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sekisho.errors import CannotCheck
from sekisho.forge.quarantine import admit, changed_outputs, push, use_remote

PIPELINE = """\
stages:
  big: {cmd: cp -r data/in big, deps: [data/in], outs: [big]}
  train:
    cmd: mkdir -p model && cat level.txt > model/m.onnx && cat level.txt > figures.json
    deps: [level.txt]
    outs: [model]
    metrics: [figures.json: {cache: false}]
"""


class Lab:
    """A DVC repository with both remotes in local folders; ``main`` is in production already."""

    def __init__(self, folder: Path) -> None:
        self.repo, self.storage, self.pr = folder / "repo", folder / "storage", folder / "pr"
        (self.repo / "data/in").mkdir(parents=True)
        (self.repo / ".dvc").mkdir()
        remotes = [("storage", self.storage), ("pull-request", "../../pr")]
        text = "".join(
            f"['remote \"{name}\"']\n    url = {url}\n    verify = true\n" for name, url in remotes
        )
        (self.repo / ".dvc/config").write_text(f"[core]\n    analytics = false\n    remote = storage\n{text}")
        (self.repo / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (self.repo / ".gitignore").write_text("/data\n/big\n/model\n")
        (self.repo / "data/in/bars").write_text("many bars")
        (self.repo / "dvc.yaml").write_text(PIPELINE)
        self.git("init", "--quiet", "--initial-branch=main")
        self.dvc("add", "--quiet", "data")
        self.train("1")
        self.dvc("push", "--quiet")

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=engineer", "-c", "user.email=engineer@example.invalid"]
        done = subprocess.run(["git", *identity, *words], cwd=self.repo, check=True, capture_output=True)
        return done.stdout.decode().strip()

    def dvc(self, *words: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=self.repo, check=True, capture_output=True)

    def train(self, level: str) -> None:
        (self.repo / "level.txt").write_text(level)
        self.dvc("repro", "--quiet")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", f"Level {level}")

    def stored(self, place: Path) -> set[str]:
        return {path.read_text() for path in place.rglob("files/**/*") if path.is_file()}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("quarantine"))


@pytest.mark.slow
def test_results_pass_from_the_pull_requests_folder_to_production_by_their_digest(lab):
    before = lab.stored(lab.storage)
    lab.train("2")
    assert changed_outputs(lab.repo, "HEAD^") == ["model"]  # neither what is as on main, nor what git keeps
    assert push(lab.repo, 7, "HEAD^") == ["model"]
    assert lab.stored(lab.storage) == before  # a pull request writes nothing to production
    assert {"2"} == {text for text in lab.stored(lab.pr / "7") if "relpath" not in text}
    assert "many bars" not in lab.stored(lab.pr)

    subprocess.run(["rm", "-rf", ".dvc/cache", ".dvc/config.local"], cwd=lab.repo, check=True)  # elsewhere
    assert admit(lab.repo, 7, "HEAD^") == ["model"]
    assert "2" in lab.stored(lab.storage)
    assert admit(lab.repo, 7, "HEAD^") == ["model"]  # again: nothing happens
    subprocess.run(["rm", "-rf", ".dvc/cache", "model"], cwd=lab.repo, check=True)
    lab.dvc("pull", "--quiet", "--remote", "storage")
    assert (lab.repo / "model/m.onnx").read_text() == "2"

    # a file that was exchanged in the quarantine, or is not there, does not get in
    lab.train("3")
    push(lab.repo, 8, "HEAD^")
    subprocess.run(["rm", "-rf", ".dvc/cache"], cwd=lab.repo, check=True)
    (forged,) = [p for p in (lab.pr / "8").rglob("*") if p.is_file() and p.read_text() == "3"]
    forged.chmod(0o644)
    forged.write_text("9")
    for _ in range(2):
        with pytest.raises(CannotCheck, match=r"are not what dvc\.lock names: model/m\.onnx"):
            admit(lab.repo, 8, "HEAD^")
    with pytest.raises(CannotCheck, match=r"missing|failed"):
        admit(lab.repo, 9, "HEAD^")
    assert not {"3", "9"} & lab.stored(lab.storage)


def test_a_remote_that_does_not_verify_is_not_used(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("['remote \"pull-request\"']\n    url = ../pr\n")
    with pytest.raises(CannotCheck, match="does not verify"):
        use_remote(tmp_path, 7)


def test_this_repositorys_own_quarantine_is_beside_production_and_verifies():
    text = (Path(__file__).parents[2] / ".dvc/config").read_text()
    assert "['remote \"pull-request\"']\n    url = s3://sekisho-dvc/pr\n    verify = true" in text
