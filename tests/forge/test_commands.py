"""Commands in comments: pushes that void approvals, other parameters, promotions, emergencies, answers."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forge.conftest import BOT, TOKYO, head

from sekisho.errors import CannotCheck, ForgeError, Refused
from sekisho.forge.approvals import merge
from sekisho.forge.commands import handle
from sekisho.forge.grammar import KINDS
from sekisho.forge.local import LocalForge
from sekisho.forge.promotion import market_hours
from sekisho.forge.records import events, is_held
from sekisho.forge.report import publish_report
from sekisho.forge.retune import read_changes, with_changes
from sekisho.params import lookup, parse_yaml

ROOT = Path(__file__).parents[2]
EVENING = dt.datetime(2026, 7, 1, 10, 0, tzinfo=dt.UTC)  # a Wednesday, 19:00 in Tokyo
NOON = dt.datetime(2026, 7, 1, 3, 0, tzinfo=dt.UTC)  # 12:00 in Tokyo: the lunch break
PARAMS = (ROOT / "params.yaml").read_bytes()


@pytest.fixture
def whole(world) -> int:
    """An open pull request whose branch holds this repository's params.yaml."""
    world.reproduce("tuned", passed=True, limit=0.15)
    (world.clone / "params.yaml").write_bytes(PARAMS)
    world.git("commit", "--quiet", "--all", "--message", "All parameters")
    world.git("push", "--quiet", "origin", "HEAD:refs/heads/tune")
    return world.act("engineer").open_pull_request("tune", "Tune", "because")


# ---- any push voids an approval


@pytest.mark.parametrize("detour", ["push and force back", "delete and push again"])
def test_a_head_that_left_and_came_back_has_lost_its_approval(world, say, pull, detour):
    sha = head(world, pull)
    assert say("reviewer", pull, f"/approve {sha}").status == "done"
    if detour == "push and force back":
        world.push("something else")
    else:
        world.git("push", "--quiet", "origin", ":tune")
    world.git("push", "--quiet", "--force", "origin", f"{sha}:refs/heads/tune")
    assert head(world, pull) == sha
    with pytest.raises(Refused, match="came back"):
        merge(world.act("reviewer"), pull)
    assert say("reviewer", pull, f"/approve {sha}").status == "done"
    assert merge(world.act("reviewer"), pull)


def test_a_commit_that_claims_to_be_old_voids_the_approval_all_the_same(world, say, pull, monkeypatch):
    say("reviewer", pull, f"/approve {head(world, pull)}")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_DATE", "2001-01-01T00:00:00Z")
    new = world.push("slipped in, dated before the approval")
    assert world.git("show", "-s", "--format=%cd", "--date=short", new) == "2001-01-01"
    with pytest.raises(Refused, match="a push voids approvals"):
        merge(world.act("reviewer"), pull)


def test_a_push_that_comes_and_goes_while_the_approval_is_bound_is_seen(world, say, pull, monkeypatch):
    sha, real = head(world, pull), LocalForge.tree

    def slow(self, commit):
        world.push("slipped in")
        world.git("push", "--quiet", "--force", "origin", f"{sha}:refs/heads/tune")
        monkeypatch.setattr(LocalForge, "tree", real)
        return real(self, commit)

    monkeypatch.setattr(LocalForge, "tree", slow)
    assert "head-unchanged" in say("reviewer", pull, f"/approve {sha}").message


def test_a_deleted_branch_is_not_approved(world, say, pull):
    sha = head(world, pull)
    world.git("push", "--quiet", "origin", ":tune")
    assert "commands.state" in say("reviewer", pull, f"/approve {sha}").message


# ---- /retrain


def test_retrain_with_parameters_is_a_commit_by_the_bot_that_changes_these_values_only(world, say, whole):
    old = head(world, whole)
    outcome = say("reviewer", whole, "/retrain ppo.learning_rate=0.001 train.seeds=[3,4,5]")
    assert (outcome.status, "pr.yml" in outcome.message) == ("accepted", True)
    new = head(world, whole)
    assert new in outcome.message
    world.git("fetch", "--quiet", "origin")
    assert world.git("diff", "--name-only", old, new) == "params.yaml"
    removed = [x for x in world.git("diff", "-U0", old, new).split("\n") if x.startswith("-  ")]
    assert len(removed) == 2
    found = yaml.safe_load(world.git("show", f"{new}:params.yaml"))
    assert found["ppo"]["learning_rate"] == 0.001
    assert found["train"]["seeds"] == [3, 4, 5]
    said = world.git("log", "-1", "--format=%an%n%B", new)
    assert said.startswith(f"{BOT}\nRetrain with ppo.learning_rate=0.001 train.seeds=[3,4,5]")
    assert "Asked for by reviewer" in said


@pytest.mark.parametrize(
    "words",
    [
        "ppo.learning_rat=0.1",  # unknown
        "nothing.here=1",
        "learning_rate=0.1",
        "ppo=1",
        "ppo.epochs=2.5",  # another type
        "ppo.epochs=two",
        "ppo.epochs=true",
        "ppo.learning_rate=fast",
        "train.seeds=1",
        "train.seeds=[1,x]",
        "train.trainer=[ppo]",
        "ppo.epochs=-1",  # out of range
        "ppo.learning_rate=.nan",
        "ppo.epochs=3 ppo.epochs=4",
        "gate.max_drawdown=0.9",  # judged, not trained
        "backtest.confidence=0.5",
        "market.commission=0.0",
        "data.max_quarantine_share=0.9",
        "split.train_sessions=1",
        "forge.bot=mallory",
        "train.trainer=$(touch${IFS}pwned)",
        "train.trainer=`id`",
        "train.trainer=../../x",
        "train.trainer=日本",
        "train.trainer='x'",
        "train.trainer=!!python/object:os.system",
        "train.trainer=*x",
        "train.trainer=a\u2028b",
        "train.trainer=x\rgate.max_drawdown=9",
        "ppo.epochs=",
        "=1",
        "ppo.epochs=1 && id",
    ],
)
def test_a_wrong_or_hostile_parameter_is_refused_and_nothing_is_committed(world, say, whole, words):
    before = head(world, whole)
    outcome = say("reviewer", whole, f"/retrain {words}")
    assert outcome.status == "refused"
    assert head(world, whole) == before
    assert not list(world.folder.parent.rglob("pwned"))


@pytest.mark.parametrize("section", sorted(parse_yaml(PARAMS)))
def test_a_comment_changes_only_sections_of_features_and_training(section):
    key = next(iter(parse_yaml(PARAMS)[section]))
    if section in ("features", "train", "ppo", "apg", "td3"):
        assert read_changes(f"{section}.{key}=1") == {f"{section}.{key}": 1}
    else:
        with pytest.raises(Refused, match="a parameter outside"):
            read_changes(f"{section}.{key}=1")


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_value_whatever_it_holds_changes_more_than_its_own_key(text):
    try:
        changed = with_changes(PARAMS, read_changes(f"train.trainer={text}"))
    except Refused:
        return
    before, after = yaml.safe_load(PARAMS), yaml.safe_load(changed)
    after["train"]["trainer"] = before["train"]["trainer"]
    assert after == before


CHANGES = [
    ("ppo.epochs", st.integers(1, 99)),
    ("train.seeds", st.lists(st.integers(0, 9), min_size=1, unique=True)),
    ("ppo.learning_rate", st.floats(1e-9, 1.0)),
    ("features.clip", st.integers(1, 9)),
]


@settings(deadline=None, max_examples=40)
@given(st.one_of(*[st.tuples(st.just(key), values) for key, values in CHANGES]))
def test_every_comment_and_every_other_line_of_the_file_stays(change):
    key, value = change
    changed = with_changes(PARAMS, {key: value})
    pairs = zip(PARAMS.decode().split("\n"), changed.decode().split("\n"), strict=True)
    assert sum(old != new for old, new in pairs) <= 1
    assert lookup(parse_yaml(changed), key) == value


def test_who_had_the_bot_commit_parameters_is_an_author_and_cannot_approve(say, whole, world):
    say("reviewer", whole, "/retrain ppo.epochs=3")
    refused = say("reviewer", whole, f"/approve {head(world, whole)}")
    assert f"someone else than `` engineer, reviewer, {BOT} ``" in refused.message
    assert "report-for-head" in say("trader", whole, f"/approve {head(world, whole)}").message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--author", "reviewer <reviewer@example.invalid>"), "Mine"),
        (("--author", "someone <x@example.invalid>"), "Pair\n\nCo-authored-by: Reviewer <r@example.invalid>"),
        ((), "Pair\n\nco-authored-by: R. E. Viewer <12+reviewer@users.noreply.github.com>"),
    ],
)
def test_who_wrote_a_commit_of_the_bots_own_request_cannot_approve_it(world, say, words, message):
    bot = world.act(BOT)
    world.push("by the bot", branch="retrain/policy")
    number = bot.open_pull_request("retrain/policy", "Retrain", "", "retrain:policy:x")
    world.git("commit", "--quiet", "--allow-empty", *words, "--message", message)
    head = world.push("results", branch="retrain/policy", limit=0.2)
    publish_report(bot, number, world.clone, world.at)
    assert "commands.four-eyes" in say("reviewer", number, f"/approve {head}").message
    assert say("trader", number, f"/approve {head}").status == "done"


def test_who_committed_it_cannot_approve_it(world, say, monkeypatch):
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Reviewer")
    head = world.push("tuned")
    number = world.act(BOT).open_pull_request("tune", "Tune", "because")
    publish_report(world.act(BOT), number, world.clone, world.at)
    assert "commands.four-eyes" in say("reviewer", number, f"/approve {head}").message


def test_retrain_after_a_crash_commits_and_starts_nothing_twice(world, say, whole, monkeypatch):
    real, calls = LocalForge.start, []

    def dying(self, workflow, inputs, key):
        calls.append(key)
        if len(calls) == 1:
            raise ForgeError("killed", remedy="")
        return real(self, workflow, inputs, key)

    monkeypatch.setattr(LocalForge, "start", dying)
    with pytest.raises(ForgeError, match="killed"):
        say("reviewer", whole, "/retrain ppo.epochs=3")
    once = head(world, whole)
    bot = world.act(BOT)
    comment = next(c for c in bot.comments(whole) if c.body.startswith("/retrain"))
    assert handle(bot, whole, comment, TOKYO).status == "accepted"
    assert head(world, whole) == once
    assert len(set(calls)) == 1


def test_retrain_of_a_head_that_moved_meanwhile_is_refused(world, say, whole, monkeypatch):
    real = LocalForge.commit_files

    def late(self, *words, **more):
        world.git("commit", "--quiet", "--allow-empty", "--message", "slipped in")
        world.git("push", "--quiet", "origin", "HEAD:refs/heads/tune")
        return real(self, *words, **more)

    monkeypatch.setattr(LocalForge, "commit_files", late)
    assert "head-unchanged" in say("reviewer", whole, "/retrain ppo.epochs=3").message


# ---- /promote


def test_staging_is_promoted_by_anyone_who_may_write_at_any_hour(say, release):
    outcome = say("reviewer", release, "/promote staging", NOON)
    assert outcome.status == "accepted"
    assert "policy/3" in outcome.message


@pytest.mark.parametrize(
    ("actor", "allowed"),
    [("trader", True), ("second-trader", True), ("admin", True), ("reviewer", False), ("reader", False)],
)
def test_production_is_promoted_by_the_trading_desk_or_an_admin(say, release, actor, allowed):
    outcome = say(actor, release, "/promote production", EVENING)
    assert outcome.status == ("accepted" if allowed else "refused")
    assert allowed or "a member of trading-desk who may write, or an admin" in outcome.message


def test_membership_is_asked_at_the_moment_of_action(world, say, release):
    (world.folder / "teams.yaml").write_text("trading-desk: []\n")
    assert "commands.permission" in say("trader", release, "/promote production", EVENING).message
    (world.folder / "teams.yaml").unlink()
    assert "commands.permission" in say("trader", release, "/rollback 2 slow", EVENING).message


@pytest.mark.parametrize(
    ("hour", "minute", "open_"),
    [(8, 59, False), (9, 0, True), (12, 0, True), (15, 29, True), (15, 30, False)],
)
def test_production_is_left_alone_from_open_to_close_lunch_included(say, release, hour, minute, open_):
    now = dt.datetime(2026, 7, 1, hour, minute, tzinfo=dt.timezone(dt.timedelta(hours=9)))
    outcome = say("trader", release, "/promote production", now)
    assert outcome.status == ("refused" if open_ else "accepted")
    assert ("commands.market-hours" in outcome.message) is open_


def test_a_holiday_has_no_market_hours():
    assert market_hours(TOKYO, dt.datetime(2026, 7, 20, 3, 0, tzinfo=dt.UTC)) is None  # Marine Day


def test_an_emergency_is_acted_on_when_a_second_person_declares_it_too(world, say, release):
    first = say("trader", release, "/promote production emergency limit breached", NOON)
    assert first.status == "waiting"
    assert say("trader", release, "/promote production emergency again", NOON).status == "waiting"
    assert say("reviewer", release, "/promote production emergency me too", NOON).status == "refused"
    second = say("second-trader", release, "/promote production emergency confirmed", NOON)
    assert second.status == "accepted"
    assert "trader: again; second-trader: confirmed" in second.message
    record = events(world.act(BOT), release)[-1]
    assert (record["event"], record["actor"], record["first"]["actor"]) == (
        "emergency-promotion", "second-trader", "trader",
    )  # fmt: skip
    # it is used up: the next one needs two again
    assert say("trader", release, "/promote production emergency once more", NOON).status == "waiting"


def test_an_emergency_ends_by_time_by_its_comment_and_by_its_authors_right(world, say, release):
    text = "/promote production emergency breach"
    say("trader", release, text, NOON)
    later = NOON + dt.timedelta(minutes=world.params.emergency_minutes + 1)
    assert say("second-trader", release, text, later).status == "waiting"
    comment = world.act(BOT).comments(release)[-2]
    assert (comment.author, comment.body) == ("second-trader", text)
    world.act("second-trader").edit_comment(release, comment.id, "never mind")
    assert say("trader", release, text, later).status == "waiting"
    (world.folder / "teams.yaml").write_text("trading-desk: [second-trader]\n")
    assert say("second-trader", release, text, later).status == "waiting"
    assert say("admin", release, text, later).status == "accepted"


def test_staging_knows_no_emergency_and_an_emergency_needs_a_reason(say, release):
    for text in ("/promote staging emergency x", "/promote production emergency", "/promote production now"):
        assert "commands.usage" in say("admin", release, text, EVENING).message


def test_promotion_is_of_a_release_that_the_bot_recorded_and_that_is_merged(world, say, pull):
    assert "commands.state" in say("admin", pull, "/promote staging").message
    world.act("reviewer").merge(pull, head(world, pull), "Merge")
    assert "commands.release" in say("admin", pull, "/promote production", EVENING).message


# ---- answers


def test_every_command_is_in_the_documentation():
    for page in ("docs/en/commands.md", "docs/ja/commands.md"):
        text = (ROOT / page).read_text()
        assert [
            kind.usage for kind in KINDS.values() if f"`{kind.usage}`".replace("|", "\\|") not in text
        ] == []


@pytest.mark.parametrize(
    "text",
    [
        "/Approve {head}", "/APPROVE {head}", "/approve\u00a0{head}", "/approve\u3000{head}",
        "/approve\t{head}",
        "/approve: {head}", "/hold,", "/hold\t", "/Hold", "/hold: wait", "/hold.\u3000", "/hold、",
    ],
)  # fmt: skip
def test_what_was_meant_as_a_command_is_answered_with_how_it_is_written(world, say, pull, text):
    outcome = say("reviewer", pull, text.format(head=head(world, pull)))
    assert outcome.status == "refused"
    assert f"commands.usage: expected `{KINDS[outcome.command].usage}`" in outcome.message
    assert f"@reviewer, `/{outcome.command}`: **refused**" in world.act(BOT).comments(pull)[-1].body


@pytest.mark.parametrize(
    "text", ["/Holding", "/hold/x", "/hold-it", "/holdで", "/usr/bin/hold", " /hold", "/tmp"]
)
def test_what_no_command_was_meant_by_is_not_acted_on(world, say, pull, text):
    assert "commands.usage" not in say("reviewer", pull, text).message
    assert not is_held(world.act(BOT), pull)


@pytest.mark.parametrize("broken", ["upsert_comment", "react"])
@pytest.mark.parametrize("text", ["/hold wait", "/approve {head}", "/promote moon", "/retrain"])
def test_a_job_that_broke_off_runs_again_and_says_everything_once(world, pull, monkeypatch, broken, text):
    world.act("reviewer").add_comment(pull, text.format(head=head(world, pull)))
    bot = world.act(BOT)
    comment = bot.comments(pull)[-1]

    def dead(self, *words):
        raise ForgeError("killed", remedy="")

    with monkeypatch.context() as patch:
        patch.setattr(LocalForge, broken, dead)
        with pytest.raises(ForgeError, match="killed"):
            handle(bot, pull, comment, TOKYO)
    for _ in range(2):
        handle(bot, pull, comment, TOKYO)
    assert sum(c.body.startswith("<!-- sekisho:answer-") for c in bot.comments(pull)) == 1
    thread = (world.folder / f"pulls/{pull:04d}/README.md").read_text()
    assert sum(thread.count(f"{BOT}: {mark}") for mark in ("+1", "-1", "rocket")) == 1


@pytest.mark.parametrize(
    "title", ["$(touch pwned)", "`id`\n# x", "<!-- sekisho:report 1/1 -->", "@everyone 標題"]
)
def test_hostile_reasons_are_quoted_in_the_answer(world, say, pull, title):
    say("reviewer", pull, f"/hold {title}")
    answer = world.act(BOT).comments(pull)[-1].body
    shown = answer.split("\n\n<details>")[0].split("\n", 1)[1]
    assert "\n" not in shown
    assert not list(world.folder.parent.rglob("pwned"))


def test_an_approval_needs_a_readable_lock(world, say):
    world.reproduce("tuned", passed=True, limit=0.15)
    (world.clone / "dvc.lock").unlink()
    world.git("commit", "--quiet", "--all", "--message", "No lock")
    world.git("push", "--quiet", "origin", "HEAD:refs/heads/tune")
    number = world.act("engineer").open_pull_request("tune", "Tune", "")
    with pytest.raises(CannotCheck, match=r"no dvc\.lock"):
        publish_report(world.act(BOT), number, world.clone, world.at)
