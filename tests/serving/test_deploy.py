"""The manifests render, and every pod in them keeps the rules."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy import conform

from sekisho.params import load_params
from sekisho.serving.switch import Position, read_switch

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
def test_every_grpc_connection_is_renewed_before_a_pod_stops(promoted: Path, environment: str) -> None:
    """Elsewhere, since a pod that terminates gets no new ones: else calls would be cancelled at its end."""
    found = yaml.safe_dump(pod_of(render(promoted / "policy" / environment)))
    (waits,) = re.findall(r"time\.sleep\(([0-9]+)\)", found)
    params = load_params().serving
    assert params.connection_age * 1.1 < float(waits) + params.drain  # gRPC's jitter is a tenth


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_pointer_reaches_the_check_the_server_and_the_template(promoted: Path, environment: str) -> None:
    pod = pod_of(render(promoted / "policy" / environment))
    verify, serve = pod["spec"]["initContainers"][0], pod["spec"]["containers"][0]
    assert verify["args"] == [
        "verify", "policy/12", "--environment", environment, "--deployed", "--expect", POINTER,
    ]  # fmt: skip
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
        } | ({"/srv/switch"} if container["name"] == "policy" else set())


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
    for name in ("topologySpreadConstraints", "priorityClassName", "nodeSelector", "tolerations"):
        theirs.pop(name)  # of a cluster with more than one node
    theirs.pop("serviceAccountName")  # EKS Pod Identity's
    for spec, environment in ((ours, "local"), (theirs, "staging")):
        spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "trust"]
        for container in spec["initContainers"] + spec["containers"]:
            container["args"] = [a.replace(environment, "ENVIRONMENT") for a in container["args"]]
    assert ours == theirs


def test_argo_cd_may_deploy_what_the_overlays_hold_and_nothing_else(promoted: Path) -> None:
    objects = render(promoted / "argocd")
    projects = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "AppProject"}
    assert projects["sekisho"]["clusterResourceWhitelist"] == []
    used: dict[str, set[str]] = {}
    for application in (o for o in objects if o["kind"] == "Application"):
        project = projects[application["spec"]["project"]]
        source, target = application["spec"]["source"], application["spec"]["destination"]
        assert source["repoURL"] in project["sourceRepos"]
        assert target in project["destinations"]
        assert source["targetRevision"] not in ("", "HEAD", "*", "latest")
        path = source.get("path", "")
        if path.startswith("deploy/"):
            assert (promoted.parent / path).is_dir()
        if path.startswith(("deploy/policy", "deploy/workflows")):
            rendered = render(promoted.parent / path)
            allowed = {kind["kind"] for kind in project["namespaceResourceWhitelist"]}
            assert {thing["kind"] for thing in rendered} <= allowed
            assert {thing["metadata"]["namespace"] for thing in rendered} == {target["namespace"]}
            used.setdefault(application["spec"]["project"], set()).update(t["kind"] for t in rendered)
    # least rights: nothing is allowed that no overlay holds
    for name, kinds in used.items():
        assert {kind["kind"] for kind in projects[name]["namespaceResourceWhitelist"]} == kinds
    (health,) = [o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "argocd-cm"]
    assert "resource.customizations.health.machinelearning.seldon.io_SeldonDeployment" in health["data"]


def test_charts_and_manifests_of_others_are_pinned_to_one_version(promoted: Path) -> None:
    applications = [o for o in render(promoted / "argocd") if o["kind"] == "Application"]
    foreign = [
        a["spec"]["source"]
        for a in applications
        if "sekisho/sekisho.git" not in a["spec"]["source"]["repoURL"]
    ]
    assert len(foreign) == 8
    for source in foreign:
        assert re.fullmatch(r"v?[0-9]+\.[0-9]+\.[0-9]+", source["targetRevision"]), source


def test_the_kill_switch_is_on_its_own_application_outside_every_window(promoted: Path) -> None:
    objects = render(promoted / "argocd")
    projects = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "AppProject"}
    assert "syncWindows" not in projects["sekisho-traffic"]
    windows = projects["sekisho"]["syncWindows"]
    assert {tuple(window["applications"]) for window in windows} == {("policy-production",)}
    assert not any(window["manualSync"] for window in windows)
    for environment in ("staging", "production"):
        (traffic,) = [o for o in objects if o["metadata"]["name"] == f"traffic-{environment}"]
        assert traffic["spec"]["project"] == "sekisho-traffic"
        (switch,) = [
            o for o in render(promoted / "policy" / "traffic" / environment) if o["kind"] == "ConfigMap"
        ]
        word = tmp_file(switch["data"]["switch"])
        assert word == Position.ON
        assert "switch" not in [o["metadata"]["name"] for o in render(promoted / "policy" / environment)]


def tmp_file(text: str) -> Position:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return read_switch(Path(file.name))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_checks_before_and_after_a_sync_ask_about_the_promoted_release(
    promoted: Path, environment: str
) -> None:
    jobs = {o["metadata"]["name"]: o for o in render(promoted / "policy" / environment) if o["kind"] == "Job"}
    hooks = {name: job["metadata"]["annotations"]["argocd.argoproj.io/hook"] for name, job in jobs.items()}
    assert hooks == {"verify-release": "PreSync", "served-release": "PostSync"}
    (before,) = jobs["verify-release"]["spec"]["template"]["spec"]["containers"]
    (after,) = jobs["served-release"]["spec"]["template"]["spec"]["containers"]
    assert before["args"] == [
        "verify", "policy/12", "--environment", environment, "--deployed", "--expect", POINTER,
    ]  # fmt: skip
    assert after["args"][-2:] == ["--expect", POINTER]
    assert before["image"] == after["image"]


@pytest.mark.parametrize("kind", ["canary", "shadow"])
def test_a_second_predictor_serves_its_own_release_and_nothing_of_the_first(
    promoted: Path, tmp_path: Path, kind: str
) -> None:
    copy = shutil.copytree(promoted, tmp_path / "deploy")
    path = copy / "policy/staging/kustomization.yaml"
    overlay = yaml.safe_load(path.read_text())
    overlay["components"].append(f"../{kind}")
    other = POINTER.replace("/12", "/13").replace("ab", "cd")
    overlay["configMapGenerator"].append({"name": kind, "literals": [f"RELEASE={other}"]})
    path.write_text(yaml.safe_dump(overlay))
    objects = render(copy / "policy/staging")
    (deployment,) = [o for o in objects if o["kind"] == "SeldonDeployment"]
    first, second = deployment["spec"]["predictors"]
    text = yaml.safe_dump(second)
    assert POINTER in yaml.safe_dump(first)
    assert other not in yaml.safe_dump(first)
    assert text.count(other) == 3
    assert "policy/12" not in text
    assert second["name"] == kind
    assert second.get("shadow", False) is (kind == "shadow")


@pytest.mark.parametrize("namespace", ["sekisho-staging", "sekisho-production", "training", "arc-runners"])
def test_every_namespace_of_ours_denies_by_default_and_has_a_quota(promoted: Path, namespace: str) -> None:
    objects = render(promoted / "platform" / "namespaces")
    mine = [o for o in objects if o["metadata"].get("namespace") == namespace]
    assert {"NetworkPolicy", "ResourceQuota", "LimitRange"} <= {o["kind"] for o in mine}
    (deny,) = [o for o in mine if o["metadata"]["name"] == "default-deny"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (space,) = [o for o in objects if o["kind"] == "Namespace" and o["metadata"]["name"] == namespace]
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_servers_are_spread_scaled_and_left_one_at_a_time(promoted: Path, environment: str) -> None:
    objects = render(promoted / "policy" / environment)
    (deployment,) = [o for o in objects if o["kind"] == "SeldonDeployment"]
    (predictor,) = deployment["spec"]["predictors"]
    (server,) = predictor["componentSpecs"]
    scaling = server["hpaSpec"]
    assert 2 <= predictor["replicas"] == scaling["minReplicas"] < scaling["maxReplicas"]
    # a share of the pods would be rounded up to all of them where there are two
    assert server["pdbSpec"] == {"maxUnavailable": 1}
    labels = server["metadata"]["labels"].items()
    (spread,) = server["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    assert spread["labelSelector"]["matchLabels"].items() <= labels
    assert server["spec"]["priorityClassName"] == "serving"
    (policy,) = [
        o for o in objects if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "policy-server"
    ]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy["spec"]  # nothing goes out
    (container,) = server["spec"]["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"} <= container.keys()


FETCHED = [  # what Go's public proxy has
    module for module in conform.CONTROLLERS if not re.search("argo-workflows|seldon-core", module)
]
needs_conform = pytest.mark.skipif(
    shutil.which("go") is None, reason="kubeconform is built with go, which is not installed"
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, str]], list[dict[str, str]]]:
    """kubeconform's word on texts, with the definitions that are at hand."""
    absent = [module for module in (*FETCHED, conform.KUBERNETES) if conform.fetched(module) is None]
    if absent:
        pytest.skip(f"Go cannot fetch {', '.join(absent)}")
    root = tmp_path_factory.mktemp("schemas")
    conform.write_schemas(root)
    return lambda texts: conform.compare(texts, root)


@needs_conform
@pytest.mark.slow
def test_every_manifest_fits_its_kinds_definition(
    compared: Callable[[dict[str, str]], list[dict[str, str]]],
) -> None:
    found = compared(dict(conform.manifests(DEPLOY)))
    assert not [one for one in found if one["status"] == "statusInvalid"]
    kinds = {one["kind"] for one in found if one["status"] == "statusValid"}
    assert {"Application", "Deployment", "NodePool", "PodMonitor", "ExternalSecret", "HTTPRoute"} <= kinds
    if conform.FOLDER.is_dir():  # the other two
        assert {"SeldonDeployment", "WorkflowTemplate"} <= kinds
        assert {one["status"] for one in found} == {"statusValid"}


@needs_conform
@pytest.mark.slow
@pytest.mark.parametrize(
    ("overlay", "old", "new"),
    [
        ("policy/local", "readOnlyRootFilesystem:", "readOnlyRootFilesytem:"),
        ("policy/local", "containerPort: 9000", "containerPort: nine"),
        ("policy/production", "maxUnavailable:", "maxUnavailble:"),
        ("policy/production", "initContainers:", "initialContainers:"),
        ("clusters/production/argocd", "selfHeal:", "selfheal:"),
        ("clusters/production/nodes", "consolidateAfter:", "consolidatesAfter:"),
        ("monitoring", "podMetricsEndpoints:", "podMetricEndpoints:"),
    ],
)
def test_a_misspelt_field_or_wrong_type_is_found(
    compared: Callable[[dict[str, str]], list[dict[str, str]]], overlay: str, old: str, new: str
) -> None:
    text = conform.render(DEPLOY / overlay)
    assert old in text
    found = compared({overlay: text.replace(old, new)})
    wrong = [one for one in found if one["status"] == "statusInvalid"]
    if not wrong and any(one["status"] == "statusError" for one in found):
        pytest.skip(f"{overlay}: not every definition is at hand")
    assert wrong
    assert all(one["filename"] == overlay for one in wrong)


def test_definitions_are_those_of_the_versions_that_argo_cd_installs(promoted: Path) -> None:
    pinned = {module.partition("@")[0]: module.partition("@")[2] for module in conform.CONTROLLERS}
    applications = {
        o["metadata"]["name"]: o["spec"]["source"]["targetRevision"]
        for o in render(promoted / "argocd")
        if o["kind"] == "Application"
    }
    assert pinned["github.com/aws/karpenter-provider-aws"] == f"v{applications['karpenter']}"
    assert pinned["github.com/argoproj/argo-workflows/v4"] == applications["workflows-controller"]
    install = (DEPLOY / "argocd/install/kustomization.yaml").read_text()
    assert pinned["github.com/argoproj/argo-cd/v3"] in install
