"""Which merges call for a release: all but those of records."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.release.workshop import git

from sekisho.errors import CannotCheck
from sekisho.release.unreleased import unreleased


def merge(repo: Path, files: list[str]) -> None:
    """A history of two commits, of which the second changes these files."""
    git(repo, "init", "--quiet")
    git(repo, "commit", "--quiet", "--allow-empty", "--message", "before")
    git(repo, "tag", "before")
    for name in files:
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_text("changed")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "after")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["params.yaml", "dvc.lock", "metrics/gate.json"], ["params.yaml"]),
        (["data.dvc", "dvc.lock"], ["data.dvc"]),
        (["docs/日本語.md"], ["docs/日本語.md"]),
        (["metrics-of-mine/a.json", "dvc.lock"], ["metrics-of-mine/a.json"]),
        (
            ["releases/policy/3/manifest.json", "releases/policy/3/origin/manifest.json"],
            ["releases/policy/3/origin/manifest.json"],
        ),
    ],
    ids=["parameters", "data", "another script", "beside the metrics", "a rollback"],
)
def test_a_merge_that_changes_more_than_records_calls_for_a_release(tmp_path, files, found):
    merge(tmp_path, files)
    assert unreleased(tmp_path, "before") == found


@pytest.mark.parametrize(
    "files",
    [
        [
            "deploy/policy/production/release.env",
            "releases/policy/2/bundles/deployment-production.json",
            "releases/audit.jsonl",
            "dvc.lock",
            "metrics/backtest.json",
        ],
        ["releases/policy/2/manifest.json", "releases/policy/2/content.dvc", "releases/policy/2/.gitignore"],
    ],
    ids=["a promotion", "a release"],
)
def test_a_merge_of_records_alone_releases_nothing(tmp_path, files):
    merge(tmp_path, files)
    assert unreleased(tmp_path, "before") == []


def test_a_commit_before_that_is_not_known_gives_no_answer(tmp_path):
    merge(tmp_path, ["params.yaml"])
    with pytest.raises(CannotCheck):
        unreleased(tmp_path, "0" * 40)
