"""Commands in pull-request comments: parsed as data, judged at the moment of action, always answered.

A comment is answered once: a job run twice acts once.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from sekisho.calendar import Calendar
from sekisho.errors import CannotCheck, Refused
from sekisho.forge.approvals import authors, bind, blockers, find_report
from sekisho.forge.grammar import KINDS, Command, Kind, parse
from sekisho.forge.interface import (
    Comment,
    Forge,
    PullRequest,
    Reaction,
    at_least,
    head_moved,
    same_actor,
)
from sekisho.forge.markdown import quoted
from sekisho.forge.promotion import (
    EMERGENCY,
    EMERGENCY_PROMOTION,
    acted_on,
    check_hours,
    first_voice,
    may_change_production,
)
from sekisho.forge.records import (
    Event,
    answer_marker,
    events,
    find_answer,
    is_held,
    record_block,
    require_bot,
)
from sekisho.forge.retune import read_changes, with_changes
from sekisho.pointer import RELEASE

RELEASE_BRANCH = re.compile(f"release/({RELEASE.pattern})")  # made by release.yml

Status = Literal["done", "accepted", "waiting", "refused", "ignored"]
UNDONE_BY = {"approve": "unapprove", "hold": "resume", "resume": "hold"}
REACTIONS: dict[str, Reaction] = {"done": "+1", "accepted": "rocket", "waiting": "eyes", "refused": "-1"}


@dataclass(frozen=True)
class Outcome:
    """What became of a comment. ``accepted``: judged, answered, and given to a workflow to carry out;
    ``waiting``: for a second person.
    """

    status: Status
    message: str
    command: str = ""
    arguments: dict[str, str] | None = None
    answer_id: int | None = None


def handle(
    forge: Forge, number: int, comment: Comment, calendar: Calendar, now: dt.datetime | None = None
) -> Outcome:
    """Judge one comment, act, and answer it on the pull request in one comment with a reaction.

    ``retrain``, ``promote`` and ``rollback`` start their workflow with checked inputs; the rest is done here.
    A job that broke off anywhere may run again: what was done is found by the comment's id and not repeated.

    Args:
        calendar: of the exchange in whose hours production is left alone.
        now: moment of judging, timezone-aware; the present when None.

    Raises:
        CannotCheck: this account is not ``forge.bot``, so that its answers would count for nothing.
        ForgeError: the forge could not be asked; nothing was recorded, the job may run again.
    """
    require_bot(forge)
    command = parse(comment.body)
    if command is None or same_actor(comment.author, forge.params.bot):
        return Outcome("ignored", "no command")
    if known := find_answer(forge, number, comment.id):
        if known.record:  # the job may have ended before it reacted
            forge.react(number, comment.id, REACTIONS[known.record["status"]])
        return Outcome("ignored", "answered before", command.name)
    now, more = now or _now(), Event()
    try:
        status, message, more = _judge(forge, number, comment, command, calendar, now)
    except (Refused, CannotCheck) as error:
        status, message = "refused", error.message + (f"\n\n{error.remedy}" if error.remedy else "")
    about = {"event": command.name, "status": status, "actor": comment.author, "comment_id": comment.id}
    record = record_block(about | {"at": _stamp(now)} | more)
    text = f"@{comment.author}, `/{command.name}`: **{status}**. {message}\n\n{record}"
    answer = forge.upsert_comment(number, answer_marker(comment.id), text)
    forge.react(number, comment.id, REACTIONS[status])
    return Outcome(status, message, command.name, command.arguments, answer[0])


Result = tuple[Status, str, Event]  # what the answer says, and what its record says beyond the usual


@dataclass(frozen=True)
class Case:
    """A command that its author may give, about to be carried out."""

    forge: Forge
    pull: PullRequest
    comment: Comment
    arguments: dict[str, str]
    calendar: Calendar
    now: dt.datetime

    @property
    def key(self) -> str:
        """By which a workflow that was started for this comment is found again."""
        return f"comment-{self.comment.id}"


def _judge(
    forge: Forge, number: int, comment: Comment, command: Command, calendar: Calendar, now: dt.datetime
) -> Result:
    kind = KINDS.get(command.name)
    if kind is None:
        known = "\n".join(f"- `{k.usage}` — {k.does}" for k in KINDS.values())
        found = quoted(f"/{command.name}")
        raise Refused("commands.known", expected="a command of the list below", found=found, remedy=known)
    if comment.edited:
        raise Refused("commands.unedited", expected="a comment as first written", found="an edited one",
                      remedy="write the command in a new comment")  # fmt: skip
    _check_right(forge, comment.author, kind, (command.arguments or {}).get("environment") == "production")
    if command.arguments is None:
        line = comment.body.split("\n", 1)[0]
        raise Refused("commands.usage", expected=f"`{kind.usage}`", found=quoted(line),
                      remedy="write it exactly so, on the first line")  # fmt: skip
    pull = forge.get_pull_request(number)
    if kind.state not in ("any", pull.state):
        raise Refused("commands.state", expected=f"a pull request that is {kind.state}", found=pull.state,
                      remedy="use the command on another pull request")  # fmt: skip
    _check_order(forge, number, comment, command.name)
    return _ACTIONS[command.name](Case(forge, pull, comment, command.arguments, calendar, now))


def _check_order(forge: Forge, number: int, comment: Comment, name: str) -> None:
    """Nothing that was commented later undoes it: jobs do not run in the order of the comments."""
    later = [
        e for e in events(forge, number) if e["comment_id"] > comment.id and e["event"] == UNDONE_BY.get(name)
    ]
    if later:
        raise Refused("commands.in-order", expected="the last word on it",
                      found=f"`/{later[-1]['event']}` in the later comment {later[-1]['comment_id']}",
                      remedy="if it still holds, write the command in a new comment")  # fmt: skip


def _check_right(forge: Forge, actor: str, kind: Kind, production: bool) -> None:
    if kind.permission == "desk" or production:
        needed, enough = f"a member of {forge.params.trading_desk} who may write, or an admin", \
            may_change_production(forge, actor)  # fmt: skip
    else:
        needed = f"{kind.permission} or better"
        enough = at_least(forge.permission(actor), kind.permission)
    if not enough:
        raise Refused("commands.permission", expected=needed, found=forge.permission(actor),
                      remedy="ask someone who has it")  # fmt: skip


def _approve(case: Case) -> Result:
    forge, pull, comment, head = case.forge, case.pull, case.comment, case.arguments["head"]
    wrote = authors(forge, pull)
    if comment.author.casefold() in wrote:
        others = f"someone else than {quoted(', '.join(sorted(wrote)))}"
        raise Refused("commands.four-eyes", expected=others, found=comment.author,
                      remedy="ask a colleague to review and approve")  # fmt: skip
    if head != pull.head_sha:
        raise head_moved(pull.head_sha, head)
    changes = forge.head_changes(pull.number)
    if changes and changes[-1] > comment.created_at:
        raise head_moved(head, f"another head at {changes[-1]}, after the comment of {comment.created_at}")
    approval = bind(forge, pull, comment.author, _stamp(case.now), comment.id)
    again = forge.get_pull_request(pull.number)  # the head may have moved while all that was read
    if (again.head_sha, again.state) != (head, "open") or forge.head_changes(pull.number) != changes:
        raise head_moved(head, f"{again.state} at {again.head_sha}")
    message = f"Approved `{head}` with the report `{approval.report_sha256[:12]}…`; any push voids it."
    return "done", message, {"approval": asdict(approval), "head_changes": len(changes)}


def _unapprove(case: Case) -> Result:
    return "done", "Every approval of this pull request is void.", {}


def _hold(case: Case) -> Result:
    reason = case.arguments.get("reason", "")
    _draft(case, draft=True)
    return "done", f"On hold: {quoted(reason)}. `/resume` ends it.", {"reason": reason}


def _resume(case: Case) -> Result:
    _draft(case, draft=False)
    return "done", "The hold is over.", {}


def _draft(case: Case, *, draft: bool) -> None:
    """What is on hold is a draft: the forge itself lets nobody merge one."""
    if case.pull.state == "open":
        case.forge.set_draft(case.pull.number, draft)


def _explain(case: Case) -> Result:
    return "done", "\n\n" + explanation(case.forge, case.pull), {}


def _retrain(case: Case) -> Result:
    forge, pull = case.forge, case.pull
    if is_held(forge, pull.number) or ":" in pull.branch:  # a fork's branch is named owner:branch
        expected = "a branch of this repository that is not on hold"
        raise Refused("commands.retrainable", expected=expected, found=quoted(pull.branch),
                      remedy="comment /resume, or push the branch here")  # fmt: skip
    head, done, record = pull.head_sha, "", Event()
    if changes := read_changes(case.arguments.get("changes", "")):
        before = forge.read_file(head, "params.yaml") or b""
        after = with_changes(before, changes)
        words = " ".join(case.arguments["changes"].split())
        if after != before:  # equal: they stand there already, maybe by this very command's first run
            message = f"Retrain with {words}\n\nAsked for by {case.comment.author}, {case.key}\n"
            head = forge.commit_files(pull.branch, {"params.yaml": after}, message, head)
        done = f"The head is `{head}` with {quoted(words)}; who asked for it cannot approve it. "
        record = {"changes": words}
    inputs = {"number": str(pull.number), "head": head}
    return "accepted", done + forge.start("pr.yml", inputs, case.key), record


def _promote(case: Case) -> Result:
    forge, pull, actor = case.forge, case.pull, case.comment.author
    release = RELEASE_BRANCH.fullmatch(pull.branch)
    if release is None or not same_actor(pull.author, forge.params.bot):
        raise Refused("commands.release", expected="the pull request that recorded a release (release/…)",
                      found=quoted(pull.branch), remedy="use the command there")  # fmt: skip
    inputs = {"number": str(pull.number), "release": release[1], "environment": case.arguments["environment"]}
    emergency = case.arguments.get("emergency")
    if emergency is None:
        if inputs["environment"] == "production":
            check_hours(case.calendar, case.now)
        return "accepted", forge.start("promote.yml", inputs | {"reason": f"asked by {actor}"}, case.key), {}
    if acted := acted_on(forge, pull.number, case.comment):
        said = f"Acted on already, together with comment {acted['comment_id']}."
        return "done", said, {"event": EMERGENCY, "reason": emergency}
    first = first_voice(forge, pull.number, case.comment, case.now)
    if first is None:
        message = (
            f"An emergency was declared: {quoted(emergency)}. It is acted on when another member of "
            f"{forge.params.trading_desk} (or an admin) comments `/promote production emergency <reason>` "
            f"here within {forge.params.emergency_minutes:g} minutes."
        )
        return "waiting", message, {"event": EMERGENCY, "reason": emergency}
    inputs["reason"] = f"emergency: {first['actor']}: {first['reason']}; {actor}: {emergency}"
    started = forge.start("promote.yml", inputs, case.key)
    record = {"event": EMERGENCY_PROMOTION, "reason": emergency, "first": first}
    return "accepted", f"Declared by {first['actor']} and {actor}. {started}", record


def _rollback(case: Case) -> Result:
    inputs = {"number": str(case.pull.number)} | case.arguments
    return "accepted", case.forge.start("rollback.yml", inputs, case.key), {}


_ACTIONS: dict[str, Callable[[Case], Result]] = {
    "approve": _approve,
    "unapprove": _unapprove,
    "hold": _hold,
    "resume": _resume,
    "explain": _explain,
    "retrain": _retrain,
    "promote": _promote,
    "rollback": _rollback,
}


def explanation(forge: Forge, pull: PullRequest) -> str:
    """The pull request's state for people: head, report, decisions, and what is missing for the merge."""
    report = find_report(forge, pull.number)
    lines = [f"- state: {pull.state}", f"- head: `{pull.head_sha}`"]
    if report is None:
        lines.append("- report: none yet")
    else:
        stale = "" if report.head_sha == pull.head_sha else " (**stale**: the head moved)"
        lines.append(f"- report: for `{report.head_sha}`, sha256 `{report.sha256}`{stale}")
    decided = [event["event"] for event in events(forge, pull.number) if event["event"] != "explain"]
    lines.append(f"- decisions so far: {', '.join(decided) or 'none'}")
    if pull.state == "open":
        missing = blockers(forge, pull)
        lines.append("- can be merged: " + ("no" if missing else "yes"))
        lines += [f"  - {reason}" for reason in missing]
    return "\n".join(lines)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _stamp(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
