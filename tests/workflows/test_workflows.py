"""The workflows: pinned, thin, without rights they do not need, and calling only commands that exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from tests.workflows import test_act_platform
from tests.workflows.act import SUBSTITUTES

from sekisho.cli import main

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
NAMES = [path.name for path in FILES]
PINNED = re.compile(r"^\s*(?:- )?uses: [\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*$")


def load(name: str) -> dict[str, Any]:
    return yaml.load((ROOT / ".github/workflows" / name).read_text(), Loader=yaml.BaseLoader)


def steps(name: str) -> list[tuple[str, dict[str, Any]]]:
    jobs = load(name)["jobs"].items()
    return [(job, step) for job, body in jobs for step in body.get("steps", [])]


def runs(name: str) -> list[str]:
    return [step["run"] for _, step in steps(name) if "run" in step]


def test_the_workflows_of_the_loop_are_there():
    loop = {
        "pr", "report", "commands", "release", "stage", "promote", "rollback", "revoke", "drift", "nightly",
        "terraform", "images", "locks", "rules", "notify",
    }  # fmt: skip
    assert {f"{name}.yml" for name in loop} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_rights_are_granted_per_job_only_and_no_trigger_is_privileged(name):
    workflow = load(name)
    assert workflow["permissions"] == {}
    assert "pull_request_target" not in workflow["on"]
    # on workflow_run and issue_comment GitHub takes the file from main; what it checks out is tested below
    if {"workflow_run", "issue_comment"} & set(workflow["on"]):
        assert name in ("commands.yml", "notify.yml", "report.yml")
    for job in workflow["jobs"].values():
        assert isinstance(job["permissions"], dict)
        allowed = {
            ("contents", "read"),
            ("id-token", "write"),
            ("actions", "read"),
            ("pull-requests", "read"),
        }
        if name == "images.yml" and job.get("if") == "github.event_name == 'push'":
            allowed.add(("packages", "write"))  # main's images, to the registry
        assert set(job["permissions"].items()) <= allowed


@pytest.mark.parametrize("name", NAMES)
def test_every_action_is_pinned_by_its_full_sha_with_the_version_beside_it(name):
    lines = (ROOT / ".github/workflows" / name).read_text().splitlines()
    used = [line for line in lines if re.match(r"\s*(- )?uses: [^.]", line)]
    assert used
    assert not [line for line in used if not PINNED.match(line)]


@pytest.mark.parametrize("name", NAMES)
def test_each_run_is_one_line_without_expressions(name):
    for line in runs(name):
        assert "\n" not in line.strip()
        assert "${{" not in line


@pytest.mark.parametrize("name", NAMES)
def test_every_job_ends_in_time_and_runs_of_one_kind_do_not_race(name):
    workflow = load(name)
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert "uses" in job or 0 < int(job["timeout-minutes"]) <= 720


def test_a_runner_of_our_own_is_a_scale_set_of_the_platform():
    """A scale set is asked for by its name; a job with another label waits for ever."""
    applications = yaml.safe_load_all((ROOT / "deploy/argocd/platform.yaml").read_text())
    sources = [application["spec"].get("source", {}) for application in applications if application]
    values = [source.get("helm", {}).get("valuesObject", {}) for source in sources]
    sets = {value["runnerScaleSetName"] for value in values if "runnerScaleSetName" in value}
    jobs = [job for name in NAMES for job in load(name)["jobs"].values()]
    asked = {str(job["runs-on"]) for job in jobs if "uses" not in job}
    assert asked - {"ubuntu-24.04"} == {"sekisho-gpu"} <= sets


def test_no_workflow_takes_the_place_of_another_that_waits():
    """Of a concurrency group GitHub keeps the newest that waits and cancels the one before it."""
    groups = [load(name)["concurrency"]["group"] for name in NAMES]
    assert len(set(groups)) == len(groups)


@pytest.mark.parametrize("name", NAMES)
def test_no_checkout_keeps_the_token(name):
    for _, step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


def started_by_a_pull_request(name: str) -> dict[str, Any]:
    """The jobs that run on ``pull_request``, whose file and code are the pull request's own."""
    if "pull_request" not in load(name)["on"]:
        return {}
    elsewhere = ("github.event_name == 'push'", "github.event_name == 'workflow_dispatch'")
    jobs = load(name)["jobs"]
    skipped = {job for job, body in jobs.items() if body.get("if") in elsewhere}
    skipped |= {job for job, body in jobs.items() if body.get("needs") in skipped}
    return {job: body for job, body in jobs.items() if job not in skipped}


@pytest.mark.parametrize("name", [name for name in NAMES if started_by_a_pull_request(name)])
def test_the_jobs_that_a_pull_request_can_edit_hold_no_secret_and_write_nothing(name):
    for job in started_by_a_pull_request(name).values():
        text = yaml.safe_dump(job)
        assert "secrets" not in text
        assert "environment:" not in text
        assert "github.token" not in text
        assert {kind for kind, level in job["permissions"].items() if level == "write"} <= {"id-token"}
        if "id-token" in job["permissions"]:  # a role of AWS, which a fork's code must not take
            assert "github.event.pull_request.head.repo.full_name == github.repository" in job["if"]


def test_the_jobs_that_a_pull_request_starts_are_these():
    found = {(name, job) for name in NAMES for job in started_by_a_pull_request(name)}
    assert found == {
        ("pr.yml", "check"), ("pr.yml", "pipeline"), ("terraform.yml", "test"),
        ("terraform.yml", "plan-staging"), ("terraform.yml", "plan-production"), ("images.yml", "build"),
    }  # fmt: skip


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_an_environment_is_planned_by_its_own_role_and_applied_whatever_becomes_of_the_other(environment):
    jobs = load("terraform.yml")["jobs"]
    plan, apply = jobs[f"plan-{environment}"], jobs[f"apply-{environment}"]
    assert f"vars.AWS_ROLE_PLAN_{environment.upper()} " in yaml.safe_dump(plan)
    assert apply["needs"] == f"plan-{environment}"
    assert plan["strategy"]["matrix"]["stack"] == [f"{environment}/data", f"{environment}/platform"]
    rows = [(row["environment"], row["stack"]) for row in apply["strategy"]["matrix"]["include"]]
    assert rows == [
        (f"{environment}-data", f"{environment}/data"), (environment, f"{environment}/platform"),
    ]  # fmt: skip


def test_a_pull_request_runs_the_tests_of_terraform_and_shows_what_it_costs():
    check = [step.get("uses", step.get("run", "")) for step in load("pr.yml")["jobs"]["check"]["steps"]]
    ready = next(n for n, step in enumerate(check) if step.startswith("hashicorp/setup-terraform@"))
    assert ready < check.index("make terraform-mirror") < check.index("make test")
    workflow = load("terraform.yml")
    shown = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    assert 'make cost-change BASE=origin/main OUT="$GITHUB_STEP_SUMMARY"' in shown
    paths = workflow.get("on", workflow.get(True))["pull_request"]["paths"]
    assert {"terraform/**", "tests/terraform/**", "deploy/platform/**", "deploy/clusters/**"} <= set(paths)


def test_the_report_of_a_dispatched_run_is_of_mains_file():
    report = load("pr.yml")["jobs"]["report"]  # of a dispatch, whose file is main's
    assert report["if"] == "github.event_name == 'workflow_dispatch'"


@pytest.mark.parametrize("name", [n for n in NAMES if not started_by_a_pull_request(n)])
def test_workflows_that_hold_a_secret_check_out_nothing_but_the_default_branch(name):
    for _, step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"].get("ref", "main") == "main"
            assert "repository" not in step["with"]
            if {"workflow_run", "workflow_call"} & set(load(name)["on"]):
                assert step["with"]["ref"] == "main"


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_is_read_only_in_a_job_with_an_environment(name):
    for job in load(name)["jobs"].values():
        if "secrets." in yaml.safe_dump(job):
            assert job["environment"]


def test_retrainings_answer_leaves_the_runner_with_the_verdict():
    """Whatever came of it, verdict and answer are kept for people and put where the exporter reads."""
    jobs = load("drift.yml")["jobs"]
    steps = jobs["propose"]["steps"]
    (retrain,) = [n for n, step in enumerate(steps) if ".venv/bin/sekisho retrain " in step.get("run", "")]
    (kept,) = [
        step for step in steps[retrain + 1 :] if step.get("uses", "").startswith("actions/upload-artifact@")
    ]
    assert kept["if"] == "always()"
    assert kept["with"]["path"] == "build/verdicts"  # where `sekisho retrain` leaves its answer
    after = jobs["publish"]
    assert after["if"].startswith("always()")
    (taken,) = [
        step["with"]
        for step in after["steps"]
        if step.get("uses", "").startswith("actions/download-artifact@")
    ]
    assert taken == {"name": kept["with"]["name"], "path": "build/verdicts"}
    assert after["steps"][-1]["run"].endswith('--to "$VERDICTS"')
    assert after["env"]["VERDICTS"] == "${{ vars.VERDICTS }}"


def test_the_job_that_judges_writes_beside_its_verdicts_only_and_has_no_key():
    judge = load("drift.yml")["jobs"]["judge"]
    assert "environment" not in judge
    asked = reached([step["run"] for step in judge["steps"] if "run" in step])
    assert {place for place in asked if place[2] == "write"} == {("predictions", "verdicts/", "write")}


def test_jobs_that_sign_releases_have_the_identity_that_the_trust_policy_names():
    policy = yaml.safe_load((ROOT / "trust/policy.yaml").read_text())["environments"]["production"]["signers"]
    for fact in ("provenance", "revocation"):
        signer = policy[fact]
        job = load(Path(signer["workflow"]).name)["jobs"]["sign"]
        assert job.get("environment") == signer["github_environment"]
        assert set(signer["events"]) <= set(load(Path(signer["workflow"]).name)["on"])


def test_every_failure_is_heard_of():
    """notify.yml follows every other workflow; itself nobody could tell about."""
    heard = load("notify.yml")["on"]["workflow_run"]["workflows"]
    assert sorted(heard) == sorted(load(name)["name"] for name in NAMES if name != "notify.yml")


def test_a_step_that_runs_has_no_name_but_its_line():
    """By that notify.yml knows what judged from what only failed."""
    assert not [step for name in NAMES for _, step in steps(name) if "run" in step and "name" in step]


@pytest.mark.parametrize("name", ["pr.yml", "commands.yml", "promote.yml", "rollback.yml", "report.yml"])
def test_the_title_of_a_run_says_for_which_pull_request_it_is(name):
    title = load(name)["run-name"]
    assert "for #" in title
    inputs = (load(name)["on"].get("workflow_dispatch") or {}).get("inputs", {})
    assert ("key" in inputs) == ("inputs.key" in title)


def words_of(line: str) -> list[list[str]]:
    """The ``sekisho`` calls in a line, with their words; substitutions become one word each."""
    line = re.sub(r"\$\([^()]*(\([^()]*\)[^()]*)*\)", "X", line).partition(" > ")[0]
    words = shlex.split(line)
    return [words[1:]] if words and words[0].endswith("bin/sekisho") else []


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_that_a_workflow_uses_exists(name):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for line in runs(name):
        if line.startswith("make "):
            assert line.split()[1] in targets
        for words in words_of(line):
            command: click.Command = main
            context = click.Context(main)
            while isinstance(command, click.Group):
                found = command.get_command(context, words.pop(0))
                assert found is not None, line
                command = found
            options = {o: p for p in command.params if isinstance(p, click.Option) for o in p.opts}
            given = [word for word in words if word.startswith("--")]
            assert set(given) <= set(options), line
            required = {p.opts[-1] for p in command.params if isinstance(p, click.Option) and p.required}
            assert required <= set(given), line


ROLES = {
    "PULL_REQUEST": "pull-request", "RELEASE": "releaser", "NIGHTLY": "trainer", "DRIFT": "drift",
    "RETRAIN": "retrainer",
}  # fmt: skip
PLACES = {  # what the variables of the repository name, docs/en/workflows.md
    "$PREDICTIONS": ("predictions", "log/"), "$STAGING_PREDICTIONS": ("predictions", "log/"),
    "$LIVE_BARS": ("dvc", "bars/"), "$BARS_SOURCE": ("dvc", "bars/"),
    "$VERDICTS": ("predictions", "verdicts/"),
}  # fmt: skip


def remotes() -> dict[str, str]:
    """Prefix in the data's bucket of each of DVC's remotes that lie on AWS."""
    text = (ROOT / ".dvc/config").read_text()
    return {
        name: f"{prefix}/"
        for name, prefix in re.findall(r'remote "([\w-]+)"\'\]\n    url = s3://sekisho-dvc/(.+)', text)
    }


def reached(lines: list[str]) -> set[tuple[str, str, str]]:
    """Bucket class, prefix and access that the commands of a job need on AWS."""
    default, found = "sample", set()
    retrain = {o.name: o.default for o in main.get_command(click.Context(main), "retrain").params}["remote"]
    for line in lines:
        words = shlex.split(line.partition(" #")[0])
        remote = next((b for a, b in pairwise(words) if a == "--remote"), default)
        program, verb = words[0].rpartition("/")[2], words[1]
        asked: set[tuple[str, str]] = set()
        if words[:3] == [".venv/bin/dvc", "config", "--local"]:
            default = words[4]
        elif program == "dvc":
            access = {"pull": "read", "fetch": "read", "push": "write"}.get(verb)
            asked = {(remote, access)} if access else set()
        elif words[:2] == ["make", "repro"]:
            asked = {(words[2].removeprefix("REMOTE="), "read"), (default, "read")}
        elif (program, verb) == ("sekisho", "retrain"):
            asked = {(retrain, "read"), (retrain, "write")}
        elif words[1:3] == ["pr", "push"]:
            asked = {("pull-request", "write")}
        elif words[1:3] == ["pr", "admit"]:
            asked = {("pull-request", "read"), ("storage", "write")}
        found |= {("dvc", remotes()[name], access) for name, access in asked if name in remotes()}
        access = "write" if words[1:3] == ["drift", "publish"] else "read"
        found |= {(*PLACES[word], access) for word in words if word in PLACES}
        found |= {(*PLACES[b], "write") for a, b in pairwise(words) if a == "--kept"}
    return found


def contexts(name: str, job: dict[str, Any]) -> set[str]:
    """How GitHub's token names where a job runs."""
    if environment := job.get("environment"):
        named = load(name)["on"]["workflow_dispatch"] if "inputs." in environment else None
        names = named["inputs"]["environment"]["options"] if named else [environment]
        return {f"environment:{each}" for each in names}
    events = set(load(name)["on"]) - {"merge_group"}
    own = {"pull_request"} if "pull_request" in events else set()
    return own | ({"ref:refs/heads/main"} if events - {"pull_request"} else set())


def jobs_with_a_role() -> list[tuple[str, str, str]]:
    found = []
    for name in NAMES:
        for job, step in steps(name):
            role = re.search(r"AWS_ROLE_(\w+)", step.get("with", {}).get("role-to-assume", ""))
            if role and role[1] in ROLES:  # those of Terraform reach no data: tests/terraform
                found.append((name, job, ROLES[role[1]]))
    return found


@pytest.mark.parametrize(("name", "job", "role"), jobs_with_a_role())
def test_a_job_may_do_on_aws_what_its_commands_do(name, job, role):
    table = yaml.safe_load((ROOT / "terraform/roles.yaml").read_text())[role]
    body = load(name)["jobs"][job]
    wanted = reached([step["run"] for step in body["steps"] if "run" in step])
    assert wanted
    assert wanted <= {(grant["class"], grant["prefix"], grant["access"]) for grant in table["grants"]}
    assert {f"{where}:workflow:{Path(name).stem}" for where in contexts(name, body)} <= set(table["github"])


def run_words(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_zizmor_finds_nothing():
    done = run_words("zizmor", "--offline", "--quiet", "--persona=auditor", ".github")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="actionlint is built with go, which is not installed")
def test_actionlint_finds_nothing():
    done = run_words("go", "run", ACTIONLINT)
    if "dial tcp" in done.stderr or "no such host" in done.stderr:
        pytest.skip("actionlint is not in go's cache and the module proxy cannot be reached")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_ignored_finding_says_why():
    for path in FILES:
        for line in path.read_text().splitlines():
            if "zizmor: ignore" in line:
                assert re.search(r"zizmor: ignore\[[a-z-]+\] \w+", line), line


@pytest.mark.parametrize("folder", ["workflows", "pages"])
def test_npm_packages_are_pinned_by_their_integrity_and_name_no_registry(folder):
    packages = json.loads((ROOT / f"tests/{folder}/package-lock.json").read_text())["packages"]
    for name, package in packages.items():
        assert "resolved" not in package
        assert not name or package["integrity"].startswith("sha512-")


def test_every_action_has_its_stand_in_for_act():
    used = {s["uses"].split("@")[0] for name in NAMES for _, s in steps(name) if "uses" in s}
    assert used == set(SUBSTITUTES)


def test_act_executes_every_workflow_in_a_test():
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_act*.py"))
    assert set(re.findall(r'\.act\(\s*"([a-z]+\.yml)"', tests)) == set(NAMES)


def test_act_executes_every_job_to_its_end_in_a_test():
    """Each job's name stands beside "success" in what some test asserts."""
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_act*.py"))
    ended = set(re.findall(r'"(\w+)": "success"', tests)) | set(
        re.findall(r'jobs\["(\w+)"\] == "success"', tests)
    )
    ended |= {*test_act_platform.PLANS, *test_act_platform.APPLIES}  # it asserts them by these names
    assert {job for name in NAMES for job in load(name)["jobs"]} - ended == set()


@pytest.mark.parametrize(
    ("pointer", "brought"),
    [("RELEASE=none\n", []), (f"RELEASE=policy/7@sha256:{'0' * 64}\n", ["releases/policy/7/content.dvc"])],
)
def test_make_repro_brings_the_release_in_production_that_the_backtest_compares_with(
    tmp_path, pointer, brought
):
    path = tmp_path / "deploy/policy/production/release.env"
    path.parent.mkdir(parents=True)
    path.write_text(pointer)
    words = ["make", "--dry-run", "--file", str(ROOT / "Makefile"), "repro", "REMOTE=storage", "READY="]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    (pulled,) = re.findall(
        r"^dvc pull --remote storage data\.dvc *(.*?) && dvc repro", done.stdout, flags=re.M
    )
    assert pulled.split() == brought
