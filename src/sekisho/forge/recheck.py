"""A promotion judged again where it is carried out.

Between a command's answer and the job that signs lie queues and people who admit the job to its environment.
The market may have opened, a comment may be edited, a right withdrawn; and whoever may write can start a
workflow by hand, with any inputs and without a command.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from sekisho.calendar import Calendar
from sekisho.errors import CannotCheck, Refused
from sekisho.forge.commands import RELEASE_BRANCH
from sekisho.forge.grammar import emergency_reason, parse
from sekisho.forge.interface import Comment, Forge, PullRequest, same_actor
from sekisho.forge.markdown import quoted
from sekisho.forge.promotion import EMERGENCY_PROMOTION, check_hours, may_change_production, voice_stands
from sekisho.forge.records import Event, find_answer

KEY = re.compile(r"comment-([1-9][0-9]{0,18})")  # commands.Case.key


@dataclass(frozen=True)
class Promotion:
    """What the workflow was started for: ``release`` is ``model/seq``, ``key`` names the comment."""

    number: int
    release: str
    environment: str
    key: str


def recheck(forge: Forge, wish: Promotion, calendar: Calendar, now: dt.datetime) -> str:
    """Whether ``wish`` may be carried out now; says why it may.

    Args:
        calendar: of the exchange in whose hours production is left alone.
        now: timezone-aware.

    Raises:
        Refused: the pull request is not the merged one by which the bot recorded this release; for
            production: no comment that was accepted asks for it, it is edited, its author may not (any
            more), or the exchange is open and no second person stands for an emergency, or no longer.
        CannotCheck: the comment is not answered yet.
    """
    pull = release_pull(forge, wish.number)
    found = RELEASE_BRANCH.fullmatch(pull.branch)
    if found is None or found[1] != wish.release:
        raise _refused(f"the pull request that recorded release {wish.release}", quoted(pull.branch))
    if wish.environment != "production":
        return f"release {wish.release} was recorded by pull request {wish.number}"
    comment = _comment(forge, wish)
    record = _accepted(forge, wish.number, comment)
    if not may_change_production(forge, comment.author):
        raise _refused("a member of the trading desk who may write, or an admin", comment.author)
    if emergency_reason(comment):
        return _emergency(forge, wish, comment, record, now)
    check_hours(calendar, now)
    return f"asked for by {comment.author}, outside market hours"


def release_pull(forge: Forge, number: int) -> PullRequest:
    """The merged pull request by which the bot recorded a release.

    Raises:
        Refused: it is another kind of pull request, somebody else's, or not merged.
    """
    pull = forge.get_pull_request(number)
    ours = RELEASE_BRANCH.fullmatch(pull.branch) and same_actor(pull.author, forge.params.bot)
    if not ours or pull.state != "merged":
        raise _refused(
            f"a merged release/… of {forge.params.bot}",
            f"{pull.state} {quoted(pull.branch)} of {pull.author}",
        )
    return pull


def _comment(forge: Forge, wish: Promotion) -> Comment:
    """The comment that asks for it."""
    key = KEY.fullmatch(wish.key)
    asked = next((c for c in forge.comments(wish.number) if key and c.id == int(key[1])), None)
    if asked is None or asked.edited:
        raise _refused("an unedited comment /promote production", f"{quoted(wish.key)}: edited or gone")
    command = parse(asked.body)
    if not command or command.name != "promote" or not command.arguments:
        raise _refused("a comment /promote production", quoted(asked.body))
    if command.arguments["environment"] != wish.environment:
        raise _refused("a comment /promote production", quoted(asked.body))
    return asked


def _accepted(forge: Forge, number: int, comment: Comment) -> Event:
    """The record of the bot's own answer, which nobody edited, by which the command was accepted."""
    answer = find_answer(forge, number, comment.id)
    if answer is None:
        raise CannotCheck(f"comment {comment.id} has no answer yet", remedy="run this job again")
    if answer.record is None:
        raise _refused(f"comment {comment.id} accepted", "an edited answer")
    if answer.record["status"] != "accepted":
        raise _refused(f"comment {comment.id} accepted", f"it was {answer.record['status']}")
    return answer.record


def _emergency(forge: Forge, wish: Promotion, comment: Comment, record: Event, now: dt.datetime) -> str:
    """Two people declared it, the second by this comment, and both still stand for it."""
    if record["event"] != EMERGENCY_PROMOTION:
        raise _refused("an emergency that two people declared", f"comment {comment.id} alone")
    age = now - dt.datetime.fromisoformat(record["at"])
    limit = dt.timedelta(minutes=forge.params.emergency_minutes)
    if not dt.timedelta(0) <= age <= limit:
        raise _refused(f"an emergency of the last {forge.params.emergency_minutes:g} minutes", record["at"])
    first = record["first"]
    if not voice_stands(forge, forge.comments(wish.number), first):
        raise _refused(
            "two members of the trading desk who may write, or admins, whose comments stand unedited",
            f"no more the word of {first['actor']}",
        )
    return f"an emergency declared by {first['actor']} and {comment.author}"


def _refused(expected: str, found: str) -> Refused:
    return Refused(
        "promotion.still-allowed",
        expected=expected,
        found=found,
        remedy="comment /promote on the pull request that recorded the release; nothing was signed",
    )
