"""What was decided on a pull request: the bot's answers to commands, in the order of the commands.

State is not stored anywhere else. Every answer ends with a record, whatever it was about: so nothing that an
answer quotes can pass for its record. An answer counts only if the bot wrote it and nobody edited it. Since
whoever may write may also edit or delete it, what stops a merge does not hang on it alone: an edited comment
of the bot stops everything, and a person's own ``/hold`` or ``/unapprove`` counts without one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sekisho.errors import CannotCheck, Refused
from sekisho.forge.grammar import parse
from sekisho.forge.interface import Comment, Forge, at_least, marker_of, same_actor

ANSWER = re.compile(r"answer-([1-9][0-9]{0,18})")  # marker of the bot's answer to the comment of that id
BEGIN = "<details><summary>record</summary>\n\n<!-- sekisho:record -->\n```json\n"
END = "\n```\n\n</details>"
STOPS = ("hold", "unapprove")

Event = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """The bot's answer to the comment ``to``; ``record`` is None if it was edited or holds none."""

    to: int
    comment: Comment
    record: Event | None


def require_bot(forge: Forge) -> None:
    """The acting account is ``forge.bot``: reports and answers of anyone else count for nothing."""
    if not same_actor(forge.current_actor(), forge.params.bot):
        raise CannotCheck(
            f"reports and answers are posted by {forge.params.bot}, not by {forge.current_actor()}",
            remedy="act as the account named by forge.bot in params.yaml (locally: SEKISHO_ACTOR)",
        )


def bot_comments(forge: Forge, number: int) -> list[Comment]:
    """The comments of ``forge.bot``, edited or not."""
    return _of_bot(forge, forge.comments(number))


def answer_marker(comment_id: int) -> str:
    """By which the answer to a comment is found again."""
    return f"answer-{comment_id}"


def record_block(record: Event) -> str:
    """The machine-readable end of an answer."""
    text = json.dumps(record, indent=1, sort_keys=True)  # ASCII, and no line break inside a value
    return f"{BEGIN}{text}{END}"


def answers(forge: Forge, number: int) -> list[Answer]:
    """The bot's answers, in the order of the comments that they answer."""
    return _answers(forge, forge.comments(number))


def _of_bot(forge: Forge, comments: Sequence[Comment]) -> list[Comment]:
    return [c for c in comments if same_actor(c.author, forge.params.bot)]


def _answers(forge: Forge, comments: Sequence[Comment]) -> list[Answer]:
    found = []
    for comment in _of_bot(forge, comments):
        marker = marker_of(comment)
        if marker and (match := ANSWER.fullmatch(marker[0])):
            found.append(Answer(int(match[1]), comment, _record(comment, int(match[1]))))
    return sorted(found, key=lambda answer: answer.to)


def find_answer(forge: Forge, number: int, comment_id: int) -> Answer | None:
    """The bot's answer to a comment."""
    return next((answer for answer in answers(forge, number) if answer.to == comment_id), None)


def events(forge: Forge, number: int) -> list[Event]:
    """What was decided, oldest first: ``{"event": "approve" | "unapprove" | …, "comment_id": …, …}``.

    Refused commands decided nothing. A command that stops a merge counts before it is answered, and when its
    answer was edited or deleted.
    """
    comments = forge.comments(number)
    records = {answer.to: answer.record for answer in _answers(forge, comments) if answer.record}
    for comment in comments:
        if comment.id not in records and (record := _stop(forge, comment)):
            records[comment.id] = record
    return [record for _, record in sorted(records.items()) if record["status"] != "refused"]


def check_not_held(forge: Forge, number: int) -> None:
    """Nothing is merged, updated or released on hold.

    Raises:
        Refused: see :func:`is_held`.
    """
    check_unedited(forge, number)
    if _held_last(forge, number):
        raise Refused(
            "forge.not-on-hold",
            expected=f"pull request {number} not on hold",
            found="on hold",
            remedy=f"comment /resume on pull request {number}, then run this again",
        )


def check_unedited(forge: Forge, number: int) -> None:
    """Nobody else has edited what the bot wrote, neither reports nor answers.

    Raises:
        Refused: names the comment: what was shown and decided cannot be known any more.
    """
    for comment in bot_comments(forge, number):
        answer = ANSWER.fullmatch((marker_of(comment) or ("",))[0])  # not even the bot edits its answers
        if comment.edited and (answer or not _by_bot(forge, forge.last_editor(number, comment.id))):
            raise Refused(
                "forge.unedited-by-others",
                expected=f"what {forge.params.bot} wrote, as it wrote it",
                found=f"comment {comment.id}, edited",
                remedy="delete that comment, then give its command again or run the pipeline again",
            )


def _by_bot(forge: Forge, editor: str | None) -> bool:
    return editor is None or same_actor(editor, forge.params.bot)


def is_held(forge: Forge, number: int) -> bool:
    """Whether ``/hold`` was said last: neither merged nor updated by the bot until ``/resume``.

    So it is, too, while a comment of the bot stands there that somebody edited.
    """
    try:
        check_unedited(forge, number)
    except Refused:
        return True
    return _held_last(forge, number)


def _held_last(forge: Forge, number: int) -> bool:
    held = False
    for event in events(forge, number):
        held = {"hold": True, "resume": False}.get(event["event"], held)
    return held


def _record(comment: Comment, answered: int) -> Event | None:
    body = comment.body.replace("\r\n", "\n").rstrip()
    if comment.edited or not body.endswith(END):
        return None
    try:  # the last beginning: a value cannot hold one, what the answer quotes lies before it
        record = json.loads(body.removesuffix(END).rpartition(BEGIN)[2])
        named = {key: record[key] for key in ("event", "status", "actor", "comment_id", "at")}
    except (ValueError, KeyError, TypeError):
        return None  # not of our making: it decides nothing
    return record if named["comment_id"] == answered else None


def _stop(forge: Forge, comment: Comment) -> Event | None:
    """The event of a person's own command that stops a merge, if they may give it now."""
    command = None if comment.edited else parse(comment.body)
    if command is None or command.name not in STOPS or command.arguments is None:
        return None
    if not at_least(forge.permission(comment.author), "write"):
        return None
    about = {"event": command.name, "status": "done", "actor": comment.author, "comment_id": comment.id}
    return about | {"at": comment.created_at}
