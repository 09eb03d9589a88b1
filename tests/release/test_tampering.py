"""What no list of attacks covers: any byte, any line, any moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.release.workshop import Workshop

from sekisho.errors import CannotCheck, Refused
from sekisho.release.audit_check import check_log
from sekisho.release.promote import promote


@pytest.fixture(scope="module")
def standing(signed_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A deployed rollback: it has every kind of file that a release can have."""
    shop = Workshop(shutil.copytree(signed_repo, tmp_path_factory.mktemp("standing") / "repo"))
    shop.second_release()
    promote(shop.desk, shop.rolled_back(), "local", "back")
    return shop


def verify_standing(shop: Workshop) -> None:
    shop.verify(shop.repo / "releases/policy/3", deployed=True)


def signed_files(shop: Workshop) -> list[Path]:
    """Every file that a verifier reads, but content.dvc and .gitignore, which only carry the folder."""
    release = shop.repo / "releases/policy/3"
    carried = {release / "content.dvc", release / ".gitignore"}
    files = sorted(path for path in release.rglob("*") if path.is_file() and path not in carried)
    return [*files, shop.trust / "local/revoked.sigstore.json"]


def change_byte(raw: bytes, position: int, data: st.DataObject) -> bytes:
    return raw[:position] + bytes([raw[position] ^ data.draw(st.integers(1, 255))]) + raw[position + 1 :]


def insert_byte(raw: bytes, position: int, data: st.DataObject) -> bytes:
    return raw[:position] + bytes([data.draw(st.integers(0, 255))]) + raw[position:]


def drop_byte(raw: bytes, position: int, data: st.DataObject) -> bytes:
    return raw[:position] + raw[position + 1 :]


def cut(raw: bytes, position: int, data: st.DataObject) -> bytes:
    return raw[:position]


@pytest.mark.parametrize(
    ("change", "examples"), [(change_byte, 300), (insert_byte, 60), (drop_byte, 60), (cut, 60)]
)
def test_any_changed_byte_is_refused(standing: Workshop, change: Any, examples: int) -> None:
    files = signed_files(standing)
    assert len(files) >= 24
    verify_standing(standing)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=st.data())
    def refuse(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(files))
        raw = path.read_bytes()
        try:
            path.write_bytes(change(raw, data.draw(st.integers(0, len(raw) - 1)), data))
            with pytest.raises((Refused, CannotCheck)):
                verify_standing(standing)
        finally:
            path.write_bytes(raw)

    refuse()


# the audit log


def log_path(shop: Any) -> Path:
    path: Path = shop.repo / "releases/audit.jsonl"
    return path


def rewrite(shop: Any, change: Callable[[list[bytes]], list[bytes]]) -> None:
    lines = log_path(shop).read_bytes().splitlines()
    log_path(shop).write_bytes(b"".join(line + b"\n" for line in change(lines)))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda lines: [lines[0].replace(b"releaser", b"somebody"), *lines[1:]], "audit-chain"),
        (lambda lines: [lines[0], *lines[2:]], "audit-chain"),
        (lambda lines: lines[1:], "audit-chain"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "audit-chain"),
        (lambda lines: [lines[0], lines[0], *lines[1:]], "audit-chain"),
        (lambda lines: [*lines, lines[-1]], "audit-chain"),
        (lambda lines: [*lines, b"{}"], "audit-chain"),
        (lambda lines: lines[:-1], "audit-truncated"),
        (lambda lines: lines[:1], "audit-truncated"),
        (lambda lines: [lines[0].replace(b'"line":1', b'"line":1 '), *lines[1:]], "audit-chain"),
    ],
    ids=[
        "edit",
        "delete",
        "behead",
        "reorder",
        "repeat",
        "repeat last",
        "append",
        "cut one",
        "cut all",
        "respace",
    ],
)
def test_a_tampered_log_is_refused(shop: Any, change: Any, rule: str) -> None:
    promote(shop.desk, shop.release, "local", "first")
    check_log(shop.repo)
    rewrite(shop, change)
    with pytest.raises(Refused, match=f"refused by rule {rule}:"):
        check_log(shop.repo)


def test_a_committed_log_cannot_be_replaced_by_another_whole_one(shop: Any) -> None:
    shop.commit()
    log_path(shop).unlink()
    with pytest.raises(Refused, match="audit-truncated"):
        check_log(shop.repo)


def test_a_release_that_was_never_logged_is_refused(shop: Any) -> None:
    shutil.rmtree(shop.release / "bundles")
    log_path(shop).unlink()
    with pytest.raises(Refused, match="audit-missing-event"):
        check_log(shop.repo)


def test_a_pointer_moved_by_hand_is_refused(shop: Any) -> None:
    promote(shop.desk, shop.release, "local", "first")
    path = shop.repo / "deploy/policy/local/release.env"
    path.write_text(f"RELEASE=policy/1@sha256:{'f' * 64}\n")
    with pytest.raises(Refused, match="audit-missing-event"):
        check_log(shop.repo)


def test_replaced_bundles_are_noticed(shop: Any) -> None:
    shop.forge("approval")  # verifies, but is not what was logged
    shop.verify()
    with pytest.raises(Refused, match="audit-missing-event"):
        check_log(shop.repo)
