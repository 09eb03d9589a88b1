"""The manifests render, and every pod in them keeps the rules."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
ENVIRONMENTS = ("local", "staging", "production")
POINTER = "policy/12@sha256:" + "ab" * 32

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def render(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifests after a promotion to every environment."""
    copy = shutil.copytree(DEPLOY, tmp_path_factory.mktemp("deploy") / "deploy")
    for environment in ENVIRONMENTS:
        (copy / "policy" / environment / "release.env").write_text(f"RELEASE={POINTER}\n")
    return copy


def pod_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The pod template of the policy server."""
    for thing in objects:
        if thing["kind"] == "SeldonDeployment":
            return thing["spec"]["predictors"][0]["componentSpecs"][0]
        if thing["kind"] == "Deployment":
            return thing["spec"]["template"]
    raise AssertionError("no policy server")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_pointer_reaches_the_check_the_server_and_the_template(promoted: Path, environment: str) -> None:
    pod = pod_of(render(promoted / "policy" / environment))
    verify, serve = pod["spec"]["initContainers"][0], pod["spec"]["containers"][0]
    assert verify["args"] == ["verify", "policy/12", "--environment", environment, "--deployed"]
    assert serve["args"][:7] == [
        "serve", "--release", "policy/12", "--environment", environment, "--expect", POINTER,
    ]  # fmt: skip
    assert pod["metadata"]["annotations"]["sekisho/release"] == POINTER


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_promotion_changes_nothing_but_the_pointer(
    promoted: Path, environment: str, tmp_path: Path
) -> None:
    other = shutil.copytree(promoted, tmp_path / "deploy")
    next_pointer = POINTER.replace("/12", "/13").replace("ab", "cd")
    (other / "policy" / environment / "release.env").write_text(f"RELEASE={next_pointer}\n")
    before, after = (yaml.safe_dump_all(render(root / "policy" / environment)) for root in (promoted, other))
    assert before != after
    assert after.replace(next_pointer, POINTER).replace("policy/13", "policy/12") == before


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_container_is_confined(promoted: Path, environment: str) -> None:
    spec = pod_of(render(promoted / "policy" / environment))["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    for container in spec["initContainers"] + spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert {m["mountPath"] for m in container["volumeMounts"] if m.get("readOnly")} == {
            "/srv/releases",
            "/srv/trust",
        }


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_pod_has_time_to_drain_and_no_replay_clock(promoted: Path, environment: str) -> None:
    from sekisho.serving.server import DRAIN

    spec = pod_of(render(promoted / "policy" / environment))["spec"]
    serve = spec["containers"][0]
    (command,) = [c for c in serve["lifecycle"]["preStop"]["exec"]["command"] if "sleep" in c]
    pause = int(command.split("sleep(")[1].rstrip(")"))
    assert spec["terminationGracePeriodSeconds"] >= pause + DRAIN + 10
    assert "--replay-clock" not in serve["args"]


def test_the_local_pod_is_the_base_pod(promoted: Path) -> None:
    ours, theirs = (pod_of(render(promoted / "policy" / name))["spec"] for name in ("local", "staging"))
    theirs.pop("topologySpreadConstraints")
    for spec, environment in ((ours, "local"), (theirs, "staging")):
        spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "trust"]
        for container in spec["initContainers"] + spec["containers"]:
            container["args"] = [a.replace(environment, "ENVIRONMENT") for a in container["args"]]
    assert ours == theirs


def test_argo_cd_may_deploy_what_the_overlays_hold_and_nothing_else(promoted: Path) -> None:
    objects = render(promoted / "argocd")
    projects = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "AppProject"}
    allowed = {kind["kind"] for kind in projects["sekisho"]["namespaceResourceWhitelist"]}
    assert projects["sekisho"]["clusterResourceWhitelist"] == []
    for application in (o for o in objects if o["kind"] == "Application"):
        project = projects[application["spec"]["project"]]
        source, target = application["spec"]["source"], application["spec"]["destination"]
        assert source["repoURL"] in project["sourceRepos"]
        assert target in project["destinations"]
        if source["path"].startswith("deploy/policy"):
            rendered = render(promoted.parent / source["path"])
            assert {thing["kind"] for thing in rendered} <= allowed
            assert {thing["metadata"]["namespace"] for thing in rendered} == {target["namespace"]}
    (health,) = [o for o in objects if o["kind"] == "ConfigMap"]
    assert "resource.customizations.health.machinelearning.seldon.io_SeldonDeployment" in health["data"]
