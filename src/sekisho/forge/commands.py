"""Commands in pull-request comments: parsed as data, judged at the moment of action, always answered.

Only the first line of an unedited comment is read, and only if it begins with the slash itself: a quote
(``> ``), a code fence or an indented line never acts. A comment is answered once: a job run twice acts once.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sekisho.errors import CannotCheck, Refused
from sekisho.forge.approvals import (
    ANSWER,
    bind,
    blockers,
    bot_comments,
    events,
    find_report,
    is_held,
    record_block,
    require_bot,
)
from sekisho.forge.interface import (
    Comment,
    Forge,
    Permission,
    PullRequest,
    Reaction,
    at_least,
    head_moved,
    marker_of,
    same_actor,
)
from sekisho.forge.markdown import quoted

LINE = re.compile(r"/([a-z][a-z-]*)(?: +(.*))?")
REASON = r"\S.*"
RELEASE_BRANCH = re.compile(r"release/([a-z][a-z0-9-]{0,62}/[1-9][0-9]{0,8})")  # made by release.yml

Status = Literal["done", "accepted", "refused", "ignored"]


@dataclass(frozen=True)
class Kind:
    """One command: how it is written, who may give it, and its arguments as a pattern."""

    usage: str
    does: str
    permission: Permission
    arguments: re.Pattern[str]
    state: Literal["open", "merged", "any"] = "open"


KINDS = {
    "approve": Kind(
        "/approve <40-hex head>", "approve this head", "write", re.compile(r"(?P<head>[0-9a-f]{40})")
    ),
    "unapprove": Kind("/unapprove", "take every approval back", "write", re.compile("")),
    "hold": Kind(
        "/hold [reason]", "stop merges and the bot's updates", "write", re.compile(f"(?P<reason>{REASON})?")
    ),
    "resume": Kind("/resume", "end the hold", "write", re.compile("")),
    "explain": Kind("/explain", "say what is missing for the merge", "read", re.compile(""), "any"),
    "retrain": Kind("/retrain", "run the pipeline on this head again", "write", re.compile("")),
    "promote": Kind(
        "/promote staging|production", "point an environment at this release", "write",
        re.compile(r"(?P<environment>staging|production)"), "merged",
    ),
    "rollback": Kind(
        "/rollback <seq> <reason>", "release an older content again", "admin",
        re.compile(rf"(?P<seq>[1-9][0-9]{{0,8}}) +(?P<reason>{REASON})"), "any",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """What a comment asks for; ``arguments`` is None if they do not fit the command's usage."""

    name: str
    arguments: dict[str, str] | None


@dataclass(frozen=True)
class Outcome:
    """What became of a comment. ``accepted``: judged, answered, and given to a workflow to carry out."""

    status: Status
    message: str
    command: str = ""
    arguments: dict[str, str] | None = None
    answer_id: int | None = None


def parse(body: str) -> Command | None:
    """The command in a comment's first line, None if it holds none. Never raises, never guesses."""
    line = body.split("\n", 1)[0].rstrip("\r").rstrip(" ")
    match = LINE.fullmatch(line)
    if match is None:
        return None
    kind = KINDS.get(match[1])
    # a carriage return or the like inside would begin a new line where the arguments are written next
    found = kind.arguments.fullmatch(match[2] or "") if kind and line.isprintable() else None
    return Command(match[1], {k: v for k, v in found.groupdict().items() if v} if found else None)


def handle(forge: Forge, number: int, comment: Comment) -> Outcome:
    """Judge one comment, act, and answer it on the pull request in one comment with a reaction.

    ``retrain``, ``promote`` and ``rollback`` start their workflow with checked inputs; the rest is done here.

    Raises:
        CannotCheck: this account is not ``forge.bot``, so that its answers would count for nothing.
        ForgeError: the forge could not be asked; nothing was recorded, the job may run again.
    """
    require_bot(forge)
    command = parse(comment.body)
    if command is None or same_actor(comment.author, forge.params.bot):
        return Outcome("ignored", "no command")
    marker = f"{ANSWER}{comment.id}"
    if any((marker_of(known) or ("",))[0] == marker for known in bot_comments(forge, number)):
        return Outcome("ignored", "answered before", command.name)
    record: dict[str, Any] | None = None
    try:
        status, message, record = _judge(forge, number, comment, command)
    except (Refused, CannotCheck) as error:
        status, message = "refused", error.message + (f"\n\n{error.remedy}" if error.remedy else "")
    text = f"@{comment.author}, `/{command.name}`: **{status}**. {message}"
    answer = forge.upsert_comment(number, marker, f"{text}\n\n{record_block(record)}" if record else text)
    reactions: dict[str, Reaction] = {"done": "+1", "accepted": "rocket", "refused": "-1"}
    forge.react(number, comment.id, reactions[status])
    return Outcome(status, message, command.name, command.arguments, answer[0])


def _judge(
    forge: Forge, number: int, comment: Comment, command: Command
) -> tuple[Status, str, dict[str, Any] | None]:
    kind = KINDS.get(command.name)
    if kind is None:
        known = "\n".join(f"- `{k.usage}` — {k.does}" for k in KINDS.values())
        found = quoted(f"/{command.name}")
        raise Refused("commands.known", expected="a command of the list below", found=found, remedy=known)
    if comment.edited:
        raise Refused("commands.unedited", expected="a comment as first written", found="an edited one",
                      remedy="write the command in a new comment")  # fmt: skip
    to_production = (command.arguments or {}).get("environment") == "production"
    needed: Permission = "admin" if to_production else kind.permission
    granted = forge.permission(comment.author)
    if not at_least(granted, needed):
        raise Refused("commands.permission", expected=f"{needed} or better", found=granted,
                      remedy="ask someone who has it")  # fmt: skip
    if command.arguments is None:
        rest = comment.body.split("\n", 1)[0].partition(" ")[2]
        raise Refused("commands.usage", expected=f"`{kind.usage}`", found=quoted(rest),
                      remedy="write it exactly so, on the first line")  # fmt: skip
    pull = forge.get_pull_request(number)
    if kind.state not in ("any", pull.state):
        raise Refused("commands.state", expected=f"a pull request that is {kind.state}", found=pull.state,
                      remedy="use the command on another pull request")  # fmt: skip
    return _ACTIONS[command.name](forge, pull, comment, command.arguments)


Result = tuple[Status, str, dict[str, Any] | None]


def _approve(forge: Forge, pull: PullRequest, comment: Comment, arguments: dict[str, str]) -> Result:
    if same_actor(comment.author, pull.author):
        raise Refused("commands.four-eyes", expected=f"someone else than {pull.author}", found=comment.author,
                      remedy="ask a colleague to review and approve")  # fmt: skip
    head = arguments["head"]
    if head != pull.head_sha:
        raise head_moved(pull.head_sha, head)
    approval = bind(forge, pull, comment.author, _now(), comment.id)
    again = forge.get_pull_request(pull.number)  # the head may have moved while all that was read
    if (again.head_sha, again.state) != (head, "open"):
        raise head_moved(head, f"{again.state} at {again.head_sha}")
    message = f"Approved `{head}` with the report `{approval.report_sha256[:12]}…`; any push voids it."
    return "done", message, {"event": "approve", "approval": asdict(approval)}


def _unapprove(forge: Forge, pull: PullRequest, comment: Comment, arguments: dict[str, str]) -> Result:
    return "done", "Every approval of this pull request is void.", _event("unapprove", comment)


def _hold(forge: Forge, pull: PullRequest, comment: Comment, arguments: dict[str, str]) -> Result:
    reason = arguments.get("reason", "")
    message = f"On hold: {quoted(reason)}. `/resume` ends it."
    return "done", message, _event("hold", comment) | {"reason": reason}


def _resume(forge: Forge, pull: PullRequest, comment: Comment, arguments: dict[str, str]) -> Result:
    return "done", "The hold is over.", _event("resume", comment)


def _explain(forge: Forge, pull: PullRequest, comment: Comment, arguments: dict[str, str]) -> Result:
    return "done", "\n\n" + explanation(forge, pull), None


def _retrain(forge: Forge, pull: PullRequest, comment: Comment, arguments: dict[str, str]) -> Result:
    if is_held(forge, pull.number) or ":" in pull.branch:  # a fork's branch is named owner:branch
        expected = "a branch of this repository that is not on hold"
        raise Refused("commands.retrainable", expected=expected, found=quoted(pull.branch),
                      remedy="comment /resume, or push the branch here")  # fmt: skip
    inputs = {"number": str(pull.number), "head": pull.head_sha}
    return "accepted", forge.start("pr.yml", inputs), None


def _promote(forge: Forge, pull: PullRequest, comment: Comment, arguments: dict[str, str]) -> Result:
    release = RELEASE_BRANCH.fullmatch(pull.branch)
    if release is None or not same_actor(pull.author, forge.params.bot):
        raise Refused("commands.release", expected="the pull request that recorded a release (release/…)",
                      found=quoted(pull.branch), remedy="use the command there")  # fmt: skip
    inputs = {"number": str(pull.number), "release": release[1]} | arguments
    return "accepted", forge.start("promote.yml", inputs), None


def _rollback(forge: Forge, pull: PullRequest, comment: Comment, arguments: dict[str, str]) -> Result:
    return "accepted", forge.start("rollback.yml", {"number": str(pull.number)} | arguments), None


_ACTIONS: dict[str, Callable[[Forge, PullRequest, Comment, dict[str, str]], Result]] = {
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
    decided = [str(event.get("event")) for event in events(forge, pull.number)]
    lines.append(f"- decisions so far: {', '.join(decided) or 'none'}")
    if pull.state == "open":
        missing = blockers(forge, pull)
        lines.append("- can be merged: " + ("no" if missing else "yes"))
        lines += [f"  - {reason}" for reason in missing]
    return "\n".join(lines)


def _event(name: str, comment: Comment) -> dict[str, Any]:
    return {"event": name, "actor": comment.author, "comment_id": comment.id, "at": _now()}


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
