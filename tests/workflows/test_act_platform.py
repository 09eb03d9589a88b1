"""The platform's workflows, executed by act: stacks are planned and applied, images signed by digest.

Terraform is the real one; its stacks are built-in resources with state in a folder, so that it fetches no
provider. Image builder, registry and Fulcio are not here: world.py, PROGRAMS, checks how they are called.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest
from tests.workflows.stand_in import BOT, StandIn
from tests.workflows.world import World

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed"),
]
STACKS = ("staging/data", "staging/platform", "production/data", "production/platform")
PLANS, APPLIES = ("plan-staging", "plan-production"), ("apply-staging", "apply-production")
IMAGES = ("policy-server", "runner", "trainer")
SECRET = "correct-horse-battery-staple"  # what a plan must not show
STACK = """\
terraform {
  backend "local" {
    path = "STATE"
  }
}
variable "token" {
  type      = string
  sensitive = true
  default   = "SECRET"
}
resource "terraform_data" "bucket" {
  input = { name = "STACK", token = var.token, colour = "blue" }
}
"""


@pytest.fixture(scope="module")
def stacks(world: World) -> None:
    """Main's stacks; none is applied yet."""
    world.run_git("switch", "--quiet", "--force-create", "main", "origin/main")
    shutil.rmtree(world.clone / "terraform", ignore_errors=True)
    for stack in STACKS:
        folder = world.clone / "terraform/envs" / stack
        folder.mkdir(parents=True)
        state = world.folder / "state" / f"{stack}.tfstate"
        text = STACK.replace("STATE", str(state)).replace("SECRET", SECRET).replace("STACK", stack)
        (folder / "main.tf").write_text(text)
    makefile = world.clone / "Makefile"  # the real stacks have tests of their own
    rule = r"^(terraform-mirror|test-terraform|cost-change):.*\n(?:\t.*\n)*"
    said = r"\1:\n\t@echo $@ was called\n"
    makefile.write_text(re.sub(rule, said, makefile.read_text(), flags=re.MULTILINE))
    world.commit("engineer", "Small stacks")
    world.run_git("push", "--quiet", "origin", "main")


@pytest.fixture
def github(world: World) -> StandIn:
    world.github.comments.clear()
    world.github.chat.clear()
    return world.github


def state(world: World, stack: str) -> dict[str, Any] | None:
    path = world.folder / "state" / f"{stack}.tfstate"
    return json.loads(path.read_text()) if path.exists() else None


def propose(world: World, branch: str, old: str, new: str) -> tuple[int, str]:
    head = world.branch(branch, "terraform/envs/staging/data/main.tf", old, new)
    return int(world.github.open_pull("engineer", branch, "Platform")["number"]), head


def test_a_pull_request_is_planned_and_its_plan_is_a_comment_without_secrets(world, github, stacks):
    number, head = propose(world, "paint", '"blue"', '"red"')
    opened = world.pull_request(number, "opened")
    ran = world.act("terraform.yml", "pull_request", opened, sha=head, ref=f"refs/pull/{number}/merge")
    assert ran.jobs == {"test": "success"} | dict.fromkeys(PLANS, "success") | dict.fromkeys(
        APPLIES, "skipped"
    )
    assert sum(ran.times[job] for job in PLANS) == len(STACKS)
    assert "test-terraform was called" in ran.output("test")
    assert SECRET not in ran.log
    assert all(state(world, stack) is None for stack in STACKS)

    ended = world.workflow_run(ran, "completed", "terraform", "pull_request", number)
    for _ in range(2):  # the second time it is the same comment
        posted = world.act("report.yml", "workflow_run", ended)
        assert posted.jobs == {"stale": "skipped", "report": "skipped", "plans": "success"}
    (comment,) = github.comments[number]
    assert comment["user"]["login"] == BOT
    assert f"Terraform's plan for `{head}`" in comment["body"]
    for stack in STACKS:
        assert f"| `` {stack} `` | 1 to add, 0 to change, 0 to destroy |" in comment["body"]
    assert 'colour = "red"' in re.sub(r" +", " ", comment["body"])
    assert "(sensitive value)" in comment["body"]
    assert SECRET not in comment["body"]


def test_a_plan_of_another_head_is_not_posted(world, github, stacks):
    number, head = propose(world, "older", '"blue"', '"green"')
    opened = world.pull_request(number, "opened")
    ran = world.act("terraform.yml", "pull_request", opened, sha=head, ref=f"refs/pull/{number}/merge")
    ended = world.workflow_run(ran, "completed", "terraform", "pull_request", number)
    world.branch("older", "terraform/envs/staging/data/main.tf", '"blue"', '"black"')
    posted = world.act("report.yml", "workflow_run", ended)
    assert posted.jobs["plans"] == "failure"
    assert "head-unchanged" in posted.output("plans")
    assert number not in github.comments


def test_a_forks_code_is_not_planned_here(world, github, stacks):
    number, head = propose(world, "fork", '"blue"', '"grey"')
    opened = world.pull_request(number, "opened")
    opened["pull_request"]["head"]["repo"] = {"full_name": "someone/sekisho"}
    ran = world.act("terraform.yml", "pull_request", opened, sha=head, ref=f"refs/pull/{number}/merge")
    assert {ran.jobs[job] for job in (*PLANS, *APPLIES)} == {"skipped"}


def test_main_is_applied_stack_by_stack_and_nothing_but_what_was_planned(world, github, stacks):
    ran = world.act("terraform.yml", "push", world.push(world.head()))
    assert ran.jobs == {"test": "skipped"} | dict.fromkeys((*PLANS, *APPLIES), "success")
    assert all(sum(ran.times[job] for job in jobs) == len(STACKS) for jobs in (PLANS, APPLIES))
    for stack in STACKS:
        (resource,) = state(world, stack)["resources"]
        assert resource["instances"][0]["attributes"]["input"]["value"]["name"] == stack
    assert SECRET not in ran.log
    again = world.act("terraform.yml", "push", world.push(world.head()))
    assert {again.jobs[job] for job in APPLIES} == {"success"}
    assert sum(again.output(job).count("No changes.") for job in APPLIES) >= len(STACKS)


def test_what_moved_since_people_looked_is_not_applied(world, github, stacks):
    """The input is how many plans were uploaded: it differs between planning and applying."""
    before = state(world, "staging/data")
    uploads = f'tostring(length(fileset("{world.folder / "artifacts"}", "*/plan-*/**")))'
    world.branch("moving", "terraform/envs/staging/data/main.tf", '"blue"', uploads)
    world.run_git("push", "--quiet", "origin", "moving:main")
    ran = world.act("terraform.yml", "push", world.push(world.head()))
    assert [ran.jobs[job] for job in (*PLANS, "apply-staging")] == ["success", "success", "failure"]
    assert ran.jobs["apply-production"] == "success"  # it waits for no other environment
    applied = [step for job in APPLIES for step in ran.steps[job]]
    ended = [result for name, result in applied if name.startswith("diff ")]
    assert sorted(ended) == ["failure"] + ["success"] * (len(STACKS) - 1)
    assert len([name for name, _ in applied if " apply " in name]) == len(STACKS) - 1
    assert state(world, "staging/data") == before


def test_images_are_built_for_a_pull_request_and_not_pushed(world, github):
    head = world.branch("image", "deploy/images/policy-server/Containerfile", "/srv/", "/srv/./")
    number = int(github.open_pull("engineer", "image", "Image")["number"])
    opened = world.pull_request(number, "opened")
    ran = world.act("images.yml", "pull_request", opened, sha=head, ref=f"refs/pull/{number}/merge")
    assert ran.jobs == {"build": "success", "publish": "skipped", "propose": "skipped"}
    assert ran.times["build"] == len(IMAGES)
    assert "buildah was called: build" in ran.output("build")
    assert "push" not in ran.output("build")


def test_mains_images_are_signed_by_digest_and_staging_is_proposed_the_servers(world, github):
    ran = world.act("images.yml", "push", world.push(world.head()))
    assert ran.jobs == {"build": "skipped", "publish": "success", "propose": "success"}
    said = ran.output("publish")
    for image in IMAGES:
        signed = re.findall(rf"cosign was called: sign --yes (\S+/{image}@sha256:[0-9a-f]{{64}})", said)
        verified = re.findall(rf"cosign was called: verify .* (\S+/{image}@sha256:[0-9a-f]{{64}})", said)
        assert len(signed) == 1
        assert signed == verified
    (pull,) = [p for p in github.pulls.values() if p["head"]["ref"] == "images"]
    assert pull["user"]["login"] == BOT
    assert github.git("diff", "--name-only", "main", "images") == "deploy/policy/staging/kustomization.yaml"
    digest = github.git("show", "images:deploy/policy/staging/kustomization.yaml")
    assert re.search(r"newName: ghcr\.io/sekisho/sekisho/policy-server@sha256:[0-9a-f]{64}", digest)
