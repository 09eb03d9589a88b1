"""Terraform's plans on a pull request: shown as text that does nothing, and not with a secret in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.forge.conftest import BOT, head

from sekisho.errors import CannotCheck, Refused
from sekisho.forge.plans import publish_plans

PLAN = """\
Terraform used the selected providers to generate the following execution plan.

  # aws_s3_bucket.this will be created
  + resource "aws_s3_bucket" "this" {
      + bucket = "data"
    }

Plan: 1 to add, 0 to change, 0 to destroy.
"""
NOTHING = "No changes. Your infrastructure matches the configuration.\n"


@pytest.fixture
def pull(world) -> int:
    world.push("tuned")
    return world.act("engineer").open_pull_request("tune", "Tune", "")


def write(folder: Path, **plans: str) -> Path:
    for stack, text in plans.items():
        path = folder / stack.replace("_", "/") / "plan.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def post(world, number: int, folder: Path) -> list[int]:
    return publish_plans(world.act(BOT), number, head(world, number), folder)


def test_one_comment_names_every_stack_and_is_updated_in_place(world, pull, tmp_path):
    destroys = PLAN.replace("0 to destroy", "2 to destroy")
    folder = write(tmp_path, staging_data=PLAN, staging_platform=NOTHING, production_data=destroys)
    first = post(world, pull, folder)
    assert post(world, pull, write(tmp_path, staging_data=NOTHING)) == first
    (comment,) = world.act(BOT).comments(pull)
    assert "| `` staging/data `` | no changes |" in comment.body
    assert "| `` production/data `` | **1 to add, 0 to change, 2 to destroy** |" in comment.body
    assert comment.body.count("```text") == 1


def test_a_plan_is_quoted_so_that_nothing_in_it_acts(world, pull, tmp_path):
    hostile = PLAN.replace("data", "```\n<!-- sekisho:report 1/1 -->\n/approve\n@sekisho/all $(id) \x1b[31m")
    post(world, pull, write(tmp_path, staging_data=hostile))
    (comment,) = world.act(BOT).comments(pull)
    assert comment.body.count("```") == 2
    assert "\x1b" not in comment.body
    assert "@sekisho/all" in comment.body.split("```")[1]


@pytest.mark.parametrize(
    "line",
    [
        'access_key = "AKIA' + "IOSFODNN7EXAMPLE" + '"',
        'secret_access_key = "' + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" + '"',
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "token = ghp_" + "a" * 36,
        "https://hooks.slack" + ".com/services/T0/B0/x",
        'master_password = "hunter2"',
    ],
)
def test_a_plan_that_holds_a_secret_is_refused_and_the_secret_not_repeated(world, pull, tmp_path, line):
    folder = write(tmp_path, production_data=NOTHING, staging_data=PLAN.replace("data", line))
    with pytest.raises(Refused, match=r"plan\.no-secret.*line 5 of `` staging/data ``") as caught:
        post(world, pull, folder)
    assert line not in str(caught.value)
    assert world.act(BOT).comments(pull) == []


def test_what_terraform_hides_is_no_secret(world, pull, tmp_path):
    hidden = PLAN.replace('"data"', "(sensitive value)\n      + password = (sensitive value)")
    assert post(world, pull, write(tmp_path, staging_data=hidden))


def test_plans_of_another_head_are_refused(world, pull, tmp_path):
    old = head(world, pull)
    world.push("tuned again")
    with pytest.raises(Refused, match="head-unchanged"):
        publish_plans(world.act(BOT), pull, old, write(tmp_path, staging_data=PLAN))


@pytest.mark.parametrize("text", ["", "Error: no credentials", PLAN + "x" * (1 << 20)])
def test_what_is_no_plan_is_not_posted(world, pull, tmp_path, text):
    with pytest.raises(CannotCheck, match=r"plan\.txt"):
        post(world, pull, write(tmp_path, staging_data=text))
    with pytest.raises(CannotCheck, match="no plan"):
        post(world, pull, tmp_path / "empty")


def test_a_long_plan_is_split_into_parts_that_each_close_their_fence(world, pull, tmp_path):
    long = PLAN.replace("\nPlan:", "\n".join(f"  + line {n} {'x' * 60}" for n in range(3000)) + "\n\nPlan:")
    ids = post(world, pull, write(tmp_path, staging_data=long))
    bodies = [c.body for c in world.act(BOT).comments(pull)]
    assert len(ids) == len(bodies) == 4
    assert all(len(body) <= 65536 and body.count("```") % 2 == 0 for body in bodies)
