"""`make e2e`: promotions, a tampered release and a rollback on a real cluster, with Argo CD and our server.

Asks for a KUBECONFIG and does not care who made the cluster; it needs Argo CD in it, and an image
``policy-server:0.1.0`` that its node can start (`make image IMAGE=policy-server`). Everything is made in the
namespace `sekisho-local` and in Argo CD's own, and removed again. Releases lie in a folder of the node,
SEKISHO_E2E_FOLDER, which must be a folder of this machine too; Argo CD reads the git repository in it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.cluster import (
    PATIENCE,
    ROOT,
    Cluster,
    Load,
    folder_on_the_node,
    kubectl,
    reason_to_skip,
    render,
)

from sekisho.pointer import read_pointer

NAMESPACE, ARGOCD, OVERLAY = "sekisho-local", "argocd", "local"
SKIP = reason_to_skip("applications.argoproj.io", "Argo CD")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SKIP is not None, reason=str(SKIP))]


class Followed(Cluster):
    """With the git repository that Argo CD follows."""

    def __init__(self, folder: Path) -> None:
        super().__init__(NAMESPACE, folder)
        self.origin = folder / "origin.git"
        self.git("init", "--quiet", "--bare", "-b", "main", str(self.origin))
        self.git("init", "--quiet", "-b", "main")
        self.git("remote", "add", "origin", str(self.origin))

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=engineer", "-c", "user.email=engineer@local.test"]
        done = subprocess.run(
            ["git", "-C", str(self.work), *identity, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def push(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", message)
        self.git("push", "--quiet", "origin", "HEAD:main")

    def promote(self, release: Path, message: str, *, tampered: bool = False) -> str:
        """A promotion's commit: one line of deploy/policy/local."""
        self.point(OVERLAY, release, message, tampered=tampered)
        self.push(message)
        return str(read_pointer(self.shop.repo, "local"))

    def install(self) -> None:
        super().install()
        kubectl("apply", "--server-side", "-f", "-", stdin=self.argo_objects())

    def argo_objects(self) -> list[dict[str, Any]]:
        """Our own project and application of staging, pointed at this repository and the plain overlay."""
        objects = render(ROOT / "deploy/argocd")
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
        application["spec"]["source"] |= {"repoURL": repository, "path": f"deploy/policy/{OVERLAY}"}
        return [project, application]

    def remove(self) -> None:
        for words in (("application", "policy-local", "--timeout=120s"), ("appproject", NAMESPACE)):
            kubectl("-n", ARGOCD, "delete", *words, "--ignore-not-found", check=False)
        super().remove()

    def status(self) -> dict[str, Any]:
        found = json.loads(kubectl("-n", ARGOCD, "get", "application", "policy-local", "-o", "json"))
        status: dict[str, Any] = found["status"]
        return status

    def told(self) -> str:
        words = ("get", "application", "policy-local", "-o", "jsonpath={.status}")
        return f"{kubectl('-n', ARGOCD, *words, check=False)[-3000:]}\n{super().told()}"

    def wait_until_synced(self, patience: float = PATIENCE) -> None:
        revision = self.git("rev-parse", "HEAD")

        def synced() -> bool:
            found = self.status()
            done = found.get("operationState", {})
            return (
                found["sync"].get("revision") == revision
                and found["sync"]["status"] == "Synced"
                and found["health"]["status"] == "Healthy"
                and done.get("phase") == "Succeeded"
                and done.get("syncResult", {}).get("revision") == revision
            )

        self.wait_for("synced", synced, patience)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Followed]:
    with folder_on_the_node(NAMESPACE) as folder:
        made = Followed(folder)
        try:
            yield made
        finally:
            made.remove()


def test_a_release_is_promoted_served_replaced_refused_and_rolled_back(cluster: Followed) -> None:
    first = promote_the_first(cluster)
    second = replace_it(cluster, first)
    refuse_a_tampered_one_before_the_sync(cluster, second)
    refuse_it_in_the_pod_too(cluster, second)
    roll_back(cluster)


def promote_the_first(cluster: Followed) -> str:
    """Argo CD verifies, deploys, and asserts what is served."""
    first = cluster.promote(cluster.shop.release, "Promote policy/1 to local")
    cluster.install()
    cluster.wait_until_synced(2 * PATIENCE)
    cluster.require_served(first)
    hooks = cluster.status()["operationState"]["syncResult"]["resources"]
    phases = {hook["name"]: hook["hookPhase"] for hook in hooks if hook.get("hookType")}
    assert phases == {"verify-release": "Succeeded", "served-release": "Succeeded"}
    return first


def replace_it(cluster: Followed, first: str) -> str:
    """A promotion changes the served digest, and nobody notices."""
    release = cluster.shop.second_release()
    load = Load(cluster, 90)
    second = cluster.promote(release, "Promote policy/2 to local")
    cluster.wait_until_synced()
    cluster.require_served(second)
    assert second != first
    load.require_nothing_failed()
    return second


def refuse_a_tampered_one_before_the_sync(cluster: Followed, served: str) -> None:
    """The check before the sync stops it."""
    release = cluster.third_release()
    load = Load(cluster, 90)
    cluster.promote(release, "Promote policy/3 to local", tampered=True)

    def refused() -> bool:
        job = cluster.get("job", "verify-release")
        return bool(job["status"].get("failed")) and "policy/3" in json.dumps(job["spec"])

    cluster.wait_for("refused before the sync", refused)
    assert cluster.served() == served
    load.require_nothing_failed()


def refuse_it_in_the_pod_too(cluster: Followed, served: str) -> None:
    """Somebody removes the checks around the sync: the pods' own init container stops it."""
    path = cluster.work / f"deploy/policy/{OVERLAY}/kustomization.yaml"
    overlay = yaml.safe_load(path.read_text())
    overlay["resources"].remove("../checks")
    overlay.pop("patches")
    path.write_text(yaml.safe_dump(overlay))
    load = Load(cluster, 60)
    cluster.push("Skip the checks")
    cluster.require_refused_in_the_pod("policy/3")
    assert cluster.served() == served
    load.require_nothing_failed()


def roll_back(cluster: Followed) -> None:
    """The rollback's pull request points back, as a new release of the old content."""
    release = cluster.rolled_back()
    cluster.git("revert", "--no-edit", "HEAD")
    load = Load(cluster, 60)
    fourth = cluster.promote(release, "Roll back to the content of policy/1")
    assert fourth.startswith("policy/4@")
    cluster.wait_until_synced()
    cluster.require_served(fourth)
    load.require_nothing_failed()


def test_every_manifest_of_ours_is_accepted_by_this_cluster_as_far_as_it_knows_the_kinds() -> None:
    known = kubectl("api-resources", "-o", "name").split()
    folders = ("argocd", "policy/local", "policy/staging", "policy/production", "platform/namespaces")
    things = [(folder, thing) for folder in folders for thing in render(ROOT / "deploy" / folder)]
    mine = [(folder, thing) for folder, thing in things if resource(thing) in known]
    assert len(mine) > 40
    refused = [
        f"{folder} {thing['kind']}: {why}" for folder, thing in mine if (why := refusal(folder, thing))
    ]
    assert not refused, "\n".join(refused)


def resource(thing: dict[str, Any]) -> str:
    """As `kubectl api-resources` names the kind."""
    plural = {"NetworkPolicy": "networkpolicies", "PriorityClass": "priorityclasses"}
    name = plural.get(thing["kind"], thing["kind"].lower() + "s")
    group = thing["apiVersion"].rpartition("/")[0]
    return f"{name}.{group}" if group else name


def refusal(folder: str, thing: dict[str, Any]) -> str:
    """What the API server says against it; nothing is made."""
    thing["metadata"]["namespace"] = ARGOCD if folder == "argocd" else "default"  # it is there
    thing["metadata"].setdefault("labels", {})
    done = subprocess.run(
        ["kubectl", "apply", "--server-side", "--force-conflicts", "--dry-run=server",
         "--validate=strict", "-f", "-"],
        input=yaml.safe_dump(thing), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr if done.returncode else ""
