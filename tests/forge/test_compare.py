"""The report's own part: what a pull request changes against main and the model in production."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sekisho.forge.compare import champion, differences, links
from sekisho.forge.report import publish_report

BOT = "sekisho[bot]"
DIGEST = "e" * 64


@pytest.fixture
def commit(world):
    """``commit(branch, **files)``: add files (``/`` written ``__``) to a branch; the commit's id."""

    def _commit(branch: str, files: dict[str, object]) -> str:
        for name, content in files.items():
            path = world.clone / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        world.git("add", "--all", "--force", *files)
        world.git("commit", "--quiet", "--message", "Change")
        world.git("push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{branch}")
        return world.git("rev-parse", "HEAD")

    return _commit


def metrics(sharpe: float) -> dict[str, object]:
    return {"agent": {"sharpe": sharpe, "nested": {"x": sharpe}}}


PARAMS = "backtest: {champion: production}\nppo: {epochs: 2}\n"
DATA = "outs:\n- md5: %s.dir\n  size: %d\n  nfiles: 3\n  path: data\n"


def manifest(commit: str, rollback: int | None = None) -> dict[str, object]:
    back = {"seq": rollback, "manifest_digest": DIGEST, "reason": "slow"} if rollback else None
    return {"created_from": {"commit": commit}, "rollback": back}


def pointer(seq: int) -> str:
    return f"RELEASE=policy/{seq}@sha256:{DIGEST}\n"


def test_figures_stand_beside_mains_and_the_champions(world, commit):
    old = commit("main", {"metrics/backtest.json": metrics(1.25), "params.yaml": PARAMS})
    files = {
        "releases/policy/3/manifest.json": manifest(old),
        "deploy/policy/production/release.env": pointer(3),
        "metrics/backtest.json": metrics(1.5),
        "data.dvc": DATA % ("1" * 32, 100),
    }
    commit("main", files)
    changed = {"params.yaml": PARAMS.replace("2", "5"), "data.dvc": DATA % ("2" * 32, 200)}
    commit("tune", {"metrics/backtest.json": metrics(1.75)} | changed)
    bot = world.act(BOT)
    number = world.act("engineer").open_pull_request("tune", "Tune", "")
    text = differences(bot, bot.get_pull_request(number))
    assert "| | base | champion policy/3 | head |" in text
    assert "| `backtest.agent.sharpe` | 1.5 | 1.25 | 1.75 |" in text
    assert "| `ppo.epochs` | 2 | 5 |" in text
    assert f"| `data: digest` | {'1' * 32}.dir | {'2' * 32}.dir |" in text
    assert "| `data: size, bytes` | 100 | 200 |" in text
    assert "data: files" not in text  # as in the base


def test_a_rolled_back_champion_is_the_release_whose_content_it_has(world, commit):
    old = commit("main", {"params.yaml": PARAMS})
    files = {
        f"releases/policy/{n}/manifest.json": manifest(old, back) for n, back in ((1, None), (2, 1), (3, 2))
    }
    head = commit("main", files | {"deploy/policy/production/release.env": pointer(3)})
    assert champion(world.act(BOT), head) == ("policy/3", old)


@pytest.mark.parametrize("line", ["RELEASE=none\n", "", "RELEASE=policy/9@sha256:" + DIGEST + "\n", "$(id)"])
def test_without_a_champion_that_can_be_found_there_is_no_column(world, commit, line):
    head = commit("main", {"params.yaml": PARAMS, "deploy/policy/production/release.env": line})
    assert champion(world.act(BOT), head)[1] is None


def test_metrics_that_are_no_json_are_named_and_stop_nothing(world, commit):
    commit("tune", {"metrics/broken.json": "{"})
    number = world.act("engineer").open_pull_request("tune", "Tune", "")
    bot = world.act(BOT)
    assert "| `broken.json` | – | not JSON |" in differences(bot, bot.get_pull_request(number))


def test_a_report_on_github_says_where_to_go_on(world, monkeypatch):
    world.push("tuned")
    bot = world.act(BOT)
    number = world.act("engineer").open_pull_request("tune", "Tune", "")
    publish_report(bot, number, world.clone, world.at)
    pull = bot.get_pull_request(number)
    assert links(pull) == ""
    for name, value in {
        "RUN_ID": "9",
        "SERVER_URL": "https://github.com",
        "REPOSITORY": "acme/sekisho",
    }.items():
        monkeypatch.setenv(f"GITHUB_{name}", value)
    shown = links(replace(pull, url="https://github.com/acme/sekisho/pull/1"))
    assert "(https://github.com/acme/sekisho/pull/1/files)" in shown
    assert "(https://github.com/acme/sekisho/actions/runs/9)" in shown
