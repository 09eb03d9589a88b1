"""A command killed between its line in the log and what that says is completed before anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.release.workshop import Workshop

from sekisho.errors import Refused
from sekisho.release import audit, sign
from sekisho.release.audit_check import check_log
from sekisho.release.promote import promote, rollback
from sekisho.release.revoke import revoke


def refused(rule: str) -> pytest.RaisesExc[Refused]:
    return pytest.raises(Refused, match=f"refused by rule {rule}:")


def killed(monkeypatch: pytest.MonkeyPatch, name: str, command: Callable[[], object]) -> None:
    """Run the command until it would write the file ``name``…, which it never does."""
    real_write, real_move = audit.write_atomically, sign.os.replace

    def write(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name.startswith(name):
            raise KeyboardInterrupt
        real_write(path, *arguments, **options)

    def move(source: Path, target: Path) -> None:
        if Path(target).name.startswith(name):
            raise KeyboardInterrupt
        real_move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(audit, "write_atomically", write)
        patch.setattr(sign.os, "replace", move)
        with pytest.raises(KeyboardInterrupt):
            command()


def test_nothing_is_promoted_signed_or_exported_before_a_killed_promotion_is_completed(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(shop.desk, shop.release, "local", "first")
    two = shop.second_release()
    three = shop.next_release(1.4)
    shop.sign(three)
    killed(monkeypatch, "deployment-", lambda: promote(shop.desk, two, "local", "better"))
    before = audit.read_log(shop.repo / "releases")
    with refused("unfinished"):
        promote(shop.desk, three, "local", "best")
    with refused("unfinished"):
        shop.next_release(1.5)
    assert audit.read_log(shop.repo / "releases") == before
    promote(shop.desk, two, "local", "better")
    promote(shop.desk, three, "local", "best")
    check_log(shop.repo)


def test_a_killed_renewal_is_completed_before_a_newer_promotion(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = shop.second_release()
    promote(shop.desk, shop.release, "local", "first")
    monkeypatch.setattr("sekisho.release.promote._holds", lambda *_: False)
    killed(monkeypatch, "deployment-", lambda: promote(shop.desk, shop.release, "local", "longer"))
    with refused("unfinished"):
        promote(shop.desk, two, "local", "better")
    promote(shop.desk, shop.release, "local", "longer")
    promote(shop.desk, two, "local", "better")
    check_log(shop.repo)


def test_nothing_is_promoted_or_rolled_back_before_a_killed_signature_is_completed(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = shop.next_release(1.3)
    killed(monkeypatch, "bundles", lambda: shop.sign(two))
    with refused("unfinished"):
        promote(shop.desk, shop.release, "local", "first")
    with refused("unfinished"):
        rollback(shop.desk, 1, "back", "local")
    shop.sign(two)
    promote(shop.desk, shop.release, "local", "first")
    check_log(shop.repo)


def test_nothing_is_signed_before_a_killed_promotion_is_completed(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = shop.next_release(1.3)
    killed(monkeypatch, "deployment-", lambda: promote(shop.desk, shop.release, "local", "first"))
    with refused("unfinished"):
        shop.sign(two)
    assert not (two / "bundles").exists()
    promote(shop.desk, shop.release, "local", "first")
    shop.sign(two)
    check_log(shop.repo)


# a revocation whose line is written counts, whatever list lies there


def test_a_killed_revocation_already_keeps_the_release_out(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(shop.desk, shop.release, "local", "first")
    two = shop.second_release()
    shop.sign(shop.next_release(1.4))
    killed(monkeypatch, "revoked", lambda: revoke(shop.desk, two, "bad data", "local"))
    with refused("revoked"):
        promote(shop.desk, two, "local", "better")
    with refused("revoked"):
        rollback(shop.desk, 2, "better", "local")
    with refused("revocation-replayed"):
        promote(shop.desk, shop.release, "local", "longer")  # not revoked, but the list is not the newest
    revoke(shop.desk, two, "bad data", "local")
    promote(shop.desk, shop.release, "local", "first")
    check_log(shop.repo)


def test_an_old_list_put_back_lets_no_revoked_release_in(shop: Workshop) -> None:
    two = shop.second_release()
    path = shop.trust / "local/revoked.sigstore.json"
    older = path.read_bytes()
    revoke(shop.desk, two, "bad data", "local")
    path.write_bytes(older)
    with refused("revoked"):
        promote(shop.desk, two, "local", "better")
    with refused("revocation-replayed"):
        promote(shop.desk, shop.release, "local", "first")
