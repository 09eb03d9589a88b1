"""The bot's proposals: one branch a cause, from main anew after a decision, and one winner of a race."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.forge.conftest import write

from sekisho.errors import Refused
from sekisho.forge.propose import Proposal, propose

BOT = "sekisho[bot]"
POINTER = "deploy/policy/production/release.env"
PROGRAM = """
import sys
from pathlib import Path
from sekisho.errors import Refused
from sekisho.forge.local import LocalForge
from sekisho.forge.propose import Proposal, propose
from sekisho.params import load_params
folder, params, checkout, release, actor = sys.argv[1:]
forge = LocalForge(Path(folder), load_params(Path(params)).forge, actor)
real = forge.commit_files
def slow(*words, **more):  # both have looked and found the place free; now both push
    print("ready", flush=True)
    sys.stdin.readline()
    return real(*words, **more)
forge.commit_files = slow
proposal = Proposal("promote/production", f"Promote {release}", "", "promote/production", exclusive=True)
try:
    print("made", propose(forge, Path(checkout), ["deploy"], proposal), flush=True)
except Refused as error:
    print(error.rule, error.found, flush=True)
"""


def point_at(world, release: str, checkout: Path | None = None) -> Path:
    """A checkout of main whose production points at a release, not committed."""
    folder = checkout or world.folder.parent / f"at-{release.replace('/', '-')}"
    if not checkout:
        origin = str(world.folder / "origin.git")
        world.git("clone", "--quiet", origin, str(folder), cwd=world.folder.parent)
    path = folder / POINTER
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"RELEASE={release}\n")
    return folder


def promotion(release: str) -> Proposal:
    return Proposal("promote/production", f"Promote {release}", "", "promote/production", exclusive=True)


def test_two_promotions_at_once_have_one_winner_and_the_other_says_why(world):
    root = Path(__file__).parents[2]
    running = []
    for release in ("policy/3", "policy/4"):
        checkout = point_at(world, release)
        words = [str(world.folder), str(root / "params.yaml"), str(checkout), release, "engineer"]
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    assert [process.stdout.readline().strip() for process in running] == ["ready", "ready"]
    for process in running:  # both go on before either is heard
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in running]
    assert sorted(line.split()[0] for line in said) == ["forge.head-unchanged", "made"]
    (pull,) = world.act(BOT).list_pull_requests("all")
    winner = ("policy/3", "policy/4")[[line.startswith("made") for line in said].index(True)]
    assert pull.title == f"Promote {winner}"
    found = world.act(BOT).read_file(pull.head_sha, POINTER)
    assert found == f"RELEASE={winner}\n".encode()


def test_a_second_promotion_waits_for_the_first_and_the_same_one_is_idempotent(world):
    bot = world.act(BOT)
    first = propose(bot, point_at(world, "policy/3"), ["deploy"], promotion("policy/3"))
    assert propose(bot, point_at(world, "policy/3", world.folder.parent / "at-policy-3"), ["deploy"],
                   promotion("policy/3")) == first  # fmt: skip
    with pytest.raises(Refused, match=r"pull request 1, `` Promote policy/3 ``, is open"):
        propose(bot, point_at(world, "policy/4"), ["deploy"], promotion("policy/4"))
    assert len(bot.list_pull_requests("all")) == 1


def test_after_a_decision_the_branch_begins_at_main_anew(world):
    bot = world.act(BOT)
    first = propose(bot, point_at(world, "policy/3"), ["deploy"], promotion("policy/3"))
    bot.merge(first, bot.get_pull_request(first).head_sha, "Merge")
    main = bot.branch_head("main")
    second = propose(bot, point_at(world, "policy/4"), ["deploy"], promotion("policy/4"))
    assert second == first + 1
    world.git("fetch", "--quiet", "origin")
    assert world.git("rev-parse", f"{bot.get_pull_request(second).head_sha}^") == main


def test_an_open_proposal_that_is_not_exclusive_grows_by_a_commit(world):
    bot = world.act(BOT)
    words = ("locks", "Recompile the locks", "", "locks")
    first = propose(bot, point_at(world, "a/1"), ["deploy"], Proposal(*words, exclusive=False))
    head = bot.get_pull_request(first).head_sha
    assert propose(bot, point_at(world, "a/2"), ["deploy"], Proposal(*words, exclusive=False)) == first
    world.git("fetch", "--quiet", "origin")
    assert world.git("rev-parse", f"{bot.get_pull_request(first).head_sha}^") == head


LOG = "releases/audit.jsonl"


def on_main(world, text: str) -> str:
    """Main's log of what was done, pushed; the commit's id."""
    write(world.clone / LOG, text)
    world.git("add", "--all")
    world.git("commit", "--quiet", "--message", "Log")
    world.git("push", "--quiet", "origin", "HEAD:refs/heads/main")
    return world.git("rev-parse", "HEAD")


def test_what_main_got_after_the_checkout_is_not_overwritten(world):
    bot = world.act(BOT)
    on_main(world, "one\n")
    checkout = point_at(world, "policy/3")
    write(checkout / LOG, "one\npromoted 3\n")
    on_main(world, "one\nrevoked 2\n")
    with pytest.raises(Refused, match=rf"proposal-from-main.*before `` {LOG} ``"):
        propose(bot, checkout, ["deploy", "releases"], promotion("policy/3"))
    assert bot.branch_head("promote/production") is None
    assert propose(bot, checkout, ["deploy"], promotion("policy/3"))  # main left deploy alone


def test_of_two_proposals_for_one_file_the_second_conflicts_instead_of_winning(world):
    bot = world.act(BOT)
    on_main(world, "one\n")
    made = []
    for release in ("policy/3", "policy/4"):
        checkout = point_at(world, release)
        write(checkout / LOG, f"one\nreleased {release}\n")
        wish = Proposal(f"release/{release}", "Release", "", None, exclusive=False)
        made.append(propose(bot, checkout, ["releases"], wish))
    first, second = (bot.get_pull_request(number) for number in made)
    bot.merge(first.number, first.head_sha, "Merge")
    with pytest.raises(Refused, match="conflict"):
        bot.merge(second.number, second.head_sha, "Merge")
    assert bot.read_file(bot.branch_head("main"), LOG) == b"one\nreleased policy/3\n"


def test_a_checkout_with_commits_that_main_lacks_is_not_proposed(world):
    world.push("mine", "mine")
    write(world.clone / LOG, "one\n")
    wish = Proposal("release/policy/3", "Release", "", None, exclusive=False)
    with pytest.raises(Refused, match="which is not main's"):
        propose(world.act(BOT), world.clone, ["releases"], wish)


LIST = "trust/revoked.sigstore.json"
RENEWAL = Proposal("revocations", "Renew the revocation list", "", "revocations", exclusive=False)


def revocation(release: str) -> Proposal:
    return Proposal(
        f"revoke/{release}", f"Revoke {release}", "", "revocations", exclusive=True, replaces="revocations"
    )


def list_of(world, *revoked: str) -> Path:
    """A checkout of main with a list that was made from it, as the job that signs leaves it."""
    folder = world.folder.parent / "-".join(["list", *revoked]).replace("/", "-")
    world.git("clone", "--quiet", str(world.folder / "origin.git"), str(folder), cwd=world.folder.parent)
    (folder / LIST).parent.mkdir()
    (folder / LIST).write_text(f"made from main, revokes {list(revoked)}")
    return folder


def test_a_renewal_made_from_main_leaves_a_waiting_revocation_as_it_is(world):
    bot = world.act(BOT)
    number = propose(bot, list_of(world, "policy/3"), ["trust"], revocation("policy/3"))
    before = bot.get_pull_request(number)
    with pytest.raises(Refused, match=r"`` Revoke policy/3 ``, is open"):
        propose(bot, list_of(world), ["trust"], RENEWAL)
    with pytest.raises(Refused, match=r"`` Revoke policy/3 ``, is open"):
        propose(bot, list_of(world, "policy/4"), ["trust"], revocation("policy/4"))
    assert bot.list_pull_requests("all") == [before]
    assert bot.read_file(before.head_sha, LIST) == b"made from main, revokes ['policy/3']"
    assert [bot.branch_head("revocations"), bot.branch_head("revoke/policy/4")] == [None, None]


def test_a_waiting_renewal_gives_way_to_a_revocation(world):
    bot = world.act(BOT)
    renewal = propose(bot, list_of(world), ["trust"], RENEWAL)
    number = propose(bot, list_of(world, "policy/3"), ["trust"], revocation("policy/3"))
    assert bot.get_pull_request(renewal).state == "closed"
    assert "Gave way to `` Revoke policy/3 ``" in bot.get_pull_request(renewal).body
    (pull,) = bot.list_pull_requests("open")
    assert (pull.number, pull.branch, pull.title) == (number, "revoke/policy/3", "Revoke policy/3")


def test_a_key_in_another_accounts_request_closes_and_stops_nothing(world):
    world.push("theirs", "theirs")
    theirs = world.act("engineer").open_pull_request("theirs", "Theirs", "", "revocations")
    bot = world.act(BOT)
    propose(bot, list_of(world, "policy/3"), ["trust"], revocation("policy/3"))
    assert bot.get_pull_request(theirs).state == "open"
