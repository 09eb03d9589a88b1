"""How commands are written: on the first line of a comment, which begins with the slash itself.

A quote (``> ``), a code fence or an indented line never acts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sekisho.forge.interface import Comment, Permission

LINE = re.compile(r"/([a-z][a-z-]{0,30})(?: +(.*))?")
MEANT = re.compile(r"/([A-Za-z]+)(?![\w/-])")
REASON = r"\S.{0,400}"


@dataclass(frozen=True)
class Kind:
    """One command: how it is written, who may give it, and its arguments as a pattern."""

    usage: str
    does: str
    permission: Permission | Literal["desk"]  # desk: the trading desk or an admin
    arguments: re.Pattern[str]
    state: Literal["open", "merged", "any"] = "open"


KINDS = {
    "approve": Kind(
        "/approve <40-hex head>", "approve this head", "write", re.compile(r"(?P<head>[0-9a-f]{40})")
    ),
    "unapprove": Kind("/unapprove", "take every approval back", "write", re.compile("")),
    "hold": Kind(
        "/hold [reason]", "stop the merge, the bot's updates and the release", "write",
        re.compile(f"(?P<reason>{REASON})?"), "any",
    ),
    "resume": Kind("/resume", "end the hold", "write", re.compile(""), "any"),
    "explain": Kind("/explain", "say what is missing for the merge", "read", re.compile(""), "any"),
    "retrain": Kind(
        "/retrain [section.key=value …]", "run the pipeline on this head again, or with other parameters",
        "write", re.compile(r"(?P<changes>\S+=.*)?"),
    ),
    "promote": Kind(
        "/promote staging|production [emergency <reason>]", "point an environment at this release", "write",
        re.compile(rf"(?P<environment>staging(?!.)|production)(?: +emergency +(?P<emergency>{REASON}))?"),
        "merged",
    ),
    "rollback": Kind(
        "/rollback <seq> <reason>", "release an older content again", "desk",
        re.compile(rf"(?P<seq>[1-9][0-9]{{0,8}}) +(?P<reason>{REASON})"), "any",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """What a comment asks for; ``arguments`` is None if they do not fit the command's usage."""

    name: str
    arguments: dict[str, str] | None


def parse(body: str) -> Command | None:
    """The command in a comment's first line, None if it holds none. Never raises, never guesses.

    What was meant as a known command (``/Approve``, ``/hold,``, another kind of space) is one without
    arguments, so that it is answered.
    """
    line = body.split("\n", 1)[0].rstrip("\r").rstrip(" ")
    match = LINE.fullmatch(line)
    if match is None:
        word = MEANT.match(line)
        return Command(word[1].casefold(), None) if word and word[1].casefold() in KINDS else None
    kind = KINDS.get(match[1])
    # a carriage return or the like inside would begin a new line where the arguments are written next
    found = kind.arguments.fullmatch(match[2] or "") if kind and line.isprintable() else None
    return Command(match[1], {k: v for k, v in found.groupdict().items() if v} if found else None)


def emergency_reason(comment: Comment) -> str | None:
    """The reason if the comment, as first written, declares an emergency of production."""
    command = None if comment.edited else parse(comment.body)
    return (command.arguments or {}).get("emergency") if command and command.name == "promote" else None
