"""`make e2e`: a night on a real Argo Workflows controller, with a training machine lost in the middle of it.

Asks for a KUBECONFIG whose cluster runs Argo Workflows, and for SEKISHO_E2E_IMAGE, an image with the locked
packages, or, on the node that is this machine, with nothing but links: then the interpreter and the packages
of this environment are mounted. A single node cannot be avoided: the controller has to be started with
RETRY_HOST_NAME_LABEL_KEY set to a label that no node has. Differences to production are the parameters, a
patch of the pods' sizes and mounts, and that the rendezvous asks for spot as all else, never the graph.
Everything is made in the namespace `sekisho-night`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from tests.e2e.cluster import ROOT, kubectl, reason_to_skip, render

from sekisho.data.synthetic import SAMPLE_SEED, sample_sessions, write_synthetic

NAMESPACE = "sekisho-night"
HOST = os.environ.get("SEKISHO_E2E_HOST", "10.244.0.1")  # of this machine, as its pods see it
PORT = 9418
VENV = (ROOT / ".venv").resolve()
LINKS = "links" in os.environ.get("SEKISHO_E2E_IMAGE", "")
PATIENCE = 1500.0
SMALL: dict[str, dict[str, Any]] = {
    "split": {"folds": 1, "test_sessions": 20, "validation_sessions": 10},
    "train": {"seeds": [1, 2], "ranks": 2, "checkpoint_every": 2},
    "ppo": {"samples": 131_072, "environments": 64, "minibatches": 2},
    "backtest": {"bootstrap_samples": 500, "bootstrap_block": 4, "champion": "none"},
    "monitoring": {"min_reference_sessions": 20},
}
SESSIONS = 58  # three months, and the day that the night brings
NODE = "workflows.argoproj.io/node-name"
ENDS = ("Succeeded", "Failed", "Error")
SKIP = reason_to_skip("workflowtemplates.argoproj.io", "Argo Workflows")
if SKIP is None and not os.environ.get("SEKISHO_E2E_IMAGE"):
    SKIP = "no image for the steps: set SEKISHO_E2E_IMAGE"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SKIP is not None, reason=str(SKIP))]


class Night:
    """The namespace, a git server with this tree and a small world, and the template as it is rendered."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.repo = folder, folder / "sekisho"
        self.day = sample_sessions()[SESSIONS - 1]
        self.copy_tree()
        self.make_world()
        self.commit = self.git("rev-parse", "HEAD")
        self.server = subprocess.Popen(
            ["git", "daemon", f"--listen={HOST}", f"--port={PORT}", "--export-all", "--reuseaddr",
             f"--base-path={folder}", str(folder)],
        )  # fmt: skip
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"git daemon ended with {self.server.wait(1.0)}: is {HOST}:{PORT} taken?")

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=engineer", "-c", "user.email=engineer@local.test"]
        done = subprocess.run(
            ["git", "-C", str(self.repo), *identity, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def copy_tree(self) -> None:
        words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (self.repo / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.repo / name)
        (self.repo / "dvc.lock").unlink(missing_ok=True)

    def make_world(self) -> None:
        """Three months of bars that DVC knows, one day more that waits at the source, and a small problem."""
        everything = self.folder / "everything"
        write_synthetic(everything, sample_sessions()[0], SESSIONS, SAMPLE_SEED, months=True)
        source = self.folder / "source"
        source.mkdir()
        bars = self.repo / "data/bars"
        bars.mkdir(parents=True)
        day = pl.col("ts_close").dt.convert_time_zone("Asia/Tokyo").dt.date()
        for path in sorted(everything.iterdir()):
            frame = pl.read_parquet(path)
            old = frame.filter(day < self.day)
            if len(old) == len(frame):
                shutil.copy(path, bars / path.name)
                continue
            frame.filter(day == self.day).write_parquet(source / "day.parquet")
            if len(old):
                old.write_parquet(bars / path.name)
        mapping = {
            "columns": {name: name for name in frame.columns},
            "time_is": "close",
            "partition": "session",
            "time_zone": "UTC",
        }
        (self.repo / "mapping.yaml").write_text(yaml.safe_dump(mapping))
        params = yaml.safe_load((self.repo / "params.yaml").read_text())
        for section, values in SMALL.items():
            params[section].update(values)
        (self.repo / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        self.git("init", "--quiet", "-b", "main")
        (self.repo / "data.dvc").unlink()
        config = f"[core]\n    remote = night\n['remote \"night\"']\n    url = {self.folder}/remote\n"
        (self.repo / ".dvc/config.local").write_text(config)
        for words in (["add", "data"], ["push", "data.dvc"]):
            subprocess.run([Path(sys.executable).parent / "dvc", *words], cwd=self.repo, check=True)
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", "A small world")
        shutil.copytree(self.folder / "remote", self.folder / "remote-broken")
        open_to_pods(self.folder)

    def install(self) -> None:
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        kubectl("apply", "-f", "-", stdin=space)
        kubectl("apply", "-f", str(ROOT / "deploy/platform/namespaces/priorities.yaml"))
        mine = [o for o in render(ROOT / "deploy/workflows") if o["kind"] != "CronWorkflow"]
        for thing in mine:
            thing["metadata"]["namespace"] = NAMESPACE
            if thing["kind"] == "WorkflowTemplate":
                thing["spec"]["volumes"] += [
                    {"name": mount["name"], "hostPath": {"path": mount["mountPath"]}}
                    for mount in self.mounts()
                ]
            for template in thing.get("spec", {}).get("templates", []):
                if template["name"] == "session":  # whatever day it is today
                    template["container"]["command"] += ["--day", str(self.day)]
                if template["name"] == "rendezvous":  # this one node is spot
                    template["podSpecPatch"] = template["podSpecPatch"].replace("on-demand", "spot")
                for container in [template.get("container"), *template.get("initContainers", [])]:
                    if container:
                        container["volumeMounts"] += self.mounts()
                        if LINKS:  # the image may name another environment
                            path = f"{VENV}/bin:/usr/bin:/bin"
                            container["env"].append({"name": "PATH", "value": path})
            for subject in thing.get("subjects", []):
                subject["namespace"] = NAMESPACE
        kubectl("apply", "--server-side", "-f", "-", stdin=mine)
        kubectl("label", "node", "--all", "--overwrite", "karpenter.sh/capacity-type=spot")

    def places(self) -> list[Path]:
        links = [
            Path("/usr"),
            Path("/etc/alternatives"),
            Path("/etc/ssl"),
            VENV,
            Path(sys.base_prefix),
        ]
        return [self.folder, *(links if LINKS else [])]

    def mounts(self) -> list[dict[str, str]]:
        return [{"name": f"place-{n}", "mountPath": str(place)} for n, place in enumerate(self.places())]

    def patch(self) -> str:
        """What this one node needs: smaller pods, no pools, no GPU."""
        main = {
            "name": "main",
            "resources": {
                "requests": {"cpu": "50m", "memory": "128Mi", "nvidia.com/gpu": None},
                "limits": {"memory": "4Gi", "nvidia.com/gpu": None},
            },
        }
        small: dict[str, Any] = {
            "nodeSelector": {"sekisho/pool": None},
            "containers": [main],
        }
        return json.dumps(small)

    def submit(self, name: str, **changes: str) -> None:
        given = {
            "revision": self.commit,
            "repository": f"git://{HOST}/sekisho",
            "image": os.environ["SEKISHO_E2E_IMAGE"],
            "remote": f"{self.folder}/remote",
            "store": f"{self.folder}/store-{name}",
            "bars": f"{self.folder}/source",
            "nodes": "2",
        } | changes
        spec = {
            "workflowTemplateRef": {"name": "nightly"},
            "arguments": {"parameters": [{"name": n, "value": v} for n, v in given.items()]},
            "podSpecPatch": self.patch(),
        }
        head = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
        kubectl("create", "-f", "-", stdin=head | {"metadata": named(name), "spec": spec})

    def keep_all_but_the_day(self, source: str, target: str) -> None:
        """Give a night the store that the nights before have left: partitions, but nothing of its own day."""
        left, made = self.folder / f"store-{source}", self.folder / f"store-{target}"
        shutil.copytree(left / "blobs", made / "blobs")
        (made / "records").mkdir()
        for path in (left / "records").iterdir():
            record = json.loads(path.read_text())["record"]
            table = pl.read_parquet(left / "blobs" / (record.get("kept") or record["table"]))
            if table["session"].max() != self.day:
                shutil.copy(path, made / "records")
        open_to_pods(made)

    def nodes(self, name: str) -> list[dict[str, Any]]:
        return list(status(name).get("nodes", {}).values())

    def worked_on(self, name: str, template: str) -> list[str]:
        """The partitions of a fan-out's pods, in time order."""
        pods = [n for n in self.nodes(name) if n["templateName"] == template and n["type"] == "Pod"]
        inputs = [p for pod in pods for p in pod["inputs"]["parameters"] if p["name"] == "partition"]
        return sorted(p["value"] for p in inputs)

    def pods(self, template: str) -> list[dict[str, Any]]:
        words = ("-n", NAMESPACE, "get", "pods", "-o", "json", "-l", "workflows.argoproj.io/workflow")
        found = json.loads(kubectl(*words))["items"]
        return [p for p in found if template in p["metadata"]["annotations"].get(NODE, "")]

    def successors(self, lost: dict[str, Any]) -> list[dict[str, Any]]:
        """Running pods that do a deleted one's work: of the same try (Argo 4.1), or of the next."""
        node = lost["metadata"]["annotations"][NODE].rpartition("(")[0]
        return [
            pod
            for pod in self.pods(node)
            if pod["metadata"]["uid"] != lost["metadata"]["uid"] and pod["status"]["phase"] == "Running"
        ]

    def digests(self, name: str) -> dict[str, str]:
        """ONNX digest of each finished run in the store of a night."""
        found = {}
        for path in sorted((self.folder / f"store-{name}").glob("runs/*/*.tar")):
            listing = subprocess.run(
                ["tar", "-xOf", str(path), "run.json"], capture_output=True, text=True, check=True
            )
            run = path.name.rpartition("-")[0]  # fold-0.seed-1, before the archive's own digest
            found[run] = json.loads(listing.stdout)["onnx_sha256"]
        return found

    def remove(self) -> None:
        self.server.terminate()
        kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", "--ignore-not-found", check=False)
        kubectl("label", "node", "--all", "karpenter.sh/capacity-type-", check=False)


def open_to_pods(folder: Path) -> None:
    """Their user is another."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def named(name: str) -> dict[str, str]:
    return {"name": name, "namespace": NAMESPACE}


def status(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("-n", NAMESPACE, "get", "workflow", name, "-o", "json"))
    return found.get("status", {})


def wait_for(what: str, ask: Callable[[], Any], name: str, patience: float = PATIENCE) -> Any:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found := ask():
            return found
        if status(name).get("phase") in ENDS:
            break
        time.sleep(1.0)
    nodes = [(n["displayName"], n["phase"], n.get("message", "")) for n in status(name)["nodes"].values()]
    raise AssertionError(f"{name} never {what}: {status(name).get('phase')}\n" + "\n".join(map(str, nodes)))


def ended(name: str) -> str:
    return str(wait_for("ended", lambda: (p := status(name).get("phase")) in ENDS and p, name))


def words_of_failures(name: str) -> str:
    """What each failed pod said last."""
    found = []
    for node in status(name)["nodes"].values():
        if node["type"] == "Pod" and node["phase"] in ("Failed", "Error"):
            label = f"workflows.argoproj.io/workflow={name}"
            log = kubectl(
                "-n", NAMESPACE, "logs", "-l", label, "--all-containers", "--tail=8", "--prefix", check=False
            )
            found.append(f"{node['displayName']}: {node.get('message')}\n{log}")
    return "\n".join(found)


@pytest.fixture(scope="module")
def night() -> Iterator[Night]:
    folder = Path(tempfile.mkdtemp(prefix="sekisho-night-", dir=os.environ.get("SEKISHO_E2E_FOLDER")))
    folder.chmod(0o755)
    if kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"):
        pytest.fail(f"the namespace {NAMESPACE} is there already; it is not for this test to remove it")
    made = Night(folder)
    try:
        made.install()
        yield made
    finally:
        made.remove()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_night_ends_well_and_a_lost_machine_changes_no_agent(night: Night) -> None:
    """One night has all machines and an empty store; the other knows all days but its own, and loses one."""
    began = time.monotonic()
    night.submit("unbroken")
    wait_for("assembled its features", lambda: has_done("unbroken", "stage-features"), "unbroken")
    night.keep_all_but_the_day("unbroken", "broken")
    print(f"features of the unbroken night after {time.monotonic() - began:.0f} s")

    night.submit("broken", remote=f"{night.folder}/remote-broken")
    saved = night.folder / "store-broken/checkpoints"
    wait_for("trained", lambda: len(list(saved.glob("*/*.json"))) > 1, "broken")
    victim = next(p for p in night.pods("node(") if is_of(p, "broken"))
    kubectl("-n", NAMESPACE, "delete", "pod", victim["metadata"]["name"], "--force", "--grace-period=0")
    print(f"killed {victim['metadata']['name']} after {time.monotonic() - began:.0f} s")
    wait_for("replaced the lost pod", lambda: night.successors(victim), "broken")

    for name in ("unbroken", "broken"):
        assert ended(name) == "Succeeded", words_of_failures(name)
        print(f"{name}: {status(name)['startedAt']} to {status(name)['finishedAt']}")
        assert all(has_done(name, f"stage-{stage}") for stage in ("backtest", "gate", "report"))
    digests = night.digests("unbroken")
    assert len(digests) == 2
    assert night.digests("broken") == digests
    print(digests)

    months = sorted({f"{day:%Y-%m}" for day in sample_sessions()[: SESSIONS - 1]})
    for template in ("validate-partition", "features-partition"):
        assert night.worked_on("unbroken", template) == sorted([*months, str(night.day)])
        assert night.worked_on("broken", template) == [str(night.day)]


PROBES = {  # what a pod does, and how often it is tried
    "refused": ("exit 1", 1),
    "bad-data": ("exit 2", 1),
    "told-to-end": ("exit $([ {{retries}} = 0 ] && echo 75 || echo 0)", 2),
    "killed": ("[ {{retries}} != 0 ] || kill -9 $$$$", 2),
    "taken-each-time": ("exit $([ {{retries}} = 4 ] && echo 0 || echo 75)", 5),
}


def probe(night: Night, name: str) -> None:
    """A step of the night as it is installed, with other commands and no waiting."""
    found = json.loads(kubectl("-n", NAMESPACE, "get", "workflowtemplate", "nightly", "-o", "json"))["spec"]
    step = next(t for t in found["templates"] if t["name"] == "session")
    step["retryStrategy"]["backoff"] |= {"duration": "1s", "factor": 1}
    del step["inputs"]
    step["container"]["workingDir"] = "/"
    pods = [
        step | {"name": one, "container": step["container"] | {"command": ["sh", "-c", line]}}
        for one, (line, _) in PROBES.items()
    ]
    graph = {"name": "all", "dag": {"tasks": [{"name": one, "template": one} for one in PROBES]}}
    graph["dag"] |= {"failFast": False}
    kept = {key: found[key] for key in ("volumes", "serviceAccountName", "securityContext")}
    parameters = [{"name": "image", "value": os.environ["SEKISHO_E2E_IMAGE"]}] + [
        one for one in found["arguments"]["parameters"] if one["name"] != "image"
    ]
    spec = kept | {"entrypoint": "all", "templates": [*pods, graph], "podSpecPatch": night.patch()}
    spec |= {"arguments": {"parameters": parameters}}
    head = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": named(name)}
    kubectl("create", "-f", "-", stdin=head | {"spec": spec})


def test_a_refusal_ends_a_step_at_once_and_a_lost_machine_does_not_and_the_last_try_is_on_demand(
    night: Night,
) -> None:
    probe(night, "probe")

    def last_try() -> str:
        waiting = [p for p in night.pods("taken-each-time(4)") if p["status"]["phase"] == "Pending"]
        return str(waiting[0]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] if waiting else "")

    assert wait_for("tried a last time", last_try, "probe") == "on-demand"
    earlier = [p for p in night.pods("taken-each-time(") if p["status"]["phase"] != "Pending"]
    assert {p["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] for p in earlier} == {"spot"}
    try:  # this one node was spot: it becomes the on-demand one that the pod waits for
        kubectl("label", "node", "--all", "--overwrite", "karpenter.sh/capacity-type=on-demand")
        assert ended("probe") == "Failed"  # two were refused
    finally:
        kubectl("label", "node", "--all", "--overwrite", "karpenter.sh/capacity-type=spot")
    nodes = night.nodes("probe")
    tries = {one: [n for n in nodes if n["displayName"].startswith(f"{one}(")] for one in PROBES}
    assert {one: len(found) for one, found in tries.items()} == {one: n for one, (_, n) in PROBES.items()}
    phases = {n["displayName"]: n["phase"] for n in nodes if n["displayName"] in PROBES}
    assert phases == {one: "Failed" if one in ("refused", "bad-data") else "Succeeded" for one in PROBES}


def has_done(name: str, task: str) -> bool:
    nodes = status(name).get("nodes", {}).values()
    return any(n["displayName"] == task and n["phase"] == "Succeeded" for n in nodes)


def is_of(pod: dict[str, Any], name: str) -> bool:
    mine = pod["metadata"]["labels"]["workflows.argoproj.io/workflow"] == name
    return mine and pod["status"]["phase"] == "Running"
