"""What was accepted is judged again where it is carried out: nothing that changed meanwhile is signed."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sekisho.calendar import Calendar
from sekisho.errors import CannotCheck, Refused
from sekisho.forge.recheck import Promotion, recheck

ROOT = Path(__file__).parents[2]
BOT = "sekisho[bot]"
TOKYO = Calendar("XTKS", "5min")
EVENING = dt.datetime(2026, 7, 1, 10, 0, tzinfo=dt.UTC)  # a Wednesday, 19:00 in Tokyo
NOON = dt.datetime(2026, 7, 1, 3, 0, tzinfo=dt.UTC)  # 12:00 in Tokyo: the lunch break
MORNING = dt.datetime(2026, 7, 2, 1, 0, tzinfo=dt.UTC)  # 10:00 in Tokyo, the next day
DECLARE = "/promote production emergency limit breached"


def key_of(world, number: int) -> str:
    """Of the last command on the pull request."""
    asked = [c for c in world.act(BOT).comments(number) if c.body.startswith("/")]
    return f"comment-{asked[-1].id}"


def again(world, number: int, now: dt.datetime, **changes: str) -> str:
    wish = {"release": "policy/3", "environment": "production"} | changes
    key = wish.pop("key") if "key" in wish else key_of(world, number)
    return recheck(world.act(BOT), Promotion(number, key=key, **wish), TOKYO, now)


def test_a_promotion_that_was_accepted_in_the_evening_is_carried_out_in_the_evening(world, say, release):
    assert say("trader", release, "/promote production", EVENING).status == "accepted"
    assert "trader" in again(world, release, EVENING + dt.timedelta(hours=1))


def test_it_is_not_carried_out_when_the_market_has_opened_meanwhile(world, say, release):
    say("trader", release, "/promote production", EVENING)
    with pytest.raises(Refused, match="market-hours"):
        again(world, release, MORNING)


def test_it_is_not_carried_out_when_the_right_or_the_comment_is_gone(world, say, release):
    say("trader", release, "/promote production", EVENING)
    teams = world.folder / "teams.yaml"
    text = teams.read_text()
    teams.write_text("trading-desk: []\n")
    with pytest.raises(Refused, match="a member of the trading desk"):
        again(world, release, EVENING)
    teams.write_text(text)
    comment = next(c for c in world.act(BOT).comments(release) if c.body.startswith("/promote"))
    world.act("trader").edit_comment(release, comment.id, "/promote production, or rather not")
    with pytest.raises(Refused, match="edited or gone"):
        again(world, release, EVENING)
    key = key_of(world, release)
    world.act("trader").delete_comment(release, comment.id)
    with pytest.raises(Refused, match="edited or gone"):
        again(world, release, EVENING, key=key)


@pytest.mark.parametrize("key", ["", "merge-" + "a" * 40, "comment-0", "comment-9999", "comment-1; id"])
def test_production_is_not_reached_by_a_workflow_that_was_started_by_hand(world, say, release, key):
    say("trader", release, "/promote production", EVENING)
    with pytest.raises(Refused, match="an unedited comment /promote production"):
        again(world, release, EVENING, key=key)


def test_a_command_for_staging_or_of_another_kind_does_not_reach_production(world, say, release):
    for text in ("/promote staging", "/rollback 2 slow", "/promote moon", "/hold"):
        say("admin", release, text, EVENING)
        with pytest.raises(Refused, match="a comment /promote production"):
            again(world, release, EVENING)


def test_a_command_that_was_refused_does_not_become_good_by_waiting(world, say, release):
    assert say("trader", release, "/promote production", NOON).status == "refused"
    with pytest.raises(Refused, match="it was refused"):
        again(world, release, EVENING)


def test_an_answer_that_was_edited_to_say_accepted_counts_for_nothing(world, say, release):
    say("trader", release, "/promote production", NOON)
    bot = world.act(BOT)
    answer = bot.comments(release)[-1]
    bot.edit_comment(release, answer.id, answer.body.replace("**refused**", "**accepted**"))
    with pytest.raises(Refused, match="an edited answer"):
        again(world, release, EVENING)


def test_an_unanswered_comment_cannot_be_judged_yet(world, release):
    world.act("trader").add_comment(release, "/promote production")
    with pytest.raises(CannotCheck, match="no answer yet"):
        again(world, release, EVENING)


def test_another_release_than_the_pull_requests_own_is_refused(world, say, release):
    say("trader", release, "/promote production", EVENING)
    with pytest.raises(Refused, match="that recorded release policy/4"):
        again(world, release, EVENING, release="policy/4")


def test_staging_needs_no_command_and_knows_no_hours(world, release):
    assert "recorded by" in again(world, release, NOON, environment="staging", key="")


def test_a_pull_request_that_people_named_like_a_release_is_none(world, say):
    world.push("tuned", branch="release/policy/9")
    number = world.act("engineer").open_pull_request("release/policy/9", "Release policy/9", "")
    world.act("reviewer").merge(number, world.act(BOT).get_pull_request(number).head_sha, "Merge")
    with pytest.raises(Refused, match=r"a merged release/… of sekisho\[bot\]"):
        recheck(world.act(BOT), Promotion(number, "policy/9", "staging", ""), TOKYO, EVENING)


def test_an_emergency_is_carried_out_at_noon_for_two_people_and_for_nobody_alone(world, say, release):
    assert say("trader", release, DECLARE, NOON).status == "waiting"
    with pytest.raises(Refused, match="it was waiting"):
        again(world, release, NOON)
    assert say("second-trader", release, DECLARE, NOON).status == "accepted"
    assert again(world, release, NOON) == "an emergency declared by trader and second-trader"


def test_an_emergency_runs_out_and_ends_with_either_right(world, say, release):
    say("trader", release, DECLARE, NOON)
    say("second-trader", release, DECLARE, NOON)
    late = NOON + dt.timedelta(minutes=world.params.emergency_minutes, seconds=1)
    with pytest.raises(Refused, match="of the last 30 minutes"):
        again(world, release, late)
    for left in ("trader", "second-trader"):
        (world.folder / "teams.yaml").write_text(f"trading-desk: [{left}]\n")
        with pytest.raises(Refused, match="trading desk"):
            again(world, release, NOON)


def test_an_emergency_record_that_people_planted_counts_for_nothing(world, say, release):
    say("trader", release, DECLARE, NOON)
    asked = key_of(world, release)
    record = {
        "event": "emergency-promotion", "comment_id": int(asked.removeprefix("comment-")),
        "at": "2026-07-01T03:00:00Z", "first": {"actor": "second-trader"},
    }  # fmt: skip
    body = f"<!-- sekisho:answer-1 1/1 -->\n<!-- sekisho:record -->\n```json\n{json.dumps(record)}\n```"
    world.act("trader").add_comment(release, body)
    with pytest.raises(Refused, match="it was waiting"):
        again(world, release, NOON, key=asked)


def cli(world, *words: str) -> tuple[int, str]:
    program = [sys.executable, "-c", "from sekisho.cli import run; run()", "pr", *words]
    environment = {
        "PATH": "/usr/bin:/bin", "SEKISHO_FORGE": f"local:{world.folder}", "SEKISHO_ACTOR": BOT,
    }  # fmt: skip
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_commands_exit_by_what_they_found(world, say, release):
    words = ("recheck", str(release), "--release", "policy/3", "--environment")
    assert cli(world, *words, "staging")[0] == 0
    code, said = cli(world, *words, "production", "--key", "comment-77")
    assert (code, "promotion.still-allowed" in said) == (1, True)


def test_the_merge_of_a_release_starts_the_promotion_to_staging_and_no_other_merge_does(world, say, release):
    merged = world.act(BOT).get_pull_request(release).merge_sha
    code, said = cli(world, "stage", "--merge-commit", merged)
    assert (code, "policy/3 goes to staging" in said) == (0, True)
    world.push("tuned")
    number = world.act("engineer").open_pull_request("tune", "Tune", "")
    other = world.act("reviewer").merge(number, world.act(BOT).get_pull_request(number).head_sha, "Merge")
    code, said = cli(world, "stage", "--merge-commit", other)
    assert (code, "recorded no release" in said) == (0, True)
    assert cli(world, "stage", "--merge-commit", "f" * 40)[0] == 2
