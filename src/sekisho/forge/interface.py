"""What every forge can do: the one small interface that GitHub and the local forge implement."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sekisho.errors import Refused
from sekisho.forge.markdown import split_markdown
from sekisho.params import ForgeParams

State = Literal["open", "merged", "closed"]
Permission = Literal["none", "read", "write", "admin"]
Reaction = Literal["+1", "-1", "confused", "eyes", "rocket"]
PERMISSIONS: tuple[Permission, ...] = ("none", "read", "write", "admin")
MARKER = re.compile(r"<!-- sekisho:([a-z0-9-]+) (\d+)/(\d+) -->")
CO_AUTHOR = re.compile(r"^co-authored-by:[ \t]*(.*?)[ \t]*<([^>\n]*)>", re.IGNORECASE | re.MULTILINE)
NO_REPLY = re.compile(r"(?:\d+\+)?([^+@]+)@users\.noreply\.github\.com")
ASKED_FOR_BY = re.compile(r"^Asked for by (\S+), comment-\d+$", re.MULTILINE)  # commands: /retrain key=value
PART_OVERHEAD = (
    400  # characters of each part kept free for its marker, its "part n of m" and a note on staleness
)


@dataclass(frozen=True)
class PullRequest:
    """One pull request; ``head_sha`` is the branch's head at the moment of reading."""

    number: int
    branch: str
    base: str
    title: str
    body: str
    author: str
    head_sha: str
    base_sha: str
    state: State
    key: str | None
    url: str
    merge_sha: str | None


@dataclass(frozen=True)
class Comment:
    """One comment; ``edited`` is true when its text is no longer what its author first posted."""

    id: int
    author: str
    body: str
    created_at: str
    edited: bool


def at_least(permission: Permission, needed: Permission) -> bool:
    """Whether ``permission`` includes ``needed`` (none < read < write < admin)."""
    return PERMISSIONS.index(permission) >= PERMISSIONS.index(needed)


def same_actor(one: str, other: str) -> bool:
    """Whether two logins are the same account (GitHub's are case-insensitive)."""
    return one.casefold() == other.casefold()


def head_moved(expected: str, found: str) -> Refused:
    """The refusal of every act that was meant for another head than the present one."""
    return Refused(
        "forge.head-unchanged",
        expected=expected,
        found=found,
        remedy="look at the new head, then approve and merge that one",
    )


def named_in(message: str) -> set[str]:
    """Whom a commit's message names: co-authors, and who had the bot commit it."""
    named = set(ASKED_FOR_BY.findall(message))
    for name, address in CO_AUTHOR.findall(message):
        account = NO_REPLY.fullmatch(address)
        named |= {name, account[1]} if account else {name}
    return named


def marker_of(comment: Comment) -> tuple[str, int] | None:
    """The marker's name and part number if the comment's first line is one; anyone can write such a line."""
    match = MARKER.match(comment.body)
    return (match[1], int(match[2])) if match else None


class Forge(Protocol):
    """Errors: ForgeError when the forge cannot be asked, Refused when it was asked and said no."""

    params: ForgeParams

    def current_actor(self) -> str:
        """The account that acts here."""

    def permission(self, actor: str) -> Permission:
        """What ``actor`` may do in the repository, asked of the forge now."""

    def is_member(self, team: str, actor: str) -> bool:
        """Whether ``actor`` belongs to the team of that name, asked of the forge now."""

    def open_pull_request(
        self, branch: str, title: str, body: str, key: str | None = None, base: str = "main"
    ) -> int:
        """Open a pull request, or update the open one of the same branch or of the same actor's ``key``."""

    def get_pull_request(self, number: int) -> PullRequest: ...

    def head_changes(self, number: int) -> list[str]:
        """When the branch was replaced or taken away, by the forge's clock (UTC), oldest first.

        It only grows: a head that was left and came back shows here, whatever dates its commits bear.
        """

    def contributors(self, number: int) -> set[str]:
        """Accounts whose work the pull request holds: who wrote, committed or (where the forge knows it)
        pushed one of its commits, and whom a commit's message names.
        """

    def messages(self, number: int, author: str) -> list[str]:
        """Messages of the pull request's commits that the account ``author`` made through the forge, oldest
        first; not of those that only bear its name. Nobody can edit them, nor take them from a decided one.
        """

    def set_draft(self, number: int, draft: bool) -> None:
        """Make a draft of an open pull request, which the forge lets nobody merge, or the contrary."""

    def list_pull_requests(self, state: State | Literal["all"]) -> list[PullRequest]: ...

    def comments(self, number: int) -> list[Comment]:
        """Every comment of every page, oldest first."""

    def add_comment(self, number: int, body: str) -> int: ...

    def edit_comment(self, number: int, comment_id: int, body: str) -> None: ...

    def delete_comment(self, number: int, comment_id: int) -> None: ...

    def last_editor(self, number: int, comment_id: int) -> str | None:
        """Who changed a comment's text last, "" if that cannot be known; None if nobody did."""

    def react(self, number: int, comment_id: int, reaction: Reaction) -> None: ...

    def read_file(self, sha: str, path: str) -> bytes | None:
        """The file's bytes in commit ``sha``, None if it has none."""

    def read_folder(self, sha: str, folder: str) -> dict[str, bytes]:
        """Every file under ``folder`` in commit ``sha``, by its path inside the folder."""

    def tree(self, sha: str) -> str:
        """The tree id of a commit."""

    def changed_files(self, base: str, head: str) -> set[str] | None:
        """Paths that differ between a commit and one that descends from it; None if ``head`` does not."""

    def branch_head(self, branch: str) -> str | None:
        """The commit a branch of this repository points at, None if there is no such branch."""

    def commit_files(
        self, branch: str, files: Mapping[str, bytes], message: str, parent: str, *, create: bool = False
    ) -> str:
        """Add one commit on ``parent`` to the branch whose head that is, or begin a branch; its id."""

    def delete_branch(self, branch: str, at: str) -> None:
        """Remove a branch that nobody moved from commit ``at`` since; nothing if it is gone."""

    def publish_images(self, number: int, images: Mapping[str, Path]) -> dict[str, str]:
        """Store pictures where the pull request's readers can see them: name -> link for Markdown."""

    def start(self, workflow: str, inputs: Mapping[str, str], key: str) -> str:
        """Start a workflow of the main branch, once for a key; says what happens next."""

    def merge(self, number: int, expected_head: str, message: str) -> str:
        """Merge with a merge commit if the head is still ``expected_head``; the merge commit's id."""

    def upsert_comment(self, number: int, marker: str, body: str) -> list[int]:
        """Keep one comment (or as many parts as ``forge.report_limit`` needs) per marker, updated in place.

        Only comments of the acting account count: a marker planted by someone else is left alone.
        Returns the ids of the parts, first to last. ``marker``: lower-case letters, digits, hyphens.
        """
        me = self.current_actor()
        mine: list[Comment] = []
        for comment in self.comments(number):
            found = marker_of(comment)
            if found and found[0] == marker and same_actor(comment.author, me):
                mine.append(comment)
        mine.sort(key=lambda comment: ((marker_of(comment) or ("", 0))[1], comment.id))
        parts = with_markers(marker, split_markdown(body, self.params.report_limit - PART_OVERHEAD))
        ids = []
        for index, text in enumerate(parts):
            if index >= len(mine):
                ids.append(self.add_comment(number, text))
                continue
            ids.append(mine[index].id)
            if mine[index].body != text:
                self.edit_comment(number, mine[index].id, text)
        for surplus in mine[len(parts) :]:
            self.delete_comment(number, surplus.id)
        return ids


def with_markers(marker: str, parts: Sequence[str]) -> list[str]:
    """Each part under its marker line; later parts say that they continue."""
    count = len(parts)
    return [
        f"<!-- sekisho:{marker} {n}/{count} -->\n" + (f"*(part {n} of {count})*\n\n" if n > 1 else "") + part
        for n, part in enumerate(parts, 1)
    ]
