"""GitHub over a stand-in of the network: pages, retries, nothing twice."""

from __future__ import annotations

import httpx
import pytest
from tests.forge.stand_in import BASE, BOT, HEAD, GitHub, pull

from sekisho.calendar import Calendar
from sekisho.errors import ForgeError, Refused
from sekisho.forge.approvals import current_approval
from sekisho.forge.commands import handle
from sekisho.forge.github import GitHubForge

TOKYO = Calendar("XTKS", "5min")


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
    outcome = handle(forge, 1, forge.comments(1)[0], TOKYO)
    assert outcome.status == "refused"
    assert rule in outcome.message
    assert github.reactions == [(1, "-1")]
    assert handle(forge, 1, forge.comments(1)[0], TOKYO).status == "ignored"
    assert len(github.comments) == 2


def test_an_edited_comment_on_github_is_refused(github, forge):
    github.pulls = [pull(1, "tune", author="engineer")]
    github.comment("reviewer", f"/approve {HEAD}", edited=True)
    assert "commands.unedited" in handle(forge, 1, forge.comments(1)[0], TOKYO).message


def test_retrain_starts_the_workflow_with_checked_inputs_once(github, forge):
    github.pulls = [pull(1, "tune", author="engineer")]
    github.comment("reviewer", "/retrain")
    forge.current_actor()
    github.after = [None] * 6 + [httpx.ReadTimeout("lost")]  # the answer to the dispatch
    assert handle(forge, 1, forge.comments(1)[0], TOKYO).status == "accepted"
    inputs = {"number": "1", "head": HEAD, "key": "comment-1"}
    assert github.started == [{"workflow": "pr.yml", "ref": "main", "inputs": inputs}]


@pytest.mark.parametrize(("actor", "member"), [("trader", True), ("invited", False), ("stranger", False)])
def test_membership_of_a_team_is_what_github_says_now(github, forge, actor, member):
    assert forge.is_member("trading-desk", actor) is member


def approvable(github: GitHub) -> None:
    """A pull request with the bot's report and a reviewer's approval of its head, not judged yet."""
    github.pulls = [pull(1, "tune", author="engineer")]
    github.contents["dvc.lock"] = '{"schema": "2.0", "stages": {}}'
    github.contents |= {"dvc.yaml": "stages: {}", "params.yaml": "gate: {}"}
    github.contents["metrics/gate.json"] = '{"passed": true, "rules": []}'
    binding = f"<!-- sekisho:report-of head={HEAD} report-sha256={'9' * 64} -->"
    github.comment(BOT, f"<!-- sekisho:report 1/1 -->\n{binding}\nreport")
    github.comment("reviewer", f"/approve {HEAD}")


@pytest.mark.parametrize(
    "event", ["head_ref_force_pushed", "head_ref_restored", "reopened", "base_ref_changed"]
)
def test_a_head_that_was_replaced_and_came_back_has_lost_its_approval(github, forge, event):
    approvable(github)
    commit = {"event": "committed", "sha": HEAD, "committer": {"date": "2001-01-01T00:00:00Z"}}
    before = {"event": event, "created_at": "2025-12-31T00:00:00Z"}
    github.timeline = [before, commit]  # before the comment: that is what was approved
    assert handle(forge, 1, forge.comments(1)[1], TOKYO).status == "done"
    current_approval(forge, forge.get_pull_request(1))
    github.timeline.append({"event": event, "created_at": "2026-01-01T00:00:00Z"})
    with pytest.raises(Refused, match="came back"):
        current_approval(forge, forge.get_pull_request(1))


def test_a_head_replaced_between_the_comment_and_its_judgement_is_not_approved(github, forge):
    approvable(github)
    github.timeline = [{"event": "head_ref_force_pushed", "created_at": "2026-01-01T00:00:01Z"}]
    assert "head-unchanged" in handle(forge, 1, forge.comments(1)[1], TOKYO).message


@pytest.mark.parametrize("text", [f"/approve {HEAD}", "/retrain", "/hold x", "/promote moon"])
@pytest.mark.parametrize("carried_out", [False, True], ids=["request lost", "answer lost"])
def test_wherever_a_job_breaks_off_the_next_one_completes_it_and_nothing_happens_twice(
    params, text, carried_out
):
    for broken in range(40):
        github = GitHub()
        approvable(github)
        github.comments[1]["body"] = text
        lost = [None] * broken + [httpx.ReadTimeout("killed")]
        if carried_out:
            github.after = lost
        else:
            github.trouble = lost
        dying = params.model_copy(update={"retries": 0})
        first = GitHubForge("acme/sekisho", dying, "t", httpx.MockTransport(github))
        try:
            handle(first, 1, first.comments(1)[1], TOKYO)
            ended = True
        except ForgeError:
            ended = False
        github.after, github.trouble = [], []
        second = GitHubForge("acme/sekisho", params, "t", httpx.MockTransport(github))
        handle(second, 1, second.comments(1)[1], TOKYO)
        answers = [c for c in github.comments if c["body"].startswith("<!-- sekisho:answer-2 ")]
        assert len(answers) == 1
        assert len(set(github.reactions)) == 1
        assert len(github.started) == (text == "/retrain")
        if ended:
            assert broken > 4
            return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("trouble", [500, 429, "timeout"])
def test_lasting_trouble_while_judging_records_nothing(github, forge, trouble):
    approvable(github)
    comment = forge.comments(1)[1]
    answer = httpx.ReadTimeout("slow") if trouble == "timeout" else httpx.Response(trouble)
    github.trouble = [None] * 5 + [answer] * 9
    with pytest.raises(ForgeError, match="nothing is done twice"):
        handle(forge, 1, comment, TOKYO)
    assert (len(github.comments), github.reactions, github.started) == (2, [], [])


def test_a_command_behind_500_comments_and_planted_answers_is_judged(github, forge):
    approvable(github)
    for n in range(500):
        github.comment("reader", f"<!-- sekisho:answer-{n} 1/1 -->\nplanted")
    github.comment("reviewer", f"/approve {HEAD}")
    outcome = handle(forge, 1, forge.comments(1)[-1], TOKYO)
    assert (outcome.status, outcome.answer_id) == ("done", 504)
    assert current_approval(forge, forge.get_pull_request(1)).comment_id == 503


def test_a_200_kb_report_is_posted_in_parts_that_github_takes(github, forge):
    table = "\n".join(["| n | figure |", "|---|---|", *[f"| {n} | {'x' * 50} |" for n in range(3500)]])
    ids = forge.upsert_comment(1, "report", table)
    assert len(ids) == 4
    assert all(len(c["body"]) <= 65536 for c in github.comments)
    assert all("| n | figure |\n|---|---|" in c["body"] for c in github.comments)


@pytest.mark.parametrize("branch", ["$(touch${IFS}pwned)", "a;b", "日本", "x`id`", "b?x#y", 'q"'])
def test_a_hostile_branch_name_is_quoted_in_addresses(github, forge, branch):
    github.refs[branch] = HEAD
    assert forge.branch_head(branch) == HEAD
    forge.delete_branch(branch, HEAD)
    assert branch not in github.refs


@pytest.mark.parametrize("branch", ["", "../x", "a/../b", "a//b", "."])
def test_what_is_no_branch_name_is_not_asked_for(github, forge, branch):
    with pytest.raises(ForgeError, match="not a branch name"):
        forge.branch_head(branch)
    assert github.asked == []


def test_a_branch_that_moved_is_not_deleted(github, forge):
    with pytest.raises(Refused, match="head-unchanged"):
        forge.delete_branch("tune", BASE)
    forge.delete_branch("gone", BASE)
    assert github.refs["tune"] == HEAD


@pytest.mark.parametrize("repository", ["acme", "acme/", "a/b/c", "../x", "acme/se kisho"])
def test_what_is_no_repository_is_refused(params, repository):
    with pytest.raises(ForgeError, match="owner/repository"):
        GitHubForge(repository, params, "t")


def test_who_edited_a_comment_last_is_known_and_a_person_is_never_taken_for_the_bot(github, forge):
    for _ in range(4):
        github.comment(BOT, "report", edited=True)
    github.edits = {"IC_2": ("Bot", "sekisho"), "IC_3": ("User", "sekisho"), "IC_4": ("User", "reviewer")}
    assert [forge.last_editor(1, n) for n in (1, 2, 3, 4)] == [None, BOT, "sekisho", "reviewer"]


def test_a_refused_query_is_an_error_that_says_what_github_said(github, forge):
    github.trouble = [httpx.Response(200, json={"data": None, "errors": [{"message": "no such node"}]})]
    with pytest.raises(ForgeError, match="GitHub refused a query: no such node"):
        forge.current_actor()


def commit(
    sha: str, author: str | None, committer: str | None, message: str = "m", *, signed: bool = False
) -> dict:
    made = {"sha": sha, "commit": {"message": message, "verification": {"verified": signed}}}
    people = zip(("author", "committer"), (author, committer), strict=True)
    return made | {role: {"login": name} if name else None for role, name in people}


def test_contributors_are_who_wrote_committed_and_pushed_what_the_request_holds(github, forge):
    github.pulls = [pull(1, "tune"), pull(2, "theirs")]
    github.pulls[1]["head"] |= {"repo": {"full_name": "reader/sekisho"}, "label": "reader:theirs"}
    asked = "Retrain with x\n\nAsked for by trader, comment-7\n"
    github.commits = [
        commit("1", "engineer", "web-flow"),
        commit("2", None, None),
        commit("3", BOT, BOT, asked),
    ]
    ref = "refs/heads/tune"
    github.pushes = [
        {"after": "2", "ref": ref, "actor": {"login": "pusher"}},
        {"after": "9", "ref": ref, "actor": {"login": "of-an-earlier-request"}},
        {"after": "3", "ref": "refs/heads/theirs", "actor": {"login": "of-another-branch"}},
    ]
    assert forge.contributors(1) == {"engineer", "web-flow", BOT, "trader", "pusher"}
    assert forge.contributors(2) == {"engineer", "web-flow", BOT, "trader"}
    github.commits = [commit(str(n), "engineer", "engineer") for n in range(250)]
    with pytest.raises(ForgeError, match="only 250 commits"):
        forge.contributors(1)


def test_an_accounts_own_commits_are_those_that_github_signed_for_it(github, forge):
    github.pulls = [pull(1, "retrain/policy")]
    github.commits = [
        commit("1", BOT, BOT, "by the App", signed=True),
        commit("2", BOT, "web-flow", "by the App too", signed=True),
        commit("3", BOT, BOT, "pushed under its name"),
        commit("4", BOT, "engineer", "signed by a person's own key", signed=True),
        commit("5", "engineer", "web-flow", "in the web's editor", signed=True),
        commit("6", None, None, "of no account", signed=True),
    ]
    assert forge.messages(1, BOT) == ["by the App", "by the App too"]
    assert forge.messages(1, "engineer") == ["in the web's editor"]


SECONDARY = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."}
SPENT = {"x-ratelimit-remaining": "0"}


@pytest.mark.parametrize("status", [403, 429])
def test_a_secondary_rate_limit_is_known_by_its_message_and_waited_for(
    github, forge, params, monkeypatch, status
):
    waits: list[float] = []
    monkeypatch.setattr("sekisho.forge.rest.time.sleep", waits.append)
    forge.rest.params = params.model_copy(update={"longest_wait": 120.0, "backoff": 1.0})
    limited = httpx.Response(status, headers={"x-ratelimit-remaining": "4321"}, json=SECONDARY)
    github.trouble = [limited, limited]
    assert forge.permission("reviewer") == "write"
    assert waits == [60.0, 60.0]


def test_the_end_of_a_rate_limit_is_waited_for_if_it_is_near(github, forge, params, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("sekisho.forge.rest.time.sleep", waits.append)
    monkeypatch.setattr("sekisho.forge.rest.time.time", lambda: 1000.0)
    forge.rest.params = params.model_copy(update={"longest_wait": 120.0})
    github.trouble = [httpx.Response(403, headers=SPENT | {"x-ratelimit-reset": "1090"})]
    assert forge.permission("reviewer") == "write"
    assert waits == [90.0]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(403, headers=SPENT | {"x-ratelimit-reset": "2800"}),
        httpx.Response(429, headers={"retry-after": "1800"}),
    ],
    ids=["reset", "retry-after"],
)
def test_a_rate_limit_that_ends_later_than_we_wait_ends_the_job_and_is_not_asked_against(
    github, forge, params, monkeypatch, answer
):
    monkeypatch.setattr("sekisho.forge.rest.time.time", lambda: 1000.0)
    github.trouble = [answer]
    with pytest.raises(ForgeError, match=r"rate limit.* in 1800 s"):
        forge.permission("reviewer")
    assert len(github.asked) == 1


def test_a_403_that_is_no_rate_limit_is_a_refusal(github, forge):
    github.trouble = [
        httpx.Response(403, headers={"x-ratelimit-remaining": "9"}, json={"message": "Not you"})
    ]
    with pytest.raises(ForgeError, match="403 Not you"):
        forge.permission("reviewer")
