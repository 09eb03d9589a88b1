"""Results lie in a folder of their own and get into production by their digest only; with DVC itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sekisho.errors import CannotCheck
from sekisho.forge.quarantine import admit, changed_outputs, merged_since_release, push, use_remote

PIPELINE = """\
stages: # DVC takes nothing after a target that is a stage as well as an output: no stage is called like one
  copy: {cmd: cp -r data/in big, deps: [data/in], outs: [big]}
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
    assert admit(lab.repo, [7]) == ["model"]
    assert "2" in lab.stored(lab.storage)
    assert admit(lab.repo, [7]) == []  # again: nothing happens
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
            admit(lab.repo, [8])
    with pytest.raises(CannotCheck, match=r"missing|failed"):
        admit(lab.repo, [9])
    assert not {"3", "9"} & lab.stored(lab.storage)


@pytest.mark.slow
def test_a_merge_whose_release_did_not_run_is_admitted_by_the_next(tmp_path):
    lab = Lab(tmp_path)
    lab.train("2")
    push(lab.repo, 7, "HEAD^")  # merged; then its release's run was replaced, or found no approval
    (lab.repo / "level.txt").write_text("2")
    (lab.repo / "dvc.yaml").write_text(
        f"{PIPELINE}  write: {{cmd: 'mkdir -p note && echo n > note/n', outs: [note]}}\n"
    )
    (lab.repo / ".gitignore").write_text("/data\n/big\n/model\n/note\n")
    lab.dvc("repro", "--quiet")
    lab.git("add", "--all")
    lab.git("commit", "--quiet", "--message", "Another stage")
    push(lab.repo, 8, "HEAD^")
    subprocess.run(["rm", "-rf", ".dvc/cache", ".dvc/config.local"], cwd=lab.repo, check=True)
    with pytest.raises(CannotCheck, match="missing"):
        admit(lab.repo, [8])
    subprocess.run(["rm", "-rf", ".dvc/cache"], cwd=lab.repo, check=True)
    assert admit(lab.repo, [8, 7]) == ["model", "note"]
    subprocess.run(["rm", "-rf", ".dvc/cache", "model", "big", "data", "note"], cwd=lab.repo, check=True)
    lab.dvc("pull", "--quiet", "--remote", "storage")
    assert (lab.repo / "model/m.onnx").read_text() == "2"


class Merged:
    """A forge that knows which commits were merges of which pull requests."""

    def __init__(self, merges: dict[int, str]) -> None:
        self.pulls = [SimpleNamespace(number=n, merge_sha=sha) for n, sha in merges.items()]

    def list_pull_requests(self, state: str) -> list[SimpleNamespace]:
        assert state == "merged"
        return self.pulls


def test_what_was_merged_since_the_newest_release_was_exported_is_admitted_newest_first(tmp_path):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=engineer", "-c", "user.email=engineer@example.invalid"]
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)
        return done.stdout.decode().strip()

    def commit() -> str:
        git("commit", "--quiet", "--allow-empty", "--message", "x")
        return git("rev-parse", "HEAD")

    git("init", "--quiet")
    merges = {number: commit() for number in (1, 2, 3, 4)}
    assert merged_since_release(Merged(merges), tmp_path) == [4, 3, 2, 1]
    for seq, rollback, number in ((1, None, 2), (2, {"seq": 1}, 4)):
        path = tmp_path / f"releases/policy/{seq}/manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"rollback": rollback, "created_from": {"commit": merges[number]}}))
    # 3 was merged while the release of 2 waited for its own merge; a rollback's entry admitted nothing
    assert merged_since_release(Merged(merges), tmp_path) == [4, 3]


def test_a_remote_that_does_not_verify_is_not_used(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("['remote \"pull-request\"']\n    url = ../pr\n")
    with pytest.raises(CannotCheck, match="does not verify"):
        use_remote(tmp_path, 7)


def test_this_repositorys_own_quarantine_is_beside_production_and_verifies():
    text = (Path(__file__).parents[2] / ".dvc/config").read_text()
    assert "['remote \"pull-request\"']\n    url = s3://sekisho-dvc/pr\n    verify = true" in text
