"""What no list of attacks covers: any byte, any line, any moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sekisho.errors import CannotCheck, Refused
from sekisho.release.audit_check import check_log
from sekisho.release.promote import promote


@pytest.fixture(scope="module")
def standing(signed_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(signed_repo, tmp_path_factory.mktemp("standing") / "repo")


def signed_files(release: Path) -> list[Path]:
    return [
        release / "manifest.json",
        *sorted((release / "content").iterdir()),
        *sorted((release / "bundles").iterdir()),
    ]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_changed_byte_is_refused(standing: Path, data: st.DataObject) -> None:
    from sekisho.release.verify import verify_release

    release = standing / "releases/policy/1"
    path = data.draw(st.sampled_from(signed_files(release)))
    raw = path.read_bytes()
    position = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[position] ^ data.draw(st.integers(1, 255))
    try:
        path.write_bytes(raw[:position] + bytes([changed]) + raw[position + 1 :])
        with pytest.raises((Refused, CannotCheck)):
            verify_release(release, trust=standing / "trust", environment="local")
    finally:
        path.write_bytes(raw)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_cut_file_is_refused(standing: Path, data: st.DataObject) -> None:
    from sekisho.release.verify import verify_release

    release = standing / "releases/policy/1"
    path = data.draw(st.sampled_from(signed_files(release)))
    raw = path.read_bytes()
    try:
        path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
        with pytest.raises((Refused, CannotCheck)):
            verify_release(release, trust=standing / "trust", environment="local")
    finally:
        path.write_bytes(raw)


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
