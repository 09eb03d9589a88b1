"""GitHub in memory: as much of its API as is needed here, each request held against its description."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from tests.workflows.description import Description

BOT = "sekisho[bot]"
HOST = "https://api.github.com"
API = f"{HOST}/repos/acme/sekisho"
HEAD, BASE = "a" * 40, "b" * 40


@cache
def description() -> Description | None:
    """GitHub's own description of its API; None where it cannot be installed (tests/workflows needs it)."""
    try:
        return Description.load()
    except pytest.skip.Exception:
        return None


def check(request: httpx.Request) -> None:
    """The request is one that GitHub describes."""
    path = request.url.raw_path.decode().partition("?")[0]
    if path != "/graphql":
        _check(request.method, path, request.url.query.decode(), request.content)


@cache
def _check(method: str, path: str, query: str, content: bytes) -> None:
    known = description()
    if known:
        known.check_request(method, path, dict(parse_qsl(query)), json.loads(content) if content else None)


class GitHub:
    """As much of GitHub as is needed, in memory; ``trouble``: answers that come instead, one a request."""

    def __init__(self) -> None:
        self.comments: list[dict] = []
        self.reactions: list[tuple[int, str]] = []
        self.pulls: list[dict] = []
        self.trouble: list[httpx.Response | Exception | None] = []
        self.asked: list[str] = []
        self.refs = {"main": BASE, "tune": HEAD}
        self.contents: dict[str, str] = {}
        self.permissions = {"engineer": "write", "reviewer": "write", "reader": "read"}
        self.started: list[dict] = []
        self.timeline: list[dict] = []
        self.commits: list[dict] = []
        self.pushes: list[dict] = []
        self.edits: dict[str, tuple[str, str]] = {}  # node of a comment -> type and login of the last editor
        self.desk = {"trader": "active", "invited": "pending"}
        self.after: list[Exception | None] = []  # the request is carried out, its answer is lost

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        check(request)
        if self.trouble and (trouble := self.trouble.pop(0)) is not None:
            if isinstance(trouble, Exception):
                raise trouble
            return trouble
        answer = self.answer(request)
        if self.after and (lost := self.after.pop(0)) is not None:
            raise lost
        return answer

    def comment(self, author: str, body: str, edited: bool = False) -> dict:
        made = {"id": len(self.comments) + 1, "user": {"login": author}, "body": body}
        made |= {"created_at": "2026-01-01T00:00:00Z", "updated_at": f"2026-01-0{1 + edited}T00:00:00Z"}
        self.comments.append(made)
        return made

    def answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        parts = request.url.path.removeprefix("/repos/acme/sekisho").strip("/").split("/")
        for part in (self._people, self._comments, self._pulls, self._refs, self._commits, self._actions):
            if (answer := part(request, parts, body)) is not None:
                return answer
        raise AssertionError(f"the stand-in does not know {request.method} {request.url.path}")

    def _people(self, request: httpx.Request, parts: list[str], body: Any) -> httpx.Response | None:
        match request.method, parts:
            case "POST", ["graphql"] if "variables" not in body:
                return httpx.Response(200, json={"data": {"viewer": {"login": BOT}}})
            case "GET", ["collaborators", actor, "permission"]:
                granted = self.permissions.get(actor)
                return _found(granted and {"permission": granted})
            case "GET", ["orgs", "acme", "teams", "trading-desk", "memberships", actor]:
                state = self.desk.get(actor)
                return _found(
                    state and {"state": state, "role": "member", "url": f"{HOST}{request.url.path}"}
                )
            case "GET", ["activity"]:
                ref = request.url.params["ref"]
                return httpx.Response(200, json=[push for push in self.pushes if push["ref"] == ref])
        return None

    def _comments(self, request: httpx.Request, parts: list[str], body: Any) -> httpx.Response | None:
        match request.method, parts:
            case "POST", ["graphql"] if body["query"].startswith("query"):
                edits = self.edits.get(body["variables"]["id"])
                node = {"lastEditedAt": "2026-01-02T00:00:00Z" if edits else None}
                node["editor"] = edits and {"__typename": edits[0], "login": edits[1]}
                return httpx.Response(200, json={"data": {"node": node}})
            case "GET", ["issues", "comments", number]:
                return httpx.Response(200, json={"node_id": f"IC_{number}"})
            case "GET", ["issues", _, "comments"]:
                page = int(request.url.params.get("page", 1))
                following = f'<{API}/issues/1/comments?per_page=100&page={page + 1}>; rel="next"'
                headers = {"link": following} if len(self.comments) > 100 * page else {}
                return httpx.Response(200, json=self.comments[100 * (page - 1) : 100 * page], headers=headers)
            case "POST", ["issues", _, "comments"]:
                return httpx.Response(201, json=self.comment(BOT, body["body"]))
            case "PATCH", ["issues", "comments", number]:
                self.comments[int(number) - 1]["body"] = body["body"]
                return httpx.Response(200, json={})
            case "POST", ["issues", "comments", number, "reactions"]:
                self.reactions.append((int(number), body["content"]))
                return httpx.Response(201, json={})
        return None

    def _pulls(self, request: httpx.Request, parts: list[str], body: Any) -> httpx.Response | None:
        match request.method, parts:
            case "POST", ["graphql"]:
                found = next(p for p in self.pulls if p["node_id"] == body["variables"]["id"])
                found["draft"] = "convertPullRequestToDraft" in body["query"]
                return httpx.Response(200, json={"data": {"done": {}}})
            case "GET", ["pulls"]:
                return httpx.Response(200, json=[p for p in self.pulls if p["state"] == "open"])
            case "POST", ["pulls"]:
                if any(p["head"]["ref"] == body["head"] for p in self.pulls):
                    return httpx.Response(422, json={"message": "A pull request already exists"})
                self.pulls.append(pull(len(self.pulls) + 1, body["head"], body["title"], body["body"]))
                return httpx.Response(201, json=self.pulls[-1])
            case "GET", ["pulls", number]:
                return httpx.Response(200, json=self.pulls[int(number) - 1])
            case "PATCH", ["pulls", number]:
                self.pulls[int(number) - 1] |= body
                return httpx.Response(200, json={})
            case "PUT", ["pulls", number, "merge"]:
                return self._merge(self.pulls[int(number) - 1], body["sha"])
            case "GET", ["pulls", _, "commits"]:
                return httpx.Response(200, json=self.commits)
            case "GET", ["issues", _, "timeline"]:
                return httpx.Response(200, json=self.timeline)
        return None

    def _merge(self, found: dict, expected: str) -> httpx.Response:
        if found["merged_at"]:
            return httpx.Response(405, json={"message": "Pull Request is not mergeable"})
        if expected != found["head"]["sha"]:
            return httpx.Response(409, json={"message": "Head branch was modified"})
        found |= {"merged_at": "now", "state": "closed", "merge_commit_sha": "c" * 40}
        return httpx.Response(200, json={"sha": "c" * 40})

    def _refs(self, request: httpx.Request, parts: list[str], body: Any) -> httpx.Response | None:
        match request.method, parts:
            case "GET", ["git", "ref", "heads", *name]:
                ref = self.refs.get("/".join(name))
                return _found(ref and {"object": {"sha": ref}})
            case "POST", ["git", "refs"]:
                if body["ref"].removeprefix("refs/heads/") in self.refs:
                    return httpx.Response(422, json={"message": "Reference already exists"})
                self.refs[body["ref"].removeprefix("refs/heads/")] = body["sha"]
                return httpx.Response(201, json={})
            case "PATCH", ["git", "refs", "heads", *name]:
                if self.refs["/".join(name)] != HEAD:
                    return httpx.Response(422, json={"message": "Update is not a fast forward"})
                self.refs["/".join(name)] = body["sha"]
                return httpx.Response(200, json={})
            case "DELETE", ["git", "refs", "heads", *name]:
                return httpx.Response(204 if self.refs.pop("/".join(name), None) else 422)
        return None

    def _commits(self, request: httpx.Request, parts: list[str], body: Any) -> httpx.Response | None:
        match request.method, parts:
            case "POST", ["git", "blobs" | "trees" | "commits"]:
                return httpx.Response(201, json={"sha": "d" * 40})
            case "GET", ["git", "commits", _]:
                return httpx.Response(200, json={"tree": {"sha": "e" * 40}})
            case "GET", ["git", "trees", _]:
                files = {"src/a.py": "1", "src2/b": "2"}
                entries = [{"path": path, "type": "blob", "sha": sha} for path, sha in files.items()]
                return httpx.Response(200, json={"truncated": False, "tree": entries})
            case "GET", ["git", "blobs", sha]:
                return httpx.Response(200, json={"content": base64.b64encode(sha.encode()).decode()})
            case "GET", ["contents", *name]:
                found = self.contents.get("/".join(name))
                return _found(None) if found is None else httpx.Response(200, text=found)
            case "PUT", ["contents", *name]:
                self.contents["/".join(name)] = base64.b64decode(body["content"]).decode()
                return httpx.Response(201, json={})
        return None

    def _actions(self, request: httpx.Request, parts: list[str], body: Any) -> httpx.Response | None:
        match request.method, parts:
            case "GET", ["actions", "workflows", name, "runs"]:
                runs = [
                    {"display_title": f"{run['workflow']} ({run['inputs']['key']})", "id": n}
                    for n, run in enumerate(self.started)
                    if run["workflow"] == name
                ]
                return httpx.Response(200, json={"total_count": len(runs), "workflow_runs": runs})
            case "POST", ["actions", "workflows", name, "dispatches"]:
                self.started.append({"workflow": name} | body)
                return httpx.Response(204)
        return None


def _found(value: dict | str | None) -> httpx.Response:
    return httpx.Response(200, json=value) if value else httpx.Response(404, json={})


def pull(number: int, branch: str, title: str = "t", body: str = "", author: str = BOT) -> dict:
    return {
        "number": number, "node_id": f"PR_{number}", "draft": False, "title": title,
        "body": body, "state": "open", "merged_at": None,
        "merge_commit_sha": None, "user": {"login": author},
        "html_url": f"https://github.com/acme/sekisho/pull/{number}",
        "head": {
            "ref": branch, "sha": HEAD, "label": f"acme:{branch}", "repo": {"full_name": "acme/sekisho"},
        },
        "base": {"ref": "main", "sha": BASE},
    }  # fmt: skip
