"""A stand-in of GitHub: its REST API over a bare git repository, with every request and answer held against
GitHub's own description, and every token against the permissions that GitHub wants for that operation.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.workflows.description import Description

REPOSITORY = "sekisho/sekisho"
BOT = "sekisho[bot]"
ACTIONS = "github-actions[bot]"
# Permission that GitHub's documentation wants of an App's token, by operation.
NEEDS = {
    "actions/create-workflow-dispatch": ("actions", "write"),
    "actions/download-job-logs-for-workflow-run": ("actions", "read"),
    "actions/list-jobs-for-workflow-run-attempt": ("actions", "read"),
    "actions/list-workflow-runs": ("actions", "read"),
    "actions/re-run-workflow-failed-jobs": ("actions", "write"),
    "checks/list-annotations": ("checks", "read"),
    "git/create-blob": ("contents", "write"),
    "git/create-commit": ("contents", "write"),
    "git/create-ref": ("contents", "write"),
    "git/create-tree": ("contents", "write"),
    "git/delete-ref": ("contents", "write"),
    "git/get-blob": ("contents", "read"),
    "git/get-commit": ("contents", "read"),
    "git/get-ref": ("contents", "read"),
    "git/get-tree": ("contents", "read"),
    "git/update-ref": ("contents", "write"),
    "issues/create-comment": ("pull-requests", "write"),
    "issues/delete-comment": ("pull-requests", "write"),
    "issues/list-events-for-timeline": ("pull-requests", "read"),
    "issues/get-comment": ("pull-requests", "read"),
    "issues/list-comments": ("pull-requests", "read"),
    "issues/update-comment": ("pull-requests", "write"),
    "pulls/create": ("pull-requests", "write"),
    "pulls/get": ("pull-requests", "read"),
    "pulls/list-commits": ("pull-requests", "read"),
    "pulls/list": ("pull-requests", "read"),
    "pulls/merge": ("contents", "write"),
    "pulls/update": ("pull-requests", "write"),
    "reactions/create-for-issue-comment": ("pull-requests", "write"),
    "repos/list-activities": ("contents", "read"),
    "repos/compare-commits-with-basehead": ("contents", "read"),
    "repos/create-or-update-file-contents": ("contents", "write"),
    "repos/get-collaborator-permission-level": ("metadata", "read"),
    "repos/get-content": ("contents", "read"),
    "repos/get-repo-ruleset": ("administration", "write"),
    "repos/get-repo-rulesets": ("metadata", "read"),
    "repos/list-pull-requests-associated-with-commit": ("pull-requests", "read"),
    "teams/get-membership-for-user-in-org": ("members", "read"),
}
LEVELS = ("read", "write", "admin")

Json = dict[str, Any]


class Answer(Exception):
    """An answer other than the usual one."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"message": message, "documentation_url": "https://docs.github.com"}


class StandIn:
    """State as plain attributes, for tests to read and to set."""

    def __init__(self, origin: Path, description: Description) -> None:
        self.origin, self.description = origin, description
        self.pulls: dict[int, Json] = {}
        self.comments: dict[int, list[Json]] = {}
        self.reactions: list[tuple[int, str]] = []
        self.permissions = {
            "engineer": "write", "reviewer": "write", "reader": "read", "trader": "write", "admin": "admin",
        }  # fmt: skip
        self.teams: dict[str, list[str]] = {"trading-desk": ["trader"]}
        self.rulesets: list[Json] = []
        self.dispatches: list[Json] = []
        self.pushes: list[Json] = []  # GitHub's record of who pushed; tests add to it
        self.signed: set[str] = set()  # commits that were made through it
        self.reruns: list[int] = []
        self.jobs: dict[int, list[Json]] = {}
        self.logs: dict[int, str] = {}
        self.causes: dict[int, str] = {}  # why GitHub ended a job
        self.chat: list[str] = []
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.trouble: list[int] = []  # statuses answered instead, one a request
        self._lock, self._ids = threading.RLock(), 1000
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # ---- what tests do as people

    def git(self, *words: str, data: bytes | None = None) -> str:
        who = {f"GIT_{r}_{w}": BOT for r in ("AUTHOR", "COMMITTER") for w in ("NAME", "EMAIL")}
        done = subprocess.run(
            ["git", *words],
            cwd=self.origin,
            input=data,
            capture_output=True,
            env=who | {"PATH": "/usr/bin:/bin"},
        )
        if done.returncode:
            raise Answer(422, done.stderr.decode())
        return done.stdout.decode().strip()

    def new_id(self) -> int:
        self._ids += 1
        return self._ids

    def comment(self, number: int, author: str, body: str) -> Json:
        """A comment as GitHub shows it."""
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        made = self.description.example("issue-comment")
        made |= {"id": self.new_id(), "body": body, "created_at": now, "updated_at": now}
        made["node_id"] = f"IC_{made['id']}"
        made["user"]["login"] = author
        made["html_url"] = f"https://github.com/{REPOSITORY}/pull/{number}#issuecomment-{made['id']}"
        self.comments.setdefault(number, []).append(made)
        return made

    def open_pull(self, author: str, branch: str, title: str, body: str = "", base: str = "main") -> Json:
        made = self.description.example("pull-request")
        number = max(self.pulls, default=0) + 1
        made |= {"number": number, "title": title, "body": body, "state": "open", "requested_teams": []}
        made |= {"html_url": f"https://github.com/{REPOSITORY}/pull/{number}", "merge_commit_sha": None}
        made |= {"node_id": f"PR_{number}", "draft": False}
        made |= {"merged_at": None, "merged": False, "merged_by": None, "closed_at": None}
        made["user"]["login"] = author
        made["head"] |= {"ref": branch, "label": f"sekisho:{branch}"}
        made["base"] |= {"ref": base, "label": f"sekisho:{base}"}
        for side in ("head", "base"):
            made[side]["repo"]["full_name"] = REPOSITORY
        self.pulls[number] = made
        return self.pull(number)

    def pull(self, number: int) -> Json:
        """The pull request with the present heads of its branches."""
        if number not in self.pulls:
            raise Answer(404, "Not Found")
        found = self.pulls[number]
        if found["state"] == "open":
            for side in ("head", "base"):
                found[side]["sha"] = self.git("rev-parse", f"refs/heads/{found[side]['ref']}")
        return found

    # ---- the API

    def answer(self, method: str, target: str, headers: Any, raw: bytes) -> tuple[int, Any, dict[str, str]]:
        """Status, body (bytes or JSON) and headers for one request."""
        url = urlsplit(target)
        path, query = unquote(url.path), dict(parse_qsl(url.query))
        body = json.loads(raw) if raw else None
        with self._lock:
            self.asked.append(f"{method} {path}")
            if path.startswith("/signed/"):
                if headers.get("Authorization"):
                    self.faults.append("the token was shown to the host that stores logs")
                return 200, self.logs[int(path.removeprefix("/signed/"))].encode(), {}
            if path == "/chat":
                self.chat.append(body["text"])
                return 200, b"ok", {}
            if self.trouble and (status := self.trouble.pop(0)):
                return status, {"message": "trouble"}, {}
            try:
                actor, granted = _actor(headers)
                if path == "/graphql":
                    return 200, {"data": self._query(body, actor)}, {}
                name = self.description.check_request(method, url.path, query, body)
                self._allowed(name, granted)
                status, answer, extra = self._act(name, path, query, body, actor, headers)
                if not isinstance(answer, bytes):
                    self.description.check_response(method, url.path, status, answer)
                return status, answer, extra
            except Answer as error:
                return error.status, error.body, {}
            except Exception as error:  # noqa: BLE001 (a fault of the request or of this class: the test says which)
                self.faults.append(f"{method} {path}: {type(error).__name__}: {error}")
                return 500, {"message": str(error)}, {}

    def _query(self, body: Any, actor: str) -> Json:
        """The GraphQL queries that are asked; GitHub's description of its REST API does not hold them."""
        if body == {"query": "{viewer{login}}"}:
            return {"viewer": {"login": actor}}
        for change, draft in (("convertPullRequestToDraft", True), ("markPullRequestReadyForReview", False)):
            if f"mutation($id:ID!){{{change}(" in body["query"]:
                (found,) = (p for p in self.pulls.values() if p["node_id"] == body["variables"]["id"])
                found["draft"] = draft
                return {change: {"clientMutationId": None}}
        if "lastEditedAt editor{__typename login}" not in body["query"]:
            raise Answer(400, "unknown query")
        found = next(
            c for every in self.comments.values() for c in every if c["node_id"] == body["variables"]["id"]
        )
        editor = found.get("editor") and {"__typename": "Bot", "login": found["editor"].removesuffix("[bot]")}
        return {"node": {"lastEditedAt": editor and found["updated_at"], "editor": editor}}

    def _allowed(self, name: str, granted: dict[str, str]) -> None:
        assert name in NEEDS, f"the stand-in does not know {name}"
        wanted, level = NEEDS[name]
        has = granted.get(wanted)
        if wanted != "metadata" and (has is None or LEVELS.index(has) < LEVELS.index(level)):
            self.faults.append(f"{name} needs {wanted}: {level}, the token has {granted}")
            raise Answer(403, "Resource not accessible by integration")

    def _act(
        self, name: str, path: str, query: dict[str, str], body: Any, actor: str, headers: Any
    ) -> tuple[int, Any, dict[str, str]]:
        parts = path.removeprefix(f"/repos/{REPOSITORY}/").split("/")
        match name:
            case "issues/list-comments":
                page, size = int(query.get("page", 1)), int(query.get("per_page", 30))
                every = self.comments.get(int(parts[1]), [])
                following = f'<{self.url}{path}?per_page={size}&page={page + 1}>; rel="next"'
                more = {"link": following} if len(every) > page * size else {}
                return 200, list(map(_without_editor, every[(page - 1) * size : page * size])), more
            case "issues/create-comment":
                self.pull(int(parts[1]))
                return 201, self.comment(int(parts[1]), actor, body["body"]), {}
            case "issues/update-comment" | "issues/delete-comment":
                every = [(n, c) for n, found in self.comments.items() for c in found]
                number, found = next(((n, c) for n, c in every if c["id"] == int(parts[2])), (0, None))
                if found is None:
                    raise Answer(404, "Not Found")
                if name.endswith("delete-comment"):
                    self.comments[number].remove(found)
                    return 204, b"", {}
                found |= {"body": body["body"], "updated_at": "2099-01-01T00:00:00Z", "editor": actor}
                return 200, _without_editor(found), {}
            case "issues/get-comment":
                every = [c for found in self.comments.values() for c in found]
                return 200, _without_editor(next(c for c in every if c["id"] == int(parts[2]))), {}
            case "reactions/create-for-issue-comment":
                self.reactions.append((int(parts[2]), body["content"]))
                return 201, self.description.example("reaction") | {"content": body["content"]}, {}
            case "repos/get-collaborator-permission-level":
                return 200, self._permission(parts[1]), {}
            case "teams/get-membership-for-user-in-org":
                _, _, _, team, _, person = path.strip("/").split("/")
                if person not in self.teams.get(team, []):
                    raise Answer(404, "Not Found")
                url = f"https://api.github.com/teams/1/memberships/{person}"
                return 200, {"url": url, "role": "member", "state": "active"}, {}
            case "actions/create-workflow-dispatch":
                self.dispatches.append({"workflow": parts[2]} | body)
                return 204, b"", {}
            case "repos/get-repo-rulesets":
                listed = self.description.example("repository-ruleset-items")[:1]
                own = ("id", "name", "enforcement")  # GitHub's example has an enforcement that is none
                return 200, [listed[0] | {k: r[k] for k in own} for r in self.rulesets], {}
            case "repos/get-repo-ruleset":
                return 200, next(r for r in self.rulesets if r["id"] == int(parts[1])), {}
            case "issues/list-events-for-timeline":
                return 200, [], {}
            case "actions/list-workflow-runs":
                known = [d for d in self.dispatches if d["workflow"] == parts[2]]
                made = self.description.example("workflow-run-paginated")["workflow_runs"][:1]
                runs = [made[0] | {"display_title": f"… ({d['inputs']['key']})"} for d in known]
                return 200, {"total_count": len(runs), "workflow_runs": runs}, {}
            case "actions/list-jobs-for-workflow-run-attempt":
                found = self.jobs.get(int(parts[2]), [])
                return 200, {"total_count": len(found), "jobs": found}, {}
            case "checks/list-annotations":
                made = self.description.example("check-annotation-items")[0]
                cause = self.causes.get(int(parts[1]))
                return 200, [made | {"message": cause, "annotation_level": "failure"}] if cause else [], {}
            case "actions/download-job-logs-for-workflow-run":
                return 302, b"", {"Location": f"{self.url}/signed/{parts[2]}"}
            case "actions/re-run-workflow-failed-jobs":
                self.reruns.append(int(parts[2]))
                return 201, {}, {}
        if name.startswith("pulls/") or name == "repos/list-pull-requests-associated-with-commit":
            return (*self._pulls(name, parts, query, body, actor), {})
        return (*self._contents(name, parts, query, body, headers), {})

    def _permission(self, person: str) -> Json:
        if person not in self.permissions:
            raise Answer(404, "Not Found")
        name = "repository-collaborator-permission-response-if-user-has-admin-permissions"
        made = self.description.example(name)
        made |= {"permission": self.permissions[person], "role_name": self.permissions[person]}
        made["user"] |= {
            "login": person,
            "role_name": self.permissions[person],
        }  # GitHub's example forgets it
        return made

    def _pulls(self, name: str, parts: list[str], query: Json, body: Any, actor: str) -> tuple[int, Any]:
        simple = self.description.example("pull-request-simple")
        short = set(simple)
        match name:
            case "pulls/list":
                pulls = [self.pull(n) for n in self.pulls]
                wanted = query.get("state", "open")
                listed = [p for p in pulls if wanted in ("all", p["state"])]
                if "head" in query:
                    listed = [p for p in listed if p["head"]["label"] == query["head"]]
                return 200, [{k: v for k, v in (simple | p).items() if k in short} for p in listed]
            case "repos/list-pull-requests-associated-with-commit":
                pulls = [p for p in map(self.pull, self.pulls) if p["merge_commit_sha"] == parts[1]]
                return 200, [{k: v for k, v in (simple | p).items() if k in short} for p in pulls]
            case "pulls/create":
                if any(
                    p["head"]["ref"] == body["head"] and p["state"] == "open" for p in self.pulls.values()
                ):
                    raise Answer(422, "A pull request already exists")
                return 201, self.open_pull(
                    actor, body["head"], body["title"], body.get("body", ""), body["base"]
                )
            case "pulls/list-commits":
                pull = self.pull(int(parts[1]))
                return 200, self._commits(f"{pull['base']['sha']}..{pull['head']['sha']}")
            case "pulls/get":
                return 200, self.pull(int(parts[1]))
            case "pulls/update":
                return 200, self.pull(int(parts[1])) | self.pulls[int(parts[1])].__ior__(body)
        assert name == "pulls/merge", f"the stand-in does not know {name}"
        merged = self.merge(int(parts[1]), body["sha"], f"{body['commit_title']}\n\n{body['commit_message']}")
        return 200, {"sha": merged, "merged": True, "message": "Pull Request successfully merged"}

    def merge(self, number: int, head: str, message: str) -> str:
        """Merge as GitHub does, with a merge commit."""
        pull = self.pull(number)
        if pull["state"] != "open":
            raise Answer(405, "Pull Request is not mergeable")
        if pull["draft"]:
            raise Answer(405, "Pull Request is still a draft")
        if pull["head"]["sha"] != head:
            raise Answer(409, "Head branch was modified. Review and try the merge again.")
        tree = self.git("merge-tree", "--write-tree", "main", head).split("\n")[0]
        sha = self.git("commit-tree", tree, "-p", "refs/heads/main", "-p", head, "-m", message)
        self.git("update-ref", "refs/heads/main", sha)
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        pull |= {
            "state": "closed",
            "merged": True,
            "merged_at": now,
            "closed_at": now,
            "merge_commit_sha": sha,
        }
        return sha

    def _contents(self, name: str, parts: list[str], query: Json, body: Any, headers: Any) -> tuple[int, Any]:
        match name:
            case "repos/get-content":
                return 200, self._file(query.get("ref", "main"), "/".join(parts[1:]), headers)
            case "repos/list-activities":
                return 200, [push for push in self.pushes if push["ref"] == query["ref"]]
            case "repos/compare-commits-with-basehead":
                return 200, self._comparison(*parts[1].split("..."))
            case "repos/create-or-update-file-contents":
                return 201, self._put(body, "/".join(parts[1:]))
            case "git/get-ref":
                return 200, self._ref("/".join(parts[2:]))
            case "git/create-ref" | "git/update-ref":
                ref = body.get("ref", f"refs/{'/'.join(parts[2:])}")
                present = subprocess.run(
                    ["git", "rev-parse", "-q", "--verify", ref],
                    cwd=self.origin,
                    capture_output=True,
                    text=True,
                ).stdout.strip()
                if name == "git/create-ref" and present:
                    raise Answer(422, "Reference already exists")
                if name == "git/update-ref":
                    forced = body.get("force", False)
                    if not forced and self.git("merge-base", present, body["sha"]) != present:
                        raise Answer(422, "Update is not a fast forward")
                self.git("update-ref", ref, body["sha"])
                return (201 if name == "git/create-ref" else 200), self._ref(ref.removeprefix("refs/"))
            case "git/delete-ref":
                name = "/".join(parts[2:])
                self._ref(name)
                for pull in map(self.pull, self.pulls):
                    if pull["state"] == "open" and f"heads/{pull['head']['ref']}" == name:
                        pull["state"] = "closed"  # GitHub does it, a moment later
                self.git("update-ref", "-d", f"refs/{name}")
                return 204, b""
            case "git/get-commit":
                return 200, self._commit(parts[2])
            case "git/create-commit":
                words = [w for parent in body["parents"] for w in ("-p", parent)]
                sha = self.git("commit-tree", body["tree"], *words, "-m", body["message"])
                self.signed.add(sha)
                return 201, self._commit(sha)
            case "git/get-tree":
                return 200, self._tree(parts[2], recursive="recursive" in query)
            case "git/create-tree":
                return 201, self._make_tree(body)
            case "git/create-blob":
                content = (
                    base64.b64decode(body["content"]) if body["encoding"] == "base64" else body["content"]
                )
                sha = self.git("hash-object", "-w", "--stdin", data=content)
                return 201, {"sha": sha, "url": f"{self.url}/repos/{REPOSITORY}/git/blobs/{sha}"}
            case "git/get-blob":
                content = self._bytes("cat-file", "blob", parts[2])
                made = self.description.example("blob") | {"sha": parts[2], "size": len(content)}
                return 200, made | {"content": base64.b64encode(content).decode(), "encoding": "base64"}
        raise AssertionError(f"the stand-in does not know {name}")

    def _bytes(self, *words: str) -> bytes:
        done = subprocess.run(["git", *words], cwd=self.origin, capture_output=True)
        if done.returncode:
            raise Answer(404, "Not Found")
        return done.stdout

    def _file(self, ref: str, path: str, headers: Any) -> Any:
        content = self._bytes("cat-file", "blob", f"{ref}:{path}")
        if "raw" in headers.get("Accept", ""):
            return content
        made = self.description.example("content-file-response-if-content-is-a-file")
        return made | {"path": path, "content": base64.b64encode(content).decode(), "size": len(content)}

    def _commits(self, span: str) -> list[Json]:
        """Commits as GitHub lists them; git's names stand for accounts."""
        made = []
        for entry in filter(
            None, self.git("log", "--reverse", "--format=%H%n%an%n%cn%n%B%x00", span).split("\0")
        ):
            sha, author, committer, message = entry.strip("\n").split("\n", 3)
            one = self.description.example("commit-items")[0]
            signed = one["commit"]["verification"] | {"verified": sha in self.signed}
            one |= {"sha": sha, "commit": one["commit"] | {"message": message, "verification": signed}}
            made.append(
                one | {r: one[r] | {"login": n} for r, n in (("author", author), ("committer", committer))}
            )
        return made

    def _comparison(self, base: str, head: str) -> Json:
        """Files that differ from where both began, at most 300, as GitHub lists them."""
        made = self.description.example("commit-comparison")
        began = self.git("merge-base", base, head)
        ahead, behind = (int(self.git("rev-list", "--count", f"{began}..{end}")) for end in (head, base))
        status = {(False, False): "identical", (True, False): "ahead", (False, True): "behind"}
        names = self.git("diff", "--name-only", "--no-renames", began, head).split("\n")
        files = [made["files"][0] | {"filename": name} for name in names if name][:300]
        made |= {"status": status.get((ahead > 0, behind > 0), "diverged"), "files": files}
        return made | {"ahead_by": ahead, "behind_by": behind, "total_commits": ahead}

    def _put(self, body: Json, path: str) -> Json:
        branch = f"refs/heads/{body['branch']}"
        blob = self.git("hash-object", "-w", "--stdin", data=base64.b64decode(body["content"]))
        tree = self._make_tree(
            {
                "base_tree": self.git("rev-parse", f"{branch}^{{tree}}"),
                "tree": [{"path": path, "mode": "100644", "type": "blob", "sha": blob}],
            }
        )["sha"]
        self.git("update-ref", branch, self.git("commit-tree", tree, "-p", branch, "-m", body["message"]))
        return self.description.example("file-commit-example-for-creating-a-file")

    def _ref(self, name: str) -> Json:
        sha = self._bytes("rev-parse", "-q", "--verify", f"refs/{name}").decode().strip()
        made = self.description.example("git-ref") | {"ref": f"refs/{name}"}
        made["object"] |= {"sha": sha}
        return made

    def _commit(self, sha: str) -> Json:
        tree = self._bytes("rev-parse", "-q", "--verify", f"{sha}^{{tree}}").decode().strip()
        made = self.description.example("git-commit") | {
            "sha": sha,
            "message": self.git("log", "-1", "--format=%B", sha),
        }
        made["tree"] |= {"sha": tree}
        return made

    def _tree(self, sha: str, *, recursive: bool) -> Json:
        made = {"sha": sha, "url": f"{self.url}/trees/{sha}", "truncated": False, "tree": []}
        for line in (
            self._bytes("ls-tree", "-z", *(["-r", "-t"] if recursive else []), sha).decode().split("\0")
        ):
            if line:
                (mode, kind, object_id), path = line.split("\t", 1)[0].split(), line.split("\t", 1)[1]
                made["tree"].append({"path": path, "mode": mode, "type": kind, "sha": object_id})
        return made

    def _make_tree(self, body: Json) -> Json:
        index = {"GIT_INDEX_FILE": str(self.origin / f"index-{self.new_id()}"), "PATH": "/usr/bin:/bin"}

        def git(*words: str) -> str:
            return subprocess.run(
                ["git", *words], cwd=self.origin, env=index, check=True, capture_output=True, text=True
            ).stdout.strip()

        if "base_tree" in body:
            git("read-tree", body["base_tree"])
        for entry in body["tree"]:
            sha = entry.get("sha") or self.git("hash-object", "-w", "--stdin", data=entry["content"].encode())
            git("update-index", "--add", "--cacheinfo", f"{entry['mode']},{sha},{entry['path']}")
        tree = git("write-tree")
        Path(index["GIT_INDEX_FILE"]).unlink()
        return self._tree(tree, recursive=False)


def _without_editor(comment: Json) -> Json:
    """A comment as REST shows it: who edited it is told by GraphQL alone."""
    return {key: value for key, value in comment.items() if key != "editor"}


def token(actor: str, permissions: dict[str, str]) -> str:
    """A token that says whose it is and what it may; long enough not to be masked inside other words."""
    claims = json.dumps({"actor": actor, "permissions": permissions})
    encoded = base64.urlsafe_b64encode(claims.encode()).decode()
    return f"token.{encoded}.{hashlib.sha256(claims.encode()).hexdigest()}"


def _actor(headers: Any) -> tuple[str, dict[str, str]]:
    try:
        _, claims, _ = (
            headers.get("Authorization", "").removeprefix("Bearer ").removeprefix("token ").split(".")
        )
        found = json.loads(base64.urlsafe_b64decode(claims))
        return found["actor"], found["permissions"]
    except ValueError:
        raise Answer(401, "Bad credentials") from None


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body, extra = stand_in.answer(self.command, self.path, self.headers, raw)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            for key, value in extra.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: act's output is what is read."""

    return Handler
