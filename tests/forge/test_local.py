"""The local forge: hostile names, many comments, people's rights, commands at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.errors import ForgeError, Refused
from sekisho.forge.grammar import KINDS, parse
from sekisho.forge.local import LocalForge

ROOT = Path(__file__).parents[2]
BOT = "sekisho[bot]"


@pytest.mark.parametrize(
    "branch", ["$(touch${IFS}pwned)", "a;b", "日本", 'it\'s"q"', "x`id`", "feature/a&&b"]
)
@pytest.mark.parametrize("title", ["$(touch pwned)\n# `rm -rf`", "<script>", "標題\u202e"])
def test_hostile_branches_and_titles_are_only_text(world, branch, title):
    head = world.push("hostile", branch=branch)
    number = world.act("engineer").open_pull_request(branch, title, title)
    bot = world.act(BOT)
    pull = bot.get_pull_request(number)
    assert (pull.branch, pull.head_sha) == (branch, head)
    assert "\n" not in pull.title
    assert bot.merge(number, head, f"Merge {title}")
    assert not list(world.folder.parent.rglob("pwned"))


@pytest.mark.parametrize(
    "branch", ["-x", "--upload-pack=id", "a..b", "a b", "a\nb", "", "refs/heads/", "@{-1}"]
)
def test_what_is_no_branch_name_is_refused(world, branch):
    with pytest.raises(ForgeError, match="branch"):
        world.act("engineer").open_pull_request(branch, "t", "b")


@pytest.mark.parametrize("actor", ["", "../x", "a b", "a\nb", "-x", "[bot]"])
def test_an_actor_that_is_no_login_is_refused(world, actor):
    with pytest.raises(ForgeError, match="SEKISHO_ACTOR"):
        world.act(actor)


def test_the_same_branch_or_key_never_gets_a_second_request(world):
    world.push("one")
    engineer = world.act("engineer")
    first = engineer.open_pull_request("tune", "One", "", key="drift/policy")
    assert engineer.open_pull_request("tune", "Two", "more", key="drift/policy") == first
    assert engineer.get_pull_request(first).title == "Two"
    world.push("other", branch="other")
    with pytest.raises(Refused, match="one-open-request-per-key"):
        engineer.open_pull_request("other", "Three", "", key="drift/policy")
    engineer.merge(first, engineer.get_pull_request(first).head_sha, "Merge")
    assert engineer.open_pull_request("other", "Three", "", key="drift/policy") == first + 1


def test_readers_comment_but_open_and_merge_nothing(world):
    head = world.push("one")
    number = world.act("engineer").open_pull_request("tune", "One", "")
    reader = world.act("reader")
    assert reader.add_comment(number, "hello")
    for act in (
        lambda: reader.open_pull_request("tune", "Mine", ""),
        lambda: reader.merge(number, head, "Merge"),
        lambda: reader.commit_files("tune", {"a": b""}, "m", head),
        lambda: reader.edit_comment(number, world.act("engineer").add_comment(number, "x"), "y"),
        lambda: world.act("outsider").add_comment(number, "hello"),
    ):
        with pytest.raises(Refused):
            act()


def test_a_deleted_branch_closes_the_request(world):
    world.push("one")
    engineer = world.act("engineer")
    number = engineer.open_pull_request("tune", "One", "")
    world.git("push", "--quiet", "origin", ":tune")
    assert engineer.get_pull_request(number).state == "closed"
    assert engineer.list_pull_requests("open") == []


def test_a_conflict_is_refused_and_leaves_main_alone(world):
    head = world.push("one", limit=0.2)
    number = world.act("engineer").open_pull_request("tune", "One", "")
    world.git("checkout", "--quiet", "-B", "main", "origin/main")
    other = world.push("two", branch="main", limit=0.3)
    with pytest.raises(Refused, match="mergeable"):
        world.act("engineer").merge(number, head, "Merge")
    assert world.act("engineer").branch_head("main") == other


def test_a_200_kb_report_becomes_parts_that_shrink_again(world):
    world.push("one")
    number = world.act("engineer").open_pull_request("tune", "One", "")
    bot = world.act(BOT)
    ids = bot.upsert_comment(number, "report", "line of the report\n" * 11000)
    assert len(ids) == 4
    assert all(len(comment.body) <= world.params.report_limit for comment in bot.comments(number))
    assert bot.upsert_comment(number, "report", "short") == ids[:1]
    assert [comment.body for comment in bot.comments(number)] == ["<!-- sekisho:report 1/1 -->\nshort"]


def test_a_body_comes_back_as_it_was(world):
    world.push("one")
    number = world.act("engineer").open_pull_request("tune", "One", "")
    body = "---\nid: 9\n---\r\n/hold\u2028 日本 ' \" \\ \t end"
    world.act("reader").add_comment(number, body)
    comment = world.act("reader").comments(number)[0]
    assert (comment.id, comment.body, comment.edited) == (1, body, False)


def test_commands_at_the_same_time_lose_no_comment(world):
    world.push("one")
    number = world.act("engineer").open_pull_request("tune", "One", "")
    program = (
        "import sys; from pathlib import Path; from sekisho.forge.local import LocalForge;"
        "from sekisho.params import load_params;"
        f"p = load_params(Path({str(ROOT / 'params.yaml')!r})).forge;"
        f"f = LocalForge(Path({str(world.folder)!r}), p, sys.argv[1]);"
        f"[f.upsert_comment({number}, 'same', str(n)) and f.add_comment({number}, str(n)) for n in range(8)]"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, actor]) for actor in ("engineer", "reader")]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    comments = world.act("engineer").comments(number)
    assert len({comment.id for comment in comments}) == 2 * (8 + 1)


def test_two_merges_at_the_same_time_merge_once(world):
    head = world.push("one")
    number = world.act("engineer").open_pull_request("tune", "One", "")
    world.act("engineer").merge(number, head, "Merge")
    with pytest.raises(Refused, match="merged"):
        world.act("reviewer").merge(number, head, "Merge")


def test_a_folder_that_is_no_forge_is_refused(tmp_path, params):
    with pytest.raises(ForgeError, match="not a local forge"):
        LocalForge(tmp_path, params, "engineer")


@given(st.text())
def test_parsing_any_comment_never_fails_and_never_finds_a_command_off_the_first_column(text):
    command = parse(text)
    if command is not None:
        assert text.casefold().startswith(f"/{command.name}")
        assert all(value.isprintable() for value in (command.arguments or {}).values())


@given(st.sampled_from(sorted(KINDS)), st.text(alphabet="0123456789abcdef ABCDEF", max_size=50))
def test_approve_takes_forty_lower_case_hex_digits_and_nothing_else(name, rest):
    command = parse(f"/{name} {rest}")
    assert command is not None
    if name == "approve" and command.arguments is not None:
        assert len(command.arguments["head"]) == 40
        assert command.arguments["head"] == rest.strip(" ")
