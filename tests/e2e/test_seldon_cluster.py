"""`make e2e`: the SeldonDeployment on a real cluster, with Seldon's v1 operator and our server.

Asks for a KUBECONFIG whose cluster runs the operator, and for what `test_cluster.py` asks for beside Argo CD.
Applied is `deploy/policy/staging` with the trust of a laptop and without the pool of nodes; everything is
made in the namespace `sekisho-seldon`, and removed again; the priority classes of `deploy/platform` stay, for
others may use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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

NAMESPACE, OVERLAY = "sekisho-seldon", "staging"
SKIP = reason_to_skip("seldondeployments.machinelearning.seldon.io", "Seldon's operator")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SKIP is not None, reason=str(SKIP))]


class Seldon(Cluster):
    """With the overlay of staging, made for this cluster."""

    def __init__(self, folder: Path) -> None:
        super().__init__(NAMESPACE, folder)
        self.overlay = self.work / "deploy/policy" / OVERLAY
        path = self.overlay / "kustomization.yaml"
        overlay = yaml.safe_load(path.read_text())
        overlay["namespace"] = NAMESPACE
        overlay["configMapGenerator"][0]["literals"] = ["ENVIRONMENT=local"]
        overlay["configMapGenerator"].append({"name": "switch", "literals": ["switch=on"]})  # traffic's
        pod = "/spec/predictors/0/componentSpecs/0/spec"
        keys = {"policy.yaml": "policy.yaml", "trusted_root.json": "local/trusted_root.json"}
        keys["revoked.sigstore.json"] = "local/revoked.sigstore.json"
        items = [{"key": key, "path": place} for key, place in keys.items()]
        changes = [
            {"op": "remove", "path": f"{pod}/nodeSelector"},
            {"op": "add", "path": f"{pod}/volumes/1/configMap/items", "value": items},
        ]
        overlay["patches"].append({"target": {"kind": "SeldonDeployment"}, "patch": yaml.safe_dump(changes)})
        path.write_text(yaml.safe_dump(overlay))

    def install(self) -> None:
        super().install()
        kubectl("apply", "-f", str(ROOT / "deploy/platform/namespaces/priorities.yaml"))

    def promote(self, release: Path, message: str, *, tampered: bool = False) -> str:
        """Apply the overlay with another pointer, as Argo CD would without its hooks."""
        self.point(OVERLAY, release, message, tampered=tampered)
        mine = [thing for thing in render(self.overlay) if thing["kind"] != "Job"]
        kubectl("apply", "--server-side", "-f", "-", stdin=mine)
        return str(read_pointer(self.shop.repo, "local"))

    def wait_until_available(self) -> None:
        def available() -> bool:
            return bool(self.get("seldondeployment", "policy")["status"]["state"] == "Available")

        self.wait_for("available", available, 2 * PATIENCE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Seldon]:
    with folder_on_the_node(NAMESPACE) as folder:
        made = Seldon(folder)
        try:
            made.install()
            yield made
        finally:
            made.remove()


def test_the_operator_deploys_replaces_refuses_and_rolls_back(cluster: Seldon) -> None:
    first = cluster.promote(cluster.shop.release, "Promote policy/1")
    cluster.wait_until_available()
    cluster.require_served(first)
    require_as_written(cluster)

    release = cluster.shop.second_release()
    load = Load(cluster, 90)
    second = cluster.promote(release, "Promote policy/2")
    cluster.require_served(second)
    cluster.wait_until_available()
    load.require_nothing_failed()

    release = cluster.third_release()
    load = Load(cluster, 60)
    cluster.promote(release, "Promote policy/3", tampered=True)
    cluster.require_refused_in_the_pod("policy/3")
    assert cluster.served() == second
    load.require_nothing_failed()

    load = Load(cluster, 90)
    fourth = cluster.promote(cluster.rolled_back(), "Roll back to the content of policy/1")
    assert fourth.startswith("policy/4@")
    cluster.require_served(fourth)
    cluster.wait_until_available()
    load.require_nothing_failed()


def require_as_written(cluster: Seldon) -> None:
    """The operator fills in what is missing (probes, grace, preStop) and must leave what is written."""
    written = next(t for t in render(cluster.overlay) if t["kind"] == "SeldonDeployment")
    pod = written["spec"]["predictors"][0]["componentSpecs"][0]["spec"]
    (deployment,) = cluster.get("deployments")["items"]
    made = deployment["spec"]["template"]["spec"]
    assert [c["name"] for c in made["containers"]] == ["policy"]  # no executor in between
    assert [c["name"] for c in made["initContainers"]] == ["verify"]
    assert made["terminationGracePeriodSeconds"] == pod["terminationGracePeriodSeconds"]
    container, wanted = made["containers"][0], pod["containers"][0]
    for key in ("args", "lifecycle", "securityContext", "resources"):
        assert container[key] == wanted[key], key
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == wanted[probe]["httpGet"]["path"]
