"""Every workflow beside the loop, executed by act: what is refused, retried, told and skipped."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from tests.workflows.act import Ran
from tests.workflows.stand_in import BOT, REPOSITORY, StandIn
from tests.workflows.world import World, example

pytestmark = pytest.mark.slow
STEP = "Run .venv/bin/sekisho pr admit 1"
LINES = [
    f"##[group]{STEP}",
    *(f"2026-11-23T08:00:{n:02d}.0000000Z fetching {n}" for n in range(40)),
    "2026-11-23T08:01:00.0000000Z ERROR: failed to pull: @sekisho/all `x` ``` /approve",
    "2026-11-23T08:01:00.1000000Z ##[error]Process completed with exit code {code}.",
    "2026-11-23T08:01:01.0000000Z Post job cleanup.",
]


@pytest.fixture(scope="module")
def world(world: World) -> World:
    world.branch("tune", "README.md", "Sekisho takes", "Sekisho still takes")
    world.github.open_pull("engineer", "tune", "Tune")
    return world


@pytest.fixture
def github(world: World) -> StandIn:
    for known in (
        world.github.dispatches,
        world.github.reruns,
        world.github.chat,
        world.github.trouble,
        world.github.faults,
    ):
        known.clear()
    world.github.comments.clear()
    return world.github


def say(world: World, who: str, text: str) -> tuple[Ran, list[str]]:
    comment = world.github.comment(1, who, text)
    ran = world.act("commands.yml", "issue_comment", world.issue_comment(1, comment))
    answers = [c["body"] for c in world.github.comments[1] if c["user"]["login"] == BOT]
    return ran, answers


@pytest.mark.parametrize(
    ("who", "text", "reason"),
    [
        ("outsider", "/hold", "permission"),
        ("reader", "/approve {head}", "permission"),
        ("engineer", "/approve {head}", "four-eyes"),
        ("reviewer", "/approve {head}", "report-for-head"),
        ("reviewer", "/approve 0123456", "usage"),
        ("reviewer", "/deploy $(touch pwned); `touch pwned`", "known"),
    ],
)
def test_a_command_that_is_not_allowed_is_answered_and_starts_nothing(world, github, who, text, reason):
    ran, answers = say(world, who, text.format(head=world.head("tune")))
    assert ran.jobs == {"judge": "success"}
    assert len(answers) == 1
    assert "**refused**" in answers[0]
    assert reason in answers[0]
    assert github.dispatches == []
    assert not list(world.folder.rglob("pwned"))


def test_a_comment_that_is_no_command_starts_no_job(world, github):
    ran, answers = say(world, "reviewer", "I would rather not /approve this")
    assert (ran.jobs, answers) == ({"judge": "skipped"}, [])


def test_a_forge_in_trouble_is_asked_again_and_answered_once(world, github):
    github.trouble = [502, 503, 0, 500]
    ran, answers = say(world, "reviewer", "/hold until Monday")
    assert ran.jobs == {"judge": "success"}
    assert ["**done**" in answer for answer in answers] == [True]


def test_a_job_that_runs_twice_for_a_comment_acts_once(world, github):
    comment = github.comment(1, "reviewer", "/explain")
    for _ in range(2):
        ran = world.act("commands.yml", "issue_comment", world.issue_comment(1, comment))
        assert ran.jobs == {"judge": "success"}
    assert len(github.comments[1]) == 2


def test_a_forks_request_that_leaves_our_file_as_it_is_starts_no_job_on_the_gpu_machines(world, github):
    opened = world.pull_request(1, "opened")
    opened["pull_request"]["head"]["repo"] = {"full_name": "someone/sekisho"}
    ran = world.act("pr.yml", "pull_request", opened, sha=world.head("tune"), ref="refs/pull/1/merge")
    assert ran.jobs == {"check": "success", "pipeline": "skipped", "report": "skipped"}


def test_the_merge_queue_is_checked(world, github):
    event = example("merge_group", "checks_requested")
    event["merge_group"] |= {"head_sha": world.head("tune")}
    ran = world.act("pr.yml", "merge_group", event, sha=world.head("tune"))
    assert ran.jobs["check"] == "success"


HOSTILE = "x$(touch${IFS}pwned)&`touch${IFS}pwned`;'日本\""


def test_a_hostile_branch_name_is_a_name_and_nothing_else(world, github):
    world.branch(HOSTILE, "README.md", "Sekisho takes", "Sekisho again takes")
    number = int(github.open_pull("engineer", HOSTILE, f"{HOSTILE}\n::set-output name=x::y")["number"])
    head = world.head(HOSTILE)
    opened = world.pull_request(number, "opened")
    opened["pull_request"]["head"]["repo"] = {"full_name": "someone/sekisho"}
    ran = world.act("pr.yml", "pull_request", opened, sha=head, ref=f"refs/pull/{number}/merge")
    assert ran.jobs["check"] == "success"
    requested = world.workflow_run(Ran(), "requested", "pr", "pull_request", number)
    assert world.act("report.yml", "workflow_run", requested).jobs["stale"] == "success"
    for text in ("/explain", "/retrain ppo.epochs=3", "/retrain train.trainer=$(touch${IFS}pwned)"):
        comment = github.comment(number, "reviewer", text)
        ran = world.act("commands.yml", "issue_comment", world.issue_comment(number, comment))
        assert ran.jobs == {"judge": "success"}
    answers = [c["body"] for c in github.comments[number] if c["user"]["login"] == BOT]
    assert ["**done**" in a or "**accepted**" in a for a in answers] == [True, True, False]
    assert world.head(HOSTILE) != head  # the bot committed the parameter to exactly this branch
    assert not list(world.folder.rglob("pwned"))


def test_a_push_marks_the_report_as_stale(world, github):
    old = "a" * 40
    binding = f"<!-- sekisho:report-of head={old} report-sha256={'b' * 64} -->"
    body = f"<!-- sekisho:report 1/1 -->\n{binding}\nfigures"
    github.comment(1, BOT, body)
    requested = world.workflow_run(Ran(), "requested", "pr", "pull_request", 1)
    ran = world.act("report.yml", "workflow_run", requested)
    assert ran.jobs == {"stale": "success", "report": "skipped", "plans": "skipped"}
    assert "**Stale.**" in github.comments[1][0]["body"]


def ended(world: World, code: int, event: str, **more: Any) -> dict[str, Any]:
    """A run whose job failed with an exit code, as its end is told to notify.yml."""
    run_id = 700 + world.runs
    job = world.github.description.example("job") | {
        "id": run_id,
        "run_id": run_id,
        "name": "verify, sign, propose",
    }
    job |= {"conclusion": "failure", "status": "completed"}
    job["created_at"] = job["started_at"]  # GitHub's example forgets it
    job["steps"] = [
        {"name": name, "status": "completed", "conclusion": result, "number": number}
        for number, (name, result) in enumerate([("Set up job", "success"), (STEP, "failure")], 1)
    ]
    world.github.jobs[run_id] = [job]
    world.github.logs[run_id] = "\n".join(LINES).replace("{code}", str(code))
    failed = Ran(jobs={"x": "failure"})
    payload = world.workflow_run(failed, "completed", "promote", event, more.pop("number", None), **more)
    payload["workflow_run"]["id"] = run_id
    return payload


TITLE = "promote policy/1 to staging for #1 (comment-7)"


def notify(world: World, payload: dict[str, Any]) -> Ran:
    ran = world.act("notify.yml", "workflow_run", payload)
    assert ran.jobs == {"failed": "success"}, ran.log[-2000:]
    return ran


def test_a_failed_run_is_run_again_first(world, github):
    payload = ended(world, 2, "workflow_dispatch", display_title=TITLE)
    notify(world, payload)
    assert github.reruns == [payload["workflow_run"]["id"]]
    assert (github.comments, github.chat) == ({}, [])


@pytest.mark.parametrize(("code", "attempt"), [(2, 3), (1, 1)], ids=["still failing", "refused"])
def test_then_people_are_told_with_a_link_and_the_last_lines(world, github, code, attempt):
    payload = ended(world, code, "workflow_dispatch", display_title=TITLE, run_attempt=attempt)
    notify(world, payload)
    notify(world, payload)  # told again: the same comment
    assert github.reruns == []
    (comment,) = github.comments[1]
    for text in (comment["body"], github.chat[0]):
        assert payload["workflow_run"]["html_url"] in text
        assert STEP in text
        assert "fetching 39\nERROR: failed to pull" in text
        assert "fetching 3\n" not in text
        assert "Post job cleanup" not in text
        assert text.count("```") == 2
    assert comment["body"].split("\n")[1][0] != "/", "the bot's own words are no command"


def test_a_pull_requests_own_run_is_not_run_again(world, github):
    notify(world, ended(world, 2, "pull_request", number=1))
    assert github.reruns == []
    assert len(github.comments[1]) == 1


def test_a_scheduled_run_is_told_in_the_chat(world, github):
    notify(world, ended(world, 2, "schedule", run_attempt=3))
    assert len(github.chat) == 1
    assert github.comments == {}


def test_a_release_that_failed_is_told_on_the_pull_request_that_was_merged(world, github):
    github.pulls[1] |= {"merge_commit_sha": world.head(), "state": "closed"}
    try:
        notify(world, ended(world, 2, "push", run_attempt=3, head_sha=world.head()))
    finally:
        github.pulls[1] |= {"merge_commit_sha": None, "state": "open"}
    assert len(github.comments[1]) == 1


@pytest.mark.parametrize("event", ["schedule", "push", "workflow_run", "issue_comment", "merge_group"])
def test_a_run_that_ran_out_of_time_is_run_again_although_github_calls_it_cancelled(world, github, event):
    payload = ended(world, 2, event, conclusion="cancelled")
    run_id = payload["workflow_run"]["id"]
    github.jobs[run_id][0]["conclusion"] = "cancelled"
    github.causes[run_id] = "The job has exceeded the maximum execution time of 1h0m0s"
    notify(world, payload)
    assert (github.reruns, github.chat) == ([run_id], [])


def test_a_run_that_gave_way_to_a_later_one_is_told_with_the_reason(world, github):
    payload = ended(world, 2, "push", conclusion="cancelled", head_sha=world.head())
    run_id = payload["workflow_run"]["id"]
    github.jobs[run_id][0]["conclusion"] = "cancelled"
    github.causes[run_id] = "Canceling since a higher priority waiting request for 'release' exists"
    notify(world, payload)
    assert github.reruns == []
    assert github.causes[run_id] in github.chat[0]


@pytest.mark.parametrize(
    ("event", "change"),
    [
        ("schedule", {"conclusion": "success"}),
        ("schedule", {"head_repository": {"full_name": "someone/fork"}}),
        ("pull_request", {"conclusion": "cancelled"}),  # by its author's next push
    ],
)
def test_what_did_not_fail_here_is_told_to_nobody(world, github, event, change):
    payload = ended(world, 2, event, **change)
    ran = world.act("notify.yml", "workflow_run", payload)
    assert ran.jobs == {"failed": "skipped"}


def test_the_locks_are_compiled_and_proposed(world, github):
    ran = world.act("locks.yml", "schedule", world.schedule("0 1 * * 1"))
    assert ran.jobs == {"compile": "success"}
    (pull,) = [p for p in github.pulls.values() if p["head"]["ref"] == "locks"]
    changed = github.git("diff", "--name-only", "main", "locks").split("\n")
    assert changed
    assert all(name.startswith("requirements/") for name in changed)
    assert "--upgrade" in github.git("diff", "main", "locks")
    assert pull["user"]["login"] == BOT


def test_rules_that_differ_from_githubs_fail_the_comparison(world, github):
    ran = world.act("rules.yml", "schedule", world.schedule("0 2 * * *"))
    assert ran.jobs == {"compare": "failure"}
    assert ran.result("compare", "repo rules check") == "failure"


def test_rules_that_are_githubs_pass_the_comparison(world, github):
    about = {"source": REPOSITORY, "source_type": "Repository"}
    folder = world.clone / ".github/rulesets"
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    github.rulesets = [rules | about | {"id": number} for number, rules in enumerate(files, 1)]
    try:
        ran = world.act("rules.yml", "schedule", world.schedule("0 2 * * *"))
    finally:
        github.rulesets = []
    assert ran.jobs == {"compare": "success"}


def test_drift_judges_nothing_before_the_first_promotion(world, github):
    ran = world.act("drift.yml", "schedule", world.schedule("30 7 * * 1-5"))
    skipped = ("judge", "pages", "propose", "publish")
    assert ran.jobs == {"served": "success", **dict.fromkeys(skipped, "skipped")}


def test_drift_that_cannot_judge_fails_and_opens_nothing(world, github):
    world.run_git("switch", "--quiet", "--force-create", "main", "origin/main")
    pointer = world.clone / "deploy/policy/production/release.env"
    pointer.write_text(f"RELEASE=policy/1@sha256:{'0' * 64}\n")
    world.commit("engineer", "Production points at a release")
    world.run_git("push", "--quiet", "origin", "main")
    world.upload(world.clone / "docs/adr", "predictions")  # no prediction among them
    world.upload(world.clone / "docs/adr", "live-bars")
    pulls = len(github.pulls)
    ran = world.act("drift.yml", "schedule", world.schedule("30 7 * * 1-5"))
    assert (ran.jobs["judge"], ran.jobs["propose"]) == ("success", "failure")
    assert ran.result("judge", "sekisho drift check") == "failure"
    assert ran.result("propose", "sekisho retrain") == "failure"
    assert len(github.pulls) == pulls


def test_bars_that_break_the_contract_stop_the_night_before_the_gpu_machine(world, github):
    bars = world.bars_after_the_sample(1)
    (file,) = bars.glob("*.parquet")
    pl.read_parquet(file).with_columns(high=-pl.col("high")).write_parquet(file)
    world.upload(bars, "source")
    ran = world.act("nightly.yml", "schedule", world.schedule("0 8 * * 1-5"))
    assert ran.jobs == {"bars": "failure", "candidate": "skipped", "reproduce": "skipped"}
    assert "exit status 1" in ran.output("bars"), "judged and refused: it is not run again"
