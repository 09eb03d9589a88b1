"""The whole loop at a stand-in of GitHub, every workflow executed by act: what each job did and left.

One test, because each step needs what the last one left: an engineer's pull request is reproduced, reported,
approved, merged, signed, promoted, rolled back. Fulcio certifies only runs at GitHub; up to it everything is
real, behind it the local authority signs (world.py, SIGN_HERE).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.workflows.live import Live
from tests.workflows.stand_in import BOT
from tests.workflows.world import World

pytestmark = pytest.mark.slow


def test_a_change_goes_from_its_pull_request_to_production_and_back(world: World) -> None:
    number = _reproduce(world)
    _bots_push_runs_no_pipeline(world, number)
    merged = _approve_and_merge(world, number)
    _signing_needs_github(world, merged)
    release = _release(world, merged)
    _stage(world, release)
    _to_production(world, release)
    _drift(world)
    _second_release(world)
    _rollback(world, release)
    _revoke(world)
    _reproduced_weekly(world)
    assert world.github.chat == [], "the chat hears of failures only"


def _bot_comments(world: World, number: int, marker: str) -> list[dict[str, Any]]:
    found = world.github.comments.get(number, [])
    return [c for c in found if c["user"]["login"] == BOT and c["body"].startswith(f"<!-- sekisho:{marker}")]


def _say(world: World, number: int, who: str, text: str) -> str:
    """Someone comments; the workflow judges; the bot's answer."""
    comment = world.github.comment(number, who, text)
    ran = world.act("commands.yml", "issue_comment", world.issue_comment(number, comment))
    assert ran.jobs == {"judge": "success"}
    answers = _bot_comments(world, number, f"answer-{comment['id']} ")
    assert len(answers) == 1
    return str(answers[0]["body"])


def _reproduce(world: World) -> int:
    title = 'Raise it $(touch pwned) "`touch pwned`\n; é'
    head = world.branch("gentler", "params.yaml", "risk_aversion: 0.05", "risk_aversion: 0.06")
    number = int(world.github.open_pull("engineer", "gentler", title)["number"])
    opened = world.pull_request(number, "opened")
    ran = world.act("pr.yml", "pull_request", opened, sha=head, ref=f"refs/pull/{number}/merge")
    assert ran.jobs == {"check": "success", "pipeline": "success", "report": "skipped"}
    for tool in ("ruff", "mypy", "zizmor", "pytest"):
        assert f"{tool} was called" in ran.output("check")
    assert "Running stage 'train'" in ran.output("pipeline")
    for secret in ("SEKISHO_APP_KEY", "the-private-key"):
        assert secret not in json.dumps(ran.log)

    report = world.workflow_run(ran, "completed", "pr", "pull_request", number)
    before = world.head("gentler")
    ran = world.act("report.yml", "workflow_run", report)
    assert ran.jobs == {"stale": "skipped", "report": "success", "plans": "skipped"}
    after = world.head("gentler")
    changed = world.github.git("diff", "--name-only", before, after).split("\n")
    assert "dvc.lock" in changed
    assert all(name == "dvc.lock" or name.startswith("metrics/") for name in changed)
    assert "skip ci" not in world.github.git("log", "-1", "--format=%B", after)
    (comment,) = _bot_comments(world, number, "report ")
    assert f"head={after}" in comment["body"]
    assert "CML watermark" in comment["body"]
    assert "market.risk_aversion" in comment["body"]
    assert not list(world.folder.rglob("pwned"))
    return number


def _bots_push_runs_no_pipeline(world: World, number: int) -> None:
    """The results' commit is checked like any other; it starts neither the pipeline nor another commit."""
    head, comments = world.head("gentler"), len(world.github.comments[number])
    pushed = world.pull_request(number, "synchronize", sender=BOT)
    ran = world.act("pr.yml", "pull_request", pushed, sha=head, ref=f"refs/pull/{number}/merge")
    assert ran.jobs == {"check": "success", "pipeline": "skipped", "report": "skipped"}
    ended = world.workflow_run(ran, "completed", "pr", "pull_request", number)
    ran = world.act("report.yml", "workflow_run", ended)
    assert ran.jobs["report"] == "success"  # there was no result to take
    assert (world.head("gentler"), len(world.github.comments[number])) == (head, comments)


def _approve_and_merge(world: World, number: int) -> str:
    head = world.head("gentler")
    assert "**refused**" in _say(world, number, "engineer", f"/approve {head}")
    assert "**refused**" in _say(world, number, "reader", f"/approve {head}")
    assert "**done**" in _say(world, number, "reviewer", f"/approve {head}")
    assert "can be merged: yes" in _say(world, number, "reader", "/explain")
    return world.github.merge(number, head, f"Merge pull request #{number} from gentler")


def _signing_needs_github(world: World, merged: str) -> None:
    """Everything up to the certificate is done; without GitHub's identity nothing is proposed."""
    branches = world.github.git("for-each-ref", "--format=%(refname)")
    ran = world.act("release.yml", "push", world.push(merged), sha=merged)
    assert ran.jobs == {"changed": "success", "sign": "failure", "propose": "skipped"}
    assert ran.result("sign", "sekisho export") == "success"
    assert ran.result("sign", "sekisho sign") == "failure"
    assert "OIDC" in ran.output("sign")
    assert world.github.git("for-each-ref", "--format=%(refname)") == branches


def _release(world: World, merged: str) -> int:
    ran = world.act("release.yml", "push", world.push(merged), sha=merged, sign_here=True)
    assert ran.jobs == {"changed": "success", "sign": "success", "propose": "success"}
    assert "Running stage" not in ran.output("sign"), "nothing is trained again"
    return _merge_proposal(
        world, "release/policy/1", {"releases/policy/1/manifest.json", "releases/audit.jsonl"}
    )


def _merge_proposal(world: World, branch: str, expected: set[str]) -> int:
    """The bot's pull request from ``branch`` holds the files and no content of a release; people merge it."""
    (number,) = [
        n for n, p in world.github.pulls.items() if p["head"]["ref"] == branch and p["state"] == "open"
    ]
    pull = world.github.pull(number)
    assert pull["user"]["login"] == BOT
    changed = set(world.github.git("diff", "--name-only", "main", f"refs/heads/{branch}").split("\n"))
    assert expected <= changed, changed
    assert not [name for name in changed if "/content/" in name]
    world.github.merge(number, pull["head"]["sha"], f"Merge pull request #{number} from {branch}")
    return number


def _stage(world: World, number: int) -> None:
    """The merge of the release starts its promotion to staging, once however often the job runs."""
    world.github.dispatches.clear()
    merged = str(world.github.pull(number)["merge_commit_sha"])
    for _ in range(2):
        ran = world.act("stage.yml", "push", world.push(merged), sha=merged)
        assert ran.jobs == {"stage": "success"}
    (started,) = world.github.dispatches
    assert started["inputs"]["environment"] == "staging"
    _carry_out(world, started, "policy/1")
    merged = world.head()  # of the promotion, which records no release
    ran = world.act("stage.yml", "push", world.push(merged), sha=merged)
    assert ran.jobs == {"stage": "success"}
    assert len(world.github.dispatches) == 1
    ran = world.act("release.yml", "push", world.push(merged), sha=merged, sign_here=True)
    assert ran.jobs == {"changed": "success", "sign": "skipped", "propose": "skipped"}


def _promote(world: World, number: int, release: str) -> None:
    world.github.dispatches.clear()
    assert "**accepted**" in _say(world, number, "admin", "/promote staging")
    (started,) = world.github.dispatches
    _carry_out(world, started, release)


def _carry_out(world: World, started: dict[str, Any], release: str) -> None:
    """Run a promotion that was started, and merge what it proposes."""
    assert (started["workflow"], started["inputs"]["release"]) == ("promote.yml", release)
    ran = world.act("promote.yml", "workflow_dispatch", world.dispatch(started), sign_here=True)
    assert ran.jobs == {"promote": "success"}
    _merge_proposal(world, f"promote/{started['inputs']['environment']}", {"deploy/policy/local/release.env"})
    pointer = world.github.git("show", "main:deploy/policy/local/release.env")
    assert re.fullmatch(rf"RELEASE={release}@sha256:[0-9a-f]{{64}}", pointer)


def _to_production(world: World, number: int) -> None:
    """Two of the desk declare an emergency; the soak is judged on staging's predictions all the same.

    As far as to the signature: the local authority stands for every environment, and the release is there.
    """
    declare = "/promote production emergency limits breached"
    assert "**refused**" in _say(world, number, "reviewer", declare)
    world.github.dispatches.clear()
    assert "**waiting**" in _say(world, number, "admin", declare)
    assert "**accepted**" in _say(world, number, "trader", declare)
    (started,) = world.github.dispatches
    promotion = world.dispatch(started)

    ran = world.act("promote.yml", "workflow_dispatch", promotion, sign_here=True)
    assert ran.jobs == {"promote": "failure"}  # nothing was served in staging yet
    assert ran.result("promote", 'dvc get-url --force "$STAGING_PREDICTIONS"') == "failure"

    changed = Live(world.folder / "changed", 14, changed_from=8)
    changed.write(world.pulled("policy/1"), world.clone / "params.yaml")
    world.today = str(changed.days[-1])
    world.upload(changed.folder / "predictions", "staging-predictions")
    world.upload(changed.folder / "bars", "live-bars")
    ran = world.act("promote.yml", "workflow_dispatch", promotion, sign_here=True)
    assert ran.jobs == {"promote": "failure"}
    assert ran.result("promote", "sekisho drift check") == "failure"
    assert "exit status 1" in ran.output("promote"), "an alarm in staging is judged and refused"

    world.today = str(changed.days[7])  # as it was judged on the last calm evening
    by_hand = promotion | {"inputs": promotion["inputs"] | {"key": "comment-1"}}
    ran = world.act("promote.yml", "workflow_dispatch", by_hand, sign_here=True)
    assert ran.jobs == {"promote": "failure"}
    assert ran.result("promote", "sekisho drift check") == "success"
    assert ran.result("promote", "sekisho pr recheck") == "failure"
    assert not [p for p in world.github.pulls.values() if p["head"]["ref"] == "promote/production"]

    ran = world.act("promote.yml", "workflow_dispatch", promotion, sign_here=True)
    assert ran.result("promote", "sekisho drift check") == "success"
    assert ran.result("promote", "sekisho pr recheck") == "success"
    assert "an emergency declared by admin and trader" in ran.output("promote")


def _main_has(world: World, path: str, text: str) -> None:
    """Someone commits one file to main."""
    world.run_git("fetch", "--quiet", "origin")
    world.run_git("switch", "--quiet", "--force-create", "main", "origin/main")
    (world.clone / path).write_text(text)
    world.commit("engineer", f"Change {path}")
    world.run_git("push", "--quiet", "origin", "main")


def _drift(world: World) -> None:
    """Production's alarm is one pull request, whose own checks start; a second alarm updates it."""
    pointer = world.github.git("show", "main:deploy/policy/local/release.env")
    production = "deploy/policy/production/release.env"
    _main_has(world, production, f"{pointer}\n")  # by hand: what is promoted here is promoted to local
    live = world.folder / "changed"
    days = Live(live, 14).days
    world.upload(live / "predictions", "predictions")

    world.today = str(days[7])
    ran = world.act("drift.yml", "schedule", world.schedule("30 7 * * 1-5"), sign_here=True)
    answered = {"propose": "skipped", "publish": "skipped"}
    assert ran.jobs == {"served": "success", "judge": "success", "pages": "success", **answered}
    assert (world.folder / "artifacts" / str(world.runs) / "pages/model.html").is_file()
    assert not [p for p in world.github.pulls.values() if p["head"]["ref"] == "retrain/policy"]

    world.github.dispatches.clear()
    production_data = world.keys("storage")
    for day in (12, 13):
        world.today = str(days[day])
        ran = world.act("drift.yml", "schedule", world.schedule("30 7 * * 1-5"), sign_here=True)
        assert set(ran.jobs.values()) == {"success"}, ran.jobs
        (number,) = [n for n, p in world.github.pulls.items() if p["head"]["ref"] == "retrain/policy"]
        pull = world.github.pull(number)
        assert pull["user"]["login"] == BOT  # its checks run: the App opened it, not the workflow's own token
        assert f"seen up to {days[day]}" in pull["body"]
        assert "![Drift statistic against its threshold](https://" in pull["body"]
    assert pull["body"].count("seen up to") == 2
    assert world.github.git("diff", "--name-only", "main...retrain/policy") == "data.dvc"
    (started,) = world.github.dispatches  # of the update; GitHub itself starts what is opened
    assert started["workflow"] == "pr.yml"
    assert started["inputs"]["head"] == world.head("retrain/policy")
    assert world.keys("storage") == production_data, "the check's role writes none of production's data"
    kept = world.folder / "artifacts" / str(world.runs) / "answer"
    assert (kept / "verdict.html").is_file()
    assert json.loads((kept / "retrain.json").read_text())["number"] == number
    published = sorted(name.partition("Z.")[2] for name in world.keys("verdicts"))
    assert published == ["", *["retrain.json"] * 2, *["verdict.json"] * 3]  # and the check's memory
    opened, head = world.pull_request(number, "opened", sender=BOT), world.head("retrain/policy")
    ran = world.act("pr.yml", "pull_request", opened, sha=head, ref=f"refs/pull/{number}/merge")
    assert ran.jobs["pipeline"] == "success", "its run finds the new bars"
    (digest,) = re.findall(r"md5: (\w+\.dir)", world.github.git("show", "retrain/policy:data.dvc"))
    data = f"files/md5/{digest[:2]}/{digest[2:]}"
    assert f"retrain/{data}" in world.keys("retrain")
    assert f"pr/{number}/{data}" in world.keys(f"pr/{number}"), "for the merge to admit"
    _main_has(world, production, "RELEASE=none\n")  # else the audit of the next release refuses it, rightly


def _second_release(world: World) -> None:
    """A change that moves no figure: DVC takes all from the remote but the count of trials, always new."""
    head = world.branch("note", "README.md", "Sekisho takes", "Sekisho still takes")
    number = int(world.github.open_pull("engineer", "note", "Note")["number"])
    world.github.dispatches.clear()
    assert "**accepted**" in _say(world, number, "reviewer", "/retrain")
    (started,) = world.github.dispatches
    assert started["inputs"]["head"] == head
    ran = world.act("pr.yml", "workflow_dispatch", world.dispatch(started))
    assert ran.jobs == {"check": "skipped", "pipeline": "success", "report": "success"}
    assert re.findall(r"Running stage '(\w+)'", ran.output("pipeline")) == ["trials"]
    assert world.head("note") == head, "the results were there already"
    merged = _approved(world, number)
    ran = world.act("release.yml", "push", world.push(merged), sha=merged, sign_here=True)
    assert ran.jobs == {"changed": "success", "sign": "success", "propose": "success"}
    _merge_proposal(world, "release/policy/2", {"releases/policy/2/manifest.json"})


def _approved(world: World, number: int) -> str:
    """The merge commit of a pull request that has its report."""
    pull = world.github.pull(number)
    assert len(_bot_comments(world, number, "report ")) == 1
    assert "**done**" in _say(world, number, "reviewer", f"/approve {pull['head']['sha']}")
    return world.github.merge(number, pull["head"]["sha"], f"Merge pull request #{number}")


def _rollback(world: World, first: int) -> None:
    """The content of release 1 comes back as release 3: proposed, approved, and signed as any release is."""
    world.github.dispatches.clear()
    assert "**accepted**" in _say(
        world, first, "admin", "/rollback 1 loses money since Monday; $(touch pwned)"
    )
    (started,) = world.github.dispatches
    ran = world.act("rollback.yml", "workflow_dispatch", world.dispatch(started), sign_here=True)
    assert ran.jobs == {"rollback": "success"}
    (number,) = [n for n, p in world.github.pulls.items() if p["head"]["ref"] == "rollback/1"]
    head = str(world.github.pull(number)["head"]["sha"])
    assert "releases/policy/3/origin/manifest.json" in world.github.git("ls-tree", "-r", "--name-only", head)

    opened = world.pull_request(number, "opened", sender=BOT)
    ran = world.act("pr.yml", "pull_request", opened, sha=head, ref=f"refs/pull/{number}/merge")
    assert ran.jobs == {"check": "success", "pipeline": "success", "report": "skipped"}
    ran = world.act(
        "report.yml", "workflow_run", world.workflow_run(ran, "completed", "pr", "pull_request", number)
    )
    assert ran.jobs["report"] == "success"
    merged = _approved(world, number)
    ran = world.act("release.yml", "push", world.push(merged), sha=merged, sign_here=True)
    assert ran.jobs == {"changed": "success", "sign": "success", "propose": "success"}
    release = _merge_proposal(world, "release/policy/3", {"releases/policy/3/bundles/approval.sigstore.json"})
    _promote(world, release, "policy/3")
    assert not list(world.folder.rglob("pwned"))


def _revoke(world: World) -> None:
    ran = world.act("revoke.yml", "schedule", world.schedule("0 3 * * *"), sign_here=True)
    assert ran.jobs == {"sign": "success", "propose": "success"}
    asked = {"workflow": "revoke.yml", "inputs": {"release": "policy/1", "reason": "trained on wrong bars"}}
    ran = world.act("revoke.yml", "workflow_dispatch", world.dispatch(asked), sign_here=True)
    assert ran.jobs == {"sign": "success", "propose": "success"}
    (renewal,) = [p for p in world.github.pulls.values() if p["head"]["ref"] == "revocations"]
    assert (renewal["state"], renewal["merged"]) == ("closed", False)
    waiting = world.head("revoke/policy/1")
    ran = world.act("revoke.yml", "schedule", world.schedule("0 3 * * *"), sign_here=True)
    assert ran.jobs == {"sign": "success", "propose": "failure"}, "a revocation waits"
    assert world.head("revoke/policy/1") == waiting
    _merge_proposal(world, "revoke/policy/1", {"trust/local/revoked.sigstore.json", "releases/audit.jsonl"})


def _reproduced_weekly(world: World) -> None:
    """Main's agents come out of nothing with the digests that main's metrics name."""
    before = world.github.git("for-each-ref")
    ran = world.act("nightly.yml", "schedule", world.schedule("0 8 * * 6"))
    assert ran.jobs == {"bars": "skipped", "candidate": "skipped", "reproduce": "success"}
    assert "Running stage 'train'" in ran.output("reproduce")
    assert world.github.git("for-each-ref") == before


def test_the_scratch_is_elsewhere(world: World) -> None:
    assert Path(__file__).parents[2] not in world.folder.parents
