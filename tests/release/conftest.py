"""Scratch repositories: one with a reproduced candidate, one with a signed release of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.release.workshop import Workshop, build_repo

from sekisho.release.promote import promote


@pytest.fixture(scope="session")
def candidate_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_repo(tmp_path_factory.mktemp("candidate") / "repo").repo


@pytest.fixture(scope="session")
def signed_repo(candidate_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repo = tmp_path_factory.mktemp("signed") / "repo"
    shutil.copytree(candidate_repo, repo)
    shop = Workshop(repo)
    shop.export()
    shop.open_local()
    shop.sign()
    return repo


@pytest.fixture(scope="session")
def storied_repo(signed_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repo = tmp_path_factory.mktemp("storied") / "repo"
    shutil.copytree(signed_repo, repo)
    shop = Workshop(repo)
    promote(shop.desk, shop.release, "local", "first")
    promote(shop.desk, shop.second_release(), "local", "better")
    promote(shop.desk, shop.rolled_back(), "local", "back")
    shop.commit("promoted")
    return repo


@pytest.fixture
def candidate(candidate_repo: Path, tmp_path: Path) -> Workshop:
    """A repository with a candidate that passed the gate, nothing exported."""
    return Workshop(shutil.copytree(candidate_repo, tmp_path / "repo"))


@pytest.fixture
def shop(signed_repo: Path, tmp_path: Path) -> Workshop:
    """The same with release policy/1 exported and signed."""
    return Workshop(shutil.copytree(signed_repo, tmp_path / "repo"))


@pytest.fixture
def storied(storied_repo: Path, tmp_path: Path) -> Workshop:
    """policy/1 and policy/2 promoted, then policy/3, a rollback to the first; all of it committed."""
    return Workshop(shutil.copytree(storied_repo, tmp_path / "repo"))
