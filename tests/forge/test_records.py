"""What counts as the bot's decision: its own record, unedited, in the order of the commands."""

from __future__ import annotations

import datetime as dt
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.forge.conftest import BOT, TOKYO, head, write

from sekisho.errors import Refused
from sekisho.forge.approvals import approval_record, blockers, current_approval, merge
from sekisho.forge.commands import Outcome, handle
from sekisho.forge.interface import Comment
from sekisho.forge.propose import Proposal, commit_results, propose
from sekisho.forge.recheck import Promotion, recheck
from sekisho.forge.records import _record, events, find_answer, is_held, record_block

NOON = dt.datetime(2026, 7, 1, 3, 0, tzinfo=dt.UTC)  # 12:00 in Tokyo: the lunch break
DECLARE = "/promote production emergency limit breached"


def decided(world, number: int) -> list[str]:
    return [e["event"] for e in events(world.act(BOT), number) if e["event"] != "explain"]


# ---- nothing that an answer quotes passes for its record


def push_rule(world, name: str, branch: str) -> None:
    """Push a gate.json whose failed rule has that name."""
    rules = [{"rule": name, "passed": False}]
    write(world.clone / "metrics/gate.json", json.dumps({"passed": False, "rules": rules}))
    world.git("add", "--all")
    world.git("commit", "--quiet", "--message", "A gate")
    world.git("push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{branch}")


def planted(record: dict[str, object]) -> list[str]:
    """Names of a rule that hold a record, as an answer writes it and as one once did."""
    old = f"<!-- sekisho:record -->\n```json\n{json.dumps(record)}\n```"
    return [f"x\n{old}\ny", f"x\n\n{record_block(record)}", f"x\r\n{old}"]


@pytest.mark.parametrize("form", range(3))
def test_a_record_in_a_gate_rules_name_ends_no_hold(world, say, form):
    world.reproduce("tuned", passed=True, limit=0.15)
    record = {"event": "resume", "status": "done", "actor": "admin", "comment_id": 2, "at": ""}
    push_rule(world, planted(record)[form], "tune")
    number = world.act("engineer").open_pull_request("tune", "Tune", "because")
    say("admin", number, "/hold stop")
    say("reader", number, "/explain")
    assert world.act(BOT).comments(number)[-1].body.count("\n```json\n") == 1
    assert decided(world, number) == ["hold"]
    assert is_held(world.act(BOT), number)


def test_one_person_does_not_declare_an_emergency_in_the_name_of_another(world, say):
    bot = world.act(BOT)
    write(world.clone / "releases/policy/3/manifest.json", "{}")
    proposal = Proposal("release/policy/3", "Release policy/3", "", None, exclusive=False)
    number = propose(bot, world.clone, ["releases"], proposal)
    voice = world.act("second-trader").add_comment(number, "nice release")
    good = head(world, number)
    shutil.rmtree(world.clone / "releases")
    world.git("fetch", "--quiet", "origin")
    world.git("checkout", "--quiet", "--force", "-B", "evil", "origin/release/policy/3")
    record = {"event": "emergency", "status": "waiting", "actor": "second-trader", "comment_id": voice}
    push_rule(world, planted(record | {"at": "2026-07-01T02:59:00Z", "reason": "x"})[1], "release/policy/3")
    say("trader", number, "/explain")
    world.git("push", "--quiet", "--force", "origin", f"{good}:refs/heads/release/policy/3")
    bot.merge(number, good, "Merge")
    assert say("trader", number, DECLARE, NOON).status == "waiting"


def test_a_voice_counts_only_while_its_comment_declares_an_emergency(world, say, release):
    """Even if the bot's own record says so."""
    bot = world.act(BOT)
    voice = world.act("second-trader").add_comment(release, "nice release")
    record = {"event": "emergency", "status": "waiting", "actor": "second-trader", "comment_id": voice}
    block = record_block(record | {"at": "2026-07-01T02:59:00Z", "reason": "x"})
    bot.add_comment(release, f"<!-- sekisho:answer-{voice} 1/1 -->\n{block}")
    assert say("trader", release, DECLARE, NOON).status == "waiting"


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_an_emergency_is_not_signed_when_the_first_voice_is_taken_back(world, say, release, change):
    say("trader", release, DECLARE, NOON)
    say("second-trader", release, DECLARE, NOON)
    bot, trader = world.act(BOT), world.act("trader")
    first, second = (c.id for c in bot.comments(release) if c.body == DECLARE)
    wish = Promotion(release, "policy/3", "production", f"comment-{second}")
    assert "trader and second-trader" in recheck(bot, wish, TOKYO, NOON)
    if change == "edited":
        trader.edit_comment(release, first, "I take it back")
    else:
        trader.delete_comment(release, first)
    with pytest.raises(Refused, match="no more the word of trader"):
        recheck(bot, wish, TOKYO, NOON)


@given(st.text(), st.text(), st.text())
def test_whatever_an_answer_quotes_its_own_record_is_the_one_that_is_read(said, reason, forged):
    own = {"event": "hold", "status": "done", "actor": "a", "comment_id": 7, "at": "", "reason": reason}
    body = f"{said}{record_block({**own, 'event': 'resume', 'reason': forged})}{said}\n\n{record_block(own)}"
    assert _record(Comment(9, BOT, body, "", edited=False), 7) == own


# ---- who edits or deletes an answer loosens nothing


@pytest.fixture
def approved(world, say, pull) -> int:
    """A pull request that is approved and can be merged."""
    say("reviewer", pull, f"/approve {head(world, pull)}")
    assert missing(world, pull) == []
    return pull


def missing(world, number: int) -> list[str]:
    bot = world.act(BOT)
    return blockers(bot, bot.get_pull_request(number))


def answer_to(world, number: int, text: str) -> int:
    """The bot's answer to the last comment that begins so."""
    bot = world.act(BOT)
    asked = [c.id for c in bot.comments(number) if c.body.startswith(text)][-1]
    answer = find_answer(bot, number, asked)
    assert answer
    return answer.comment.id


@pytest.mark.parametrize("command", ["/hold wait", "/unapprove"])
@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_what_stopped_the_merge_stops_it_when_its_answer_is_gone(world, say, approved, command, change):
    say("reviewer", approved, command)
    bot, answer = world.act(BOT), answer_to(world, approved, command)
    if change == "edited":
        bot.edit_comment(approved, answer, "never mind")
    else:
        bot.delete_comment(approved, answer)
    assert missing(world, approved) != []
    with pytest.raises(Refused):
        merge(world.act("engineer"), approved)


def by_hand(world, number: int, comment: int, old: str, new: str) -> None:
    """Somebody else edits a comment of the bot, as GitHub lets whoever may write."""
    (path,) = (world.folder / f"pulls/{number:04d}/comments").glob(f"{comment:04d}-*.md")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("marker", ["kept", "lost", "another"])
@pytest.mark.parametrize("command", ["/approve {head}", "/explain", "/resume"])
def test_an_edited_answer_stops_everything_until_it_is_deleted(world, say, approved, command, marker):
    text = command.format(head=head(world, approved))
    say("reviewer", approved, text)
    bot, answer = world.act(BOT), answer_to(world, approved, text)
    old = {"kept": "done", "lost": "<!-- sekisho", "another": "sekisho:answer-"}[marker]
    by_hand(world, approved, answer, old, "sekisho:report-")
    assert is_held(bot, approved)
    assert [reason for reason in missing(world, approved) if f"comment {answer}, edited" in reason] != []
    with pytest.raises(Refused, match=f"unedited-by-others.*comment {answer}, edited"):
        current_approval(bot, bot.get_pull_request(approved))
    bot.delete_comment(approved, answer)
    assert not is_held(bot, approved)
    say("reviewer", approved, f"/approve {head(world, approved)}")
    assert merge(world.act("engineer"), approved)


def test_a_hold_counts_from_its_comment_on_and_for_those_who_may_give_it(world, say, approved):
    bot = world.act(BOT)
    world.act("reader").add_comment(approved, "/hold")
    assert not is_held(bot, approved)
    comment = world.act("admin").add_comment(approved, "/hold")
    assert is_held(bot, approved)
    assert missing(world, approved) == ["it is on hold"]
    world.act("admin").edit_comment(approved, comment, "/hold, or rather not")
    assert not is_held(bot, approved)


def test_a_refused_command_decides_nothing(world, say, pull):
    world.act("reviewer").merge(pull, head(world, pull), "Merge")
    say("reviewer", pull, "/unapprove")
    assert decided(world, pull) == []


# ---- commands take effect in the order of their comments, whenever their jobs run


def judged(world, number: int, comment_id: int) -> Outcome:
    bot = world.act(BOT)
    return handle(bot, number, next(c for c in bot.comments(number) if c.id == comment_id), TOKYO)


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(
    ("before", "first", "later"),
    [
        ("/hold first", "/resume", "/hold the market is broken"),
        ("", "/approve {head}", "/unapprove"),
        ("", "/hold", "/resume"),
    ],
)
def test_a_command_whose_job_runs_late_undoes_nothing(world, say, pull, before, first, later, answered):
    if before:
        say("reviewer", pull, before)
    one = world.act("reviewer").add_comment(pull, first.format(head=head(world, pull)))
    two = world.act("reviewer").add_comment(pull, later)
    if answered or later == "/resume":
        assert judged(world, pull, two).status == "done"
    held = is_held(world.act(BOT), pull)
    outcome = judged(world, pull, one)
    assert (outcome.status, "commands.in-order" in outcome.message) == ("refused", True)
    assert is_held(world.act(BOT), pull) is held is later.startswith("/hold")
    with pytest.raises(Refused):
        current_approval(world.act(BOT), world.act(BOT).get_pull_request(pull))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_voices_at_the_same_moment_the_later_comment_is_the_second(world, release, order):
    people = ("trader", "second-trader")
    asked = [world.act(name).add_comment(release, DECLARE) for name in people]
    said = {n: judged(world, release, asked[n]) for n in order}
    assert said[1].status == "accepted"
    assert said[0].status == ("waiting" if order == (0, 1) else "done")
    assert decided(world, release) == ["emergency", "emergency-promotion"]
    third = world.act("admin").add_comment(release, DECLARE)
    assert judged(world, release, third).status == "waiting"  # both are used up


def test_of_three_voices_at_the_same_moment_two_are_acted_on_and_the_third_waits(world, release):
    people = ("trader", "second-trader", "admin")
    asked = [world.act(name).add_comment(release, DECLARE) for name in people]
    said = [judged(world, release, comment).status for comment in reversed(asked)]
    assert said == ["waiting", "accepted", "done"]


def test_an_unanswered_voice_of_one_who_may_not_is_none(world, release):
    world.act("reviewer").add_comment(release, DECLARE)
    assert judged(world, release, world.act("trader").add_comment(release, DECLARE)).status == "waiting"


# ---- a hold stops the forge's own merge, the bot and the release


def test_on_hold_the_forge_itself_merges_nothing(world, say, approved):
    bot, sha = world.act(BOT), head(world, approved)
    say("admin", approved, "/hold do not ship")
    with pytest.raises(Refused, match="a draft"):
        bot.merge(approved, sha, "The button on the page")
    say("admin", approved, "/resume")
    assert bot.merge(approved, sha, "The button on the page")


def test_a_hold_after_the_merge_stops_the_release_until_it_ends(world, say, approved):
    bot = world.act(BOT)
    bot.merge(approved, head(world, approved), "The button on the page")
    say("admin", approved, "/hold do not ship")
    with pytest.raises(Refused, match="not-on-hold"):
        approval_record(bot, approved)
    say("admin", approved, "/resume")
    assert approval_record(bot, approved)["approver"] == "reviewer"


def test_on_hold_the_bot_commits_no_results(world, say, pull):
    say("reviewer", pull, "/hold wait")
    sha = head(world, pull)
    write(world.clone / "dvc.lock", (world.clone / "dvc.lock").read_text() + "\n")
    with pytest.raises(Refused, match="not-on-hold"):
        commit_results(world.act(BOT), pull, world.clone, sha)
    assert head(world, pull) == sha


def test_on_hold_a_proposal_neither_grows_nor_gives_way(world, say):
    bot = world.act(BOT)
    wish = Proposal("locks", "Upgrade", "", "locks", exclusive=False)
    write(world.clone / "requirements/dev.txt", "a\n")
    number = propose(bot, world.clone, ["requirements"], wish)
    before = bot.get_pull_request(number)
    say("reviewer", number, "/hold not this week")
    write(world.clone / "requirements/dev.txt", "b\n")
    for other in (wish, Proposal("other", "Other", "", "locks", exclusive=False, replaces="locks")):
        with pytest.raises(Refused, match="not-on-hold"):
            propose(bot, world.clone, ["requirements"], other)
    assert bot.get_pull_request(number) == before
    say("reviewer", number, "/resume")
    propose(bot, world.clone, ["requirements"], wish)
    assert head(world, number) != before.head_sha
