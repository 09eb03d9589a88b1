"""A folder is believed only in its own place and with the digest that the log has for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.release.workshop import Workshop

from sekisho.cli import main
from sekisho.errors import Refused
from sekisho.release import audit
from sekisho.release.manifest import canonical, read_manifest
from sekisho.release.revoke import revoke


def refused(rule: str) -> pytest.RaisesExc[Refused]:
    return pytest.raises(Refused, match=f"refused by rule {rule}:")


def seq(shop: Workshop, number: int) -> Path:
    return shop.repo / f"releases/policy/{number}"


def other_digest(folder: Path) -> None:
    """Another manifest of the same model and seq."""
    manifest, _ = read_manifest(folder)
    value = manifest.model_dump(mode="json")
    value["created_from"]["commit"] = "f" * 40
    (folder / "manifest.json").write_bytes(canonical(value))


def log_of(shop: Workshop) -> bytes:
    return (shop.repo / "releases" / audit.LOG).read_bytes()


# what is revoked


def test_a_revocation_is_of_the_release_that_was_named(storied: Workshop) -> None:
    before = log_of(storied)
    shutil.copy(seq(storied, 1) / "manifest.json", seq(storied, 2))
    with refused("release-folder"):
        revoke(storied.desk, seq(storied, 2), "bad data", "local")
    assert log_of(storied) == before


def test_a_revocation_is_of_the_digest_that_the_log_has(storied: Workshop) -> None:
    before = log_of(storied)
    other_digest(seq(storied, 2))
    with refused("logged-release"):
        revoke(storied.desk, seq(storied, 2), "bad data", "local")
    assert log_of(storied) == before


def test_a_name_means_the_release_under_releases_whatever_lies_beside(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(seq(storied, 1), storied.repo / "policy/2")
    digest = read_manifest(seq(storied, 2))[1]
    monkeypatch.chdir(storied.repo)
    words = ["revoke", "policy/2", "--reason", "bad data", "--environment", "local"]
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    (event,) = [event for event in audit.read_log(Path("releases"))[0] if event.event == "revoke"]
    assert (event.seq, event.manifest_digest) == (2, digest)
    with refused("release-folder"):
        CliRunner().invoke(main, [words[0], "./policy/2", *words[2:]], catch_exceptions=False)
