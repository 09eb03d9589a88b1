"""What the log has seen must be there, in its place, as it was: nothing removed, moved or replaced."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.release.workshop import Workshop, git

from sekisho.cli import main
from sekisho.errors import CannotCheck, Refused
from sekisho.pointer import pointer_path
from sekisho.release import audit
from sekisho.release.audit_check import check_log
from sekisho.release.audit_page import write_page
from sekisho.release.pack import export_pack
from sekisho.release.promote import promote, rollback
from sekisho.release.revoke import revoke
from sekisho.release.trace import table, trace_release

LIST = "trust/local/revoked.sigstore.json"


def refused(rule: str) -> pytest.RaisesExc[Refused]:
    return pytest.raises(Refused, match=f"refused by rule {rule}:")


def seq(shop: Workshop, number: int) -> Path:
    return shop.repo / f"releases/policy/{number}"


def remove(*names: str) -> Callable[[Workshop], None]:
    def attack(shop: Workshop) -> None:
        for name in names:
            path = shop.repo / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return attack


def empty_pointer(shop: Workshop) -> None:
    pointer_path(shop.repo, "local").write_text("RELEASE=none\n")


def swap_origin(shop: Workshop) -> None:
    bundles = seq(shop, 3) / "bundles"
    shutil.copy(bundles / "data.sigstore.json", seq(shop, 3) / "origin/bundles")


@pytest.mark.parametrize(
    ("attack", "what"),
    [
        (remove("releases/policy/3"), "policy/3 of sha256"),
        (remove("releases/policy/3", "releases/policy/2/bundles"), "."),
        (remove("releases/policy/2/bundles"), "the signed facts in"),
        (remove("releases/policy"), "policy/1 of sha256"),
        (remove("releases/policy/3/manifest.json"), "policy/3 of sha256"),
        (remove("releases/policy/3/bundles/deployment-local.sigstore.json"), "the promotion of policy/3"),
        (remove("releases/policy/1/bundles/deployment-local.sigstore.json"), "the promotion of policy/1"),
        (empty_pointer, "local pointing at policy/3"),
        (remove("deploy/policy/local/release.env"), "local pointing at policy/3"),
        (remove("releases/policy/1/content.dvc"), "content.dvc of policy/1"),
        (remove("releases/policy/3/origin"), "origin/manifest.json as in"),
        (remove("releases/policy/3/origin/bundles/approval.sigstore.json"), "approval.sigstore.json as in"),
        (swap_origin, "origin/bundles/data.sigstore.json as in"),
    ],
    ids=[
        "newest release",
        "newest release and older facts",
        "facts of an older release",
        "all releases",
        "newest manifest",
        "promotion in force",
        "older promotion",
        "pointer emptied",
        "pointer",
        "where DVC finds the content",
        "origin of a rollback",
        "a fact of the origin",
        "another fact of the origin",
    ],
)
@pytest.mark.parametrize("committed", [False, True], ids=["removed", "removed and committed"])
def test_removed_evidence_is_noticed(
    storied: Workshop, attack: Callable[[Workshop], None], what: str, committed: bool
) -> None:
    check_log(storied.repo)
    attack(storied)
    if committed:
        storied.commit("tidy up")
    with pytest.raises(Refused, match=f"audit-missing-evidence: .*{what}"):
        check_log(storied.repo)


@pytest.mark.parametrize("name", ["releases", "releases/audit.jsonl", "releases/policy"])
def test_a_link_in_the_place_of_the_record_is_refused(storied: Workshop, name: str) -> None:
    """Git would keep the history of another name: a committed line could be replaced."""
    path = storied.repo / name
    path.rename(storied.repo / "elsewhere")
    path.symlink_to(storied.repo / "elsewhere")
    storied.commit("move")
    with refused("symlink"):
        check_log(storied.repo)


def test_a_removed_list_of_revocations_is_noticed(storied: Workshop) -> None:
    remove(LIST)(storied)
    check_log(storied.repo)  # it revoked nothing; nothing verifies without it
    revoke(storied.desk, seq(storied, 2), "bad data", "local")
    remove(LIST)(storied)
    with refused("audit-missing-evidence"):
        check_log(storied.repo)


def test_no_pack_leaves_a_signed_release_out(storied: Workshop, tmp_path: Path) -> None:
    remove("releases/policy/2/bundles")(storied)
    today = audit.now().date()
    with refused("audit-missing-evidence"):
        export_pack(storied.repo, storied.trust, "local", today, today, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_an_export_that_was_interrupted_is_no_missing_evidence(storied: Workshop) -> None:
    folder = storied.next_release(1.4)
    shutil.rmtree(folder)
    check_log(storied.repo)
    assert storied.export() == folder


# each release in its own folder


def stand_in(shop: Workshop) -> Path:
    """policy/1 in the place of policy/3."""
    shutil.rmtree(seq(shop, 3))
    return Path(shutil.copytree(seq(shop, 1), seq(shop, 3)))


def test_a_release_in_anothers_place_is_refused(storied: Workshop) -> None:
    folder = stand_in(storied)
    with refused("release-folder"):
        check_log(storied.repo)
    with refused("release-folder"):
        trace_release(storied.repo, folder, trust=storied.trust, environment="local")


def test_verify_demands_the_release_that_was_named(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, digest = audit_digest(storied, 3)
    monkeypatch.chdir(storied.repo)

    def verify(*words: str) -> None:
        CliRunner().invoke(main, ["verify", *words, "--environment", "local"], catch_exceptions=False)

    storied.verify(seq(storied, 3), expect=f"policy/3@sha256:{digest}", deployed=True)
    stand_in(storied)
    verify("releases/policy/3")  # a folder and no name: it is what it says inside
    with refused("expected-release"):
        verify("policy/3", "--deployed")
    with refused("expected-release"):
        verify("releases/policy/3", "--expect", f"policy/3@sha256:{digest}")
    with refused("expected-release"):
        storied.verify(seq(storied, 1), expect=f"policy/1@sha256:{digest}")


def audit_digest(shop: Workshop, number: int) -> tuple[int, str]:
    events, _ = audit.read_log(shop.repo / "releases")
    return len(events), audit.signed_releases(events)["policy", number]


def test_a_release_outside_the_repository_is_neither_signed_nor_promoted(
    storied: Workshop, tmp_path: Path
) -> None:
    outside = Path(shutil.copytree(seq(storied, 3), tmp_path / "releases/policy/3"))
    with refused("release-folder"):
        promote(storied.desk, outside, "local", "again")
    new = storied.next_release(1.4)
    outside = Path(shutil.copytree(new, tmp_path / "releases/policy/4"))
    with refused("release-folder"):
        storied.sign(outside)
    assert not (outside / "bundles").exists()


# a seq is given once


def test_the_seq_of_a_removed_release_is_not_given_again(storied: Workshop) -> None:
    shutil.rmtree(seq(storied, 3))
    with refused("release-missing"):
        storied.next_release(1.4)
    with refused("release-missing"):
        rollback(storied.desk, 1, "again", "local")
    assert not seq(storied, 3).exists()


def test_another_release_of_the_same_seq_is_neither_signed_nor_promoted(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(seq(storied, 3))
    empty_pointer(storied)
    with monkeypatch.context() as patch:
        patch.setattr("sekisho.release.export._nothing_missing", lambda *_: None)
        patch.setattr("sekisho.release.export.require_finished", lambda *_: None)
        other = storied.next_release(1.4)
    with refused("seq-reused"):
        storied.sign(other)
    with monkeypatch.context() as patch:
        patch.setattr(audit, "require_first", lambda *_: None)
        patch.setattr("sekisho.release.sign.require_finished", lambda *_, **__: None)
        storied.sign(other)
    with refused("seq-reused|logged-release"):
        promote(storied.desk, other, "local", "again")
    with refused("seq-reused"):
        check_log(storied.repo)


def test_a_release_whose_signing_the_log_does_not_know_is_not_promoted(storied: Workshop) -> None:
    new = storied.next_release(1.4)
    log = storied.repo / "releases" / audit.LOG
    before = log.read_bytes()
    storied.sign(new)
    log.write_bytes(before)
    with refused("logged-release"):
        promote(storied.desk, new, "local", "unlogged")


# signed anew


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "another reason"},
        {"actor": "mallory"},
        {"previous": None},
        {"expires": "2027-01-01T00:00:00Z"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_promotion_signed_anew_is_noticed(storied: Workshop, changes: dict[str, str | None]) -> None:
    folder = seq(storied, 3)
    storied.forge("deployment-local", lambda s: s["predicate"].update(changes), release=folder)
    storied.verify(folder)  # signed by the right workflow
    with refused("deployment-logged"):
        check_log(storied.repo)
    with refused("deployment-logged"):
        trace_release(storied.repo, folder, trust=storied.trust, environment=None)


def test_signing_again_with_another_approval_is_refused(storied: Workshop) -> None:
    storied.commit("nothing new")
    before = audit.read_log(storied.repo / "releases")
    with refused("signed-approval"):
        storied.sign(storied.release, approver="somebody")
    assert audit.read_log(storied.repo / "releases") == before


def test_two_signings_at_once_are_logged_once(candidate: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate.export()
    candidate.open_local()
    from sekisho.release import sign

    check = sign.check_content

    def meanwhile(*arguments: object) -> None:
        monkeypatch.setattr(sign, "check_content", check)
        candidate.sign()  # the other command is quicker
        check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sign, "check_content", meanwhile)
    candidate.sign()
    events = [event.event for event in audit.read_log(candidate.repo / "releases")[0]]
    assert events.count("sign") == 1
    check_log(candidate.repo)


# revoked content, reasons


def test_content_revoked_as_a_rollback_does_not_come_back(storied: Workshop) -> None:
    storied.sign(storied.next_release(1.4))
    revoke(storied.desk, seq(storied, 3), "loses money", "local")
    for target in (1, 3):
        with refused("revoked"):
            rollback(storied.desk, target, "again", "local")
    with refused("revoked"):
        storied.verify(seq(storied, 1))
    storied.verify(seq(storied, 2))


def test_a_rollback_made_before_the_revocation_is_refused(storied: Workshop) -> None:
    storied.sign(storied.next_release(1.4))
    storied.commit()
    back = rollback(storied.desk, 3, "again", "local")
    storied.commit("rollback PR")
    storied.sign(back)
    revoke(storied.desk, seq(storied, 3), "loses money", "local")
    with refused("revoked"):
        storied.verify(back)


@pytest.mark.parametrize("reason", ["", " ", "x" * 501, "two\nlines", "\udcff"], ids=range(5))
@pytest.mark.parametrize("verb", ["revoke", "rollback", "promote"])
def test_a_reason_that_cannot_be_signed_is_never_logged(storied: Workshop, verb: str, reason: str) -> None:
    before = (storied.repo / "releases" / audit.LOG).read_bytes()
    renew = storied.repo / "releases/policy/3/bundles/deployment-local.sigstore.json"
    commands: dict[str, Callable[[], object]] = {
        "revoke": lambda: revoke(storied.desk, seq(storied, 2), reason, "local"),
        "rollback": lambda: rollback(storied.desk, 1, reason, "local"),
        "promote": lambda: (renew.unlink(), promote(storied.desk, seq(storied, 3), "local", reason)),
    }
    with pytest.raises(CannotCheck, match="a reason of"):
        commands[verb]()
    assert (storied.repo / "releases" / audit.LOG).read_bytes() == before


def test_an_actor_that_cannot_be_signed_is_never_logged(storied: Workshop) -> None:
    import dataclasses

    before = (storied.repo / "releases" / audit.LOG).read_bytes()
    for actor in ("a" * 101, "a b", ""):
        desk = dataclasses.replace(storied.desk, actor=actor)
        with pytest.raises(CannotCheck, match="not an account's name"):
            revoke(desk, seq(storied, 2), "bad data", "local")
    assert (storied.repo / "releases" / audit.LOG).read_bytes() == before


def append(shop: Workshop, monkeypatch: pytest.MonkeyPatch, number: int, **details: str) -> None:
    """A revocation as somebody else's program would log it."""
    releases = shop.repo / "releases"
    with monkeypatch.context() as patch:
        patch.setattr(audit, "check_words", lambda *_: None)
        digest = audit_digest(shop, number)[1]
        event, _ = audit.next_event(
            releases, "revoke", "ops", model="policy", seq=number, manifest_digest=digest, details=details
        )
    audit.append(releases, event)


def test_a_log_with_an_endless_reason_still_revokes(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(storied, monkeypatch, 2, environment="local", reason="x" * 600)
    claim = revoke(storied.desk, seq(storied, 1), "bad data", "local")
    assert [(entry.seq, len(entry.reason)) for entry in claim.revoked] == [(2, 500), (1, 8)]
    check_log(storied.repo)


# what a trace believes


def test_a_trace_believes_the_log_before_an_old_list(storied: Workshop) -> None:
    older = (storied.repo / LIST).read_bytes()
    revoke(storied.desk, seq(storied, 2), "bad data", "local")
    (storied.repo / LIST).write_bytes(older)
    trace = trace_release(storied.repo, seq(storied, 2), trust=storied.trust, environment=None)
    assert "bad data" in trace["release"]["revoked"]


def test_a_trace_without_a_list_cannot_be_made(storied: Workshop) -> None:
    remove(LIST)(storied)
    with pytest.raises(CannotCheck, match="missing"):
        trace_release(storied.repo, seq(storied, 2), trust=storied.trust, environment=None)


def test_a_trace_under_a_false_list_is_refused(storied: Workshop) -> None:
    storied.forge_list(expires="2999-01-01T00:00:00Z")
    with refused("revocation-lifetime"):
        trace_release(storied.repo, seq(storied, 2), trust=storied.trust, environment=None)


def test_a_trace_names_the_root_it_believes(storied: Workshop) -> None:
    rows = dict(table(trace_release(storied.repo, seq(storied, 2), trust=storied.trust, environment=None)))
    assert rows["verified under"].startswith("local, root sha256:")
    assert "proves nothing to others" in rows["warning"]


def test_a_trace_prefers_the_environment_that_trusts_least() -> None:
    from sekisho.release.trace import _environment

    def promoted(environment: str) -> audit.Event:
        return audit.Event(
            line=1,
            previous=audit.GENESIS,
            at=audit.now(),
            event="promote",
            actor="a",
            model="policy",
            seq=1,
            manifest_digest="a" * 64,
            details={"environment": environment},
        )

    assert _environment([promoted("production"), promoted("local")], Path()) == "production"
    assert _environment([promoted("staging"), promoted("local")], Path()) == "staging"


def test_a_revocation_elsewhere_binds_only_its_own_list(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    append(storied, monkeypatch, 2, environment="staging", reason="bad data")
    (storied.trust / "revoked.sigstore.json").write_bytes((storied.repo / LIST).read_bytes())
    with refused("audit-missing-event"):
        check_log(storied.repo)  # staging's list lacks it
    assert revoke(storied.desk, None, "", "local").revoked == []


# git, clocks, names


def test_git_cannot_be_made_to_hide_history(storied: Workshop) -> None:
    """Replacement objects and grafts stand in for commits on this machine only."""
    log = storied.repo / "releases" / audit.LOG
    revoke(storied.desk, None, "", "local")
    storied.commit("renewed")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    git(storied.repo, "checkout", "-q", "HEAD~1", "--", LIST)
    storied.commit("cut")
    head, tree = audit_git(storied, "rev-parse", "HEAD", "HEAD^{tree}").split()
    with refused("audit-truncated"):
        check_log(storied.repo)
    grafts = storied.repo / ".git/info/grafts"
    grafts.parent.mkdir(exist_ok=True)
    grafts.write_text(head + "\n")
    with refused("audit-truncated"):
        check_log(storied.repo)
    grafts.unlink()
    git(storied.repo, "replace", head, audit_git(storied, "commit-tree", tree, "-m", "all there is").strip())
    with refused("audit-truncated"):
        check_log(storied.repo)


def audit_git(shop: Workshop, *words: str) -> str:
    identity = ["-c", "user.name=engineer", "-c", "user.email=engineer@local.test"]
    return subprocess.check_output(["git", "-C", str(shop.repo), *identity, *words], text=True)


def test_a_head_that_was_noted_must_still_be_in_the_log(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = check_log(storied.repo)
    revoke(storied.desk, None, "", "local")
    check_log(storied.repo, noted.sha256)
    monkeypatch.chdir(storied.repo)
    with refused("audit-truncated"):
        CliRunner().invoke(main, ["audit", "check", "--from", "f" * 64], catch_exceptions=False)


def test_an_event_of_the_future_is_refused(storied: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = audit.now
    with monkeypatch.context() as patch:
        patch.setattr(audit, "now", lambda: real() + dt.timedelta(days=30))
        append(storied, monkeypatch, 2, environment="local", reason="bad data")
    with refused("audit-time"):
        check_log(storied.repo)


def test_the_page_survives_a_folder_of_another_name(storied: Workshop, tmp_path: Path) -> None:
    shutil.copytree(seq(storied, 1), seq(storied, 1).with_name("one"))
    broken = write_page(storied.repo, storied.trust, None, tmp_path / "audit.html")
    assert isinstance(broken, Refused)
    assert "refused by rule release-folder" in (tmp_path / "audit.html").read_text()


def test_a_page_of_a_log_that_does_not_hold_is_written_and_ends_as_the_check_would(
    storied: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(storied.repo)
    remove("releases/policy/2/bundles")(storied)
    with refused("audit-missing-evidence"):
        CliRunner().invoke(main, ["audit", "page", "--out", "page.html"], catch_exceptions=False)
    assert "audit-missing-evidence" in Path("page.html").read_text()


def test_the_page_lists_no_folder_of_an_interrupted_export(storied: Workshop, tmp_path: Path) -> None:
    left = shutil.copytree(seq(storied, 3), seq(storied, 3).with_name(".export-abc"))
    shutil.rmtree(left / "bundles")  # it is not signed yet
    assert write_page(storied.repo, storied.trust, None, tmp_path / "audit.html") is None
    assert ".export-abc" not in (tmp_path / "audit.html").read_text()


def test_a_pointer_that_is_no_text_cannot_be_checked(storied: Workshop) -> None:
    pointer_path(storied.repo, "local").write_bytes(b"\xff\n")
    with pytest.raises(CannotCheck, match="not one line RELEASE="):
        check_log(storied.repo)


@pytest.mark.parametrize("last", ["0", "-3"])
def test_the_log_shows_at_least_one_event(last: str) -> None:
    assert CliRunner().invoke(main, ["audit", "log", "--last", last]).exit_code == 2
