"""Order in time: what is older, undone, too long in force, or swapped between check and use is refused."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.release.workshop import Workshop, git, payload

from sekisho.errors import CannotCheck, Refused
from sekisho.pointer import Pointer, pointer_path, read_pointer
from sekisho.release import verify as verification
from sekisho.release.audit import now, read_log
from sekisho.release.audit_check import check_log
from sekisho.release.promote import promote, rollback
from sekisho.release.revoke import revoke


def refused(rule: str) -> Any:
    return pytest.raises(Refused, match=f"refused by rule {rule}:")


def stamp(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# an older release never comes back by itself


def test_emptying_the_pointer_does_not_let_an_older_release_in(shop: Workshop) -> None:
    newer = shop.second_release()
    promote(shop.desk, newer, "local", "newer")
    pointer_path(shop.repo, "local").write_text("RELEASE=none\n")
    with refused("replayed-seq"):
        promote(shop.desk, shop.release, "local", "older")


@pytest.mark.parametrize("fact", ["provenance", "evaluation", "data", "approval"])
def test_a_fact_of_another_release_is_refused(shop: Workshop, fact: str) -> None:
    newer = shop.second_release()
    name = f"bundles/{fact}.sigstore.json"
    shutil.copy(shop.release / name, newer / name)
    with refused("wrong-subject|signed-commit"):
        shop.verify(newer)


def test_a_promotion_of_another_release_is_refused(shop: Workshop) -> None:
    promote(shop.desk, shop.release, "local", "first")
    newer = shop.second_release()
    name = "bundles/deployment-local.sigstore.json"
    shutil.copy(shop.release / name, newer / name)
    with refused("wrong-subject"):
        shop.verify(newer, deployed=True)


def predicate(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement["predicate"].update(changes)


@pytest.mark.parametrize(
    ("changes", "extensions", "rule"),
    [
        ({"environment": "production"}, {}, "deployment-environment"),
        ({"environment": "production"}, {"e23": "production"}, "identity-github-environment"),
        ({"action": "promote"}, {}, "deployment-action"),
        ({"seq": 1}, {}, "deployment-release"),
    ],
    ids=["for another environment", "signed in another environment", "as an ordinary one", "of its origin"],
)
def test_a_false_promotion_of_a_rollback_is_refused(
    shop: Workshop, changes: dict[str, Any], extensions: dict[str, Any], rule: str
) -> None:
    shop.second_release()
    entry = shop.rolled_back()
    promote(shop.desk, entry, "local", "back")
    shop.verify(entry, deployed=True)
    shop.forge("deployment-local", predicate(**changes), release=entry, **extensions)
    with refused(rule):
        shop.verify(entry, deployed=True)


def test_a_release_that_claims_to_be_a_rollback_is_refused(shop: Workshop) -> None:
    promote(shop.desk, shop.release, "local", "first")
    shop.forge("deployment-local", predicate(action="rollback"))
    with refused("deployment-action"):
        shop.verify(deployed=True)


def test_a_rollback_is_signed_only_where_its_own_pull_request_was_merged(shop: Workshop) -> None:
    """The approval of anything else with the same lock and report does not bring old content back."""
    shop.second_release()
    shop.commit()
    entry = rollback(shop.desk, 1, "reason", "local")
    with refused("approval-rollback"):
        shop.sign(entry)  # the entry was never merged
    shop.commit("rollback PR")
    for changes in ({"tree": "d" * 40}, {"merge_sha": "d" * 40}):
        with refused("approval-rollback"):
            shop.sign(entry, **changes)
    assert not (entry / "bundles").exists()
    shop.sign(entry)


# promotions and lists hold for a limited time, whatever end they name


def test_a_promotion_without_an_end_in_sight_is_refused(shop: Workshop) -> None:
    promote(shop.desk, shop.release, "local", "first")
    shop.forge("deployment-local", predicate(expires="2999-01-01T00:00:00Z"))
    with refused("deployment-lifetime"):
        shop.verify(deployed=True)


@pytest.mark.parametrize("left", [10, -1], ids=["runs out soon", "has run out"])
def test_promoting_again_renews_what_runs_out(shop: Workshop, left: int) -> None:
    promote(shop.desk, shop.release, "local", "first")
    shop.forge("deployment-local", predicate(expires=stamp(now() + dt.timedelta(days=left))))
    promote(shop.desk, shop.release, "local", "first")
    path = shop.release / "bundles/deployment-local.sigstore.json"
    assert payload(path)["predicate"]["expires"] > stamp(now() + dt.timedelta(days=80))
    events = [event.event for event in read_log(shop.repo / "releases")[0]]
    assert events.count("promote") == 2
    check_log(shop.repo)
    kept = path.read_bytes()
    promote(shop.desk, shop.release, "local", "first")
    assert path.read_bytes() == kept


def test_a_list_without_an_end_in_sight_is_refused(shop: Workshop) -> None:
    shop.forge_list(expires="2999-01-01T00:00:00Z")
    with refused("revocation-lifetime"):
        shop.verify()


@pytest.mark.parametrize("days", [-20, 20])
def test_a_list_of_another_day_than_its_signature_is_refused(shop: Workshop, days: int) -> None:
    moment = now() + dt.timedelta(days=days)
    shop.forge_list(issued=stamp(moment), expires=stamp(moment + dt.timedelta(days=7)))
    with refused("revocation-time"):
        shop.verify()


def test_a_list_signed_by_the_release_workflow_is_refused(shop: Workshop) -> None:
    statement = payload(shop.trust / "local/revoked.sigstore.json")
    from sekisho.release.manifest import canonical

    path = shop.trust / "local/revoked.sigstore.json"
    path.write_bytes(shop.seal("approval", canonical(statement), None, None, {}))
    with refused("identity-workflow"):
        shop.verify()


def test_a_list_whose_subject_is_not_itself_is_refused(shop: Workshop) -> None:
    from sekisho.release.manifest import canonical

    path = shop.trust / "local/revoked.sigstore.json"
    statement = payload(path)
    statement["subject"][0]["digest"]["sha256"] = "f" * 64
    path.write_bytes(shop.seal("revocation", canonical(statement), None, None, {}))
    with refused("wrong-subject"):
        shop.verify()


def test_an_older_list_than_the_promotion_knew_is_refused(shop: Workshop) -> None:
    path = shop.trust / "local/revoked.sigstore.json"
    older = path.read_bytes()
    newer = shop.second_release()
    revoke(shop.desk, shop.release, "trained on bad data", "local")
    promote(shop.desk, newer, "local", "the good one")
    shop.verify(newer, deployed=True)
    path.write_bytes(older)  # signed, and not run out
    with refused("revocation-replayed"):
        shop.verify(newer, deployed=True)


def test_an_undone_revocation_is_noticed(shop: Workshop) -> None:
    path = shop.trust / "local/revoked.sigstore.json"
    older = path.read_bytes()
    revoke(shop.desk, shop.release, "trained on bad data", "local")
    check_log(shop.repo)
    path.write_bytes(older)
    with pytest.raises(Refused, match=r"audit-missing-event: .*every revocation of the log"):
        check_log(shop.repo)


def test_a_list_that_was_never_logged_is_noticed(shop: Workshop) -> None:
    shop.forge_list(serial=9)
    with pytest.raises(Refused, match=r"audit-missing-event: .*revocation list 9"):
        check_log(shop.repo)


# nothing changes between check and use


def test_a_file_swapped_after_its_check_is_refused(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    check = verification.check_files

    def check_then_swap(manifest: Any, content: Path) -> None:
        check(manifest, content)
        (content / "gate.json").write_text('{"passed": true, "rules": [{"passed": true}]}')

    monkeypatch.setattr(verification, "check_files", check_then_swap)
    with refused("file-digest"):
        shop.verify()


def test_a_file_swapped_for_a_link_after_its_check_is_refused(shop: Workshop) -> None:
    verified = shop.verify()
    path = shop.release / "content/model.onnx"
    path.rename(shop.repo / "model.onnx")
    path.symlink_to(shop.repo / "model.onnx")
    with refused("symlink"):
        verified.read("model.onnx")


# the history itself


def test_a_missing_predecessor_is_noticed(shop: Workshop) -> None:
    shop.second_release()
    check_log(shop.repo)
    shutil.rmtree(shop.release)
    with refused("release-chain"):
        check_log(shop.repo)


def test_a_log_that_lost_a_merge_is_noticed(shop: Workshop) -> None:
    """A merge that keeps the other side's log: git's own history of the file would show that side only."""
    log = shop.repo / "releases/audit.jsonl"
    git(shop.repo, "switch", "-q", "-c", "side")
    shop.commit("the log as it was")
    kept = log.read_bytes()
    git(shop.repo, "switch", "-q", "-c", "honest")
    promote(shop.desk, shop.release, "local", "first")
    shop.commit("a promotion")
    git(shop.repo, "switch", "-q", "side")
    (shop.repo / "note").write_text("x")
    shop.commit("something else")
    git(shop.repo, "merge", "-q", "--no-ff", "-s", "ours", "honest", "-m", "merge")
    assert log.read_bytes() == kept
    with refused("audit-truncated"):
        check_log(shop.repo)


def test_a_clone_without_the_whole_history_proves_nothing(shop: Workshop, tmp_path: Path) -> None:
    shop.commit()
    words = ["git", "clone", "-q", "--depth", "1", f"file://{shop.repo}", str(tmp_path / "shallow")]
    subprocess.run(words, check=True, capture_output=True)
    with pytest.raises(CannotCheck, match="lacks part of the history"):
        check_log(tmp_path / "shallow")


def test_a_repeated_command_after_others_is_logged_again(shop: Workshop) -> None:
    promoted, _ = promote(shop.desk, shop.release, "local", "first")
    assert read_pointer(shop.repo, "local") == Pointer("policy", 1, promoted.digest)
    revoke(shop.desk, None, "", "local")
    revoke(shop.desk, None, "", "local")
    lines = [event.event for event in read_log(shop.repo / "releases")[0]]
    assert lines[-3:] == ["promote", "renew", "renew"]


def test_each_list_has_a_line_and_a_serial_of_its_own(shop: Workshop) -> None:
    before = len(read_log(shop.repo / "releases")[0])
    serials = [revoke(shop.desk, None, "", "local").serial for _ in range(3)]
    serials += [revoke(shop.desk, shop.release, "bad data", "local").serial for _ in range(2)]
    assert serials == list(range(serials[0], serials[0] + 5))
    assert len(read_log(shop.repo / "releases")[0]) == before + 5
    check_log(shop.repo)


def test_another_model_in_the_parameters_does_not_let_an_older_release_in(shop: Workshop) -> None:
    newer = shop.second_release()
    promote(shop.desk, newer, "local", "newer")
    pointer_path(shop.repo, "local").write_text("RELEASE=none\n")
    params = shop.repo / "params.yaml"
    params.write_text(params.read_text().replace("model: policy", "model: other"))
    assert shop.desk.params.model == "other"
    with refused("replayed-seq"):
        promote(shop.desk, shop.release, "local", "older")
