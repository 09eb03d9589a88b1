"""Open, report, approve, merge on the local forge; and everything that must be refused on the way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.forge.conftest import BOT, TOKYO, head

from sekisho.errors import CannotCheck, ForgeError, Refused
from sekisho.forge.approvals import approval_record, blockers, current_approval, merge
from sekisho.forge.commands import handle
from sekisho.forge.interface import Comment
from sekisho.forge.local import LocalForge
from sekisho.forge.propose import commit_results
from sekisho.forge.records import is_held
from sekisho.forge.report import mark_stale, publish_report

ROOT = Path(__file__).parents[2]


def missing(world, number: int) -> list[str]:
    return blockers(world.act(BOT), world.act(BOT).get_pull_request(number))


def test_an_approved_head_is_merged_and_the_commit_says_who_approved_it(world, say, pull):
    sha = head(world, pull)
    assert say("reviewer", pull, f"/approve {sha}\nlooks good").status == "done"
    merged = merge(world.act("reviewer"), pull)
    world.git("fetch", "--quiet", "origin")
    message = world.git("log", "-1", "--format=%B", "origin/main")
    assert f"Approved-by: reviewer\nReviewed-head: {sha}\n" in message
    assert world.git("rev-parse", "origin/main") == merged
    assert world.git("rev-parse", "origin/main^2") == sha
    assert world.act(BOT).get_pull_request(pull).state == "merged"
    record = approval_record(world.act(BOT), pull)
    assert record["merge_sha"] == merged
    assert (record["head_sha"], record["author"], record["approver"]) == (sha, "engineer", "reviewer")
    assert record["permission"] == "write"
    assert record["tree"] == world.git("rev-parse", f"{sha}^{{tree}}")
    assert record["dvc_lock_sha256"] == hashlib.sha256((world.clone / "dvc.lock").read_bytes()).hexdigest()
    assert record["report_sha256"] == hashlib.sha256((world.report / "report.md").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("actor", "text", "rule"),
    [
        ("outsider", "/approve {head}", "permission"),
        ("reader", "/approve {head}", "permission"),
        ("engineer", "/approve {head}", "four-eyes"),
        ("reviewer", "/approve {short}", "usage"),
        ("reviewer", "/approve {upper}", "usage"),
        ("reviewer", "/approve {stale}", "head-unchanged"),
        ("reviewer", "/approve {head} and more", "usage"),
        ("reviewer", "/approve", "usage"),
        ("reader", "/hold", "permission"),
        ("reviewer", "/promote production", "permission"),
        ("admin", "/promote staging", "state"),
        ("admin", "/promote moon", "usage"),
        ("reviewer", "/rollback 3 too slow", "permission"),
        ("admin", "/rollback three too slow", "usage"),
        ("reviewer", "/deploy now", "known"),
    ],
)
def test_a_wrong_command_is_refused_with_its_reason_and_approves_nothing(world, say, pull, actor, text, rule):
    sha, stale = head(world, pull), world.git("rev-parse", "HEAD^")
    if actor == "outsider":  # can comment on a public repository, is no member
        add_reading_outsider(world)
    text = text.format(head=sha, short=sha[:12], upper=sha.upper(), stale=stale)
    outcome = say(actor, pull, text)
    assert outcome.status == "refused"
    assert rule in outcome.message
    answers = [c for c in world.act(BOT).comments(pull) if c.body.startswith("<!-- sekisho:answer-")]
    assert len(answers) == 1
    assert outcome.message in answers[0].body
    thread = (world.folder / f"pulls/{pull:04d}/README.md").read_text()
    assert f"{BOT}: -1" in thread
    with pytest.raises(Refused, match="approved-by-another"):
        merge(world.act("reviewer"), pull)


def add_reading_outsider(world) -> None:
    comments = LocalForge.add_comment

    def as_anyone(self, number, body):
        required, self._require = self._require, lambda needed: None
        try:
            return comments(self, number, body)
        finally:
            self._require = required

    outsider = world.act("outsider")
    outsider_add = as_anyone.__get__(outsider)
    real = world.act
    outsider.add_comment = outsider_add
    world.act = lambda actor: outsider if actor == "outsider" else real(actor)


@pytest.mark.parametrize(
    "text",
    [
        "> /approve {head}",
        "```\n/approve {head}\n```",
        "    /approve {head}",
        " /approve {head}",
        "please\n/approve {head}",
        "`/approve {head}`",
        "/usr/bin/approve {head}",
        "approve {head}",
        "",
    ],
)
def test_a_quoted_fenced_indented_or_later_line_is_no_command(world, say, pull, text):
    before = len(world.act(BOT).comments(pull))
    assert say("reviewer", pull, text.format(head=head(world, pull))).status == "ignored"
    assert len(world.act(BOT).comments(pull)) == before + 1


def test_an_edited_comment_is_refused(world, say, pull):
    reviewer = world.act("reviewer")
    comment_id = reviewer.add_comment(pull, "nice")
    reviewer.edit_comment(pull, comment_id, f"/approve {head(world, pull)}")
    comment = next(c for c in reviewer.comments(pull) if c.id == comment_id)
    assert "commands.unedited" in handle(world.act(BOT), pull, comment, TOKYO).message


def test_a_comment_file_changed_by_hand_counts_as_edited(world, pull):
    world.act("reviewer").add_comment(pull, "nice")
    path = next((world.folder / f"pulls/{pull:04d}/comments").glob("*-reviewer.md"))
    path.write_text(path.read_text().replace("nice", "/hold"))
    assert world.act(BOT).comments(pull)[-1].edited


def test_a_push_voids_the_approval_and_marks_the_report_stale(world, say, pull):
    old = head(world, pull)
    say("reviewer", pull, f"/approve {old}")
    assert blockers(world.act(BOT), world.act(BOT).get_pull_request(pull)) == []
    new = world.push("tuned again")
    with pytest.raises(Refused, match="a push voids approvals"):
        merge(world.act("reviewer"), pull)
    assert mark_stale(world.act(BOT), pull)
    assert mark_stale(world.act(BOT), pull)  # twice says it once
    report = next(c for c in world.act(BOT).comments(pull) if "sekisho:report " in c.body)
    assert report.body.count("**Stale.**") == 1
    assert new in report.body
    publish_report(world.act(BOT), pull, world.clone, world.at)
    report = next(c for c in world.act(BOT).comments(pull) if "sekisho:report " in c.body)
    assert "**Stale.**" not in report.body
    assert not mark_stale(world.act(BOT), pull)
    with pytest.raises(Refused, match="a push voids approvals"):
        merge(world.act("reviewer"), pull)


def test_approval_needs_the_report_of_that_head(world, say, pull):
    new = world.push("tuned again")
    assert "report-for-head" in say("reviewer", pull, f"/approve {new}").message


def test_the_head_is_read_again_right_before_the_approval_is_recorded(world, say, pull, monkeypatch):
    sha = head(world, pull)
    real = LocalForge.tree

    def slow_tree(self, commit):  # someone pushes while the approval is being bound
        world.push("slipped in")
        monkeypatch.setattr(LocalForge, "tree", real)
        return real(self, commit)

    monkeypatch.setattr(LocalForge, "tree", slow_tree)
    outcome = say("reviewer", pull, f"/approve {sha}")
    assert outcome.status == "refused"
    assert "head-unchanged" in outcome.message


def test_the_head_that_moves_during_the_merge_is_not_merged(world, say, pull, monkeypatch):
    sha, main = head(world, pull), world.git("rev-parse", "origin/main")
    say("reviewer", pull, f"/approve {sha}")
    real = LocalForge._move

    def late(self, *words):  # the merge commit is made; now someone pushes
        world.push("slipped in")
        return real(self, *words)

    monkeypatch.setattr(LocalForge, "_move", late)
    with pytest.raises(Refused, match="head-unchanged"):
        merge(world.act("reviewer"), pull)
    world.git("fetch", "--quiet", "origin")
    assert world.git("rev-parse", "origin/main") == main


def test_unapprove_and_hold_stop_the_merge_and_resume_lets_it_go_on(world, say, pull):
    sha = head(world, pull)
    say("reviewer", pull, f"/approve {sha}")
    say("engineer", pull, "/hold wait for @everyone `x` <!-- sekisho:record -->")
    assert is_held(world.act(BOT), pull)
    with pytest.raises(Refused, match="on hold"):
        merge(world.act("reviewer"), pull)
    assert say("engineer", pull, "/retrain").status == "refused"
    say("engineer", pull, "/resume")
    say("reviewer", pull, "/unapprove")
    with pytest.raises(Refused, match="no approval"):
        merge(world.act("reviewer"), pull)
    say("reviewer", pull, f"/approve {sha}")
    assert merge(world.act("reviewer"), pull)


def test_a_failed_gate_is_neither_approved_nor_merged(world, say):
    sha = world.push("bad", passed=False)
    number = world.act("engineer").open_pull_request("tune", "Bad", "")
    publish_report(world.act(BOT), number, world.clone, world.at)
    assert "max_drawdown" in say("reviewer", number, f"/approve {sha}").message
    assert any("max_drawdown" in reason for reason in missing(world, number))
    with pytest.raises(Refused, match="no approval"):
        merge(world.act("reviewer"), number)


@pytest.mark.parametrize("path", ["params.yaml", "src/code.py", "metrics/gate.json", "dvc.yaml"])
def test_a_head_that_its_lock_does_not_describe_is_neither_approved_nor_merged(world, say, path):
    world.reproduce("tuned", passed=True, limit=0.15)
    text = (world.clone / path).read_text()
    change = {"params.yaml": ("0.15", "0.95"), "src/code.py": ("1", "2"), "metrics/gate.json": ("0.2", "0.1")}
    old, new = change.get(path, ("  gate:", "  other: {cmd: 'true'}\n  gate:"))
    (world.clone / path).write_text(text.replace(old, new, 1))
    world.git("commit", "--quiet", "--all", "--message", "Without running the pipeline")
    world.git("push", "--quiet", "origin", "HEAD:refs/heads/tune")
    number = world.act("engineer").open_pull_request("tune", "Sneaky", "")
    publish_report(world.act(BOT), number, world.clone, world.at)
    assert "lock-describes-head" in say("reviewer", number, f"/approve {head(world, number)}").message
    assert any("lock-describes-head" in reason for reason in missing(world, number))
    with pytest.raises(Refused, match="no approval"):
        merge(world.act("reviewer"), number)


def test_a_report_of_another_run_is_not_posted(world, pull):
    (world.report / "report.md").write_text("# much better figures\n")
    with pytest.raises(Refused, match="report-of-head"):
        publish_report(world.act(BOT), pull, world.clone, world.at)


@pytest.mark.parametrize(
    "what", ["src/code.py", "src/other.py", "params.yaml", "dvc.lock", "metrics/gate.json"]
)
def test_a_report_is_not_posted_for_a_head_that_was_not_reproduced(world, pull, what):
    bot, reproduced = world.act(BOT), head(world, pull)
    slipped = bot.commit_files("tune", {what: b"slipped in"}, "Slip in", reproduced)
    with pytest.raises(Refused, match=f"head-unchanged.*{slipped}"):
        publish_report(bot, pull, world.clone, reproduced)


def test_a_report_that_somebody_edited_is_not_approved_until_it_is_posted_again(world, say, pull):
    bot, sha = world.act(BOT), head(world, pull)
    say("reviewer", pull, f"/approve {sha}")
    (path,) = (world.folder / f"pulls/{pull:04d}/comments").glob("0001-*.md")
    path.write_text(path.read_text().replace("# tuned", "# Net Sharpe 9.9"))
    assert "unedited-by-others" in say("admin", pull, f"/approve {sha}").message
    assert any("unedited-by-others" in reason for reason in missing(world, pull))
    with pytest.raises(Refused, match="unedited-by-others"):
        merge(world.act("reviewer"), pull)
    publish_report(bot, pull, world.clone, world.at)
    assert missing(world, pull) == []


def test_only_the_bot_posts_reports_and_answers(world, pull):
    with pytest.raises(CannotCheck, match="reports and answers"):
        publish_report(world.act("engineer"), pull, world.clone, world.at)
    comment = Comment(1, "reviewer", "/hold", "", edited=False)
    with pytest.raises(CannotCheck, match="reports and answers"):
        handle(world.act("engineer"), pull, comment, TOKYO)


def test_a_planted_answer_or_report_of_someone_else_counts_for_nothing(world, say, pull):
    sha = head(world, pull)
    say("reviewer", pull, f"/approve {sha}")
    answer = next(c for c in world.act(BOT).comments(pull) if "sekisho:answer-" in c.body)
    say("reviewer", pull, "/unapprove")
    world.act("engineer").add_comment(pull, answer.body)
    with pytest.raises(Refused, match="no approval"):
        current_approval(world.act(BOT), world.act(BOT).get_pull_request(pull))
    planted = world.act("engineer").add_comment(pull, "<!-- sekisho:report 1/1 -->\nall is well")
    publish_report(world.act(BOT), pull, world.clone, world.at)
    bodies = {c.id: c.body for c in world.act(BOT).comments(pull)}
    assert bodies[planted].endswith("all is well")


def test_an_answer_edited_afterwards_counts_for_nothing(world, say, pull):
    say("reviewer", pull, f"/approve {head(world, pull)}")
    bot = world.act(BOT)
    answer = next(c for c in bot.comments(pull) if "sekisho:answer-" in c.body)
    bot.edit_comment(pull, answer.id, answer.body.replace('"approver": "reviewer"', '"approver": "admin"'))
    with pytest.raises(Refused, match="unedited-by-others"):
        merge(world.act("reviewer"), pull)


def test_an_approval_ends_with_the_approvers_permission_or_comment(world, say, pull):
    say("reviewer", pull, f"/approve {head(world, pull)}")
    members = world.folder / "members.yaml"
    text = members.read_text()
    members.write_text(text.replace("reviewer: write", "reviewer: read"))
    with pytest.raises(Refused, match="permission read now"):
        merge(world.act("admin"), pull)
    members.write_text(text)
    comment = next(c for c in world.act(BOT).comments(pull) if c.body.startswith("/approve"))
    world.act("reviewer").delete_comment(pull, comment.id)
    with pytest.raises(Refused, match="edited, gone"):
        merge(world.act("admin"), pull)


def test_a_comment_is_answered_once_however_often_the_job_runs(world, say, pull):
    bot = world.act(BOT)
    say("engineer", pull, "/hold")
    say("engineer", pull, "/resume")
    hold = next(c for c in bot.comments(pull) if c.body == "/hold")
    assert handle(bot, pull, hold, TOKYO).status == "ignored"
    assert not is_held(bot, pull)


def test_explain_says_what_is_missing(world, say, pull):
    message = say("reader", pull, "/explain").message
    assert "can be merged: no" in message
    assert "no approval of" in message


def test_accepted_commands_hand_checked_inputs_to_their_workflow(world, say, pull):
    assert "pr.yml" in say("engineer", pull, "/retrain").message
    outcome = say("admin", pull, "/rollback 3 latency doubled")
    assert outcome.arguments == {"seq": "3", "reason": "latency doubled"}
    assert say("admin", pull, "/rollback 3 x\rcommand=promote").status == "refused"


def test_results_of_a_reproduced_checkout_are_committed_and_nothing_else(world, pull):
    bot, old = world.act(BOT), head(world, pull)
    assert commit_results(bot, pull, world.clone, old) is None
    (world.clone / "dvc.lock").write_text((world.clone / "dvc.lock").read_text() + "\n")
    (world.clone / "metrics/returns.csv").write_text("session,agent\n")
    (world.clone / "metrics/evil.sh").write_text("rm")
    (world.clone / "src/code.py").write_text("x = 3\n")
    new = commit_results(bot, pull, world.clone, old)
    assert new == head(world, pull) != old
    world.git("fetch", "--quiet", "origin")
    assert world.git("diff", "--name-only", old, new) == "dvc.lock\nmetrics/returns.csv"


def test_the_job_that_committed_results_and_broke_off_runs_again(world, pull):
    bot, old = world.act(BOT), head(world, pull)
    (world.clone / "dvc.lock").write_text((world.clone / "dvc.lock").read_text() + "\n")
    new = commit_results(bot, pull, world.clone, old)
    assert commit_results(bot, pull, world.clone, old) is None
    assert head(world, pull) == new
    publish_report(bot, pull, world.clone, world.at)


@pytest.mark.parametrize("path", ["src/code.py", "dvc.lock", "metrics/gate.json"])
def test_results_are_not_committed_onto_a_head_that_differs_by_anything_else(world, pull, path):
    bot, old = world.act(BOT), head(world, pull)
    lock = (world.clone / "dvc.lock").read_text()
    (world.clone / "dvc.lock").write_text(lock + "\n")
    new = commit_results(bot, pull, world.clone, old)
    slipped = bot.commit_files("tune", {path: b"slipped in"}, "Slip in", new)
    with pytest.raises(Refused, match="head-unchanged"):
        commit_results(bot, pull, world.clone, old)
    assert head(world, pull) == slipped


def test_results_of_another_head_are_not_committed(world, pull):
    old = head(world, pull)
    new = world.push("tuned again", limit=0.2)
    with pytest.raises(Refused, match="head-unchanged"):
        commit_results(world.act(BOT), pull, world.clone, old)
    assert head(world, pull) == new


def test_the_report_shows_pictures_and_what_differs_from_the_base(world, pull):
    report = next(c for c in world.act(BOT).comments(pull) if "sekisho:report " in c.body)
    assert "| `gate.max_drawdown` | 0.1 | 0.15 |" in report.body
    thread = world.folder / f"pulls/{pull:04d}"
    link = report.body.partition("![equity](")[2].partition(")")[0]
    assert (thread / link).read_text() == "not really a picture"
    assert link in (thread / "README.md").read_text()


def test_the_approval_record_is_plain_json(world, say, pull):
    say("reviewer", pull, f"/approve {head(world, pull)}")
    record = approval_record(world.act(BOT), pull)
    assert json.loads(json.dumps(record)) == record
    assert set(record) == {
        "pr", "url", "head_sha", "tree", "dvc_lock_sha256", "report_sha256", "author", "approver",
        "permission", "approved_at", "comment_id", "approvers",
    }  # fmt: skip


def test_the_approval_record_names_everybody_whose_approval_is_good_now(world, say, pull):
    sha = head(world, pull)
    for actor in ("admin", "reviewer"):
        say(actor, pull, f"/approve {sha}")
    named = [a["person"] for a in approval_record(world.act(BOT), pull)["approvers"]]
    assert named == ["admin", "reviewer"]
    members = world.folder / "members.yaml"
    members.write_text(members.read_text().replace("admin: admin", "admin: read"))
    record = approval_record(world.act(BOT), pull)
    assert [(a["person"], a["permission"]) for a in record["approvers"]] == [("reviewer", "write")]
    say("reviewer", pull, "/unapprove")
    say("reviewer", pull, f"/approve {sha}")
    assert [a["person"] for a in approval_record(world.act(BOT), pull)["approvers"]] == ["reviewer"]


@pytest.mark.slow
def test_dvc_itself_agrees_with_the_folder_digest(world, tmp_path):
    from sekisho.dvc_files import files_under, folder_digest

    repo = tmp_path / "dvc"
    for name in ("b.txt", "a/z.txt", "a-b.txt", "ä/日本.txt", "a/b/c.txt"):
        path = repo / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], cwd=repo, check=True)
    subprocess.run(["dvc", "add", "--quiet", "data"], cwd=repo, check=True)
    assert folder_digest(files_under(repo / "data")) in (repo / "data.dvc").read_text()


CML = """#!{python}
# `cml comment update` as CML 0.20.6 does it: of the first page the last with the watermark is edited
import re, sys
from pathlib import Path
from sekisho.forge.local import LocalForge
from sekisho.params import load_params
assert sys.argv[1:5] == ["comment", "update", "--target=pr/1", "--watermark-title=sekisho-report"], sys.argv
if {actor!r} == "nobody":
    sys.exit(1)
forge = LocalForge(Path({folder!r}), load_params(Path({params!r})).forge, {actor!r})
mark = '![](https://cml.dev/watermark.png#' + "a" * 40 + ' "CML watermark sekisho-report")'
body = Path(sys.argv[-1]).read_text() + "\\n\\n" + mark
found = [c.id for c in forge.comments(1)[:30] if re.search(r'watermark.png#[0-9a-f]+ "CML watermark', c.body)]
forge.edit_comment(1, found[-1], body) if found else forge.add_comment(1, body)
"""
PLANTED = f'![](https://cml.dev/watermark.png#{"b" * 40} "CML watermark sekisho-report")'


@pytest.fixture
def cml(world, monkeypatch):
    """Puts a cml on the path that acts as somebody; "nobody": it fails."""
    world.push("tuned")
    number = world.act("engineer").open_pull_request("tune", "Tune", "")
    program = world.folder.parent / "bin/cml"
    program.parent.mkdir()
    words = {"params": str(ROOT / "params.yaml"), "python": sys.executable, "folder": str(world.folder)}
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SEKISHO_PUBLISHER", "cml")

    def use(actor: str) -> int:
        program.write_text(CML.format(actor=actor, **words))
        program.chmod(0o755)
        return number

    return use


def reports(world, number: int) -> list[Comment]:
    return [c for c in world.act(BOT).comments(number) if c.body.startswith("<!-- sekisho:report ")]


def test_cml_posts_the_report_and_updates_it_in_place(world, cml):
    number = cml(BOT)
    assert publish_report(world.act(BOT), number, world.clone, world.at)[1] == [1]
    assert "CML watermark" in reports(world, number)[0].body
    world.push("tuned again")
    assert publish_report(world.act(BOT), number, world.clone, world.at)[1] == [1]
    (report,) = reports(world, number)
    assert "CML watermark" in report.body
    assert head(world, number) in report.body


def test_a_report_that_cml_posts_as_somebody_else_is_no_report(world, cml):
    number = cml("reader")
    with pytest.raises(ForgeError, match="not the bot's"):
        publish_report(world.act(BOT), number, world.clone, world.at)


@pytest.mark.parametrize("gone", ["it fails", "it is not installed"])
def test_the_loss_of_cml_stops_nothing(world, cml, gone):
    number = cml("nobody")
    if gone == "it is not installed":
        (world.folder.parent / "bin/cml").unlink()
    publish_report(world.act(BOT), number, world.clone, world.at)
    (report,) = reports(world, number)
    assert report.author == BOT
    assert "watermark" not in report.body


def test_cmls_watermark_planted_by_someone_else_draws_no_report_into_their_comment(world, cml):
    number = cml(BOT)
    planted = world.act("engineer").add_comment(number, f"all is well\n{PLANTED}")
    for _ in range(2):
        publish_report(world.act(BOT), number, world.clone, world.at)
    assert len(reports(world, number)) == 1
    bodies = {c.id: c.body for c in world.act(BOT).comments(number)}
    assert bodies[planted] == f"all is well\n{PLANTED}"


def test_a_report_behind_cmls_first_page_is_updated_and_not_posted_again(world, cml):
    number = cml(BOT)
    for n in range(40):
        world.act("engineer").add_comment(number, f"comment {n}")
    (first,) = publish_report(world.act(BOT), number, world.clone, world.at)[1]
    world.push("tuned again")
    assert publish_report(world.act(BOT), number, world.clone, world.at)[1] == [first]
    (report,) = reports(world, number)
    assert head(world, number) in report.body
