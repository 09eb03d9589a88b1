"""What the tests on a real cluster share: kubectl, the releases that its pods read, and a caller."""

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

import httpx
import pytest
import yaml
from tests.release.workshop import Workshop, build_repo

from sekisho.release.promote import promote, rollback
from sekisho.serving.client import PolicyClient

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds for what takes seconds on a machine that has nothing else to do
SERVERS = ("-l", "app.kubernetes.io/name=policy-server")


def reason_to_skip(crd: str, what: str) -> str | None:
    """Why no test can run on a cluster with ``what``, which brings the definition ``crd``; None: it can."""
    if os.environ.get("SEKISHO_E2E") != "1":
        return "runs by `make e2e` only: it deploys to the cluster of KUBECONFIG"
    if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
        return "no cluster: set KUBECONFIG and install kubectl"
    found = subprocess.run(["kubectl", "get", "crd", crd], capture_output=True, check=False)
    return f"no cluster with {what} answers at KUBECONFIG" if found.returncode else None


def kubectl(*words: str, stdin: object = None, check: bool = True) -> str:
    text = None if stdin is None else yaml.safe_dump_all(stdin if isinstance(stdin, list) else [stdin])
    done = subprocess.run(["kubectl", *words], input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr}")
    return done.stdout


def render(folder: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(kubectl("kustomize", str(folder))))


@contextlib.contextmanager
def folder_on_the_node(namespace: str) -> Iterator[Path]:
    """A folder of SEKISHO_E2E_FOLDER, on this machine and on the node; the namespace must be free."""
    if kubectl("get", "namespace", namespace, "--ignore-not-found"):
        pytest.fail(f"the namespace {namespace} is there already; it is not for this test to remove it")
    place = os.environ.get("SEKISHO_E2E_FOLDER") or tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix=f"{namespace}-", dir=place))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """A namespace, the manifests that are deployed to it, and the shop whose releases are served there."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace, self.folder, self.work = namespace, folder, folder / "work"
        self.shop: Workshop = build_repo(folder / "shop")
        self.shop.export()
        self.shop.open_local()
        self.shop.sign()
        self.releases, self.predictions = folder / "releases", folder / "predictions"
        for place in (self.releases, self.predictions):
            place.mkdir()
            place.chmod(0o777)  # the pods' user is not this one
        shutil.copytree(ROOT / "deploy", self.work / "deploy")
        for pod in ("local/deployment.yaml", "base/seldondeployment.yaml"):
            self.shrink(self.work / "deploy/policy" / pod)

    def shrink(self, manifest: Path) -> None:
        """Three of the pods shall fit on a laptop."""
        asked, text = 'requests: {cpu: "1", memory: 512Mi}', manifest.read_text()
        assert asked in text
        manifest.write_text(text.replace(asked, "requests: {cpu: 100m, memory: 256Mi}"))

    def install(self) -> None:
        """The namespace with what it needs beside the manifests: volumes and trust."""
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        kubectl("apply", "-f", "-", stdin=space)
        kubectl("apply", "-f", "-", stdin=self.volume("releases", "ReadOnlyMany", self.releases))
        kubectl("apply", "-f", "-", stdin=self.volume("predictions", "ReadWriteMany", self.predictions))
        names = ("policy.yaml", "local/trusted_root.json", "local/revoked.sigstore.json")
        files = [f"--from-file={self.shop.trust / name}" for name in names]
        self.kubectl("create", "configmap", "trust", *files)

    def volume(self, name: str, mode: str, place: Path) -> list[dict[str, Any]]:
        """A claim that is bound to a folder of the node."""
        whole = f"{self.namespace}-{name}"
        common = {"accessModes": [mode], "storageClassName": ""}
        size = {"storage": "1Gi"}
        there = {
            "hostPath": {"path": str(place)},
            "claimRef": {"namespace": self.namespace, "name": name},
            "capacity": size,
        }
        claim = {"volumeName": whole, "resources": {"requests": size}}
        return [
            {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": common | spec}
            for kind, metadata, spec in (
                ("PersistentVolume", {"name": whole}, there),
                ("PersistentVolumeClaim", {"name": name, "namespace": self.namespace}, claim),
            )
        ]

    def remove(self) -> None:
        volumes = [f"{self.namespace}-{name}" for name in ("releases", "predictions")]
        kubectl("delete", "namespace", self.namespace, "--timeout=120s", "--ignore-not-found", check=False)
        kubectl("delete", "pv", *volumes, "--ignore-not-found", check=False)

    def kubectl(self, *words: str, check: bool = True) -> str:
        return kubectl("-n", self.namespace, *words, check=check)

    def get(self, *words: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.kubectl("get", *words, "-o", "json"))
        return value

    def wait_for(self, what: str, ask: Callable[[], Any], patience: float = PATIENCE) -> Any:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError, KeyError, httpx.TransportError):
                if found := ask():
                    return found
            time.sleep(1.0)
        raise AssertionError(f"never {what}; {self.told()}")

    def told(self) -> str:
        """What the cluster says about its state, for people."""
        pods = self.kubectl("get", "pods,jobs", "-o", "wide", check=False)
        return pods + self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-3000:]

    def publish(self, release: Path, *, tampered: bool = False) -> None:
        """Bring a release's folder to where the pods read it; one bit of its model may turn on the way."""
        target = self.releases / release.parent.name / release.name
        shutil.copytree(release, target, dirs_exist_ok=True)
        if tampered:
            model = target / "content/model.onnx"
            content = bytearray(model.read_bytes())
            content[len(content) // 2] ^= 1
            model.write_bytes(content)
        for path in [self.releases, *self.releases.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)

    def third_release(self) -> Path:
        """Another signed candidate: its report is another."""
        self.shop.commit()
        (self.shop.repo / "build/report/report.md").write_text("# Report\n\nSharpe 9.9\n")
        self.shop.lock()
        self.shop.commit("third candidate")
        release = self.shop.export()
        self.shop.sign(release)
        return release

    def rolled_back(self) -> Path:
        """What a rollback's pull request makes: a new release of the content of policy/1, signed."""
        self.shop.commit()
        release = rollback(self.shop.desk, 1, "seq 3 does not verify", "local")
        self.shop.commit("rollback PR")
        self.shop.sign(release)
        return release

    def point(self, overlay: str, release: Path, message: str, *, tampered: bool = False) -> None:
        """A promotion's change of the manifests: one line of an overlay."""
        promote(self.shop.desk, release, "local", message)
        self.publish(release, tampered=tampered)
        line = self.shop.repo / "deploy/policy/local/release.env"
        shutil.copy(line, self.work / "deploy/policy" / overlay / "release.env")

    @property
    def url(self) -> str:
        return f"http://{self.get('service', 'policy-stable')['spec']['clusterIP']}:9000"

    def served(self) -> str | None:
        with PolicyClient(self.url, "policy", deadline=5.0) as client:
            return client.served()

    def require_served(self, pointer: str) -> None:
        with PolicyClient(self.url, "policy", deadline=5.0) as client:
            client.require_release(pointer, timeout=PATIENCE)
        print(f"served: {pointer}")

    def require_refused_in_the_pod(self, release: str) -> None:
        """The init container of a pod with this release ends with 1, and says that a file is another."""

        def refused() -> bool:
            pods = [
                pod
                for pod in self.get("pods", *SERVERS)["items"]
                if release in pod["metadata"]["annotations"]["sekisho/release"]
            ]
            states = [s for pod in pods for s in pod["status"].get("initContainerStatuses", [])]
            seen = [s.get(when, {}).get("terminated") for s in states for when in ("state", "lastState")]
            return any(end and end["exitCode"] == 1 for end in seen)

        def told_why() -> bool:  # a container that has just been started again has not said it yet
            return "file-digest" in self.kubectl("logs", *SERVERS, "-c", "verify", "--tail=20")

        self.wait_for("refused by the init container", refused)
        self.wait_for("told why in the container's log", told_why)


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
