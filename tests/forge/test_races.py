"""Two at once, on GitHub's API as GitHub describes it, over a real repository."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.workflows.description import Description
from tests.workflows.stand_in import BOT, REPOSITORY, StandIn, token

from sekisho.errors import Refused, SekishoError
from sekisho.forge.github import GitHubForge
from sekisho.forge.propose import Proposal, propose

POINTER = "deploy/policy/production/release.env"
RIGHTS = {"contents": "write", "pull-requests": "write", "metadata": "read"}


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=engineer", "-c", "user.email=engineer@example.invalid")
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def github(tmp_path, monkeypatch) -> Iterator[StandIn]:
    seed, origin = tmp_path / "seed", tmp_path / "origin.git"
    (seed / POINTER).parent.mkdir(parents=True)
    (seed / POINTER).write_text("RELEASE=none\n")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(seed))
    git(seed, "add", ".")
    git(seed, "commit", "--quiet", "--message", "Nothing is promoted yet")
    git(tmp_path, "clone", "--quiet", "--bare", str(seed), str(origin))
    made = StandIn(origin, Description.load())
    monkeypatch.setenv("GITHUB_API_URL", made.url)
    yield made
    made.close()
    assert made.faults == []


def promote(
    github: StandIn, folder: Path, params, release: str, ready: threading.Barrier | None = None
) -> str:
    """What one job says at its end."""
    checkout = folder / f"at-{release}"
    git(folder, "clone", "--quiet", str(github.origin), str(checkout))
    (checkout / POINTER).write_text(f"RELEASE={release}\n")
    forge = GitHubForge(REPOSITORY, params, token(BOT, RIGHTS))
    real = forge.commit_files

    def together(*words, **more) -> str:
        if ready:  # every job has looked and found the place free
            ready.wait(timeout=60)
        return real(*words, **more)

    forge.commit_files = together  # type: ignore[method-assign]
    wish = Proposal("promote/production", f"Promote {release}", "", "promote/production", exclusive=True)
    try:
        return f"made {propose(forge, checkout, ['deploy'], wish)}"
    except SekishoError as error:
        return str(error)


@pytest.mark.parametrize("jobs", [2, 5])
def test_of_promotions_at_once_exactly_one_wins_and_each_other_says_why(github, tmp_path, params, jobs):
    said: dict[str, str] = {}
    ready = threading.Barrier(jobs)

    def job(release: str) -> None:
        said[release] = promote(github, tmp_path, params, release, ready)

    running = [threading.Thread(target=job, args=(f"policy-{n}",)) for n in range(jobs)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    winners = [release for release, words in said.items() if words == "made 1"]
    assert len(winners) == 1, said
    losers = [words for words in said.values() if words != "made 1"]
    assert all("forge.head-unchanged" in words and "remedy" in words for words in losers)
    (pull,) = github.pulls.values()
    assert pull["title"] == f"Promote {winners[0]}"
    assert github.git("show", f"promote/production:{POINTER}") == f"RELEASE={winners[0]}"


def test_the_loser_who_comes_back_is_told_which_request_is_open(github, tmp_path, params):
    assert promote(github, tmp_path, params, "policy-1") == "made 1"
    assert "pull request 1, `` Promote policy-1 ``, is open" in promote(github, tmp_path, params, "policy-2")
    assert len(github.pulls) == 1


def test_two_merges_at_once_of_an_approved_head_make_one_merge(github, tmp_path, params):
    assert promote(github, tmp_path, params, "policy-1") == "made 1"
    head = str(github.pull(1)["head"]["sha"])
    ready, said = threading.Barrier(2), []

    def job() -> None:
        forge = GitHubForge(REPOSITORY, params, token(BOT, RIGHTS))
        ready.wait(timeout=60)
        said.append(forge.merge(1, head, "Merge"))

    running = [threading.Thread(target=job) for _ in range(2)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    assert said[0] == said[1] == github.git("rev-parse", "main")
    assert github.git("rev-list", "--count", "--merges", "main") == "1"


def test_a_push_at_the_moment_of_the_merge_wins_over_the_merge(github, tmp_path, params):
    assert promote(github, tmp_path, params, "policy-1") == "made 1"
    head = str(github.pull(1)["head"]["sha"])
    forge = GitHubForge(REPOSITORY, params, token(BOT, RIGHTS))
    forge.commit_files("promote/production", {"slipped": b"in"}, "Slip in", head)
    with pytest.raises(Refused, match="head-unchanged"):
        forge.merge(1, head, "Merge")
    assert github.git("rev-list", "--count", "--merges", "main") == "0"


def test_after_a_decision_the_branch_begins_at_main_anew(github, tmp_path, params):
    assert promote(github, tmp_path, params, "policy-1") == "made 1"
    github.merge(1, str(github.pull(1)["head"]["sha"]), "Merge")
    assert promote(github, tmp_path, params, "policy-2") == "made 2"
    assert github.git("rev-parse", "promote/production^") == github.git("rev-parse", "main")


def test_what_main_got_after_the_checkout_is_not_overwritten(github, tmp_path, params):
    checkout = tmp_path / "early"
    git(tmp_path, "clone", "--quiet", str(github.origin), str(checkout))
    (checkout / POINTER).write_text("RELEASE=early\n")
    assert promote(github, tmp_path, params, "policy-1") == "made 1"
    github.merge(1, str(github.pull(1)["head"]["sha"]), "Merge")
    forge = GitHubForge(REPOSITORY, params, token(BOT, RIGHTS))
    wish = Proposal("images", "Images", "", "images", exclusive=False)
    with pytest.raises(Refused, match=rf"proposal-from-main.*before `` {POINTER} ``"):
        propose(forge, checkout, ["deploy"], wish)
    git(checkout, "checkout", "--quiet", "--", ".")
    (checkout / "other").write_text("x")
    assert propose(forge, checkout, ["other"], wish) == 2  # main left that alone
    assert github.git("rev-parse", "images^") == git(checkout, "rev-parse", "HEAD")


def test_who_pushed_is_known_from_githubs_own_record(github, tmp_path, params):
    assert promote(github, tmp_path, params, "policy-1") == "made 1"
    head = str(github.pull(1)["head"]["sha"])
    person = github.description.example("simple-user") | {"login": "pusher"}
    push = {"id": 1, "node_id": "x", "before": head, "after": head, "ref": "refs/heads/promote/production"}
    push |= {"timestamp": "2026-01-01T00:00:00Z", "activity_type": "push", "actor": person}
    github.pushes = [push, push | {"after": "f" * 40, "actor": person | {"login": "earlier"}}]
    assert GitHubForge(REPOSITORY, params, token(BOT, RIGHTS)).contributors(1) == {BOT, "pusher"}


def test_a_draft_is_not_merged_by_github_either(github, tmp_path, params):
    assert promote(github, tmp_path, params, "policy-1") == "made 1"
    head = str(github.pull(1)["head"]["sha"])
    forge = GitHubForge(REPOSITORY, params, token(BOT, RIGHTS))
    for _ in range(2):
        forge.set_draft(1, True)
    with pytest.raises(Refused, match="still a draft"):
        forge.merge(1, head, "Merge")
    forge.set_draft(1, False)
    assert forge.merge(1, head, "Merge")
    assert github.asked.count("POST /graphql") == 1 + 2  # whose token it is, and each change
