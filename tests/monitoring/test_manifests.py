"""What the cluster runs of the monitoring, as kustomize renders it; no cluster is asked."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from tests.serving.test_deploy import pod_of, render

from sekisho.cli import main

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    return {(o["kind"], o["metadata"]["name"]): o for o in render(MONITORING)}


def relabelled(labels: dict[str, str], rules: list[dict[str, Any]]) -> dict[str, str]:
    """``labels`` after Prometheus' ``replace`` rules, as its documentation defines them."""
    for rule in rules:
        assert rule["action"] == "replace"
        joined = ";".join(labels.get(name, "") for name in rule["sourceLabels"])
        if found := re.fullmatch(rule.get("regex", "(.*)"), joined):
            value = found.expand(rule.get("replacement", "$1").replace("$", "\\"))
            labels = labels | {rule["targetLabel"]: value}
    return labels


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_every_series_of_a_policy_server_bears_its_model_and_environment(
    objects: dict[tuple[str, str], dict[str, Any]], environment: str
) -> None:
    rendered = render(ROOT / "deploy" / "policy" / environment)
    pod = pod_of(rendered)
    (namespace,) = {o["metadata"]["namespace"] for o in rendered}
    monitor = objects["PodMonitor", "policy-server"]["spec"]
    assert namespace in monitor["namespaceSelector"]["matchNames"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    ports = {port["name"] for c in pod["spec"]["containers"] for port in c.get("ports", [])}
    assert endpoint["port"] in ports
    meta = {"__meta_kubernetes_namespace": namespace} | {
        f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9]', '_', name)}": value
        for name, value in pod["metadata"]["labels"].items()
    }
    found = relabelled(meta, endpoint["relabelings"])
    assert (found["model"], found["environment"]) == ("policy", environment)


def test_the_verdicts_labels_are_not_overwritten(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    monitor = objects["ServiceMonitor", "sekisho-exporter"]["spec"]
    service = objects["Service", "sekisho-exporter"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("name", ["exporter", "relay"])
def test_exporter_and_relay_run_confined_with_options_that_exist(
    objects: dict[tuple[str, str], dict[str, Any]], name: str
) -> None:
    spec = objects["Deployment", f"sekisho-{name}"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}
    drift = main.get_command(click.Context(main), "drift")
    assert isinstance(drift, click.Group)
    command = drift.commands[container["args"][1]]
    command.make_context(name, list(container["args"][2:]))  # raises at an option that is none
    (service,) = objects["Service", f"sekisho-{name}"]["spec"]["ports"]
    assert f"--port={service['port']}" in container["args"]
    assert objects["Service", f"sekisho-{name}"]["spec"]["selector"].items() <= (
        objects["Deployment", f"sekisho-{name}"]["spec"]["template"]["metadata"]["labels"].items()
    )


def test_prometheus_grafana_and_alertmanager_read_the_files_that_are_tested(
    objects: dict[tuple[str, str], dict[str, Any]],
) -> None:
    tested = yaml.safe_load((MONITORING / "rules.yml").read_text(encoding="utf-8"))
    assert objects["PrometheusRule", "sekisho"]["spec"] == tested
    boards = objects["ConfigMap", "sekisho-dashboards"]
    files = {path.name: json.loads(path.read_text()) for path in (MONITORING / "dashboards").glob("*.json")}
    assert {name: json.loads(text) for name, text in boards["data"].items()} == files
    assert boards["metadata"]["labels"] == {"grafana_dashboard": "1"}

    argocd = render(ROOT / "deploy" / "argocd")
    applications = {o["metadata"]["name"]: o["spec"] for o in argocd if o["kind"] == "Application"}
    values = applications["monitoring"]["source"]["helm"]["valuesObject"]
    prometheus = values["prometheus"]["prometheusSpec"]
    for kind in ("rule", "podMonitor", "serviceMonitor"):
        assert prometheus[f"{kind}SelectorNilUsesHelmValues"] is False
    alertmanager = values["alertmanager"]["alertmanagerSpec"]
    secret = objects["Secret", alertmanager["configSecret"]]
    assert list(secret["data"]) == ["alertmanager.yaml"]
    routes = (MONITORING / "alertmanager.yml").read_text(encoding="utf-8")
    (mounted,) = alertmanager["secrets"]
    paths = re.findall(r"_file: (/[\w/-]+)", routes)
    assert len(paths) > 7
    assert all(path.startswith(f"/etc/alertmanager/secrets/{mounted}/") for path in paths)
    volumes = objects["Deployment", "sekisho-relay"]["spec"]["template"]["spec"]["volumes"]
    held = [source["secret"]["name"] for source in volumes[0]["projected"]["sources"]]
    assert mounted in held  # the relay knows what Alertmanager brings
    url = re.search(r"url: http://([\w-]+):(\d+)/dispatch", routes)
    assert url
    assert objects["Service", url[1]]["spec"]["ports"][0]["port"] == int(url[2])
    assert applications["alerts"]["source"]["path"] == "deploy/monitoring"
    assert applications["alerts"]["destination"]["namespace"] == "monitoring"


def test_nobody_is_called_from_the_cluster_of_staging() -> None:
    clusters = ROOT / "deploy" / "clusters"
    for environment, calls in (("staging", False), ("production", True)):
        rendered = render(clusters / environment / "argocd")
        found = {o["metadata"]["name"]: o["spec"] for o in rendered if o["kind"] == "Application"}
        values = found["monitoring"]["source"]["helm"]["valuesObject"]
        assert ("alerts" in found) is calls
        assert values["alertmanager"].get("enabled", True) is calls


def test_the_policy_servers_let_prometheus_in() -> None:
    rendered = render(ROOT / "deploy" / "platform" / "namespaces")
    (space,) = [o for o in rendered if (o["kind"], o["metadata"]["name"]) == ("Namespace", "monitoring")]
    assert space["metadata"]["labels"]["sekisho/monitors"] == "true"
