"""A folder is believed only in its own place and with the digest that the log has for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.release.workshop import Workshop, git

from sekisho.cli import main
from sekisho.errors import CannotCheck, Refused
from sekisho.release import audit
from sekisho.release.manifest import canonical, read_manifest
from sekisho.release.promote import rollback
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


# what is compared with a value that was given


@pytest.mark.parametrize(
    "given", ["", "policy", "policy/1@", "policy/1@sha256:", "policy/1@sha256:" + "A" * 64]
)
def test_an_expected_release_that_names_none_is_never_a_pass(storied: Workshop, given: str) -> None:
    with pytest.raises(CannotCheck, match="not a release's name"):
        storied.verify(expect=given)


def test_an_empty_expectation_on_the_command_line_is_never_a_pass(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(storied.repo)
    for name in ("policy/3", "releases/policy/3"):
        words = ["verify", name, "--environment", "local", "--expect", ""]
        with pytest.raises(CannotCheck, match="not a release's name"):
            CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.mark.parametrize("given", ["", "sha256:", "f" * 63, "F" * 64, "sha512:" + "f" * 64])
def test_a_noted_head_that_is_no_digest_is_never_a_pass(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(storied.repo)
    with pytest.raises(CannotCheck, match="not a sha256"):
        CliRunner().invoke(main, ["audit", "check", "--from", given], catch_exceptions=False)


def test_a_noted_head_may_be_given_as_it_was_printed(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(storied.repo)
    printed = CliRunner().invoke(main, ["audit", "check"], catch_exceptions=False).output.split()[-1]
    assert printed.startswith("sha256:")
    assert CliRunner().invoke(main, ["audit", "check", "--from", printed]).exit_code == 0
    assert CliRunner().invoke(main, ["audit", "check", "--from", printed[7:]]).exit_code == 0


# what a new release is built on


def stand_in(shop: Workshop, number: int) -> None:
    """policy/2 in the place of another release."""
    shutil.rmtree(seq(shop, number))
    shutil.copytree(seq(shop, 2), seq(shop, number))


def test_an_export_names_the_predecessor_that_the_log_has(storied: Workshop) -> None:
    stand_in(storied, 3)
    before = log_of(storied)
    with refused("release-folder"):
        storied.next_release(1.4)
    git(storied.repo, "checkout", "-q", "HEAD~2", "--", "releases/policy/3")
    other_digest(seq(storied, 3))
    with refused("logged-release"):
        storied.next_release(1.5)
    assert log_of(storied) == before


def test_a_rollback_returns_to_what_the_log_has_under_the_seq(storied: Workshop) -> None:
    before = log_of(storied)
    stand_in(storied, 1)
    with refused("release-folder"):
        rollback(storied.desk, 1, "back", "local")
    assert log_of(storied) == before


def test_a_release_with_a_predecessor_that_the_log_does_not_know_is_not_signed(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_digest(seq(storied, 3))
    with monkeypatch.context() as patch:
        patch.setattr(audit, "require_logged", lambda *_: None)
        four = storied.next_release(1.4)
    with refused("logged-release"):
        storied.sign(four)
    assert not (four / "bundles").exists()
