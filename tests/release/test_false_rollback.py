"""A signed "rollback" whose files are not those of the release it names: every verifier refuses it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.release.test_evidence import make_pack, run_alone, run_go, sigstore_go
from tests.release.workshop import Workshop

from sekisho.errors import Refused
from sekisho.release import audit, pack, promote, verify
from sekisho.release.audit_check import check_log

__all__ = ["sigstore_go"]  # the fixture


@pytest.fixture
def false_rollback(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """policy/3 says that it returns to policy/1 and holds the files of policy/2; signed, promoted."""
    copytree = shutil.copytree

    def other(source: Path, target: Path, **options: Any) -> Any:
        seq_two = str(source).replace("policy/1", "policy/2") if Path(source).name == "content" else source
        return copytree(seq_two, target, **options)

    promote.promote(shop.desk, shop.release, "local", "first")
    promote.promote(shop.desk, shop.second_release(), "local", "better")
    with monkeypatch.context() as patch:
        patch.setattr(verify, "_check_origin", lambda *_: None)
        patch.setattr(promote.shutil, "copytree", other)
        folder = shop.rolled_back()
        patch.setattr(promote.shutil, "copytree", copytree)
        promote.promote(shop.desk, folder, "local", "back")
        shop.commit("promoted")
        patch.setattr(pack, "check_log", lambda repo: audit.head_of(audit.read_log(repo / "releases")[1]))
        patch.setattr(pack, "_verify", lambda _: None)
        make_pack(shop, tmp_path / "pack")
    return shop


def test_a_rollback_with_other_files_than_its_origins_is_refused(
    false_rollback: Workshop, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="refused by rule rollback-content:"):
        false_rollback.verify(false_rollback.repo / "releases/policy/3")
    with pytest.raises(Refused, match="refused by rule rollback-content:"):
        check_log(false_rollback.repo)
    done = run_alone(tmp_path / "pack")
    assert (done.returncode, "files of what it returns to" in done.stderr) == (1, True), done.stderr


@pytest.mark.slow
def test_sigstore_go_refuses_a_rollback_with_other_files_than_its_origins(
    sigstore_go: Path,
    false_rollback: Workshop,
    tmp_path: Path,
) -> None:
    done = run_go(sigstore_go, tmp_path / "pack")
    assert (done.returncode, "not the content of policy/1" in done.stderr) == (1, True), done.stderr
