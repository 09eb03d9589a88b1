"""What no list of attacks covers: any byte, any line, any moment."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sekisho.errors import CannotCheck, Refused
from sekisho.release.audit import read_log
from sekisho.release.audit_check import check_log
from sekisho.release.promote import promote, read_pointer


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


def commit(shop: Any) -> None:
    identity = ["-c", "user.name=engineer", "-c", "user.email=engineer@local.test"]
    for arguments in (["add", "-A"], ["commit", "-qm", "release"]):
        subprocess.run(["git", "-C", str(shop.repo), *identity, *arguments], check=True, capture_output=True)


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
    commit(shop)
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


# a crash at every write: the old state or the new one, and the command can be repeated

WRITES = ("replace", "fsync")


def kill_at(moment: int) -> None:
    """Make this process kill itself before its moment-th write."""
    calls = 0

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(os, name, call)

    for name in WRITES:
        wrap(name)


def killed_at(moment: int, command: str, shop: Any) -> bool:
    """Run the command in its own process and kill it at the moment-th write; False: it ended before."""
    # polars, which export and sign use, cannot be forked
    context = multiprocessing.get_context("spawn" if command in ("export", "sign") else "fork")
    process = context.Process(target=run_and_die, args=(moment, command, shop))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def run_and_die(moment: int, command: str, shop: Any) -> None:
    kill_at(moment)
    finish(shop, command)


def finish(shop: Any, command: str) -> None:
    if command == "export":
        shop.export()
    elif command == "sign":
        shop.sign()
    else:
        promote(shop.desk, shop.release, "local", "first")


def state(shop: Any) -> tuple[bool, bool, object]:
    """Exported, signed, promoted: each wholly or not at all (what is there must verify)."""
    exported = shop.release.exists()
    signed = (shop.release / "bundles").exists()
    if signed:
        shop.verify()
    pointer = read_pointer(shop.repo, "local")
    if pointer:
        shop.verify(deployed=True)
    read_log(shop.repo / "releases")
    return exported, signed, pointer


@pytest.mark.slow
@pytest.mark.parametrize("command", ["export", "sign", "promote"])
def test_killed_at_any_write_leaves_the_old_or_the_new_state(
    command: str, candidate_repo: Path, signed_repo: Path, candidate: Any, tmp_path: Path
) -> None:
    start = {"export": candidate_repo, "promote": signed_repo}.get(command)
    if start is None:
        candidate.export()
        candidate.open_local()
        start = candidate.repo
    moments = 0
    while True:
        moments += 1
        shop = type(candidate)(shutil.copytree(start, tmp_path / f"{command}-{moments}"))
        before = state(shop)
        if not killed_at(moments, command, shop):
            after = state(shop)
            break
        between = state(shop)
        finish(shop, command)
        after = state(shop)
        assert between in (before, after)
        assert before != after
        events = [event.event for event in read_log(shop.repo / "releases")[0]]
        assert events.count("export") == 1
        check_log(shop.repo)
    assert moments > 2
    assert before != after
