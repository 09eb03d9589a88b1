"""Approvals: who may merge what, bound to one head and everything it stands for.

They are read from the bot's answers (``records``); one counts only while the reviewer's own comment is still
there, unedited.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from sekisho.errors import CannotCheck, Refused
from sekisho.forge.interface import Comment, Forge, PullRequest, at_least, marker_of, same_actor
from sekisho.forge.lock import check_lock, read_lock
from sekisho.forge.markdown import quoted
from sekisho.forge.records import bot_comments, check_not_held, check_unedited, events, is_held

REPORT = re.compile(
    r"^<!-- sekisho:report-of head=([0-9a-f]{40}) report-sha256=([0-9a-f]{64}) -->$", re.MULTILINE
)


@dataclass(frozen=True)
class Approval:
    """One reviewer's word for one head; what ``sekisho sign`` attests. Digests are hex."""

    pr: int
    url: str
    head_sha: str
    tree: str
    dvc_lock_sha256: str
    report_sha256: str
    author: str
    approver: str
    permission: str
    approved_at: str
    comment_id: int


@dataclass(frozen=True)
class ReportComment:
    """The report on a pull request: its comment, and the head and digest that its marker names."""

    comment: Comment
    head_sha: str
    sha256: str


def find_report(forge: Forge, number: int) -> ReportComment | None:
    """The bot's report on the pull request, whichever head it is for."""
    for comment in bot_comments(forge, number):
        marker, binding = marker_of(comment), REPORT.search(comment.body)
        if marker == ("report", 1) and binding:
            return ReportComment(comment, binding[1], binding[2])
    return None


def authors(forge: Forge, pull: PullRequest) -> set[str]:
    """Who may not approve, case-folded: who opened the request, and everybody whose work it holds."""
    return {name.casefold() for name in {pull.author, *forge.contributors(pull.number)}}


def bind(forge: Forge, pull: PullRequest, approver: str, at: str, comment_id: int) -> Approval:
    """What an approval of the pull request's head would be bound to.

    Raises:
        CannotCheck: the head has no dvc.lock, or no readable metrics/gate.json.
        Refused: no report stands on the pull request for this head, or not as the bot wrote it; its gate
            failed; its dvc.lock describes another.
    """
    check_unedited(forge, pull.number)
    report = find_report(forge, pull.number)
    if report is None or report.head_sha != pull.head_sha:
        raise Refused(
            "forge.report-for-head",
            expected=f"a report for {pull.head_sha}",
            found=f"a report for {report.head_sha}" if report else "no report",
            remedy="wait for the report of this head, read it, then approve",
        )
    check_gate(forge, pull.head_sha)
    check_lock(forge, pull.head_sha)
    return Approval(
        pr=pull.number,
        url=pull.url,
        head_sha=pull.head_sha,
        tree=forge.tree(pull.head_sha),
        dvc_lock_sha256=hashlib.sha256(read_lock(forge, pull.head_sha)[0]).hexdigest(),
        report_sha256=report.sha256,
        author=pull.author,
        approver=approver,
        permission=forge.permission(approver),
        approved_at=at,
        comment_id=comment_id,
    )


def _given(forge: Forge, pull: PullRequest) -> list[dict[str, Any]]:
    """Each reviewer's last approval, in the order they were given, since somebody took them all back."""
    found: dict[str, dict[str, Any]] = {}
    for event in events(forge, pull.number):
        if event.get("event") == "approve":
            approval = event.get("approval")
            name = str(approval.get("approver") if isinstance(approval, dict) else None).casefold()
            found.pop(name, None)
            found[name] = event
        elif event.get("event") == "unapprove":
            found.clear()
    return list(found.values())


def current_approval(forge: Forge, pull: PullRequest) -> Approval:
    """The last approval that is still good for the pull request's head.

    Raises:
        Refused: somebody edited a comment of the bot; none was given, the head moved since (and maybe came
            back), it was taken back, or it does not hold up any more: the approver may not write now, the
            approving comment was edited or is gone, the report differs.
    """
    return _deciding(forge, pull, _given(forge, pull))


def _deciding(forge: Forge, pull: PullRequest, given: list[dict[str, Any]]) -> Approval:
    check_unedited(forge, pull.number)
    if not given:
        raise _void(f"no approval of {pull.head_sha}")
    return _still_good(forge, pull, given[-1])


def _still_good(forge: Forge, pull: PullRequest, given: dict[str, Any]) -> Approval:
    try:
        approval = Approval(**given["approval"])
        changes = given["head_changes"]
    except (TypeError, KeyError):
        raise _void("an approval record that cannot be read") from None
    if approval.head_sha != pull.head_sha:
        raise _void(
            f"an approval of {approval.head_sha}; the head is {pull.head_sha}: a push voids approvals"
        )
    if pull.state == "open" and changes != len(forge.head_changes(pull.number)):
        raise _void("an approval from before the branch was replaced; the same head came back: a push voids")
    comment = next((c for c in forge.comments(pull.number) if c.id == approval.comment_id), None)
    if comment is None or comment.edited or not same_actor(comment.author, approval.approver):
        raise _void("an approval whose comment is edited, gone or not the approver's")
    if comment.body.split("\n")[0].split() != ["/approve", pull.head_sha]:
        raise _void("an approval whose comment does not say so")
    if approval.approver.casefold() in authors(forge, pull):
        raise _void("the author's own approval")
    bound = bind(forge, pull, approval.approver, approval.approved_at, approval.comment_id) \
        if pull.state == "open" else approval  # fmt: skip
    if not at_least(bound.permission, "write"):  # type: ignore[arg-type]
        raise _void(f"{approval.approver} with the permission {bound.permission} now")
    ignored = {"permission": "", "url": ""}
    if asdict(bound) | ignored != asdict(approval) | ignored:
        raise _void("an approval bound to another report, tree or dvc.lock")
    return approval


def _void(found: str) -> Refused:
    return Refused(
        "forge.approved-by-another",
        expected="a valid approval of the present head by someone else than the author",
        found=found,
        remedy="ask a reviewer to read the report and comment /approve with the head's 40-hex id",
    )


def check_gate(forge: Forge, sha: str) -> None:
    """The gate of the commit passed, by its own ``metrics/gate.json``.

    Raises:
        CannotCheck: the file is missing or unreadable.
        Refused: names the rules that failed.
    """
    try:
        gate = json.loads(forge.read_file(sha, "metrics/gate.json") or b"")
        passed, rules = gate["passed"], gate["rules"]
        failed = [str(rule["rule"]) for rule in rules if rule["passed"] is not True]
    except (ValueError, KeyError, TypeError) as error:
        raise CannotCheck(
            f"commit {sha} has no readable metrics/gate.json", remedy="run dvc repro"
        ) from error
    if passed is not True or failed:
        raise Refused(
            "forge.gate-passed",
            expected="every rule of the gate passed",
            found=quoted(", ".join(failed) or f"passed: {passed!r}"),  # a pull request's own words
            remedy="read the report: it says of each of these rules what it asks and why",
        )


def blockers(forge: Forge, pull: PullRequest) -> list[str]:
    """Every reason why the pull request cannot be merged now; empty when it can."""
    found = []
    if pull.state != "open":
        found.append(f"it is {pull.state}")
    if is_held(forge, pull.number):
        found.append("it is on hold")
    for check in (
        lambda: check_unedited(forge, pull.number),
        lambda: current_approval(forge, pull),
        lambda: check_gate(forge, pull.head_sha),
        lambda: check_lock(forge, pull.head_sha),
    ):
        try:
            check()
        except (Refused, CannotCheck) as error:
            found += [error.message] if error.message not in found else []
    return found


def merge(forge: Forge, number: int) -> str:
    """Merge an approved pull request; the merge commit's message says who approved which head.

    Raises:
        Refused: not open, on hold, no valid approval, gate failed, dvc.lock stale, head moved meanwhile.
        CannotCheck: dvc.lock or the gate's figures are missing.
    """
    pull = forge.get_pull_request(number)
    check_not_held(forge, number)
    if pull.state != "open":
        raise Refused(
            "forge.mergeable",
            expected="an open pull request",
            found=pull.state,
            remedy="open a new pull request",
        )
    approval = current_approval(forge, pull)
    message = (
        f"Merge pull request #{number} from {pull.branch}\n\n{pull.title}\n\n"
        f"Approved-by: {approval.approver}\nReviewed-head: {approval.head_sha}\n"
        f"Report-sha256: {approval.report_sha256}\n"
    )
    return forge.merge(number, approval.head_sha, message)


def approval_record(forge: Forge, number: int) -> dict[str, Any]:
    """The approval as ``sekisho sign`` reads it; with ``merge_sha`` once merged.

    ``approvers`` names everybody whose approval is good now, the deciding one last.

    Raises:
        Refused: on hold; else see :func:`current_approval`.
    """
    pull = forge.get_pull_request(number)
    check_not_held(forge, number)
    given = _given(forge, pull)
    deciding, good = _deciding(forge, pull, given), []
    for earlier in given[:-1]:
        with suppress(Refused):
            good.append(_still_good(forge, pull, earlier))
    kept = ("permission", "approved_at", "comment_id")
    approvers = [{"person": a.approver, **{key: getattr(a, key) for key in kept}} for a in (*good, deciding)]
    record = asdict(deciding) | {"approvers": approvers}
    return record | ({"merge_sha": pull.merge_sha} if pull.merge_sha else {})
