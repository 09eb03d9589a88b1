"""The night's workflow as it is rendered: commands that exist, causes that are told apart, an end in time."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import jsonschema
import pytest
import yaml
from deploy.conform import FOLDER, definitions
from tests.serving.test_deploy import render

from sekisho.cli import main
from sekisho.params import load_params

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HOURS = 6


@cache
def source() -> ModuleType:
    spec = importlib.util.spec_from_file_location("workflow", ROOT / "training/workflow.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def rendered() -> dict[str, Any]:
    return {thing["kind"]: thing for thing in render(DEPLOY / "workflows")}


def spec() -> dict[str, Any]:
    found: dict[str, Any] = rendered()["WorkflowTemplate"]["spec"]
    return found


def templates() -> dict[str, dict[str, Any]]:
    return {template["name"]: template for template in spec()["templates"]}


def pods() -> list[dict[str, Any]]:
    return [template for template in spec()["templates"] if "container" in template]


NAMES = [template["name"] for template in pods()]
STEPS = [name for name in NAMES if name != "rendezvous"]


def test_what_lies_in_the_repository_is_what_the_source_renders():
    for path, text in source().render().items():
        assert path.read_text(encoding="utf-8") == text, "run `python training/workflow.py`"


def test_a_stale_file_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(source(), "OUT", tmp_path)
    assert source().main() == 0
    monkeypatch.setattr(sys, "argv", ["workflow.py", "--check"])
    assert source().main() == 0
    (tmp_path / "cronworkflow.yaml").write_text("spec: {}\n")
    (tmp_path / "old.yaml").write_text("spec: {}\n")
    assert source().main() == 1
    assert "stale: cronworkflow.yaml, old.yaml" in capsys.readouterr().out


@pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"{FOLDER}: no resource definitions (set SEKISHO_CRDS to a folder of them)"
)
@pytest.mark.parametrize("kind", ["WorkflowTemplate", "CronWorkflow"])
def test_it_fits_argos_definitions(kind):
    jsonschema.validate(rendered()[kind], definitions(FOLDER)["argoproj.io/v1alpha1", kind])


def lines(template: dict[str, Any]) -> list[list[str]]:
    """The commands of a pod's containers, split where a shell would begin the next."""
    found = []
    for container in [*template.get("initContainers", []), template["container"]]:
        words = container["command"]
        if words[:2] == ["sh", "-ec"]:
            found += [shlex.split(part) for part in words[2].split("&&")]
        else:
            found.append(words)
    return found


@pytest.mark.parametrize("name", STEPS)
def test_every_command_is_one_that_a_laptop_has(name):
    for words in lines(templates()[name]):
        if words[:3] == ["find", "data/bars", "-type"]:
            words = words[words.index("xargs") + 3 :]
        assert words[0] in ("sekisho", "dvc", "git")
        if words[0] == "sekisho":
            group: click.Command = main
            rest = words[1:]
            while isinstance(group, click.Group):
                found = group.get_command(click.Context(group), rest.pop(0))
                assert found, words
                group = found
            group.make_context(words[0], rest)  # fails on an option that is not there
        if "repro" in words:
            stages = [word for word in words[words.index("repro") + 1 :] if not word.startswith("-")]
            known = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
            assert stages == ["{{inputs.parameters.stage}}"] or set(stages) <= set(known)


def test_every_stage_that_the_night_names_is_one_of_dvc_and_none_is_left_out():
    known = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    named: set[str] = set()
    for task in templates()["night"]["dag"]["tasks"]:
        if task["template"] == "stage":
            given = {p["name"]: p["value"] for p in task["arguments"]["parameters"]}
            named |= set(given["stage"].split())
    assert named <= known
    assert known - named == {"trials"}  # always run, as what the gate depends on


def tried_again(name: str, status: str, code: str) -> bool:
    """What Argo's expression says, in the few words of it that we use."""
    text = templates()[name]["retryStrategy"]["expression"]
    assert re.fullmatch(r"[\w.\s'=|,\[\]]+", text)
    last = SimpleNamespace(status=status, exitCode=code)
    return bool(eval(text.replace("||", "or"), {"__builtins__": {}, "lastRetry": last}))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(
    ("status", "code", "again"),
    [
        ("Failed", "1", False),  # judged and refused
        ("Failed", "2", False),  # bad data, bad parameters
        ("Failed", "75", True),  # told to end, after a checkpoint
        ("Failed", "137", True),
        ("Failed", "143", True),
        ("Failed", "-1", True),  # evicted, or its data could not be brought
        ("Error", "-1", True),  # the pod was deleted, the node is gone
        ("Failed", "123", True),  # xargs, whatever it ran
    ],
)
def test_only_what_may_end_otherwise_is_tried_again(name, status, code, again):
    assert tried_again(name, status, code) is again


@pytest.mark.parametrize("name", STEPS)
def test_dvcs_own_exit_codes_decide_nothing(name):
    """It ends a push to a remote that does not answer with 1, and a refused stage with 255."""
    container = templates()[name]["container"]["command"]
    assert not re.search(r"(?<!sekisho )\bdvc [a-z]", " ".join(container))


@pytest.mark.parametrize("name", STEPS)
def test_tries_come_at_growing_distance_on_other_machines_and_the_last_one_on_demand(name):
    strategy = templates()[name]["retryStrategy"]
    assert "retryPolicy" not in strategy  # it would be a second condition
    assert strategy["affinity"] == {"nodeAntiAffinity": {}}
    assert strategy["backoff"]["duration"] == "5s"
    assert int(strategy["backoff"]["factor"]) > 1
    (choice,) = yaml.safe_load(templates()[name]["podSpecPatch"])["nodeSelector"].values()
    limit = re.fullmatch(r"\{\{=asInt\(retries\) < (\d+) \? 'spot' : 'on-demand'\}\}", choice)
    assert limit
    assert int(limit[1]) == int(strategy["limit"])


def test_the_rendezvous_id_of_a_run_can_name_a_folder():
    """torchrun makes one of it; a run's own name, fold-0/seed-1, is a path."""
    env = {one["name"]: one.get("value", "") for one in templates()["train"]["container"]["env"]}
    known = env["PET_RDZV_ID"].replace("{{=sprig.replace('/', '-', inputs.parameters.run)}}", "fold-0-seed-1")
    assert known == "{{workflow.uid}}-fold-0-seed-1"


def test_the_pods_of_a_run_give_one_another_addresses_and_no_names():
    """A pod's host name resolves in the pod itself only."""
    env = {one["name"]: one for one in templates()["train"]["container"]["env"]}
    assert env["PET_LOCAL_ADDR"] == {
        "name": "PET_LOCAL_ADDR",
        "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
    }


def minutes(name: str) -> float:
    """What a template may take: a pod with all its tries, a graph along its longest path."""
    template = templates()[name]
    if "container" in template:
        if template.get("daemon"):
            return 0.0  # it is there while others work
        seconds = int(template["retryStrategy"]["backoff"]["maxDuration"].removesuffix("s"))
        assert template["activeDeadlineSeconds"] <= seconds
        return seconds / 60
    tasks = {task["name"]: task for task in template["dag"]["tasks"]}

    def until(task: str) -> float:
        before = re.findall(r"[\w-]+", tasks[task].get("depends", ""))
        return max([until(one) for one in before], default=0.0) + minutes(tasks[task]["template"])

    return max(until(task) for task in tasks)


def test_the_longest_path_and_the_notice_behind_it_end_within_six_hours():
    assert 60 < minutes("main") + minutes("ended") < HOURS * 60
    assert int(spec()["activeDeadlineSeconds"]) / 60 + minutes("ended") < HOURS * 60
    daemon = templates()["rendezvous"]
    assert daemon["activeDeadlineSeconds"] / 60 >= minutes("all-runs")


def test_fan_outs_are_bounded_and_all_runs_fit_side_by_side_into_the_quota():
    fans = [
        t for t in spec()["templates"] if any("withParam" in x for x in t.get("dag", {}).get("tasks", []))
    ]
    assert {t["name"] for t in fans} == {"validate-partitions", "features-partitions", "all-runs"}
    assert all(0 < t["parallelism"] <= 8 for t in fans)
    params, nodes = load_params(ROOT / "params.yaml"), int(arguments()["nodes"])
    runs = params.split.folds * len(params.train.seeds)
    assert math.ceil(runs / templates()["all-runs"]["parallelism"]) == 1  # minutes() counts one round
    quota = next(
        q for q in render(DEPLOY / "platform/namespaces")
        if q["kind"] == "ResourceQuota" and q["metadata"]["namespace"] == "training"
    )["spec"]["hard"]  # fmt: skip
    assert runs * nodes <= int(quota["requests.nvidia.com/gpu"])
    for name, resource, unit in (("cpu", "requests.cpu", ""), ("memory", "requests.memory", "Gi")):
        asked = templates()["train"]["container"]["resources"]["requests"][name]
        assert runs * nodes * float(str(asked).removesuffix(unit)) <= float(
            str(quota[resource]).removesuffix(unit)
        )


def arguments() -> dict[str, str]:
    return {p["name"]: p["value"] for p in spec()["arguments"]["parameters"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_goes_to_its_pool_and_keeps_its_namespaces_security(name):
    template = templates()[name]
    pools = {
        pool["spec"]["template"]["metadata"]["labels"]["sekisho/pool"]: pool["spec"]["template"]["spec"]
        for pool in render(DEPLOY / "platform/nodes")
        if pool["kind"] == "NodePool"
    }
    pool = pools[template["nodeSelector"]["sekisho/pool"]]
    tolerated = {(t["key"], t["value"], t["effect"]) for t in template["tolerations"]}
    assert {(t["key"], t["value"], t["effect"]) for t in pool["taints"]} == tolerated
    (kinds,) = (r["values"] for r in pool["requirements"] if r["key"] == "karpenter.sh/capacity-type")
    assert set(kinds) == {"spot", "on-demand"}
    gpus = template["container"]["resources"].get("limits", {}).get("nvidia.com/gpu")
    assert (gpus is not None) == (template["nodeSelector"]["sekisho/pool"] == "gpu")
    for container in [*template.get("initContainers", []), template["container"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == "{{workflow.parameters.image}}"
    assert spec()["securityContext"]["runAsNonRoot"] is True
    assert spec()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_it_runs_as_the_account_that_the_table_of_roles_names():
    pod = yaml.safe_load((ROOT / "terraform/roles.yaml").read_text())["trainer"]["pod"]
    assert rendered()["WorkflowTemplate"]["metadata"]["namespace"] == pod["namespace"]
    assert spec()["serviceAccountName"] == pod["service_account"]
    assert rendered()["ServiceAccount"]["metadata"] == {"name": "trainer", "namespace": pod["namespace"]}
    (rule,) = rendered()["Role"]["rules"]
    assert rule == {
        "apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"],
    }  # fmt: skip


def test_nothing_disturbs_it_and_it_cleans_up_behind_itself():
    assert spec()["podMetadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    assert spec()["podDisruptionBudget"] == {"minAvailable": 9999}
    assert spec()["podGC"]["strategy"] == "OnPodSuccess"
    assert set(spec()["ttlStrategy"]) == {"secondsAfterSuccess", "secondsAfterFailure"}


def test_it_starts_after_the_close_in_tokyo_once_and_only_on_days_with_a_session():
    cron = rendered()["CronWorkflow"]["spec"]
    assert (cron["schedules"], cron["timezone"]) == (["0 17 * * 1-5"], "Asia/Tokyo")
    assert (cron["concurrencyPolicy"], cron["startingDeadlineSeconds"]) == ("Forbid", 3600)
    assert cron["workflowSpec"]["workflowTemplateRef"] == {"name": "nightly"}
    (night,) = (t for t in templates()["main"]["dag"]["tasks"] if t["name"] == "night")
    assert night["when"] == "{{tasks.session.outputs.result}} == true"


def test_the_image_is_one_of_ours_and_no_latest():
    assert re.fullmatch(r"ghcr\.io/sekisho/sekisho/[a-z]+:main(@sha256:[0-9a-f]{64})?", arguments()["image"])
    name = arguments()["image"].rpartition("/")[2].partition(":")[0]
    assert (DEPLOY / "images" / name / "Containerfile").is_file()
    assert "latest" not in os.linesep.join(p.read_text() for p in source().OUT.glob("*.yaml"))
