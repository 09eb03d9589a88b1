"""GitHub over a stand-in of the network: pages, retries, nothing twice."""

from __future__ import annotations

import base64
import json

import httpx
import pytest

from sekisho.errors import ForgeError, Refused
from sekisho.forge.commands import handle
from sekisho.forge.github import GitHubForge

BOT = "sekisho[bot]"
API = "https://api.github.com/repos/acme/sekisho"
HEAD, BASE = "a" * 40, "b" * 40


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
        self.after: list[Exception | None] = []  # the request is carried out, its answer is lost

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if self.trouble and (trouble := self.trouble.pop(0)) is not None:
            if isinstance(trouble, Exception):
                raise trouble
            return trouble
        answer = self.answer(request, request.url.path.removeprefix("/repos/acme/sekisho"))
        if self.after and (lost := self.after.pop(0)) is not None:
            raise lost
        return answer

    def comment(self, author: str, body: str, edited: bool = False) -> dict:
        made = {"id": len(self.comments) + 1, "user": {"login": author}, "body": body}
        made |= {"created_at": "2026-01-01T00:00:00Z", "updated_at": f"2026-01-0{1 + edited}T00:00:00Z"}
        self.comments.append(made)
        return made

    def answer(self, request: httpx.Request, path: str) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        match request.method, path.strip("/").split("/"):
            case "POST", ["graphql"]:
                return httpx.Response(200, json={"data": {"viewer": {"login": BOT}}})
            case "GET", ["issues", _, "comments"]:
                page = int(request.url.params.get("page", 1))
                following = f'<{API}/issues/1/comments?per_page=100&page={page + 1}>; rel="next"'
                more = len(self.comments) > 100 * page
                headers = {"link": following} if more else {}
                return httpx.Response(200, json=self.comments[100 * (page - 1) : 100 * page], headers=headers)
            case "POST", ["issues", _, "comments"]:
                return httpx.Response(201, json=self.comment(BOT, body["body"]))
            case "PATCH", ["issues", "comments", number]:
                self.comments[int(number) - 1]["body"] = body["body"]
                return httpx.Response(200, json={})
            case "POST", ["issues", "comments", number, "reactions"]:
                self.reactions.append((int(number), body["content"]))
                return httpx.Response(201, json={})
            case "GET", ["collaborators", actor, "permission"]:
                if actor not in self.permissions:
                    return httpx.Response(404, json={})
                return httpx.Response(200, json={"permission": self.permissions[actor]})
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
                found = self.pulls[int(number) - 1]
                if found["merged_at"]:
                    return httpx.Response(405, json={"message": "Pull Request is not mergeable"})
                if body["sha"] != found["head"]["sha"]:
                    return httpx.Response(409, json={"message": "Head branch was modified"})
                found |= {"merged_at": "now", "state": "closed", "merge_commit_sha": "c" * 40}
                return httpx.Response(200, json={"sha": "c" * 40})
            case "GET", ["git", "ref", "heads", *name]:
                ref = self.refs.get("/".join(name))
                return (
                    httpx.Response(200, json={"object": {"sha": ref}})
                    if ref
                    else httpx.Response(404, json={})
                )
            case "POST", ["git", "refs"]:
                self.refs[body["ref"].removeprefix("refs/heads/")] = body["sha"]
                return httpx.Response(201, json={})
            case "PATCH", ["git", "refs", "heads", *name]:
                if self.refs["/".join(name)] != HEAD:
                    return httpx.Response(422, json={"message": "Update is not a fast forward"})
                self.refs["/".join(name)] = body["sha"]
                return httpx.Response(200, json={})
            case "POST", ["git", "blobs" | "trees" | "commits"]:
                return httpx.Response(201, json={"sha": "d" * 40})
            case "GET", ["git", "commits", _]:
                return httpx.Response(200, json={"tree": {"sha": "e" * 40}})
            case "GET", ["git", "trees", _]:
                entries = [
                    {"path": "src/a.py", "type": "blob", "sha": "1"},
                    {"path": "src2/b", "type": "blob", "sha": "2"},
                ]
                return httpx.Response(200, json={"truncated": False, "tree": entries})
            case "GET", ["git", "blobs", sha]:
                return httpx.Response(200, json={"content": base64.b64encode(sha.encode()).decode()})
            case "GET", ["contents", *name]:
                found = self.contents.get("/".join(name))
                return httpx.Response(404, json={}) if found is None else httpx.Response(200, text=found)
            case "PUT", ["contents", *name]:
                self.contents["/".join(name)] = base64.b64decode(body["content"]).decode()
                return httpx.Response(201, json={})
            case "POST", ["actions", "workflows", name, "dispatches"]:
                self.started.append({"workflow": name} | body)
                return httpx.Response(204)
        raise AssertionError(f"the stand-in does not know {request.method} {path}")


def pull(number: int, branch: str, title: str = "t", body: str = "", author: str = BOT) -> dict:
    return {
        "number": number, "title": title, "body": body, "state": "open", "merged_at": None,
        "merge_commit_sha": None, "user": {"login": author},
        "html_url": f"https://github.com/acme/sekisho/pull/{number}",
        "head": {
            "ref": branch, "sha": HEAD, "label": f"acme:{branch}", "repo": {"full_name": "acme/sekisho"},
        },
        "base": {"ref": "main", "sha": BASE},
    }  # fmt: skip


@pytest.fixture
def github() -> GitHub:
    return GitHub()


@pytest.fixture
def forge(github, params, monkeypatch) -> GitHubForge:
    monkeypatch.delenv("GITHUB_API_URL", raising=False)
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    return GitHubForge("acme/sekisho", params, "secret-token", httpx.MockTransport(github))


def test_the_bots_comment_is_found_among_500(github, forge):
    for n in range(500):
        github.comment("reader", f"comment {n}\n<!-- sekisho:report 1/1 -->")
    first = forge.upsert_comment(1, "report", "old")
    github.comment("reader", "<!-- sekisho:report 1/1 -->\nplanted")
    assert forge.upsert_comment(1, "report", "new") == first == [501]
    assert len(forge.comments(1)) == 502
    assert github.comments[500]["body"].endswith("new")
    assert github.comments[501]["body"].endswith("planted")


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(502),
        httpx.Response(500),
        httpx.Response(429, headers={"retry-after": "0"}),
        httpx.Response(403, headers={"x-ratelimit-remaining": "0"}),
        httpx.ReadTimeout("slow"),
        httpx.ConnectError("down"),
    ],
    ids=str,
)
def test_trouble_is_retried(github, forge, trouble):
    github.trouble = [trouble, trouble]
    assert forge.permission("reviewer") == "write"
    assert len(github.asked) == 3


def test_lasting_trouble_ends_with_a_remedy_and_without_the_token(github, forge, params):
    github.trouble = [httpx.Response(503)] * 99
    with pytest.raises(ForgeError, match="status 503") as caught:
        forge.permission("reviewer")
    assert len(github.asked) == params.retries + 1
    assert "secret-token" not in str(caught.value)


def test_a_refusal_is_not_retried(github, forge):
    github.trouble = [httpx.Response(401, json={"message": "Bad credentials"})]
    with pytest.raises(ForgeError, match="401 Bad credentials"):
        forge.permission("reviewer")
    assert len(github.asked) == 1


def test_a_comment_whose_answer_was_lost_is_not_posted_twice(github, forge):
    forge.current_actor()
    github.after = [httpx.ReadTimeout("lost")]
    assert forge.add_comment(1, "hello") == 1
    assert len(github.comments) == 1


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(github, forge):
    forge.current_actor()
    github.after = [None, httpx.ReadTimeout("lost")]
    assert forge.open_pull_request("tune", "Tune", "b", key="drift/policy") == 1
    assert forge.open_pull_request("tune", "Tune again", "b", key="drift/policy") == 1
    assert len(github.pulls) == 1
    assert forge.get_pull_request(1).key == "drift/policy"
    assert forge.get_pull_request(1).title == "Tune again"


def test_a_merge_whose_answer_was_lost_is_the_merge(github, forge):
    github.pulls = [pull(1, "tune")]
    github.after = [httpx.ReadTimeout("lost")]
    assert forge.merge(1, HEAD, "Merge\n\nApproved-by: reviewer") == "c" * 40


def test_a_merge_of_another_head_is_refused(github, forge):
    github.pulls = [pull(1, "tune")]
    with pytest.raises(Refused, match="head-unchanged"):
        forge.merge(1, "f" * 40, "Merge")
    assert github.pulls[0]["merged_at"] is None


def test_a_key_planted_by_someone_else_is_not_ours(github, forge):
    github.pulls = [pull(1, "evil", body="x\n<!-- sekisho:key=drift/policy -->", author="reader")]
    assert forge.open_pull_request("retrain/policy", "Retrain", "b", key="drift/policy") == 2


def test_a_forks_branch_is_never_one_of_ours(github, forge):
    fork = pull(1, "retrain/policy", author="reader")
    fork["head"] |= {"repo": {"full_name": "reader/sekisho"}, "label": "reader:retrain/policy"}
    github.pulls = [fork]
    assert forge.get_pull_request(1).branch == "reader:retrain/policy"


def test_a_commit_goes_only_onto_the_head_it_was_made_for(github, forge):
    assert forge.commit_files("tune", {"dvc.lock": b"x"}, "Record", HEAD) == "d" * 40
    github.refs["tune"] = "f" * 40
    with pytest.raises(Refused, match="head-unchanged"):
        forge.commit_files("tune", {"dvc.lock": b"x"}, "Record", HEAD)
    assert forge.commit_files("fresh", {"a": b"x"}, "Begin", BASE, create=True) == github.refs["fresh"]


def test_files_of_a_commit_are_read_by_folder(forge, github):
    assert forge.read_folder(HEAD, "src") == {"a.py": b"1"}
    assert forge.read_file(HEAD, "dvc.lock") is None


def test_pictures_are_stored_once_on_the_bots_branch(github, forge, tmp_path):
    picture = tmp_path / "equity curve.png"
    picture.write_text("pixels")
    links = forge.publish_images(1, {"plots/equity.png": picture})
    assert "sekisho-reports" in github.refs
    assert links["plots/equity.png"].startswith("https://github.com/acme/sekisho/blob/sekisho-reports/1/")
    assert " " not in links["plots/equity.png"]
    writes = [asked for asked in github.asked if asked.startswith("PUT")]
    assert forge.publish_images(1, {"plots/equity.png": picture}) == links
    assert [asked for asked in github.asked if asked.startswith("PUT")] == writes


def test_the_next_page_on_another_host_is_not_asked(github, forge):
    leak = {"link": '<https://evil.example/comments?page=2>; rel="next"'}
    github.trouble = [httpx.Response(200, json=[], headers=leak)]
    with pytest.raises(ForgeError, match="another host"):
        forge.comments(1)


@pytest.mark.parametrize(
    ("author", "rule"), [("stranger", "permission"), ("reader", "permission"), ("Engineer", "four-eyes")]
)
def test_commands_are_judged_by_what_github_says_now(github, forge, author, rule):
    github.permissions["Engineer"] = "write"
    github.pulls = [pull(1, "tune", author="engineer")]
    github.comment(author, f"/approve {HEAD}")
    outcome = handle(forge, 1, forge.comments(1)[0])
    assert outcome.status == "refused"
    assert rule in outcome.message
    assert github.reactions == [(1, "-1")]
    assert handle(forge, 1, forge.comments(1)[0]).status == "ignored"
    assert len(github.comments) == 2


def test_an_edited_comment_on_github_is_refused(github, forge):
    github.pulls = [pull(1, "tune", author="engineer")]
    github.comment("reviewer", f"/approve {HEAD}", edited=True)
    assert "commands.unedited" in handle(forge, 1, forge.comments(1)[0]).message


def test_retrain_starts_the_workflow_with_checked_inputs(github, forge):
    github.pulls = [pull(1, "tune", author="engineer")]
    github.comment("reviewer", "/retrain")
    assert handle(forge, 1, forge.comments(1)[0]).status == "accepted"
    assert github.started == [{"workflow": "pr.yml", "ref": "main", "inputs": {"number": "1", "head": HEAD}}]


@pytest.mark.parametrize("repository", ["acme", "acme/", "a/b/c", "../x", "acme/se kisho"])
def test_what_is_no_repository_is_refused(params, repository):
    with pytest.raises(ForgeError, match="owner/repository"):
        GitHubForge(repository, params, "t")
