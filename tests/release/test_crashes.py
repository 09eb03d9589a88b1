"""A crash at every write: the old state or the new one, and the command can be repeated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.release.workshop import COMMANDS, ROOT, Workshop, payload

from sekisho.pointer import read_pointer
from sekisho.release.audit import read_log
from sekisho.release.audit_check import check_log
from sekisho.release.pack_verify import verify_pack
from sekisho.release.promote import promote
from sekisho.release.revocation import REVOCATIONS


def state(shop: Workshop) -> tuple[object, ...]:
    """Which releases there are, which of them are signed, what is promoted, revoked and packed.

    Each wholly or not at all: what is there must be whole and verify.
    """
    folders = sorted(path.parent for path in shop.repo.glob("releases/policy/[0-9]*/manifest.json"))
    assert folders == sorted(path for path in shop.repo.glob("releases/policy/[0-9]*"))
    signed = [folder.name for folder in folders if (folder / "bundles").exists()]
    revoked = _revoked(shop)
    for name in signed:
        if name not in revoked:
            shop.verify(shop.repo / "releases/policy" / name)
    pointer = read_pointer(shop.repo, "local")
    if pointer:
        shop.verify(deployed=True)
    read_log(shop.repo / "releases")
    pack = shop.repo / "build/pack"
    packed = len(verify_pack(pack)) if pack.exists() else 0
    return [folder.name for folder in folders], signed, pointer, revoked, packed


def _revoked(shop: Workshop) -> list[str]:
    path = shop.trust / "local/revoked.sigstore.json"
    statement = payload(path) if path.exists() else {"predicate": {"revoked": []}}
    assert not path.exists() or statement["subject"][0]["name"] == REVOCATIONS
    return [str(entry["seq"]) for entry in statement["predicate"]["revoked"]]


def prepare(command: str, shop: Workshop) -> None:
    """Bring a repository with a candidate to where the command starts."""
    if command == "export":
        return
    shop.export()
    shop.open_local()
    if command == "sign":
        return
    shop.sign()
    if command == "rollback":
        shop.second_release()
        shop.commit()
    if command == "pack":
        promote(shop.desk, shop.release, "local", "first")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_write_leaves_the_old_or_the_new_state(
    command: str, candidate: Workshop, tmp_path: Path
) -> None:
    prepare(command, candidate)
    if command == "sign":
        candidate.record(candidate.release)
    before = state(candidate)
    runs = tmp_path / "runs"
    words = [sys.executable, "-m", "tests.release.crash_driver", command, str(candidate.repo), str(runs)]
    subprocess.run(words, cwd=ROOT, check=True)
    folders = sorted(runs.iterdir(), key=lambda path: int(path.name))
    after = state(Workshop(folders[-1]))  # the one run that nothing killed
    assert before != after
    # a write that changes nothing but a temporary file's name leaves what the write before left
    left = {shape(Workshop(folder)): Workshop(folder) for folder in folders[:-1]}
    assert len(left) > 2
    for shop in left.values():
        assert state(shop) in (before, after)
        COMMANDS[command](shop)
        assert state(shop) == after
        check_log(shop.repo)


def shape(shop: Workshop) -> tuple[object, ...]:
    """What a crash left, by kind of file: names of temporary files differ from run to run."""
    left = []
    for path in sorted(shop.repo.rglob("*")):
        parts = path.relative_to(shop.repo).parts
        if ".git" not in parts:
            named = ["*" if part.startswith(".") and "-" in part else part for part in parts]
            left.append(("/".join(named), path.is_dir() or path.stat().st_size))
    return tuple(left)
