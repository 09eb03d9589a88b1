"""The local forge: a bare git repository and a folder of Markdown, so that a laptop has what GitHub has.

    <folder>/origin.git
    <folder>/members.yaml                    actor: read | write | admin
    <folder>/teams.yaml                      team: [actor, …]; may be missing
    <folder>/heads.log                       every move of a branch, written by origin's own hook
    <folder>/pulls/0001/pull.json            the pull request's own state
                       /body.md
                       /comments/0001-engineer.md
                       /report/              pictures of the reports
                       /README.md            the whole thread, to read

It keeps the rules honest people work by; whoever may write into the folder can also forge it, so the trust
policy of staging and production never accepts what was approved here.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml

from sekisho.errors import ForgeError, Refused
from sekisho.forge.interface import (
    PERMISSIONS,
    Comment,
    Forge,
    Permission,
    PullRequest,
    Reaction,
    State,
    at_least,
    head_moved,
    named_in,
)
from sekisho.forge.local_files import as_utf8, git, read_comment, sha256_of, write, write_comment
from sekisho.forge.local_origin import LocalOrigin
from sekisho.forge.markdown import one_line, quoted
from sekisho.params import ForgeParams

NO_COMMIT = "0" * 40  # how git writes "the branch must not exist yet"
ACTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}(\[bot\])?")


def create_local_forge(folder: Path, members: Mapping[str, Permission]) -> None:
    """Make an empty local forge: the bare origin (branch ``main``) and who may do what."""
    folder.mkdir(parents=True, exist_ok=True)
    git("init", "--quiet", "--bare", "--initial-branch=main", str(folder / "origin.git"), cwd=folder)
    write(folder / "members.yaml", yaml.safe_dump(dict(members)))


class LocalForge(LocalOrigin, Forge):
    """See the module; ``actor`` is the person or bot that acts, a member of ``members.yaml``."""

    def __init__(self, folder: Path, params: ForgeParams, actor: str) -> None:
        self.folder, self.params = folder.resolve(), params
        origin = self.folder / "origin.git"
        if not origin.is_dir() or not (self.folder / "members.yaml").is_file():
            raise ForgeError(
                f"{folder}: not a local forge (no origin.git or no members.yaml)",
                remedy="make one with sekisho.forge.local.create_local_forge, as `make demo` does",
            )
        if not ACTOR.fullmatch(actor):
            raise ForgeError(
                "nobody acts on the local forge", remedy="set SEKISHO_ACTOR to one of members.yaml"
            )
        super().__init__(origin)
        self._actor, self._depth = actor, 0

    # ---- people

    def current_actor(self) -> str:
        return self._actor

    def permission(self, actor: str) -> Permission:
        members = yaml.safe_load((self.folder / "members.yaml").read_text(encoding="utf-8")) or {}
        granted = {str(name).casefold(): value for name, value in members.items()}.get(
            actor.casefold(), "none"
        )
        if granted not in PERMISSIONS:
            raise ForgeError(
                f"members.yaml: {actor} has the unknown permission {granted!r}",
                remedy=f"use one of {PERMISSIONS}",
            )
        return granted  # type: ignore[no-any-return]

    def is_member(self, team: str, actor: str) -> bool:
        path = self.folder / "teams.yaml"
        teams = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return actor.casefold() in {str(name).casefold() for name in (teams or {}).get(team, [])}

    def _require(self, needed: Permission) -> None:
        found = self.permission(self._actor)
        if not at_least(found, needed):
            raise Refused(
                "forge.permission",
                expected=f"{needed} or better for {self._actor}",
                found=found,
                remedy="ask someone who has it",
            )

    # ---- pull requests

    def open_pull_request(
        self, branch: str, title: str, body: str, key: str | None = None, base: str = "main"
    ) -> int:
        self._require("write")
        with self._locked():
            head = self.branch_head(branch)
            if head is None or self.branch_head(base) is None:
                raise ForgeError(
                    f"origin has no branch {(branch if head is None else base)!r}", remedy="push it first"
                )
            if branch == base:
                raise ForgeError(
                    f"{branch!r} cannot be merged into itself", remedy="work on a branch of its own"
                )
            for pull in self.list_pull_requests("open"):
                if key and pull.key == key and pull.author == self._actor and pull.branch != branch:
                    raise Refused(
                        "forge.one-open-request-per-key",
                        expected=f"branch {pull.branch!r} of pull request {pull.number}",
                        found=f"{branch!r}",
                        remedy=f"push to {pull.branch!r}: an open request keeps its branch",
                    )
                if pull.branch == branch:
                    self._store(pull.number, title=one_line(title), **({"key": key} if key else {}))
                    write(self._pull(pull.number) / "body.md", body)
                    self._render(pull.number)
                    return pull.number
            number = max([0, *self._numbers()]) + 1
            fresh = self._pull(number, must_exist=False)
            (fresh / "comments").mkdir(parents=True)
            write(fresh / "body.md", body)
            state = {"number": number, "branch": branch, "base": base, "title": one_line(title)}
            state |= {
                "author": self._actor,
                "state": "open",
                "key": key,
                "head_sha": head,
                "merge_sha": None,
                "draft": False,
            }
            write(fresh / "pull.json", json.dumps(state, indent=1, ensure_ascii=False))
            self._render(number)
            return number

    def get_pull_request(self, number: int) -> PullRequest:
        folder, stored = self._pull(number), self._stored(number)
        del stored["draft"]
        head = self.branch_head(stored["branch"]) if stored["state"] == "open" else stored["head_sha"]
        if head is None:  # the branch was deleted: as on GitHub, that closes the request
            stored["state"], head = "closed", stored["head_sha"]
        base = self.branch_head(stored["base"]) or ""
        stored |= {"head_sha": head, "base_sha": stored.get("base_sha") or base}
        body = (folder / "body.md").read_text(encoding="utf-8")
        return PullRequest(**stored, body=body, url=f"local:pulls/{folder.name}")

    def head_changes(self, number: int) -> list[str]:
        return self._moves(self.get_pull_request(number).branch)

    def contributors(self, number: int) -> set[str]:
        found: set[str] = set()
        for author, committer, message in self._commits(number):
            found |= {author, committer, *named_in(message)}
        return found

    def messages(self, number: int, author: str) -> list[str]:
        made = (author, author)  # git's names: this forge keeps the rules of honest people
        return [message for *names, message in self._commits(number) if tuple(names) == made]

    def _commits(self, number: int) -> list[list[str]]:
        """Author, committer and message of each, oldest first."""
        pull = self.get_pull_request(number)
        words = ("log", "-z", "--reverse", "--format=%an%n%cn%n%B", f"{pull.base_sha}..{pull.head_sha}")
        entries = [entry.decode(errors="replace") for entry in self._run(*words).stdout.split(b"\0") if entry]
        return [entry.split("\n", 2) for entry in entries]

    def set_draft(self, number: int, draft: bool) -> None:
        self._require("write")
        with self._locked():
            self._store(number, draft=draft)
            self._render(number)

    def list_pull_requests(self, state: State | Literal["all"]) -> list[PullRequest]:
        pulls = [self.get_pull_request(number) for number in self._numbers()]
        return [pull for pull in pulls if state in ("all", pull.state)]

    # ---- comments

    def comments(self, number: int) -> list[Comment]:
        return [
            Comment(
                front["id"],
                front["author"],
                body,
                front["created_at"],
                front["edited"] or front["sha256"] != sha256_of(body),
            )
            for front, body in (read_comment(path) for path in self._comment_files(number))
        ]

    def add_comment(self, number: int, body: str) -> int:
        self._require("read")
        with self._locked():
            body = as_utf8(body)
            known = [int(path.name.partition("-")[0]) for path in self._comment_files(number)]
            front: dict[str, Any] = {"id": max([0, *known]) + 1, "author": self._actor}
            front |= {"created_at": _now(), "edited": False, "reactions": [], "sha256": sha256_of(body)}
            name = f"{front['id']:04d}-{self._actor}.md"
            write_comment(self._pull(number) / "comments" / name, front, body)
            self._render(number)
            return int(front["id"])

    def edit_comment(self, number: int, comment_id: int, body: str) -> None:
        with self._locked():
            path, front, _ = self._own_comment(number, comment_id)
            body = as_utf8(body)
            write_comment(path, front | {"edited": True, "sha256": sha256_of(body)}, body)
            self._render(number)

    def delete_comment(self, number: int, comment_id: int) -> None:
        with self._locked():
            self._own_comment(number, comment_id)[0].unlink()
            self._render(number)

    def last_editor(self, number: int, comment_id: int) -> str | None:
        _, front, body = self._comment(number, comment_id)
        if front["sha256"] != sha256_of(body):
            return ""  # the file was changed by hand
        return str(front["author"]) if front["edited"] else None

    def react(self, number: int, comment_id: int, reaction: Reaction) -> None:
        with self._locked():
            path, front, body = self._comment(number, comment_id)
            front["reactions"] = sorted({*front["reactions"], f"{self._actor}: {reaction}"})
            write_comment(path, front, body)
            self._render(number)

    def upsert_comment(self, number: int, marker: str, body: str) -> list[int]:
        with self._locked():
            return super().upsert_comment(number, marker, as_utf8(body))

    # ---- commits

    def commit_files(
        self, branch: str, files: Mapping[str, bytes], message: str, parent: str, *, create: bool = False
    ) -> str:
        self._require("write")
        with self._locked(), self._clone(self._commit(parent)) as clone:
            for path, content in files.items():
                target = clone / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            git("add", "--force", "--", *files, cwd=clone)
            git("commit", "--quiet", "--allow-empty", "--message", message, cwd=clone, actor=self._actor)
            commit = self._move(clone, {branch: (NO_COMMIT if create else parent, None)})
            for pull in self.list_pull_requests("open"):
                if pull.branch == branch:
                    self._render(pull.number)
            return commit

    def delete_branch(self, branch: str, at: str) -> None:
        self._require("write")
        if self.branch_head(branch) is None:
            return
        done = self._run("update-ref", "-d", f"refs/heads/{branch}", self._commit(at), check=False)
        if done.returncode:
            raise head_moved(at, str(self.branch_head(branch)))

    def publish_images(self, number: int, images: Mapping[str, Path]) -> dict[str, str]:
        target = self._pull(number) / "report"
        target.mkdir(exist_ok=True)
        links = {}
        for name, path in images.items():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            shutil.copyfile(path, target / f"{digest}-{path.name}")
            links[name] = f"report/{digest}-{path.name}"
        return links

    def start(self, workflow: str, inputs: Mapping[str, str], key: str) -> str:
        given = ", ".join(f"{name} {quoted(value)}" for name, value in inputs.items())
        return f"This forge runs no workflows: carry out {workflow} by hand with {given}."

    def merge(self, number: int, expected_head: str, message: str) -> str:
        self._require("write")
        with self._locked():
            pull = self.get_pull_request(number)
            if pull.state != "open" or pull.head_sha != expected_head:
                raise head_moved(expected_head, f"{pull.state} at {pull.head_sha}")
            if self._stored(number)["draft"]:
                raise Refused(
                    "forge.mergeable",
                    expected="a pull request that is no draft",
                    found="a draft",
                    remedy="it may be on hold: see `sekisho pr status`",
                )
            with self._clone(pull.base_sha) as clone:
                done = git(
                    "merge", "--quiet", "--no-ff", "--message", message, expected_head,
                    cwd=clone, actor=self._actor, check=False,
                )  # fmt: skip
                if done.returncode:
                    raise Refused(
                        "forge.mergeable",
                        expected="a merge without conflict",
                        found=one_line(done.stdout.decode(errors="replace")) or "a conflict",
                        remedy=f"merge {pull.base} into {pull.branch}, run the pipeline again and push",
                    )
                merge_sha = self._move(
                    clone,
                    {pull.base: (pull.base_sha, None), pull.branch: (expected_head, expected_head)},
                )
            self._store(
                number, state="merged", head_sha=expected_head, base_sha=pull.base_sha, merge_sha=merge_sha
            )
            self._render(number)
            return merge_sha

    # ---- inside

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._depth:  # flock does not nest
            yield
            return
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def _numbers(self) -> list[int]:
        return sorted(int(p.parent.name) for p in self.folder.glob("pulls/[0-9]*/pull.json"))

    def _pull(self, number: int, *, must_exist: bool = True) -> Path:
        folder = self.folder / "pulls" / f"{number:04d}"
        if must_exist and not (folder / "pull.json").is_file():
            raise ForgeError(f"there is no pull request {number}", remedy="see `sekisho pr list`")
        return folder

    def _comment_files(self, number: int) -> list[Path]:
        return sorted((self._pull(number) / "comments").glob("[0-9]*.md"))

    def _comment(self, number: int, comment_id: int) -> tuple[Path, dict[str, Any], str]:
        for path in self._comment_files(number):
            if int(path.name.partition("-")[0]) == comment_id:
                return path, *read_comment(path)
        raise ForgeError(f"pull request {number} has no comment {comment_id}", remedy="see `sekisho pr show`")

    def _own_comment(self, number: int, comment_id: int) -> tuple[Path, dict[str, Any], str]:
        path, front, body = self._comment(number, comment_id)
        if front["author"] != self._actor:
            raise Refused(
                "forge.own-comment", expected=front["author"], found=self._actor, remedy="write a new comment"
            )
        return path, front, body

    def _store(self, number: int, **changes: object) -> None:
        text = json.dumps(self._stored(number) | changes, indent=1, ensure_ascii=False)
        write(self._pull(number) / "pull.json", text)

    def _stored(self, number: int) -> dict[str, Any]:
        text = (self._pull(number) / "pull.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def _render(self, number: int) -> None:
        pull, folder = self.get_pull_request(number), self._pull(number)
        lines = [
            f"# {pull.title} (#{number})",
            f"**{pull.state}** · `{pull.branch}` into `{pull.base}` · by {pull.author}",
            f"Head: `{pull.head_sha}`",
            pull.body,
        ]
        for front, body in (read_comment(path) for path in self._comment_files(number)):
            marks = " · ".join(
                [front["created_at"], *(["edited"] if front["edited"] else []), *front["reactions"]]
            )
            lines += ["---", f"**{front['author']}** (comment {front['id']}, {marks})", body]
        write(folder / "README.md", "\n\n".join(lines) + "\n")


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
