"""GitHub as a forge: nothing done twice, a lost answer is looked for before its request is sent again."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import httpx

from sekisho.errors import ForgeError, Refused
from sekisho.forge.interface import (
    PERMISSIONS,
    Comment,
    Forge,
    Permission,
    PullRequest,
    Reaction,
    State,
    head_moved,
    named_in,
)
from sekisho.forge.markdown import one_line
from sekisho.forge.rest import (
    CONFLICT,
    CREATED,
    NOT_FOUND,
    NOT_MERGEABLE,
    UNPROCESSABLE,
    Json,
    Rest,
    failed,
)
from sekisho.params import ForgeParams

IMAGES = "sekisho-reports"  # the bot's own branch, outside main's history
KEY = re.compile(r"\n<!-- sekisho:key=([A-Za-z0-9._:/-]+) -->\s*\Z")
# what a pull request's timeline calls the ways by which a head that was there before comes back, or the same
# head comes to stand for another difference; their times are GitHub's own, unlike a commit's
REPLACED = {
    "head_ref_force_pushed", "head_ref_deleted", "head_ref_restored", "closed", "reopened",
    "base_ref_changed", "automatic_base_change_succeeded",
}  # fmt: skip
EDITOR = "query($id:ID!){node(id:$id){... on IssueComment{lastEditedAt editor{__typename login}}}}"
SIGNER = "web-flow"  # GitHub itself, as committer of what was made through it
COMMITS = 250  # commits of a pull request that GitHub lists
COMPARED = 300  # files that GitHub lists of a comparison
CLOCK_SKEW = dt.timedelta(seconds=60)  # between GitHub's clock and ours, when a lost answer is looked for


class GitHubForge(Forge):
    """See the module. ``repository``: ``owner/name``; ``transport``: the network, replaced in tests."""

    def __init__(
        self,
        repository: str,
        params: ForgeParams,
        token: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.rest = Rest(repository, params, token, transport)
        self.repository, self.params = repository, params
        self._actor = ""

    # ---- people

    def current_actor(self) -> str:
        if not self._actor:  # REST's /user refuses an App's token, GraphQL's viewer answers "<slug>[bot]"
            self._actor = str(self.rest.graphql("{viewer{login}}")["viewer"]["login"])
        return self._actor

    def permission(self, actor: str) -> Permission:
        answer = self.rest.ask(
            "GET", f"/collaborators/{quote(actor, safe='')}/permission", allow=(NOT_FOUND,)
        )
        granted = "none" if answer.status_code == NOT_FOUND else answer.json()["permission"]
        if granted not in PERMISSIONS:
            raise ForgeError(
                f"GitHub grants {actor} the unknown permission {granted!r}", remedy="update sekisho"
            )
        return granted

    def is_member(self, team: str, actor: str) -> bool:
        owner = self.repository.partition("/")[0]
        address = f"{self.rest.api}/orgs/{owner}/teams/{team}/memberships/{quote(actor, safe='')}"
        answer = self.rest.ask("GET", address, allow=(NOT_FOUND,))
        return answer.is_success and answer.json()["state"] == "active"

    # ---- pull requests

    def open_pull_request(
        self, branch: str, title: str, body: str, key: str | None = None, base: str = "main"
    ) -> int:
        marked = f"{body.rstrip()}\n\n<!-- sekisho:key={key} -->\n" if key else body
        if key and not KEY.search(marked):
            raise ForgeError(f"{key!r} is not a key", remedy="use letters, digits and ._:/-")
        text = {"title": one_line(title), "body": marked}
        existing = self._find_open(branch, key)
        if existing is None:
            fresh = text | {"head": branch, "base": base}
            answer = self.rest.ask("POST", "/pulls", json=fresh, allow=(UNPROCESSABLE,))
            if answer.status_code == CREATED:
                return int(answer.json()["number"])
            existing = self._find_open(branch, key)  # made meanwhile, or by the try whose answer was lost
            if existing is None:
                raise failed(answer)
        self.rest.ask("PATCH", f"/pulls/{existing}", json=text)
        return existing

    def _find_open(self, branch: str, key: str | None) -> int | None:
        me = self.current_actor()
        for pull in self.list_pull_requests("open"):
            if pull.branch == branch:
                return pull.number
            if key and pull.key == key and pull.author == me:
                raise Refused(
                    "forge.one-open-request-per-key",
                    expected=f"branch {pull.branch!r} of pull request {pull.number}",
                    found=repr(branch),
                    remedy=f"push to {pull.branch!r}: an open request keeps its branch",
                )
        return None

    def get_pull_request(self, number: int) -> PullRequest:
        return self._pull(self.rest.ask("GET", f"/pulls/{number}").json())

    def contributors(self, number: int) -> set[str]:
        branch, commits = self.get_pull_request(number).branch, self._commits(number)
        messages = {raw["sha"]: raw["commit"]["message"] for raw in commits}
        found = {_account(raw, role) for raw in commits for role in ("author", "committer")}
        if ":" not in branch:  # of a fork's branch GitHub does not tell who pushed
            pushes = self.rest.pages("/activity", {"ref": f"refs/heads/{branch}"})
            found |= {_login(push["actor"]) for push in pushes if push["after"] in messages}
        return found.union(*map(named_in, messages.values())) - {""}

    def messages(self, number: int, author: str) -> list[str]:
        return [
            raw["commit"]["message"]
            for raw in self._commits(number)
            if raw["commit"]["verification"]["verified"]  # a push may bear any name, and is not signed so
            and _account(raw, "author") == author
            and _account(raw, "committer") in (author, SIGNER)
        ]

    def _commits(self, number: int) -> list[Json]:
        found = list(self.rest.pages(f"/pulls/{number}/commits", {}))
        if len(found) >= COMMITS:
            raise ForgeError(
                f"pull request {number}: GitHub lists only {COMMITS} commits", remedy="open smaller ones"
            )
        return found

    def set_draft(self, number: int, draft: bool) -> None:
        raw = self.rest.ask("GET", f"/pulls/{number}").json()
        if raw["draft"] != draft:
            change = "convertPullRequestToDraft" if draft else "markPullRequestReadyForReview"
            query = f"mutation($id:ID!){{{change}(input:{{pullRequestId:$id}}){{clientMutationId}}}}"
            self.rest.graphql(query, id=raw["node_id"])  # REST cannot change it

    def list_pull_requests(self, state: State | Literal["all"]) -> list[PullRequest]:
        asked = {"open": "open", "all": "all"}.get(state, "closed")
        pulls = [self._pull(raw) for raw in self.rest.pages("/pulls", {"state": asked, "direction": "asc"})]
        return [pull for pull in pulls if state in ("all", pull.state)]

    def head_changes(self, number: int) -> list[str]:
        events = self.rest.pages(f"/issues/{number}/timeline", {})
        return [str(raw["created_at"]) for raw in events if raw["event"] in REPLACED]

    def _pull(self, raw: Json) -> PullRequest:
        merged = bool(raw.get("merged_at"))
        body = raw["body"] or ""
        key = KEY.search(body.replace("\r\n", "\n"))
        # a fork's branch is named with its owner, so that it never equals one of this repository's
        source = raw["head"]["repo"]
        own = source is not None and source["full_name"].casefold() == self.repository.casefold()
        return PullRequest(
            number=raw["number"],
            branch=raw["head"]["ref"] if own else raw["head"]["label"],
            base=raw["base"]["ref"],
            title=raw["title"],
            body=body,
            author=_login(raw["user"]),
            head_sha=raw["head"]["sha"],
            base_sha=raw["base"]["sha"],
            state="merged" if merged else raw["state"],
            key=key[1] if key else None,
            url=raw["html_url"],
            merge_sha=raw["merge_commit_sha"] if merged else None,
        )

    # ---- comments

    def comments(self, number: int) -> list[Comment]:
        return [_comment(raw) for raw in self.rest.pages(f"/issues/{number}/comments", {})]

    def add_comment(self, number: int, body: str) -> int:
        since = (dt.datetime.now(dt.UTC) - CLOCK_SKEW).strftime("%Y-%m-%dT%H:%M:%SZ")
        me = self.current_actor()

        def posted() -> Json | None:
            """The comment of a try whose answer was lost."""
            recent = self.rest.pages(f"/issues/{number}/comments", {"since": since})
            return next(
                (raw for raw in recent if _login(raw["user"]) == me and _same(raw["body"], body)), None
            )

        answer = self.rest.ask("POST", f"/issues/{number}/comments", json={"body": body}, done_already=posted)
        return int(answer.json()["id"])

    def edit_comment(self, number: int, comment_id: int, body: str) -> None:
        self.rest.ask("PATCH", f"/issues/comments/{comment_id}", json={"body": body})

    def delete_comment(self, number: int, comment_id: int) -> None:
        self.rest.ask("DELETE", f"/issues/comments/{comment_id}", allow=(NOT_FOUND,))

    def last_editor(self, number: int, comment_id: int) -> str | None:
        node = self.rest.ask("GET", f"/issues/comments/{comment_id}").json()["node_id"]
        found = self.rest.graphql(EDITOR, id=node)["node"]
        if found["lastEditedAt"] is None:
            return None
        editor = found["editor"] or {"__typename": "", "login": ""}  # a deleted account
        name = str(editor["login"]).removesuffix("[bot]")  # GraphQL leaves a bot's suffix out
        return f"{name}[bot]" if editor["__typename"] == "Bot" else name

    def react(self, number: int, comment_id: int, reaction: Reaction) -> None:
        self.rest.ask("POST", f"/issues/comments/{comment_id}/reactions", json={"content": reaction})

    # ---- commits

    def read_file(self, sha: str, path: str) -> bytes | None:
        answer = self.rest.ask(
            "GET", f"/contents/{quote(path)}", params={"ref": sha}, allow=(NOT_FOUND,),
            accept="application/vnd.github.raw+json",
        )  # fmt: skip
        return None if answer.status_code == NOT_FOUND else answer.content

    def read_folder(self, sha: str, folder: str) -> dict[str, bytes]:
        listing = self.rest.ask("GET", f"/git/trees/{self.tree(sha)}", params={"recursive": "1"}).json()
        if listing["truncated"]:
            raise ForgeError(
                f"commit {sha}: too many files for GitHub's listing", remedy="use a git checkout"
            )
        prefix = folder.rstrip("/") + "/"
        blobs = [e for e in listing["tree"] if e["type"] == "blob" and e["path"].startswith(prefix)]
        return {
            entry["path"][len(prefix) :]: base64.b64decode(
                self.rest.ask("GET", f"/git/blobs/{entry['sha']}").json()["content"]
            )
            for entry in blobs
        }

    def tree(self, sha: str) -> str:
        return str(self.rest.ask("GET", f"/git/commits/{sha}").json()["tree"]["sha"])

    def changed_files(self, base: str, head: str) -> set[str] | None:
        found = self.rest.ask("GET", f"/compare/{base}...{head}").json()
        if found["status"] not in ("ahead", "identical"):
            return None
        files = found.get("files", [])
        if len(files) >= COMPARED:
            raise ForgeError(
                f"GitHub lists only {COMPARED} files that differ between {base} and {head}",
                remedy="run the job again from main as it is now",
            )
        return {name for raw in files for name in (raw["filename"], raw.get("previous_filename")) if name}

    def branch_head(self, branch: str) -> str | None:
        answer = self.rest.ask("GET", f"/git/ref/heads/{_ref(branch)}", allow=(NOT_FOUND,))
        return None if answer.status_code == NOT_FOUND else str(answer.json()["object"]["sha"])

    def commit_files(
        self, branch: str, files: Mapping[str, bytes], message: str, parent: str, *, create: bool = False
    ) -> str:
        entries = []
        for path, content in files.items():
            blob = {"content": base64.b64encode(content).decode(), "encoding": "base64"}
            sha = self.rest.ask("POST", "/git/blobs", json=blob).json()["sha"]
            entries.append({"path": path, "mode": "100644", "type": "blob", "sha": sha})
        commit = self._commit({"base_tree": self.tree(parent), "tree": entries}, message, [parent])
        if create:
            ref: Json = {"ref": f"refs/heads/{branch}", "sha": commit}
            moved = self.rest.ask("POST", "/git/refs", json=ref, allow=(UNPROCESSABLE,))
        else:  # without force GitHub takes only a child of the present head
            ref = {"sha": commit, "force": False}
            allow = (CONFLICT, UNPROCESSABLE)
            moved = self.rest.ask("PATCH", f"/git/refs/heads/{_ref(branch)}", json=ref, allow=allow)
        found = commit if moved.is_success else self.branch_head(branch)
        if found != commit:
            raise head_moved("no such branch" if create else parent, str(found))
        return commit

    def delete_branch(self, branch: str, at: str) -> None:
        if self.branch_head(branch) not in (at, None):
            raise head_moved(at, str(self.branch_head(branch)))
        self.rest.ask("DELETE", f"/git/refs/heads/{_ref(branch)}", allow=(NOT_FOUND, UNPROCESSABLE))

    def _commit(self, tree: Json, message: str, parents: list[str]) -> str:
        made = self.rest.ask("POST", "/git/trees", json=tree).json()["sha"]
        commit = {"message": message, "tree": made, "parents": parents}
        return str(self.rest.ask("POST", "/git/commits", json=commit).json()["sha"])

    def publish_images(self, number: int, images: Mapping[str, Path]) -> dict[str, str]:
        if images and self.rest.ask("GET", f"/git/ref/heads/{IMAGES}", allow=(NOT_FOUND,)).is_error:
            text = "Pictures of the reports on pull requests, written by the bot.\n"
            readme = {"path": "README.md", "mode": "100644", "type": "blob", "content": text}
            commit = self._commit({"tree": [readme]}, "Begin the branch of report pictures", [])
            ref = {"ref": f"refs/heads/{IMAGES}", "sha": commit}
            self.rest.ask("POST", "/git/refs", json=ref, allow=(UNPROCESSABLE,))  # 422: made meanwhile
        links = {}
        for name, image in images.items():
            content = image.read_bytes()
            # named by content: the same picture is stored once, and a link never shows another one
            path = quote(f"{number}/{hashlib.sha256(content).hexdigest()[:16]}-{image.name}")
            known = self.rest.ask("GET", f"/contents/{path}", params={"ref": IMAGES}, allow=(NOT_FOUND,))
            if known.status_code == NOT_FOUND:
                upload = {"message": f"Report of #{number}", "branch": IMAGES}
                upload["content"] = base64.b64encode(content).decode()
                self.rest.ask("PUT", f"/contents/{path}", json=upload, allow=(UNPROCESSABLE,))
            links[name] = f"{self.rest.server}/{self.repository}/blob/{IMAGES}/{path}?raw=true"
        return links

    def start(self, workflow: str, inputs: Mapping[str, str], key: str) -> str:
        def running() -> Json | None:
            """The run that was started for the same cause; its name holds the key."""
            known = {"event": "workflow_dispatch", "per_page": "100"}
            listed = self.rest.ask("GET", f"/actions/workflows/{workflow}/runs", params=known).json()
            return next((r for r in listed["workflow_runs"] if f"({key})" in r["display_title"]), None)

        wish = {"ref": "main", "inputs": {**inputs, "key": key}}
        if running() is None:
            address = f"/actions/workflows/{workflow}/dispatches"
            self.rest.ask("POST", address, json=wish, done_already=running)
        runs = f"{self.rest.server}/{self.repository}/actions/workflows/{workflow}"
        return f"The workflow [{workflow}]({runs}) carries it out and comments here if it fails."

    def merge(self, number: int, expected_head: str, message: str) -> str:
        title, _, rest = message.partition("\n")
        wish = {"sha": expected_head, "merge_method": "merge"}
        wish |= {"commit_title": title, "commit_message": rest.strip()}
        answer = self.rest.ask(
            "PUT", f"/pulls/{number}/merge", json=wish, allow=(NOT_MERGEABLE, CONFLICT, UNPROCESSABLE)
        )
        if answer.is_success:
            return str(answer.json()["sha"])
        pull = self.get_pull_request(number)
        if pull.state == "merged" and pull.head_sha == expected_head and pull.merge_sha:
            return pull.merge_sha  # by the try whose answer was lost
        if pull.head_sha != expected_head or pull.state != "open":
            raise head_moved(expected_head, f"{pull.state} at {pull.head_sha}")
        raise Refused(
            "forge.mergeable",
            expected="a pull request that GitHub lets merge",
            found=one_line(str(answer.json().get("message", answer.status_code))),
            remedy="look at the required checks and conflicts on the pull request",
        )


def _ref(branch: str) -> str:
    """A branch's name in an address; git's own rules already forbid names that would lead elsewhere."""
    if not branch or {"", ".", ".."} & set(branch.split("/")):
        raise ForgeError(f"{branch!r} is not a branch name", remedy="see git help check-ref-format")
    return quote(branch)


def _login(user: Json | None) -> str:
    return str(user["login"]) if user else "ghost"  # GitHub's name for a deleted account


def _account(commit: Json, role: str) -> str:
    return str((commit[role] or {}).get("login", ""))  # none: an address of no account


def _same(one: str | None, other: str) -> bool:
    return (one or "").replace("\r\n", "\n").strip() == other.replace("\r\n", "\n").strip()


def _comment(raw: Json) -> Comment:
    edited = raw["updated_at"] != raw["created_at"]
    return Comment(raw["id"], _login(raw["user"]), raw["body"] or "", raw["created_at"], edited)
