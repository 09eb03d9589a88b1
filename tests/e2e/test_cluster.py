"""`make e2e`: promotions, a tampered release and a rollback on a real cluster, with Argo CD and our server.

Asks for a KUBECONFIG and does not care who made the cluster; it needs Argo CD in it, and an image
``policy-server:0.1.0`` that its node can start (`make image IMAGE=policy-server`). Everything is made in the
namespace `sekisho-local` and in Argo CD's own, and removed again. Releases lie in a folder of the node,
SEKISHO_E2E_FOLDER, which must be a folder of this machine too; Argo CD reads the git repository in it.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.release.workshop import Workshop, build_repo

from sekisho.release.promote import promote, read_pointer, rollback
from sekisho.serving.client import PolicyClient

ROOT = Path(__file__).parents[2]
NAMESPACE, ARGOCD = "sekisho-local", "argocd"
PATIENCE = 300.0  # seconds for what takes seconds on a machine that has nothing else to do


def reason_to_skip() -> str | None:
    if os.environ.get("SEKISHO_E2E") != "1":
        return "runs by `make e2e` only: it deploys to the cluster of KUBECONFIG"
    if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
        return "no cluster: set KUBECONFIG and install kubectl"
    found = subprocess.run(
        ["kubectl", "get", "crd", "applications.argoproj.io"], capture_output=True, check=False
    )
    return "no cluster with Argo CD answers at KUBECONFIG" if found.returncode else None


SKIP = reason_to_skip()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SKIP is not None, reason=str(SKIP))]


def kubectl(*words: str, stdin: object = None, check: bool = True) -> str:
    text = None if stdin is None else yaml.safe_dump_all(stdin if isinstance(stdin, list) else [stdin])
    done = subprocess.run(["kubectl", *words], input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr}")
    return done.stdout


def get(kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(kubectl("-n", namespace, "get", kind, name, "-o", "json"))
    return value


def wait_for(what: str, ask: Any, patience: float = PATIENCE) -> Any:
    deadline, found = time.monotonic() + patience, None
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError, KeyError, httpx.TransportError):
            if found := ask():
                return found
        time.sleep(1.0)
    raise AssertionError(f"never {what}; the application: {status()}\n{pods()}")


def status() -> str:
    found = kubectl(
        "-n", ARGOCD, "get", "application", "policy-local", "-o", "jsonpath={.status}", check=False
    )
    return found[-3000:]


def pods() -> str:
    return (
        kubectl("-n", NAMESPACE, "get", "pods,jobs", "-o", "wide", check=False)
        + kubectl("-n", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp", check=False)[-3000:]
    )


def volume(name: str, mode: str, place: Path) -> list[dict[str, Any]]:
    """A claim that is bound to a folder of the node."""
    whole = {"metadata": {"name": f"{NAMESPACE}-{name}"}}
    claim = {"metadata": {"name": name, "namespace": NAMESPACE}}
    common = {"accessModes": [mode], "storageClassName": ""}
    size = {"storage": "1Gi"}
    there = {"hostPath": {"path": str(place)}, "claimRef": {"namespace": NAMESPACE, "name": name}}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            **whole,
            "spec": {**common, **there, "capacity": size},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            **claim,
            "spec": {**common, "volumeName": f"{NAMESPACE}-{name}", "resources": {"requests": size}},
        },
    ]


class Cluster:
    """The namespace, the git repository that Argo CD follows, and the shop whose releases are served."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shop: Workshop = build_repo(folder / "shop")
        self.shop.export()
        self.shop.open_local()
        self.shop.sign()
        self.releases, self.predictions = folder / "releases", folder / "predictions"
        for place in (self.releases, self.predictions):
            place.mkdir()
            place.chmod(0o777)  # the pods' user is not this one
        self.origin = folder / "origin.git"
        self.work = folder / "work"
        self.git("init", "--quiet", "--bare", "-b", "main", str(self.origin), at=folder)
        self.git("clone", "--quiet", str(self.origin), str(self.work), at=folder)
        shutil.copytree(ROOT / "deploy", self.work / "deploy")
        pod = self.work / "deploy/policy/local/deployment.yaml"
        asked = 'requests: {cpu: "1", memory: 512Mi}'
        assert asked in pod.read_text()
        pod.write_text(
            pod.read_text().replace(asked, "requests: {cpu: 100m, memory: 256Mi}")
        )  # three on a laptop
        self.shop_deploy = self.shop.repo / "deploy/policy/local"

    def git(self, *words: str, at: Path | None = None) -> str:
        identity = ["-c", "user.name=engineer", "-c", "user.email=engineer@local.test"]
        done = subprocess.run(
            ["git", "-C", str(at or self.work), *identity, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def push(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", message)
        self.git("push", "--quiet", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD")

    def publish(self, release: Path) -> None:
        """Bring a release's folder to where the pods read it."""
        target = self.releases / release.parent.name / release.name
        shutil.copytree(release, target, dirs_exist_ok=True)
        for path in [self.releases, *self.releases.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)

    def promote(self, release: Path, message: str) -> str:
        """A promotion's commit: one line of deploy/policy/local."""
        promote(self.shop.desk, release, "local", message)
        self.publish(release)
        shutil.copy(self.shop_deploy / "release.env", self.work / "deploy/policy/local/release.env")
        self.push(message)
        return str(read_pointer(self.shop.repo, "local"))

    def install(self) -> None:
        kubectl(
            "apply",
            "-f",
            "-",
            stdin={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        )
        kubectl("apply", "-f", "-", stdin=volume("releases", "ReadOnlyMany", self.releases))
        kubectl("apply", "-f", "-", stdin=volume("predictions", "ReadWriteMany", self.predictions))
        trust = self.shop.trust
        files = [
            trust / "policy.yaml",
            trust / "local/trusted_root.json",
            trust / "local/revoked.sigstore.json",
        ]
        kubectl("-n", NAMESPACE, "create", "configmap", "trust", *(f"--from-file={path}" for path in files))
        kubectl("apply", "--server-side", "-f", "-", stdin=self.argo_objects())

    def argo_objects(self) -> list[dict[str, Any]]:
        """Our own project and application of staging, pointed at this repository and the plain overlay."""
        rendered = subprocess.run(
            ["kubectl", "kustomize", str(ROOT / "deploy/argocd")], capture_output=True, text=True, check=True
        )
        objects = list(yaml.safe_load_all(rendered.stdout))
        project = next(o for o in objects if o["kind"] == "AppProject" and o["metadata"]["name"] == "sekisho")
        application = next(o for o in objects if o["metadata"]["name"] == "policy-staging")
        repository, target = f"file://{self.origin}", "https://kubernetes.default.svc"
        project["metadata"] |= {"name": NAMESPACE, "namespace": ARGOCD}
        spec = project["spec"]
        spec |= {"sourceRepos": [repository], "destinations": [{"server": target, "namespace": NAMESPACE}]}
        spec["namespaceResourceWhitelist"] += [
            {"group": "apps", "kind": "Deployment"},
            {"group": "", "kind": "Service"},
        ]
        spec.pop("syncWindows")
        application["metadata"] |= {
            "name": "policy-local",
            "namespace": ARGOCD,
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],
        }
        application["spec"] |= {
            "project": NAMESPACE,
            "destination": {"server": target, "namespace": NAMESPACE},
        }
        application["spec"].pop("ignoreDifferences")
        application["spec"]["source"] |= {"repoURL": repository, "path": "deploy/policy/local"}
        return [project, application]

    def remove(self) -> None:
        for words in (
            ("-n", ARGOCD, "delete", "application", "policy-local", "--timeout=120s"),
            ("-n", ARGOCD, "delete", "appproject", NAMESPACE),
            ("delete", "namespace", NAMESPACE, "--timeout=120s"),
            ("delete", "pv", f"{NAMESPACE}-releases", f"{NAMESPACE}-predictions"),
        ):
            kubectl(*words, "--ignore-not-found", check=False)

    @property
    def url(self) -> str:
        return f"http://{get('service', 'policy-stable')['spec']['clusterIP']}:9000"

    def served(self) -> str | None:
        with PolicyClient(self.url, "policy", deadline=5.0) as client:
            return client.served()

    def require_served(self, pointer: str) -> None:
        with PolicyClient(self.url, "policy", deadline=5.0) as client:
            client.require_release(pointer, timeout=PATIENCE)

    def is_synced(self, revision: str) -> bool:
        found = get("application", "policy-local", ARGOCD)["status"]
        done = found.get("operationState", {})
        return (
            found["sync"].get("revision") == revision
            and found["sync"]["status"] == "Synced"
            and found["health"]["status"] == "Healthy"
            and done.get("phase") == "Succeeded"
            and done.get("syncResult", {}).get("revision") == revision
        )

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    place = os.environ.get("SEKISHO_E2E_FOLDER") or tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="sekisho-e2e-", dir=place))
    folder.chmod(0o755)
    if kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"):
        pytest.fail(f"the namespace {NAMESPACE} is there already; it is not for this test to remove it")
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.remove()
        shutil.rmtree(folder, ignore_errors=True)


class Load:
    """A caller with one retry, while the cluster changes under it."""

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        about = json.loads((cluster.shop.release / "content/golden.json").read_text())
        address = cluster.url.removeprefix("http://").split(":")[0]
        self.plan: dict[str, Any] = {
            "kind": "json",
            "host": address,
            "port": 9000,
            "seconds": seconds,
            "rate": 100.0,
            "connections": 8,
            "rows": about["observation"],
            "parameters": {"ts_close": "2025-06-03T01:05:00+00:00"},
            "retries": 1,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.load"],
            cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdin
        self.process.stdin.write(json.dumps(self.plan))
        self.process.stdin.close()
        self.process.stdin = None
        assert self.process.stdout
        assert self.process.stdout.readline() == "started\n"

    def require_nothing_failed(self) -> None:
        output, errors = self.process.communicate(timeout=self.plan["seconds"] + 120)
        assert self.process.returncode == 0, errors
        result = json.loads(output)
        print(f"load: {result}")
        assert (result["failed"], set(result["statuses"])) == (0, {"200"}), result


def test_a_release_is_promoted_served_replaced_refused_and_rolled_back(cluster: Cluster) -> None:
    shop = cluster.shop

    # the first promotion: Argo CD verifies, deploys, and asserts what is served
    first = cluster.promote(shop.release, "Promote policy/1 to local")
    cluster.install()
    wait_for("synced", lambda: cluster.is_synced(cluster.head()), 2 * PATIENCE)
    cluster.require_served(first)
    hooks = get("application", "policy-local", ARGOCD)["status"]["operationState"]["syncResult"]["resources"]
    phases = {hook["name"]: hook["hookPhase"] for hook in hooks if hook.get("hookType")}
    assert phases == {"verify-release": "Succeeded", "served-release": "Succeeded"}

    # a promotion changes the served digest, and nobody notices
    second_release = shop.second_release()
    load = Load(cluster, 90)
    second = cluster.promote(second_release, "Promote policy/2 to local")
    wait_for("synced", lambda: cluster.is_synced(cluster.head()))
    cluster.require_served(second)
    assert second != first
    load.require_nothing_failed()

    # a tampered release: the check before the sync stops it
    shop.commit()
    (shop.repo / "build/report/report.md").write_text("# Report\n\nSharpe 9.9\n")
    shop.lock()
    shop.commit("third candidate")
    third_release = shop.export()
    shop.sign(third_release)
    promote(shop.desk, third_release, "local", "Promote policy/3 to local")
    cluster.publish(third_release)
    model = cluster.releases / "policy/3/content/model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    shutil.copy(cluster.shop_deploy / "release.env", cluster.work / "deploy/policy/local/release.env")
    load = Load(cluster, 90)
    cluster.push("Promote policy/3 to local")
    wait_for(
        "refused before the sync",
        lambda: (
            get("job", "verify-release")["status"].get("failed")
            and "policy/3" in json.dumps(get("job", "verify-release")["spec"])
        ),
    )
    assert cluster.served() == second
    load.require_nothing_failed()

    # somebody removes the checks around the sync: the pods' own init container stops it
    path = cluster.work / "deploy/policy/local/kustomization.yaml"
    overlay = yaml.safe_load(path.read_text())
    overlay["resources"].remove("../checks")
    overlay.pop("patches")
    path.write_text(yaml.safe_dump(overlay))
    load = Load(cluster, 60)
    cluster.push("Skip the checks")

    def refused_in_init() -> bool:
        found = json.loads(
            kubectl(
                "-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/name=policy-server", "-o", "json"
            )
        )
        states = [
            state
            for pod in found["items"]
            if "policy/3" in pod["metadata"]["annotations"]["sekisho/release"]
            for state in pod["status"].get("initContainerStatuses", [])
        ]
        ended = [
            (s.get("state", {}).get("terminated") or s.get("lastState", {}).get("terminated")) for s in states
        ]
        return any(end and end["exitCode"] == 1 for end in ended)

    wait_for("refused by the init container", refused_in_init)
    log = kubectl(
        "-n", NAMESPACE, "logs", "-l", "app.kubernetes.io/name=policy-server", "-c", "verify", "--tail=20"
    )
    assert "file-digest" in log
    assert cluster.served() == second
    load.require_nothing_failed()

    # the rollback's pull request points back, as a new release of the old content
    shop.commit()
    back = rollback(shop.desk, 1, "seq 3 does not verify", "local")
    shop.commit("rollback PR")
    shop.sign(back)
    cluster.git("revert", "--no-edit", "HEAD")
    load = Load(cluster, 60)
    fourth = cluster.promote(back, "Roll back to the content of policy/1")
    assert fourth.startswith("policy/4@")
    wait_for("synced", lambda: cluster.is_synced(cluster.head()))
    cluster.require_served(fourth)
    load.require_nothing_failed()


def test_every_manifest_of_ours_is_accepted_by_this_cluster_as_far_as_it_knows_the_kinds() -> None:
    known = kubectl("api-resources", "-o", "name")
    refused: list[str] = []
    checked = 0
    for folder in ("argocd", "policy/local", "policy/staging", "policy/production", "platform/namespaces"):
        rendered = subprocess.run(
            ["kubectl", "kustomize", str(ROOT / "deploy" / folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        for thing in yaml.safe_load_all(rendered.stdout):
            group = thing["apiVersion"].split("/")[0] if "/" in thing["apiVersion"] else ""
            plural = {"NetworkPolicy": "networkpolicies", "PriorityClass": "priorityclasses"}.get(
                thing["kind"], thing["kind"].lower() + "s"
            )
            if (f"{plural}.{group}" if group else plural) not in known.split():
                continue
            thing["metadata"]["namespace"] = ARGOCD if folder == "argocd" else "default"  # it is there
            thing["metadata"].setdefault("labels", {})
            done = subprocess.run(
                ["kubectl", "apply", "--server-side", "--force-conflicts", "--dry-run=server",
                 "--validate=strict", "-f", "-"],
                input=yaml.safe_dump(thing), capture_output=True, text=True, check=False,
            )  # fmt: skip
            checked += 1
            if done.returncode:
                refused.append(f"{folder} {thing['kind']} {thing['metadata']['name']}: {done.stderr}")
    assert checked > 40
    assert not refused, "\n".join(refused)
